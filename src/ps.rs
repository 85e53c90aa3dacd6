//! `plimsoll ps`.

use std::path::Path;

use anyhow::bail;
use engine::mount::{MountKind, MountSpec};
use engine::{Home, Listed, Status};

use crate::cli::PsArguments;
use crate::filter::{CONTAINER_KEYS, Candidate, Filters};
use crate::format::list;
use crate::format::rows::{ContainerRow, State};
use crate::ports;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

pub(crate) fn ps(root: &Path, arguments: &PsArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, CONTAINER_KEYS)?;
    let home = Home::open(root)?;
    let listed = engine::list(&home)?;
    let last = if arguments.latest { 1 } else { arguments.last };
    let all = arguments.all || last > 0 || filters.implies_all();
    let created = |wanted: &str| -> anyhow::Result<u64> {
        match engine::find(&home, wanted) {
            Ok(id) => Ok(listed
                .iter()
                .find(|item| item.record.id == id)
                .map_or(0, |item| item.record.created)),
            Err(_) => bail!("no such container: {wanted}"),
        }
    };
    let sized = arguments.size || list::mentions(arguments.format.as_deref(), "Size");
    let mut rows = Vec::new();
    for item in &listed {
        if !all && !item.is_running() {
            continue;
        }
        let facts = Facts::of(&home, item, sized);
        if !filters.matches(&facts.candidate(), &created)? {
            continue;
        }
        rows.push(facts.row().to_value(arguments.no_trunc));
        if last > 0 && rows.len() == last as usize {
            break;
        }
    }
    let kind = if arguments.size {
        &list::CONTAINERS_WITH_SIZE
    } else {
        &list::CONTAINERS
    };
    list::print(kind, arguments.format.as_deref(), arguments.quiet, &rows)?;
    Ok(0)
}

/// What filters and rows look at, where an instance's record has it in another form.
struct Facts<'a> {
    item: &'a Listed,
    mounts: Vec<String>,
    targets: Vec<String>,
    volumes: usize,
    images: Vec<String>,
    networks: Vec<String>,
    ports: String,
    published: Vec<String>,
    exposed: Vec<String>,
    size: Option<(u64, u64)>,
}

impl<'a> Facts<'a> {
    fn of(home: &Home, item: &'a Listed, sized: bool) -> Self {
        let spec = &item.record.spec;
        let sources: Vec<String> = spec.mounts.iter().filter_map(source).collect();
        let mut image = spec.image.clone();
        if !image.contains('@')
            && !image
                .rsplit('/')
                .next()
                .is_some_and(|name| name.contains(':'))
        {
            image.push_str(":latest");
        }
        Self {
            item,
            targets: sources
                .iter()
                .cloned()
                .chain(spec.mounts.iter().map(|mount| mount.target.clone()))
                .collect(),
            mounts: sources,
            volumes: spec
                .mounts
                .iter()
                .filter(|mount| matches!(mount.kind, MountKind::Volume(_)))
                .count(),
            images: vec![image, item.record.image_id.clone()],
            networks: spec.network.names(),
            ports: ports::column(item),
            published: ports::published(item),
            exposed: ports::exposed(&spec.network),
            size: sized.then(|| (engine::size(home, &item.record.id), 0)),
        }
    }

    fn candidate(&self) -> Candidate<'_> {
        let record = &self.item.record;
        let state = &self.item.state;
        Candidate {
            id: &record.id,
            name: &record.name,
            state: state.status.as_str(),
            exit_code: (state.status == Status::Exited).then_some(state.exit_code),
            created: record.created,
            labels: Some(&record.spec.labels),
            images: &self.images,
            volumes: &self.targets,
            networks: &self.networks,
            published: &self.published,
            exposed: &self.exposed,
            ..Candidate::default()
        }
    }

    fn row(&self) -> ContainerRow<'_> {
        let record = &self.item.record;
        ContainerRow {
            id: &record.id,
            image: &record.spec.image,
            command: &record.command,
            created: record.created / SECOND,
            state: state(self.item),
            ports: &self.ports,
            name: &record.name,
            labels: Some(&record.spec.labels),
            mounts: &self.mounts,
            volumes: self.volumes,
            networks: &self.networks,
            backend: record.spec.backend.as_str(),
            size: self.size,
        }
    }
}

/// A volume's name, or a bind's source.
fn source(mount: &MountSpec) -> Option<String> {
    match &mount.kind {
        MountKind::Bind(bind) => Some(bind.source.clone()),
        MountKind::Volume(volume) => volume.name.clone(),
        MountKind::Tmpfs(_) => None,
    }
}

/// docker's words for where an instance stands.
fn state(item: &Listed) -> State<'static> {
    let state = &item.state;
    let (since, at) = (state.started_at / SECOND, state.finished_at / SECOND);
    let code = state.exit_code;
    match state.status {
        Status::Created => State::Created,
        Status::Running => State::Running {
            since,
            health: None,
        },
        Status::Paused => State::Paused { since },
        Status::Restarting => State::Restarting { code, at },
        Status::Exited => State::Exited { code, at },
    }
}

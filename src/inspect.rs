//! `plimsoll inspect`.

use std::path::Path;

use engine::mount::{MountKind, MountSpec, Origin};
use engine::{Home, Listed, Store};
use serde_json::json;

use crate::cli::{InspectArguments, InspectType};
use crate::format::inspect::{
    ContainerFacts, HostFacts, ImageFacts, Kind, MountFacts, StateFacts, inspect_container,
    inspect_image, render,
};
use crate::network;
use crate::output;
use crate::ports;
use crate::volume;

pub(crate) fn inspect(root: &Path, arguments: &InspectArguments) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    let store = home.images()?;
    engine::base::ensure(&store)?;
    let mut items = Vec::new();
    let mut missing = Vec::new();
    for name in &arguments.names {
        match one(&home, &store, name, arguments.kind, arguments.size)? {
            Ok(item) => items.push(item),
            Err(sentence) => missing.push(sentence),
        }
    }
    // What was found is shown all the same, before what was not.
    print!("{}", render(&items, arguments.format.as_deref())?);
    for sentence in &missing {
        output::notice(sentence);
    }
    Ok(u8::from(!missing.is_empty()))
}

/// Looks for something by that name: an instance, an image, a volume, in docker's order.
fn one(
    home: &Home,
    store: &Store,
    name: &str,
    kind: Option<InspectType>,
    sized: bool,
) -> anyhow::Result<Result<(Kind, serde_json::Value), String>> {
    let wants = |this: InspectType| kind.is_none_or(|kind| kind == this);
    if wants(InspectType::Container) {
        match engine::look(home, name) {
            Ok(found) => return Ok(Ok((Kind::Container, container(home, store, &found, sized)))),
            Err(error @ engine::Error::NoSuchInstance(_)) if kind.is_some() => {
                return Ok(Err(error.to_string()));
            }
            Err(engine::Error::NoSuchInstance(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if wants(InspectType::Image) {
        match store.resolve(name) {
            Ok(found) => return Ok(Ok((Kind::Image, image(store, &found)?))),
            Err(
                engine::ImageError::ImageNotFound(_) | engine::ImageError::InvalidReference { .. },
            ) if kind.is_some() => return Ok(Err(format!("no such image: {name}"))),
            Err(error) if kind.is_some() => return Ok(Err(error.to_string())),
            Err(_) => {}
        }
    }
    if wants(InspectType::Volume) {
        match engine::volume::inspect(home, name) {
            Ok(found) => return Ok(Ok((Kind::Volume, volume::described(&found)))),
            Err(engine::Error::Volume(engine::volume::VolumeError::NotFound(_)))
                if kind.is_some() =>
            {
                return Ok(Err(format!("no such volume: {name}")));
            }
            Err(error) if kind.is_some() => return Ok(Err(error.to_string())),
            Err(_) => {}
        }
    }
    if wants(InspectType::Network) {
        match network::described(home, name) {
            Ok(found) => return Ok(Ok((Kind::Network, found))),
            Err(error) if kind.is_some() => return Ok(Err(error.to_string())),
            Err(_) => {}
        }
    }
    Ok(Err(format!("no such object: {name}")))
}

fn image(store: &Store, image: &engine::Image) -> anyhow::Result<serde_json::Value> {
    let summary = store
        .list()?
        .into_iter()
        .find(|summary| summary.id == image.id);
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    let directories = store.layer_dirs(image)?;
    Ok(inspect_image(&ImageFacts {
        id: image.id.to_string(),
        tags: names,
        digests: Vec::new(),
        config: serde_json::to_value(&image.config)?,
        size: summary.map_or(0, |summary| summary.bytes),
        directories: directories
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        tagged: None,
    }))
}

fn container(home: &Home, store: &Store, found: &Listed, sized: bool) -> serde_json::Value {
    let (record, state, spec) = (&found.record, &found.state, &found.record.spec);
    let image = store.resolve(&record.image_id).ok();
    let config = image
        .as_ref()
        .and_then(|image| image.config.config().clone());
    let own_entrypoint = config
        .as_ref()
        .and_then(|config| config.entrypoint().clone());
    let own_command = config.as_ref().and_then(|config| config.cmd().clone());
    let own_env = config
        .as_ref()
        .and_then(|config| config.env().clone())
        .unwrap_or_default();
    let cmd = if spec.command.is_empty() {
        own_command.filter(|_| spec.entrypoint.is_none())
    } else {
        Some(spec.command.clone())
    };
    let directory = home.directory(&record.id);
    let (path, args) = record.command.split_first().map_or_else(
        || (String::new(), Vec::new()),
        |(path, args)| (path.clone(), args.to_vec()),
    );
    let signal = (spec.stop_signal != libc::SIGTERM).then(|| signal_name(spec.stop_signal));
    inspect_container(&ContainerFacts {
        id: record.id.clone(),
        created: record.created,
        path,
        args,
        state: StateFacts {
            status: state.status.as_str().to_owned(),
            pid: u32::try_from(state.pid).unwrap_or(0),
            exit_code: state.exit_code,
            oom_killed: state.oom_killed,
            error: state.error.clone().unwrap_or_default(),
            started: (state.started_at > 0).then_some(state.started_at),
            finished: (state.finished_at > 0).then_some(state.finished_at),
            health: None,
        },
        image_id: record.image_id.clone(),
        image: spec.image.clone(),
        name: record.name.clone(),
        restart_count: state.restart_count,
        log_path: home.log(&record.id).display().to_string(),
        layers: layers(store, image.as_ref(), &directory),
        host: host(home, found),
        mounts: spec
            .mounts
            .iter()
            // What --tmpfs asks for has a place of its own.
            .filter(|mount| !matches!(&mount.kind, MountKind::Tmpfs(tmpfs) if !tmpfs.by_mount))
            .map(|mount| mounted(home, mount))
            .collect(),
        sizes: sized.then(|| (engine::size(home, &record.id), 0)),
        hostname: record.hostname().to_owned(),
        user: spec
            .user
            .clone()
            .or_else(|| config.as_ref().and_then(|config| config.user().clone()))
            .unwrap_or_default(),
        attach: [spec.interactive, true, true],
        tty: spec.terminal,
        open_stdin: spec.interactive,
        stdin_once: spec.interactive,
        env: environment(&own_env, &spec.env),
        cmd,
        entrypoint: spec.entrypoint.clone().or(own_entrypoint),
        volumes: spec
            .mounts
            .iter()
            .filter(|mount| mount.origin == Origin::Implied)
            .map(|mount| mount.target.clone())
            .collect(),
        working_dir: spec
            .workdir
            .clone()
            .or_else(|| {
                config
                    .as_ref()
                    .and_then(|config| config.working_dir().clone())
            })
            .unwrap_or_default(),
        labels: spec.labels.clone(),
        stop_signal: signal,
        stop_timeout: (spec.stop_timeout != engine::STOP_TIMEOUT).then_some(spec.stop_timeout),
        networks: endpoints(found),
        ports: ports::settings(found),
        exposed_ports: ports::exposed(&spec.network),
        resolv_conf: etc(home, found, "resolv.conf"),
        hostname_path: etc(home, found, "hostname"),
        hosts: etc(home, found, "hosts"),
        plimsoll: json!({
            "Backend": spec.backend.as_str(),
            "Accelerator": state.accelerator,
            "Supervisor": state.supervisor,
        }),
        ..ContainerFacts::default()
    })
}

/// What image and user have set. The PATH that every process gets where neither has one is not part of it.
fn environment(own: &[String], given: &[String]) -> Vec<String> {
    let has_path = own
        .iter()
        .chain(given)
        .any(|entry| entry.starts_with("PATH="));
    engine::merge_environment(own, given)
        .into_iter()
        .filter(|entry| has_path || !entry.starts_with("PATH="))
        .collect()
}

fn layers(
    store: &Store,
    image: Option<&engine::Image>,
    directory: &Path,
) -> std::collections::BTreeMap<String, String> {
    let lower = image
        .and_then(|image| store.layer_dirs(image).ok())
        .unwrap_or_default()
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(":");
    let below = |name: &str| directory.join(name).display().to_string();
    [
        ("LowerDir", lower),
        ("UpperDir", below("upper")),
        ("WorkDir", below("work")),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Where a file below /etc is kept.
fn etc(home: &Home, found: &Listed, name: &str) -> String {
    let path = home.directory(&found.record.id).join(name);
    match path.exists() {
        true => path.display().to_string(),
        false => String::new(),
    }
}

fn link_name(home: &Home, link: &engine::network::Link) -> String {
    engine::look(home, &link.instance)
        .map_or_else(|_| link.instance.clone(), |other| other.record.name)
}

/// docker's object for each network that the instance is on.
fn endpoints(found: &Listed) -> serde_json::Value {
    let asked = &found.record.spec.network;
    let mut networks = serde_json::Map::new();
    for name in asked.names() {
        let place = found
            .state
            .endpoints
            .iter()
            .find(|endpoint| endpoint.network == name && found.is_running());
        let aliases = asked
            .attachments
            .iter()
            .find(|attachment| attachment.network == name)
            .map(|attachment| attachment.aliases.clone())
            .filter(|aliases| !aliases.is_empty());
        let text = |value: Option<String>| value.unwrap_or_default();
        networks.insert(
            name,
            json!({
                "IPAMConfig": null,
                "Links": null,
                "Aliases": aliases,
                "DriverOpts": null,
                "NetworkID": text(place.map(|e| e.network_id.clone())),
                "EndpointID": text(place.map(|e| network::endpoint_id(&found.record.id, &e.network_id))),
                "Gateway": text(place.map(|e| e.gateway.to_string())),
                "IPAddress": text(place.map(|e| e.address.to_string())),
                "MacAddress": text(place.map(|e| e.mac.to_string())),
                "IPPrefixLen": place.map_or(0, |e| e.prefix),
                "IPv6Gateway": "",
                "GlobalIPv6Address": "",
                "GlobalIPv6PrefixLen": 0,
                "DNSNames": null,
            }),
        );
    }
    serde_json::Value::Object(networks)
}

fn host(home: &Home, found: &Listed) -> HostFacts {
    let spec = &found.record.spec;
    let number = |limit: u64| i64::try_from(limit).unwrap_or(-1);
    let mut log_options = std::collections::BTreeMap::new();
    if let Some(bytes) = spec.log.max_size {
        log_options.insert("max-size".to_owned(), bytes.to_string());
    }
    if spec.log.max_file > 1 {
        log_options.insert("max-file".to_owned(), spec.log.max_file.to_string());
    }
    HostFacts {
        binds: spec.mounts.iter().filter_map(bind).collect(),
        log_driver: if spec.log.kept { "json-file" } else { "none" }.to_owned(),
        log_options,
        network_mode: spec.network.mode_name(),
        port_bindings: ports::asked(&spec.network),
        publish_all: spec.network.publish_all,
        dns: spec.network.dns.clone(),
        extra_hosts: spec
            .network
            .hosts
            .iter()
            .map(|(name, address)| format!("{name}:{address}"))
            .collect(),
        links: spec
            .network
            .links
            .iter()
            .map(|link| {
                format!(
                    "/{}:/{}/{}",
                    link_name(home, link),
                    found.record.name,
                    link.alias
                )
            })
            .collect(),
        restart_policy: spec.restart.as_str().to_owned(),
        restart_limit: match spec.restart {
            engine::RestartPolicy::OnFailure(most) => most,
            _ => 0,
        },
        auto_remove: spec.auto_remove,
        cap_add: spec.cap_add.clone(),
        cap_drop: spec.cap_drop.clone(),
        privileged: spec.privileged,
        read_only: spec.read_only,
        security_opt: [
            (spec.seccomp_unconfined, "seccomp=unconfined"),
            (spec.no_new_privileges, "no-new-privileges"),
        ]
        .into_iter()
        .filter(|(given, _)| *given)
        .map(|(_, word)| word.to_owned())
        .collect(),
        tmpfs: spec
            .mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Tmpfs(tmpfs) if !tmpfs.by_mount => {
                    Some((mount.target.clone(), tmpfs.options.join(",")))
                }
                _ => None,
            })
            .collect(),
        memory: spec.limits.memory.unwrap_or(0),
        memory_swap: spec
            .limits
            .memory_swap
            .unwrap_or_else(|| number(spec.limits.memory.unwrap_or(0).saturating_mul(2))),
        nano_cpus: spec.limits.cpus.map_or(0, |cpus| (cpus * 1e9) as u64),
        cpuset_cpus: spec.cpuset.clone().unwrap_or_default(),
        pids_limit: spec.limits.pids.map(number),
        ulimits: spec
            .ulimits
            .iter()
            .map(|limit| (limit.name.clone(), number(limit.soft), number(limit.hard)))
            .collect(),
        init: spec.init.then_some(true),
        ..HostFacts::default()
    }
}

/// A mount as `-v` would say it; those of other flags have places of their own in docker's JSON.
fn bind(mount: &MountSpec) -> Option<String> {
    let source = match &mount.kind {
        MountKind::Bind(bind) if bind.create_missing => &bind.source,
        MountKind::Volume(volume) if !volume.anonymous => volume.name.as_ref()?,
        _ => return None,
    };
    let mode = if mount.read_only { ":ro" } else { "" };
    Some(format!("{source}:{}{mode}", mount.target))
}

fn mounted(home: &Home, mount: &MountSpec) -> MountFacts {
    let mode = if mount.read_only { "ro" } else { "" }.to_owned();
    let facts = MountFacts {
        destination: mount.target.clone(),
        writable: !mount.read_only,
        ..MountFacts::default()
    };
    match &mount.kind {
        MountKind::Bind(bind) => MountFacts {
            kind: "bind".into(),
            source: bind.source.clone(),
            mode,
            propagation: bind.propagation.as_str().into(),
            ..facts
        },
        MountKind::Volume(volume) => MountFacts {
            kind: "volume".into(),
            name: volume.name.clone(),
            source: volume
                .name
                .as_deref()
                .and_then(|name| engine::volume::inspect(home, name).ok())
                .map(|volume| volume.mountpoint.display().to_string())
                .unwrap_or_default(),
            mode: match (mount.read_only, volume.anonymous) {
                (true, _) => "ro",
                (false, true) => "",
                (false, false) => "z",
            }
            .into(),
            ..facts
        },
        MountKind::Tmpfs(_) => MountFacts {
            kind: "tmpfs".into(),
            ..facts
        },
    }
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

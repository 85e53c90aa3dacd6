//! `plimsoll system df` and `plimsoll system prune`.

use std::collections::HashSet;
use std::path::Path;

use engine::{CacheRecord, Home, volume};
use serde_json::{Value, json};

use crate::cli::{DfArguments, SystemPruneArguments, SystemVerb};
use crate::filter::{Filters, PRUNE_KEYS};
use crate::format::list;
use crate::{output, prune};

pub(crate) fn system(root: &Path, verb: &SystemVerb) -> anyhow::Result<u8> {
    let home = Home::open(root)?;
    match verb {
        SystemVerb::Df(arguments) => df(&home, arguments),
        SystemVerb::Prune(arguments) => prune_all(&home, arguments),
    }
}

/// A line of `system df`.
struct Line {
    what: &'static str,
    total: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
    /// docker tells no share of the build cache.
    with_share: bool,
}

impl Line {
    fn row(&self) -> Value {
        let mut reclaimable = output::size(self.reclaimable);
        if self.with_share && self.bytes > 0 {
            let share = self.reclaimable.saturating_mul(100) / self.bytes;
            reclaimable.push_str(&format!(" ({share}%)"));
        }
        json!({
            "Active": self.active.to_string(),
            "Reclaimable": reclaimable,
            "Size": output::size(self.bytes),
            "TotalCount": self.total.to_string(),
            "Type": self.what,
        })
    }
}

fn df(home: &Home, arguments: &DfArguments) -> anyhow::Result<u8> {
    let found = Found::look(home)?;
    if arguments.verbose {
        found.print_each()?;
        return Ok(0);
    }
    let rows: Vec<Value> = [
        found.images(),
        found.instances(),
        found.volumes(),
        found.cache(),
    ]
    .iter()
    .map(Line::row)
    .collect();
    list::print(&list::USAGE, arguments.format.as_deref(), false, &rows)?;
    Ok(0)
}

/// Everything that takes space.
struct Found {
    images: Vec<engine::ImageSummary>,
    usage: engine::Usage,
    /// Each with the bytes that it has written.
    instances: Vec<(engine::Listed, u64)>,
    /// Each with its bytes and how many instances have it.
    volumes: Vec<(volume::Volume, u64, usize)>,
    cache: Vec<CacheRecord>,
}

impl Found {
    fn look(home: &Home) -> anyhow::Result<Self> {
        let store = home.images()?;
        let instances = engine::list(home)?;
        let uses = volume::uses(home)?;
        Ok(Self {
            images: store.list()?,
            usage: store.usage()?,
            instances: instances
                .into_iter()
                .map(|item| {
                    let size = engine::size(home, &item.record.id);
                    (item, size)
                })
                .collect(),
            volumes: volume::list(home)?
                .into_iter()
                .map(|volume| {
                    let bytes = volume::size(&volume);
                    let users = volume::users(&uses, &volume.name).len();
                    (volume, bytes, users)
                })
                .collect(),
            cache: store.cache_records()?,
        })
    }

    fn users(&self, image: &str) -> usize {
        let made = |(item, _): &&(engine::Listed, u64)| item.record.image_id == image;
        self.instances.iter().filter(made).count()
    }

    fn images(&self) -> Line {
        let bytes = self.usage.image_bytes();
        let active: Vec<_> = self
            .usage
            .images
            .iter()
            .filter(|(id, _)| self.users(&id.to_string()) > 0)
            .collect();
        // A layer stays as long as one image in use has it.
        let used: HashSet<_> = active.iter().flat_map(|(_, layers)| *layers).collect();
        let used: u64 = used
            .into_iter()
            .filter_map(|layer| self.usage.layers.get(layer))
            .sum();
        Line {
            what: "Images",
            total: self.usage.images.len(),
            active: active.len(),
            bytes,
            reclaimable: bytes.saturating_sub(used),
            with_share: true,
        }
    }

    fn instances(&self) -> Line {
        let sum = |only_stopped: bool| {
            self.instances
                .iter()
                .filter(|(item, _)| !(only_stopped && item.is_running()))
                .map(|(_, bytes)| bytes)
                .sum()
        };
        Line {
            what: "Containers",
            total: self.instances.len(),
            active: self
                .instances
                .iter()
                .filter(|(item, _)| item.is_running())
                .count(),
            bytes: sum(false),
            reclaimable: sum(true),
            with_share: true,
        }
    }

    fn volumes(&self) -> Line {
        let used = |users: usize| users > 0;
        Line {
            what: "Local Volumes",
            total: self.volumes.len(),
            active: self.volumes.iter().filter(|(_, _, n)| used(*n)).count(),
            bytes: self.volumes.iter().map(|(_, bytes, _)| bytes).sum(),
            reclaimable: self
                .volumes
                .iter()
                .filter(|(_, _, n)| !used(*n))
                .map(|(_, bytes, _)| bytes)
                .sum(),
            with_share: true,
        }
    }

    /// The layers that only the build cache has are what a prune of it frees.
    fn cache(&self) -> Line {
        let of_images: HashSet<_> = self.usage.images.values().flatten().collect();
        let mut layers = HashSet::new();
        let mut active = 0;
        for record in &self.cache {
            let Some(layer) = &record.step.layer else {
                continue;
            };
            if of_images.contains(&layer.diff_id) {
                active += 1;
            } else {
                layers.insert(layer.diff_id);
            }
        }
        let bytes = layers
            .iter()
            .filter_map(|layer| self.usage.layers.get(layer))
            .sum();
        Line {
            what: "Build Cache",
            total: self.cache.len(),
            active,
            bytes,
            reclaimable: bytes,
            with_share: false,
        }
    }

    fn print_each(&self) -> anyhow::Result<()> {
        println!("Images space usage:\n");
        let images = self.images.iter().map(|image| {
            let (shared, unique) = self.usage.shared_and_unique(image.id);
            let created = image
                .created
                .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            vec![
                image.repository.clone().unwrap_or_else(|| "<none>".into()),
                image.tag.clone().unwrap_or_else(|| "<none>".into()),
                image.id.short(),
                created.map_or_else(|| "N/A".into(), |since| output::ago(since.as_secs())),
                output::size(image.bytes),
                output::size(shared),
                output::size(unique),
                self.users(&image.id.to_string()).to_string(),
            ]
        });
        let titles = [
            "REPOSITORY",
            "TAG",
            "IMAGE ID",
            "CREATED",
            "SIZE",
            "SHARED SIZE",
            "UNIQUE SIZE",
            "CONTAINERS",
        ];
        output::table(&titles, &images.collect::<Vec<_>>())?;
        println!("\nContainers space usage:\n");
        let instances = self.instances.iter().map(|(item, bytes)| {
            vec![
                item.record.short_id().to_owned(),
                output::printable(&item.record.spec.image),
                output::size(*bytes),
                item.state.status.as_str().to_owned(),
                item.record.name.clone(),
            ]
        });
        let titles = ["CONTAINER ID", "IMAGE", "SIZE", "STATUS", "NAMES"];
        output::table(&titles, &instances.collect::<Vec<_>>())?;
        println!("\nLocal Volumes space usage:\n");
        let volumes = self.volumes.iter().map(|(volume, bytes, users)| {
            vec![volume.name.clone(), users.to_string(), output::size(*bytes)]
        });
        output::table(
            &["VOLUME NAME", "LINKS", "SIZE"],
            &volumes.collect::<Vec<_>>(),
        )?;
        println!(
            "\nBuild cache usage: {}\n",
            output::size(self.cache().bytes)
        );
        let records = self.cache.iter().map(|record| {
            let layer = record.step.layer.as_ref().map(|layer| layer.diff_id);
            let bytes = layer.and_then(|layer| self.usage.layers.get(&layer).copied());
            vec![
                record.key.short(),
                output::size(bytes.unwrap_or(0)),
                output::printable(&record.step.instruction),
            ]
        });
        output::table(
            &["CACHE ID", "SIZE", "INSTRUCTION"],
            &records.collect::<Vec<_>>(),
        )?;
        Ok(())
    }
}

fn prune_all(home: &Home, arguments: &SystemPruneArguments) -> anyhow::Result<u8> {
    let filters = Filters::parse(&arguments.filter, PRUNE_KEYS)?;
    let until = prune::moments(&filters)?;
    if !arguments.force && !output::confirm(&question(arguments))? {
        return Ok(0);
    }
    let (instances, mut bytes) = prune::stopped(home, &filters, &until)?;
    prune::tell("Deleted Containers:", &instances);
    if arguments.volumes {
        let pruned = volume::prune(home, &|volume| {
            volume.is_anonymous() && filters.labels_hold(Some(&volume.labels))
        })?;
        bytes += pruned.bytes;
        prune::tell("Deleted Volumes:", &pruned.names);
    }
    let store = home.images()?;
    let pruned = prune::unused(home, &store, arguments.all, &filters, &until)?;
    bytes += pruned.bytes;
    prune::tell("Deleted Images:", &prune::lines(&pruned.removed));
    // Steps of builds have no labels.
    if filters.values("label").is_empty() {
        let before = store.usage()?.bytes();
        let gone = store.prune_cache(&|record| {
            let used = record
                .used
                .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
                .map_or(0, |since| {
                    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
                });
            until.iter().all(|until| used <= *until)
        })?;
        match gone {
            Some(gone) => {
                bytes += before.saturating_sub(store.usage()?.bytes());
                let keys: Vec<String> = gone.iter().map(|record| record.key.hex()).collect();
                prune::tell("Deleted build cache objects:", &keys);
            }
            None => output::notice("the build cache stays: a build is using it"),
        }
    }
    println!("Total reclaimed space: {}", output::size(bytes));
    Ok(0)
}

/// docker's list of what will go.
fn question(arguments: &SystemPruneArguments) -> String {
    let mut text = String::from("This will remove:\n  - all stopped containers\n");
    if arguments.volumes {
        text.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    text.push_str(if arguments.all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    text.push_str("  - unused build cache\n");
    for filter in &arguments.filter {
        text.push_str(&format!(
            "\n  Items to be pruned will be filtered with:\n  - {filter}\n"
        ));
    }
    text
}

//! Sizes and deployment of images: what an application takes on the way and on the disk, and what a second one costs on a base that
//! is there already.
//!
//! A round deploys the first image everywhere, to where nothing is, and then the second one beside it, each way in turn; what was
//! deployed is counted as it lies there. Natively that is the same files as plain archives, unpacked by GNU tar. What criterion shows
//! is how many times native's time the container takes for the second image.

mod content;
mod count;
mod place;
mod reference;
mod registry;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::Store;
use reports::results::{
    self, ArmKind, ArmStatus, CutOff, Direction, Group, Metric, Unit, arm_id, metric_id,
};

use crate::arm::{Pace, entry, plimsoll};
use crate::benchmark::{Ratios, Rounds};
use crate::clock;
use crate::harness::{Harness, sample};
use crate::launch::{Launch, Running, Trouble};
use crate::order;
use crate::plan::ROUNDS_FOR_A_VERDICT;
use crate::steady::time_up;

use content::{Content, DISKS, IMAGES, Layer};
use place::Place;
use registry::Registry;

/// The arm of whole disks.
const DISK: &str = "vm-disk";

/// Rounds of a quick run in which that is measured too which is shown for comparison and decides nothing.
const SHOWN_ROUNDS: u32 = 3;

/// How long one deployment may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One benchmark of deployment while it runs.
pub(crate) struct Deploy {
    setting: Option<Setting>,
    parts: Vec<Part>,
    /// How many rounds have what no rule asks for ([`Part::is_asked_for`]).
    shown_rounds: u32,
    rounds: u32,
    ratios: Ratios,
}

/// What all parts use.
struct Setting {
    command: plimsoll::Command,
    content: Content,
    /// Where there is none, and why, sizes are counted all the same.
    registry: Result<Registry, String>,
    place: Place,
}

/// An arm.
struct Part {
    arm: String,
    /// None for what only deploys, and runs nothing here.
    seat: Option<usize>,
    way: Way,
    out: bool,
}

impl Part {
    /// Whether a rule asks for these times: how long a container takes for both images, and the control, which is native, for the
    /// second. Of sizes one round is enough.
    fn is_asked_for(&self, turn: Turn) -> bool {
        match self.way {
            Way::Container => true,
            Way::Native => turn == Turn::Second,
            Way::Vm | Way::Disk => false,
        }
    }
}

/// How an image gets where it can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Archives, unpacked.
    Native,
    /// `plimsoll pull`.
    Container,
    /// `plimsoll pull`, and the layers as EROFS.
    Vm,
    /// `plimsoll pull` of an image that is a virtual machine's whole disk.
    Disk,
}

/// Which of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

/// What a deployment took.
struct Deployed {
    elapsed: u64,
    moved: Option<u64>,
}

impl Deploy {
    /// Makes the images where they are missing, and starts the registry.
    pub(crate) fn prepare(harness: &mut Harness) -> Self {
        let mut deploy = Self {
            setting: None,
            parts: Vec::new(),
            shown_rounds: if harness.plan.name == "quick" {
                SHOWN_ROUNDS
            } else {
                u32::MAX
            },
            rounds: 0,
            ratios: Ratios::default(),
        };
        let setting = match Setting::new(harness) {
            Ok(setting) => setting,
            Err(reason) => {
                harness.say(&format!("images cannot be deployed: {reason}"));
                let note = format!("Sizes and deployment of images were not measured: {reason}.");
                harness.results.notes.push(note);
                return deploy;
            }
        };
        harness.results.notes.push(setting.content.about.clone());
        for metric in metrics() {
            harness.begin_metric(metric);
        }
        deploy.parts = parts(harness, &setting.content);
        refer_to_cloud(harness);
        if let Err(reason) = &setting.registry {
            harness.say(&format!("deployment is not timed: {reason}"));
            for part in &deploy.parts {
                cut_off(harness, &part.arm, &TIMED, reason);
            }
        }
        deploy.setting = Some(setting);
        deploy
    }

    /// Deploys an image; what was found goes into the results.
    fn deploy(
        &mut self,
        harness: &mut Harness,
        at: usize,
        turn: Turn,
        record: bool,
    ) -> Result<Option<f64>, Trouble> {
        let Some(setting) = &self.setting else {
            return Ok(None);
        };
        let part = &self.parts[at];
        let inside = setting.place.inside(|| -> Result<_, Trouble> {
            let state = setting.state(&part.arm);
            fs::create_dir_all(&state).map_err(answer)?;
            let deployed = setting.deploy(part.way, &state, turn)?;
            let sizes = match turn {
                Turn::First if record => Some(setting.sizes(part.way, &state)?),
                _ => None,
            };
            Ok((deployed, sizes))
        });
        let (deployed, sizes) = inside.map_err(answer)??;
        if !record {
            return Ok(None);
        }
        let mut keep = |metric: &str, value: u64| {
            let mut sample = sample(&part.arm, self.rounds);
            sample.value = Some(value as f64);
            match part.seat {
                Some(seat) => harness.record(seat, metric, self.rounds, sample),
                None => harness.results.record(metric, self.rounds, sample),
            }
        };
        if setting.registry.is_ok() {
            let [time, bytes] = match turn {
                Turn::First => [metric_id::FIRST_DEPLOY, metric_id::FIRST_MOVED],
                Turn::Second => [metric_id::SECOND_DEPLOY, metric_id::SECOND_MOVED],
            };
            keep(time, deployed.elapsed);
            if let Some(moved) = deployed.moved {
                keep(bytes, moved);
            }
        }
        if let Some(sizes) = sizes {
            keep(metric_id::SHIPPED, sizes.shipped);
            keep(metric_id::ON_DISK, sizes.on_disk);
            if let Some(store) = sizes.store {
                keep(STORE, store);
            }
        }
        Ok(Some(deployed.elapsed as f64))
    }

    /// One way fails: the others go on.
    fn give_up(&mut self, harness: &mut Harness, at: usize, trouble: &Trouble) {
        let part = &mut self.parts[at];
        part.out = true;
        if let Some(seat) = part.seat {
            harness.seats[seat].failed(trouble);
        }
        let arm = part.arm.clone();
        let ids: Vec<String> = metrics().into_iter().map(|metric| metric.id).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        cut_off(harness, &arm, &ids, &trouble.to_string());
    }

    /// The turns of a round with this image: the first image goes once to each part, the second, which is quick, there and back.
    fn turns(&self, turn: Turn, record: bool) -> Vec<(usize, Turn)> {
        let takes = |part: &&Part| {
            let has_turn = part.is_asked_for(turn) || self.rounds < self.shown_rounds;
            // The other two find what the registry has warm after these.
            let warms_up = matches!(part.way, Way::Container | Way::Disk);
            !part.out && has_turn && (record || warms_up)
        };
        let places: Vec<Option<bool>> = self
            .parts
            .iter()
            .map(|part| takes(&part).then_some(turn == Turn::Second))
            .collect();
        let order = order::of_round(self.rounds, &places);
        order.into_iter().map(|at| (at, turn)).collect()
    }
}

impl Rounds for Deploy {
    fn round(&mut self, harness: &mut Harness, record: bool) {
        let Some(setting) = &self.setting else {
            return;
        };
        if let Err(trouble) = setting.clear(&self.parts) {
            harness.say(&format!("images cannot be deployed: {trouble}"));
            return;
        }
        let mut turns = self.turns(Turn::First, record);
        if setting.registry.is_ok() {
            turns.extend(self.turns(Turn::Second, record));
        }
        let (mut lead, mut native) = (None, None);
        for (at, turn) in turns {
            if self.parts[at].out {
                continue;
            }
            let side = match (turn, self.parts[at].arm.as_str()) {
                (Turn::Second, arm_id::CONTAINER) => Some(&mut lead),
                (Turn::Second, arm_id::NATIVE) => Some(&mut native),
                _ => None,
            };
            match self.deploy(harness, at, turn, record) {
                Ok(elapsed) => {
                    if let (Some(side), Some(elapsed)) = (side, elapsed) {
                        *side = Some(side.unwrap_or(0.0) + elapsed);
                    }
                }
                Err(Trouble::Interrupted) => return,
                Err(trouble) => self.give_up(harness, at, &trouble),
            }
            if let (Turn::Second, Some(setting)) = (turn, &self.setting) {
                let part = &self.parts[at];
                // Where it cannot be entered the next turn says so.
                let _ = setting.place.inside(|| setting.forget_second(part));
            }
        }
        if record {
            self.rounds += 1;
            self.ratios.push(lead, native);
            harness.progress(&format!("image/deploy: round {}", self.rounds));
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.ratios.last()
    }

    fn done(&self) -> u32 {
        self.rounds
    }

    /// The registry ends here: nothing of it may be in the way of what is measured next.
    fn finish(&mut self, harness: &mut Harness) {
        if self.rounds < ROUNDS_FOR_A_VERDICT && harness.time_left().is_zero() {
            for part in self.parts.iter().filter(|part| !part.out) {
                cut_off(harness, &part.arm, &TIMED, &time_up(self.rounds));
            }
        }
        self.setting = None;
    }
}

/// What a deployment takes.
struct Sizes {
    shipped: u64,
    on_disk: u64,
    /// Everything that Plimsoll keeps for it.
    store: Option<u64>,
}

impl Setting {
    fn new(harness: &mut Harness) -> Result<Self, String> {
        let command = harness.command.clone().ok_or("this run has no command")?;
        let content =
            Content::prepare(&command, harness.places.base()).map_err(|error| error.to_string())?;
        let folder = harness.scratch.join("deploy");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (place, reason) = Place::make(&folder);
        if let Some(reason) = reason {
            let note = "Images were deployed to the host's own file system";
            harness.results.notes.push(format!("{note}: {reason}."));
        }
        let registry = Registry::start(&content.storage(), &folder);
        if let Ok(registry) = &registry {
            content
                .push(&command, registry)
                .map_err(|error| error.to_string())?;
        }
        Ok(Self {
            command,
            content,
            registry,
            place,
        })
    }

    /// What an image is called once it is there.
    fn name(&self, image: &str) -> String {
        match &self.registry {
            Ok(registry) => registry.name(image),
            Err(_) => format!("{image}:1"),
        }
    }

    /// Where an arm deploys to.
    fn state(&self, arm: &str) -> PathBuf {
        self.place.path().join(arm)
    }

    /// Removes what an earlier round has deployed, and waits until the disk has nothing left to write.
    fn clear(&self, parts: &[Part]) -> Result<(), Trouble> {
        let clear = || {
            for part in parts {
                let _ = fs::remove_dir_all(self.state(&part.arm));
            }
            let folder = File::open(self.place.path())?;
            Ok(nix::unistd::syncfs(folder)?)
        };
        self.place
            .inside(clear)
            .and_then(|done| done)
            .map_err(answer)
    }

    fn deploy(&self, way: Way, state: &Path, turn: Turn) -> Result<Deployed, Trouble> {
        let index = match turn {
            Turn::First => 0,
            Turn::Second => 1,
        };
        let sent = || self.registry.as_ref().ok().and_then(Registry::sent);
        let before = sent();
        let elapsed = match way {
            Way::Native => self.unpack(&state.join(IMAGES[index]), IMAGES[index], turn)?,
            Way::Container | Way::Vm => self.pull(state, IMAGES[index], way == Way::Vm)?,
            Way::Disk => self.pull(state, DISKS[index], false)?,
        };
        let moved = sent()
            .zip(before)
            .map(|(after, before)| after.saturating_sub(before));
        Ok(Deployed { elapsed, moved })
    }

    /// Gets the archives and unpacks them one after the other; nanoseconds.
    fn unpack(&self, tree: &Path, image: &str, turn: Turn) -> Result<u64, Trouble> {
        let [base, first, second] = &self.content.layers;
        let layers: &[&Layer] = match turn {
            Turn::First => &[base, first],
            Turn::Second => &[second],
        };
        fs::create_dir_all(tree).map_err(answer)?;
        let begun = clock::now();
        for layer in layers {
            let arguments = [Path::new("-C"), tree, Path::new("-xzf"), Path::new("-")];
            let mut tar = Launch::new("/bin/tar", arguments).spawn(true)?;
            let Some(mut input) = tar.stdin.take() else {
                continue;
            };
            match &self.registry {
                Ok(registry) => registry
                    .fetch(image, &layer.digest, &mut input)
                    .map_err(Trouble::Answer)?,
                Err(_) => {
                    let mut file = File::open(&layer.file).map_err(answer)?;
                    std::io::copy(&mut file, &mut input).map_err(answer)?;
                }
            }
            drop(input);
            ended(&mut tar, begun)?;
        }
        Ok(clock::now() - begun)
    }

    /// Has Plimsoll get an image; nanoseconds.
    fn pull(&self, state: &Path, image: &str, as_erofs: bool) -> Result<u64, Trouble> {
        let name = self.name(image);
        let archive = self.content.archive(image).display().to_string();
        let words = match &self.registry {
            Ok(_) => vec!["pull", "-q", &name],
            Err(_) => vec!["load", "-q", "-i", &archive],
        };
        let words = words.into_iter().map(str::to_owned).collect();
        let mut running = self.plimsoll(state, words).spawn(false)?;
        let begun = running.spawned;
        let exit = ended(&mut running, begun)?;
        if !as_erofs {
            return Ok(exit - begun);
        }
        let store = open(state)?;
        let image = store.resolve(&name).map_err(said)?;
        store.erofs_layers(&image).map_err(said)?;
        Ok(clock::now() - begun)
    }

    fn plimsoll(&self, state: &Path, words: Vec<String>) -> Launch {
        let mut launch = Launch::new(&self.command.program, words);
        let root = ("PLIMSOLL_ROOT".to_owned(), state.display().to_string());
        launch.env.push(root);
        launch
    }

    /// Counts what lies there after the first image.
    fn sizes(&self, way: Way, state: &Path) -> Result<Sizes, Trouble> {
        if way == Way::Native {
            let layers = &self.content.layers[..2];
            let lengths = layers
                .iter()
                .map(|layer| fs::metadata(&layer.file).map_or(0, |about| about.len()));
            return Ok(Sizes {
                shipped: lengths.sum(),
                on_disk: count::on_disk(&state.join(IMAGES[0])),
                store: None,
            });
        }
        let store = open(state)?;
        let blobs = count::lengths(&state.join("images/blobs/sha256"));
        let name = match way {
            Way::Disk => self.name(DISKS[0]),
            _ => self.name(IMAGES[0]),
        };
        let image = store.resolve(&name).map_err(said)?;
        let kept = count::on_disk(state);
        if way == Way::Vm {
            let (shipped, on_disk) = self.content.kernel.ok_or_else(|| {
                Trouble::Answer(format!(
                    "no guest kernel at {}: run `make setup`",
                    self.command.kernel.display()
                ))
            })?;
            let layers = store.erofs_layers(&image).map_err(said)?;
            return Ok(Sizes {
                shipped: blobs + shipped,
                on_disk: layers
                    .iter()
                    .map(|layer| count::on_disk(&layer.path))
                    .sum::<u64>()
                    + on_disk,
                store: Some(kept + on_disk),
            });
        }
        let layers = store.layer_dirs(&image).map_err(said)?;
        Ok(Sizes {
            shipped: blobs,
            on_disk: layers.iter().map(|layer| count::on_disk(layer)).sum(),
            store: Some(kept),
        })
    }

    /// Makes it as if the second image had not come.
    fn forget_second(&self, part: &Part) {
        let state = self.state(&part.arm);
        let Ok(registry) = &self.registry else {
            return;
        };
        let name = match part.way {
            Way::Native => {
                let _ = fs::remove_dir_all(state.join(IMAGES[1]));
                return;
            }
            Way::Container | Way::Vm => registry.name(IMAGES[1]),
            Way::Disk => registry.name(DISKS[1]),
        };
        let removed = self
            .plimsoll(&state, vec!["rmi".to_owned(), name])
            .spawn(false);
        if let Ok(mut running) = removed {
            let begun = running.spawned;
            let _ = ended(&mut running, begun);
        }
    }
}

/// Waits for a program's end, which must be a good one; when that was.
fn ended(running: &mut Running, begun: u64) -> Result<u64, Trouble> {
    let (status, exit) = running.wait_exit(begun, PATIENCE)?;
    if status.success() {
        Ok(exit)
    } else {
        Err(running.explain_end())
    }
}

fn open(state: &Path) -> Result<Store, Trouble> {
    Store::open(&state.join("images")).map_err(said)
}

fn said(error: engine::ImageError) -> Trouble {
    Trouble::Answer(error.to_string())
}

fn answer(error: std::io::Error) -> Trouble {
    Trouble::Answer(error.to_string())
}

/// The arms that take part. Of the virtual machines the one that starts most quickly: what they boot from is the same.
fn parts(harness: &mut Harness, content: &Content) -> Vec<Part> {
    let mut parts = Vec::new();
    let seat = |id: &str, harness: &Harness| harness.seats.iter().position(|seat| seat.id() == id);
    let machine = (0..harness.seats.len())
        .filter(|&seat| harness.seats[seat].arm.about().kind == ArmKind::Vm)
        .min_by_key(|&seat| harness.seats[seat].arm.pace() == Pace::VerySlow)
        .map(|seat| harness.seats[seat].id().to_owned());
    let ways = [
        (Some(arm_id::NATIVE), Way::Native),
        (Some(arm_id::NATIVE_CONTROL), Way::Native),
        (Some(arm_id::CONTAINER), Way::Container),
        (machine.as_deref(), Way::Vm),
    ];
    for (id, way) in ways {
        if let Some(id) = id
            && let Some(seat) = seat(id, harness)
        {
            parts.push(Part {
                arm: id.to_owned(),
                seat: Some(seat),
                way,
                out: false,
            });
        }
    }
    if content.disks.is_none() {
        harness.say("whole disks of virtual machines are left out: they need a guest kernel and mke2fs (apt-get install e2fsprogs)");
        return parts;
    }
    let mut arm: results::Arm = entry(DISK, "VM as one disk image", ArmKind::Peer);
    arm.status = ArmStatus::Ran;
    arm.omits = vec!["deployed only: an ext4 file system with the same files and the kernel, compressed by gzip -6".to_owned()];
    harness.results.arms.push(arm);
    parts.push(Part {
        arm: DISK.to_owned(),
        seat: None,
        way: Way::Disk,
        out: false,
    });
    parts
}

/// Puts what Debian's own image takes beside the figures.
fn refer_to_cloud(harness: &mut Harness) {
    harness.results.arms.push(reference::cloud());
    for metric in [metric_id::SHIPPED, metric_id::ON_DISK] {
        let mut sample = sample(reference::CLOUD, 0);
        sample.value = Some(reference::CLOUD_BYTES);
        harness.results.record(metric, 0, sample);
    }
}

fn cut_off(harness: &mut Harness, arm: &str, metrics: &[&str], reason: &str) {
    for metric in metrics {
        if harness.results.cut_off(metric, arm).is_none() {
            harness.results.cut_offs.push(CutOff {
                metric: (*metric).to_owned(),
                arm: arm.to_owned(),
                budget_ns: None,
                reason: reason.to_owned(),
            });
        }
    }
}

/// Everything that a store keeps; no rule asks for it.
const STORE: &str = "image.store-bytes";

/// What only a registry can tell.
const TIMED: [&str; 4] = [
    metric_id::FIRST_MOVED,
    metric_id::SECOND_MOVED,
    metric_id::FIRST_DEPLOY,
    metric_id::SECOND_DEPLOY,
];

fn metrics() -> Vec<Metric> {
    let metric = |id: &str, unit, title: &str, description: &str| Metric {
        id: id.to_owned(),
        group: Group::Image,
        unit,
        direction: Direction::LowerIsBetter,
        title: title.to_owned(),
        description: description.to_owned(),
    };
    vec![
        metric(
            metric_id::SHIPPED,
            Unit::Bytes,
            "Bytes to ship",
            "The first image as a registry has it: layers, configuration and manifest; for the VM also its kernel, compressed alike. \
             Natively the same layers as plain archives.",
        ),
        metric(
            metric_id::ON_DISK,
            Unit::Bytes,
            "Bytes on disk",
            "What must lie on the disk for the first image to run, in blocks: unpacked layers for the container; for the VM EROFS files \
             and its kernel.",
        ),
        metric(
            STORE,
            Unit::Bytes,
            "Bytes in the store",
            "Everything that Plimsoll keeps after that: the compressed layers stay too, and those of a VM unpacked beside its EROFS \
             files, with its kernel.",
        ),
        metric(
            metric_id::FIRST_MOVED,
            Unit::Bytes,
            "First image: bytes moved",
            "What the registry sent while the first image was deployed to where nothing was.",
        ),
        metric(
            metric_id::SECOND_MOVED,
            Unit::Bytes,
            "Second image: bytes moved",
            "What the registry sent while the second image came to where the first was already, with whose base it begins.",
        ),
        metric(
            metric_id::FIRST_DEPLOY,
            Unit::Nanoseconds,
            "First image: time to deploy",
            "From the command to where an instance could start, out of a registry on this host: a pull; for the VM also its EROFS \
             files. Natively GNU tar unpacks the same layers. Nobody waits until the disk has what was written.",
        ),
        metric(
            metric_id::SECOND_DEPLOY,
            Unit::Nanoseconds,
            "Second image: time to deploy",
            "The same for the second image on the base that is there; natively, and as a disk image, as it comes.",
        ),
    ]
}

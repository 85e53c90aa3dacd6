//! Plimsoll's own arms: its container with and without the seccomp filter, and its virtual machine on either accelerator.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use engine::Substrate as Kvm;
use reports::results::{self, ArmKind, Substrate, Twin, arm_id};

use super::{Arm, Candidate, Pace, Places, Purpose, entry};
use crate::image::{self, Images};
use crate::launch::Launch;
use crate::limits::Limits;

/// Plimsoll's command and its state directory.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) kernel: PathBuf,
}

pub(crate) struct Plimsoll {
    about: results::Arm,
    command: Command,
    flags: &'static [&'static str],
    pace: Pace,
    images: Rc<Images>,
    limits: Limits,
    /// Resident instances so far: their names.
    started: Cell<u32>,
}

/// The four arms, in the order of the report.
pub(crate) fn candidates(command: &Command, images: &Rc<Images>, limits: Limits) -> Vec<Candidate> {
    let arm = |about, flags, pace| {
        Candidate::Able(Box::new(Plimsoll {
            about,
            command: command.clone(),
            flags,
            pace,
            images: images.clone(),
            limits,
            started: Cell::new(0),
        }) as Box<dyn Arm>)
    };
    let container = entry(arm_id::CONTAINER, "container", ArmKind::Container);
    let mut bare = entry(
        arm_id::CONTAINER_NO_SECCOMP,
        "container without seccomp",
        ArmKind::Container,
    );
    bare.twin_of = Some(Twin {
        arm: arm_id::CONTAINER.to_owned(),
        difference: "without docker's seccomp filter".to_owned(),
    });
    bare.omits = vec!["no seccomp filter".to_owned()];
    let mut found = vec![
        arm(container, &["--backend", "container"][..], Pace::Quick),
        arm(
            bare,
            &[
                "--backend",
                "container",
                "--security-opt",
                "seccomp=unconfined",
            ],
            Pace::Quick,
        ),
    ];

    let mut vm = entry(arm_id::VM, "microVM on KVM", ArmKind::Vm);
    let mut tcg = entry(arm_id::VM_TCG, "microVM emulated by QEMU", ArmKind::Vm);
    tcg.substrate = Some(Substrate {
        name: "tcg".to_owned(),
        hardware: false,
    });
    let (name, hardware, unable) = match engine::substrate() {
        Kvm::Vmx => ("vmx", true, None),
        Kvm::Svm => ("svm", true, None),
        Kvm::Pvm => ("kvm_pvm", false, None),
        Kvm::None { reason } => ("none", false, Some(reason)),
    };
    vm.substrate = Some(Substrate {
        name: name.to_owned(),
        hardware,
    });
    let no_kernel = no_kernel(&command.kernel);
    found.push(match unable.or_else(|| no_kernel.clone()) {
        Some(reason) => Candidate::unable(vm, reason),
        None if hardware => arm(vm, &["--backend", "vm", "--accel", "kvm"], Pace::Slow),
        None => arm(vm, &["--backend", "vm", "--accel", "kvm"], Pace::VerySlow),
    });
    let qemu = engine::qemu_binary();
    found.push(match (hardware, qemu, no_kernel) {
        (true, ..) => {
            Candidate::unable(tcg, "KVM is hardware here, so nothing needs to be emulated")
        }
        (_, None, _) => Candidate::unable(
            tcg,
            "QEMU is not installed: apt-get install qemu-system-x86",
        ),
        (_, _, Some(reason)) => Candidate::unable(tcg, reason),
        (false, Some(_), None) => arm(tcg, &["--backend", "vm", "--accel", "tcg"], Pace::Slow),
    });
    found
}

fn no_kernel(kernel: &Path) -> Option<String> {
    (!kernel.is_file())
        .then(|| format!("no guest kernel at {}: run `make setup`", kernel.display()))
}

impl Arm for Plimsoll {
    fn about(&self) -> &results::Arm {
        &self.about
    }

    fn launch(&self, workload: &[&str], purpose: &Purpose) -> Result<Launch, String> {
        let mut args = vec!["run".to_owned(), "--network".to_owned(), "none".to_owned()];
        args.extend(self.flags.iter().map(|&flag| flag.to_owned()));
        let mut remove = None;
        let image = match purpose {
            Purpose::Start { .. } => {
                args.push("--rm".to_owned());
                if self.about.id == arm_id::VM {
                    // Warm and cold starts boot; going on from a template is the restored one.
                    args.push("--no-template".to_owned());
                }
                image::BASE
            }
            Purpose::Resident => {
                // Not --rm: what will be thrown away anyway need not reach the disk, and fsync would cost nothing.
                let name = format!(
                    "bench-{}-{}-{}",
                    std::process::id(),
                    self.about.id,
                    self.started.get()
                );
                self.started.set(self.started.get() + 1);
                args.push("-i".to_owned());
                args.extend(["--cpus".to_owned(), self.limits.cpus.to_string()]);
                args.extend(["-m".to_owned(), self.limits.memory.to_string()]);
                args.extend(["--name".to_owned(), name.clone()]);
                let rm = ["rm", "-f", &name].map(OsString::from);
                let program = OsString::from(&self.command.program);
                remove = Some(std::iter::once(program).chain(rm).collect());
                &self.images.data.name
            }
        };
        args.extend([image.to_owned(), "/bin/workload".to_owned()]);
        args.extend(workload.iter().map(|&word| word.to_owned()));
        let mut launch = Launch::new(&self.command.program, args);
        launch.remove = remove;
        launch.env.push((
            "PLIMSOLL_ROOT".to_owned(),
            self.command.root.display().to_string(),
        ));
        launch.env.push((
            "PLIMSOLL_KERNEL".to_owned(),
            self.command.kernel.display().to_string(),
        ));
        if let Purpose::Start {
            timeline: Some(path),
        } = purpose
        {
            launch
                .env
                .push(("PLIMSOLL_TIMELINE".to_owned(), path.display().to_string()));
        }
        Ok(launch)
    }

    fn image_files(&self) -> Vec<PathBuf> {
        match self.about.kind {
            ArmKind::Vm => self.images.base.erofs.clone(),
            _ => self.images.base.layers.clone(),
        }
    }

    fn places(&self) -> Option<Places> {
        Some(Places {
            image_file: format!("/{}", image::DATA_FILE),
            scratch: "/var/plimsoll-bench".to_owned(),
            peer: String::new(),
        })
    }

    fn pace(&self) -> Pace {
        self.pace
    }
}

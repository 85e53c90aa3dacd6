//! Templates: the first VM of a size is saved where it has booted, and later ones go on from there.

use std::fs::{self, File};

use microvm_core::template::{self, Draft, Template};
use microvm_core::{Accelerator, Discovery, MicroVm, Start, VmConfig};

use super::Job;
use crate::error::{Error, Result};

/// A machine, and what comes of it.
pub(super) struct Launched {
    pub(super) vm: MicroVm,
    pub(super) next: Option<Next>,
}

/// What goes on when a machine has become a template.
pub(super) struct Next {
    pub(super) draft: Draft,
    pub(super) config: VmConfig,
    pub(super) accelerator: Accelerator,
}

/// Starts the machine: from its template, or by making that, or, where it can have none, by booting.
pub(super) fn launch(
    job: &Job<'_>,
    accelerator: Accelerator,
    mut config: VmConfig,
    console: &File,
    notice: &mut dyn FnMut(&str),
) -> Result<Launched> {
    let booted = |config: &VmConfig| {
        Ok(Launched {
            vm: microvm_core::launch(accelerator, config)?,
            next: None,
        })
    };
    if !can_have_one(job, accelerator, &config) {
        return booted(&config);
    }
    let directory = job.home.templates();
    let path = directory.join(template::name(&config)?);
    match Template::open(&path) {
        Ok(Some(template)) => match from(template, accelerator, &mut config) {
            Ok(vm) => return Ok(Launched { vm, next: None }),
            // Whatever else is wrong with the machine shows when it boots.
            Err(error) => notice(&format!("{error}: booting")),
        },
        Ok(None) => {}
        Err(error) => notice(&format!("{error}: booting")),
    }
    fs::create_dir_all(&directory).map_err(|e| Error::io("create", &directory, e))?;
    // Whoever comes second boots, and is there no later than if it had waited.
    let Some(draft) = Draft::begin(&path)? else {
        return booted(&config);
    };
    let console = console
        .try_clone()
        .map_err(|e| Error::io("open", "console.log", e))?;
    let mut first = VmConfig::new(config.kernel.clone(), config.initramfs.clone(), console);
    first.memory_mib = config.memory_mib;
    first.vcpus = config.vcpus;
    first.cgroup = copy(&config)?;
    first.start = Start::Draft(draft.files()?);
    Ok(Launched {
        vm: microvm_core::launch(accelerator, &first)?,
        next: Some(Next {
            draft,
            config,
            accelerator,
        }),
    })
}

/// Starts the machine from its template where there is one, and else by booting.
pub(super) fn launch_at_once(
    job: &Job<'_>,
    accelerator: Accelerator,
    mut config: VmConfig,
) -> Result<MicroVm> {
    if can_have_one(job, accelerator, &config) {
        let path = job.home.templates().join(template::name(&config)?);
        if let Ok(Some(template)) = Template::open(&path)
            && let Ok(vm) = from(template, accelerator, &mut config)
        {
            return Ok(vm);
        }
    }
    Ok(microvm_core::launch(accelerator, &config)?)
}

/// Starts the machine from this template; if that cannot be, its configuration is one that boots.
pub(super) fn from(
    template: Template,
    accelerator: Accelerator,
    config: &mut VmConfig,
) -> Result<MicroVm, microvm_core::Error> {
    config.start = Start::Template(template);
    let launched = microvm_core::launch(accelerator, config);
    if launched.is_err() {
        config.start = Start::Boot;
    }
    launched
}

/// Only our monitor has templates. A kernel of the user's own may have no driver that looks for devices later.
fn can_have_one(job: &Job<'_>, accelerator: Accelerator, config: &VmConfig) -> bool {
    let spec = &job.record.spec;
    let ours = spec.kernel.is_none() && config.discovery == Discovery::CommandLine;
    accelerator == Accelerator::Kvm && !spec.no_template && ours
}

/// The same cgroup, for another machine.
fn copy(config: &VmConfig) -> Result<microvm_core::Membership> {
    let failed = |source| Error::System {
        action: "copy a descriptor",
        source,
    };
    let unified = config.cgroup.unified.as_ref();
    Ok(microvm_core::Membership {
        unified: unified
            .map(|fd| fd.try_clone())
            .transpose()
            .map_err(failed)?,
        tasks: (config.cgroup.tasks.iter())
            .map(File::try_clone)
            .collect::<Result<_, _>>()
            .map_err(failed)?,
    })
}

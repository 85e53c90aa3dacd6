//! The workload straight on the host: the arm that all ratios are taken to, and its twin for the A/A control.
//!
//! It runs the image's own file, under the same memory and CPU limits as the other arms: a cgroup of the harness's, since
//! there is no launcher that would make one.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use reports::results::{self, ArmKind, arm_id};

use super::{Arm, Places, Purpose, entry};
use crate::image::Images;
use crate::launch::Launch;
use crate::limits::{Group, Limits};

pub(crate) struct Native {
    about: results::Arm,
    images: Rc<Images>,
    limits: Limits,
    /// Made with the first resident instance.
    group: std::cell::OnceCell<Group>,
    scratch: PathBuf,
}

impl Native {
    /// The arm itself, or with `control` the A/A control: the same under a second label.
    pub(crate) fn new(control: bool, images: &Rc<Images>, limits: Limits, scratch: &Path) -> Self {
        let (id, label) = match control {
            false => (arm_id::NATIVE, "native"),
            true => (arm_id::NATIVE_CONTROL, "native again (A/A control)"),
        };
        let mut about = entry(id, label, ArmKind::Native);
        about.control_of = control.then(|| arm_id::NATIVE.to_owned());
        about.omits = vec!["no isolation at all".to_owned()];
        Self {
            about,
            images: images.clone(),
            limits,
            group: Default::default(),
            scratch: scratch.join(id),
        }
    }

    fn group(&self) -> Result<&Group, String> {
        if let Some(group) = self.group.get() {
            return Ok(group);
        }
        let group = Group::make(&self.about.id, self.limits).map_err(|error| error.to_string())?;
        Ok(self.group.get_or_init(|| group))
    }
}

impl Arm for Native {
    fn about(&self) -> &results::Arm {
        &self.about
    }

    fn launch(&self, workload: &[&str], purpose: &Purpose) -> Result<Launch, String> {
        let mut launch = Launch::new(self.images.base.file("bin/workload"), workload);
        if *purpose == Purpose::Resident {
            launch.cgroups = self.group()?.entries();
        }
        Ok(launch)
    }

    fn image_files(&self) -> Vec<PathBuf> {
        vec![self.images.base.file("bin/workload")]
    }

    fn places(&self) -> Option<Places> {
        Some(Places {
            image_file: self
                .images
                .data
                .file(crate::image::DATA_FILE)
                .display()
                .to_string(),
            scratch: self.scratch.display().to_string(),
            peer: String::new(),
        })
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

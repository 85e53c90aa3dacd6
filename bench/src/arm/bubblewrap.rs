//! bubblewrap: a launcher that unshares everything and binds a root file system, and does little else.

use std::path::{Path, PathBuf};

use reports::results::{self, ArmKind};

use super::{Arm, Candidate, Purpose, entry};
use crate::launch::Launch;
use crate::peers;

const PROGRAM: &str = "/usr/bin/bwrap";

struct Bubblewrap {
    about: results::Arm,
    rootfs: PathBuf,
}

pub(crate) fn candidate(rootfs: &Path) -> Candidate {
    let mut about = entry("bwrap", "bubblewrap", ArmKind::Peer);
    about.omits = [
        "no overlay (the root file system is bound read-only)",
        "no cgroup",
        "no seccomp filter",
        "no image",
    ]
    .map(str::to_owned)
    .to_vec();
    match peers::version(PROGRAM) {
        Err(reason) => Candidate::unable(about, reason),
        Ok(version) => {
            about.versions.insert("bwrap".to_owned(), version);
            Candidate::Able(Box::new(Bubblewrap {
                about,
                rootfs: rootfs.to_owned(),
            }))
        }
    }
}

impl Arm for Bubblewrap {
    fn about(&self) -> &results::Arm {
        &self.about
    }

    fn launch(&self, workload: &[&str], _: &Purpose) -> Result<Launch, String> {
        let rootfs = self.rootfs.display().to_string();
        let mut args = vec![
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--ro-bind",
            &rootfs,
            "/",
        ];
        args.extend([
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "/bin/workload",
        ]);
        args.extend(workload);
        Ok(Launch::new(PROGRAM, args))
    }

    fn image_files(&self) -> Vec<PathBuf> {
        vec![self.rootfs.clone()]
    }
}

//! podman and docker: whole engines, with their own storage and their own copy of the image.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reports::results::{self, ArmKind};

use super::{Arm, Candidate, Purpose, entry};
use crate::launch::Launch;
use crate::peers;

/// The name under which the root file system is imported into a peer's own store.
const IMAGE: &str = "plimsoll-bench:base";

struct Engine {
    about: results::Arm,
    program: PathBuf,
}

/// podman, then docker where a daemon answers.
pub(crate) fn candidates(rootfs: &Path) -> Vec<Candidate> {
    let places: [(&str, &[&str], &str); 2] = [
        (
            "podman",
            &["/usr/bin/podman"],
            "no daemon, a monitor process for each container",
        ),
        (
            "docker",
            &["/usr/bin/docker", "/usr/local/bin/docker"],
            "its daemons were running already",
        ),
    ];
    places
        .into_iter()
        .map(|(id, paths, remark)| {
            let mut about = entry(id, id, ArmKind::Peer);
            about.omits = vec![remark.to_owned()];
            let Some(program) = paths.iter().map(Path::new).find(|path| path.exists()) else {
                return Candidate::unable(about, format!("{} is not installed", paths[0]));
            };
            match prepare(program, rootfs) {
                Err(reason) => Candidate::unable(about, reason),
                Ok(version) => {
                    about.versions.insert(id.to_owned(), version);
                    Candidate::Able(Box::new(Engine {
                        about,
                        program: program.to_owned(),
                    }))
                }
            }
        })
        .collect()
}

/// Sees whether the engine works at all, and imports the root file system.
fn prepare(program: &Path, rootfs: &Path) -> Result<String, String> {
    let name = program.display();
    let info = peers::output(Command::new(program).args(["info"]))
        .map_err(|message| format!("`{name} info` fails: {message}"))?;
    if info.contains("Cannot connect to the Docker daemon") || info.contains("ERROR:") {
        return Err(format!("{name}: no daemon answers"));
    }
    let mut archive = Command::new("/bin/tar")
        .args(["--numeric-owner", "-C"])
        .arg(rootfs)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("/bin/tar: {error}"))?;
    let mut import = Command::new(program);
    import.args(["import", "-", IMAGE]);
    if let Some(tar) = archive.stdout.take() {
        import.stdin(tar);
    }
    let imported = peers::output(&mut import);
    let _ = archive.wait();
    imported.map_err(|message| format!("`{name} import` fails: {message}"))?;
    peers::version(&program.display().to_string())
}

impl Arm for Engine {
    fn about(&self) -> &results::Arm {
        &self.about
    }

    fn launch(&self, workload: &[&str], _: &Purpose) -> Result<Launch, String> {
        let mut args = vec!["run", "--rm", "--network", "none", IMAGE, "/bin/workload"];
        args.extend(workload);
        Ok(Launch::new(&self.program, args))
    }

    // Its store is its own affair: there is nothing that could be put out of the cache with certainty.
    fn image_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = peers::output(Command::new(&self.program).args(["rmi", IMAGE]));
    }
}

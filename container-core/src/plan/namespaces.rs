//! Which namespaces the container gets, and which it joins.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxIdMapping};

use crate::error::{Error, Result};
use crate::init::CLONE_NEWTIME;

/// A namespace to join.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) fd: OwnedFd,
    pub(crate) flag: libc::c_int,
    pub(crate) path: PathBuf,
}

/// The namespaces of a specification.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of those to be made.
    new: libc::c_int,
    /// Those to join, the user namespace first: it gives the rights to join the others.
    pub(crate) join: Vec<Join>,
    /// Mappings of a new user namespace, in the form of /proc/PID/uid_map.
    pub(crate) uid_map: String,
    pub(crate) gid_map: String,
}

impl Namespaces {
    /// None new, none joined.
    pub(crate) fn none() -> Self {
        Self {
            new: 0,
            join: Vec::new(),
            uid_map: String::new(),
            gid_map: String::new(),
        }
    }

    pub(crate) fn new(linux: &Linux) -> Result<Self> {
        let mut this = Self::none();
        let mut seen = 0;
        for namespace in linux.namespaces().iter().flatten() {
            let kind = namespace.typ();
            let flag = kind as libc::c_int;
            let field = || format!("linux.namespaces.{kind}");
            if seen & flag != 0 {
                return Err(Error::invalid(field(), "is listed twice"));
            }
            seen |= flag;
            match namespace.path() {
                None => this.new |= flag,
                Some(path) => {
                    let fd = File::open(path)
                        .map_err(|error| Error::Path {
                            path: path.clone(),
                            errno: error.into(),
                        })?
                        .into();
                    this.join.push(Join {
                        fd,
                        flag,
                        path: path.clone(),
                    });
                }
            }
        }
        this.join
            .sort_by_key(|join| join.flag != libc::CLONE_NEWUSER);
        this.uid_map = mappings("linux.uidMappings", linux.uid_mappings())?;
        this.gid_map = mappings("linux.gidMappings", linux.gid_mappings())?;
        let mapped = !this.uid_map.is_empty() || !this.gid_map.is_empty();
        if this.makes_user() {
            if this.uid_map.is_empty() || this.gid_map.is_empty() {
                return Err(Error::invalid(
                    "linux.uidMappings",
                    "a new user namespace needs mappings of users and of groups",
                ));
            }
        } else if mapped && !this.has(libc::CLONE_NEWUSER) {
            return Err(Error::invalid(
                "linux.uidMappings",
                "mappings need a user namespace",
            ));
        }
        Ok(this)
    }

    fn has(&self, flag: libc::c_int) -> bool {
        self.new & flag != 0 || self.join.iter().any(|join| join.flag == flag)
    }

    pub(crate) fn has_mount(&self) -> bool {
        self.has(libc::CLONE_NEWNS)
    }

    pub(crate) fn has_uts(&self) -> bool {
        self.has(libc::CLONE_NEWUTS)
    }

    pub(crate) fn has_ipc(&self) -> bool {
        self.has(libc::CLONE_NEWIPC)
    }

    pub(crate) fn has_network(&self) -> bool {
        self.has(libc::CLONE_NEWNET)
    }

    pub(crate) fn has_user(&self) -> bool {
        self.has(libc::CLONE_NEWUSER)
    }

    pub(crate) fn makes_user(&self) -> bool {
        self.new & libc::CLONE_NEWUSER != 0
    }

    pub(crate) fn makes_mount(&self) -> bool {
        self.new & libc::CLONE_NEWNS != 0
    }

    pub(crate) fn makes_network(&self) -> bool {
        self.new & libc::CLONE_NEWNET != 0
    }

    /// The cgroup namespace is made by the process itself, once it is in its cgroups: its root is where the process
    /// is when the namespace is made (cgroup_namespaces(7)).
    pub(crate) fn makes_cgroup(&self) -> bool {
        self.new & libc::CLONE_NEWCGROUP != 0
    }

    /// The time namespace is made by the process itself, too: its offsets are set before anything runs in it, and
    /// `execve` is what enters it (Linux 6.1; before, only children do).
    pub(crate) fn makes_time(&self) -> bool {
        self.new & CLONE_NEWTIME != 0
    }

    /// The launcher makes the network namespace while the process makes its mounts: building the network stack is the
    /// longest single step of a start, and both processors can work. A new user namespace must own the network
    /// namespace, so that there it is made together with it.
    pub(crate) fn network_by_launcher(&self) -> bool {
        self.makes_network() && !self.makes_user() && !self.has(libc::CLONE_NEWUSER)
    }

    /// What clone3 is asked for.
    pub(crate) fn clone_flags(&self) -> u64 {
        let mut flags = self.new & !(libc::CLONE_NEWCGROUP | CLONE_NEWTIME);
        if self.network_by_launcher() {
            flags &= !libc::CLONE_NEWNET;
        }
        flags as u64
    }

    /// The PID namespace to join. Joining moves the joiner's *children*, so that the launcher does it around clone3.
    pub(crate) fn pid_to_join(&self) -> Option<&Join> {
        self.join
            .iter()
            .find(|join| join.flag == libc::CLONE_NEWPID)
    }
}

/// Mappings in the form of /proc/PID/uid_map; empty when there are none.
pub(super) fn mappings(field: &str, mappings: &Option<Vec<LinuxIdMapping>>) -> Result<String> {
    let mut text = String::new();
    for mapping in mappings.iter().flatten() {
        if mapping.size() == 0 {
            return Err(Error::invalid(field, "a mapping must not be empty"));
        }
        text.push_str(&format!(
            "{} {} {}\n",
            mapping.container_id(),
            mapping.host_id(),
            mapping.size()
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType};

    use super::*;

    fn linux(kinds: &[LinuxNamespaceType]) -> Linux {
        let namespaces: Vec<_> = kinds
            .iter()
            .map(|kind| LinuxNamespaceBuilder::default().typ(*kind).build().unwrap())
            .collect();
        LinuxBuilder::default()
            .namespaces(namespaces)
            .build()
            .unwrap()
    }

    #[test]
    fn a_namespace_listed_twice_is_refused() {
        let error = Namespaces::new(&linux(&[LinuxNamespaceType::Pid, LinuxNamespaceType::Pid]))
            .unwrap_err();
        assert_eq!(error.to_string(), "linux.namespaces.pid: is listed twice");
    }

    #[test]
    fn a_user_namespace_without_mappings_is_refused() {
        assert!(Namespaces::new(&linux(&[LinuxNamespaceType::User])).is_err());
    }

    #[test]
    fn the_cgroup_namespace_is_left_to_the_process_itself() {
        let namespaces = Namespaces::new(&linux(&[
            LinuxNamespaceType::Cgroup,
            LinuxNamespaceType::Mount,
        ]))
        .unwrap();
        assert_eq!(namespaces.clone_flags(), libc::CLONE_NEWNS as u64);
        assert!(namespaces.makes_cgroup());
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let mut linux = linux(&[]);
        linux.set_namespaces(Some(vec![
            LinuxNamespaceBuilder::default()
                .typ(LinuxNamespaceType::Network)
                .path("/run/netns/absent")
                .build()
                .unwrap(),
        ]));
        let error = Namespaces::new(&linux).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/run/netns/absent: no such file or directory"
        );
    }
}

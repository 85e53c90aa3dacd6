//! The container's process: who it is, what it may use, what it runs.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, IOPriorityClass, Linux, LinuxPersonality, LinuxPersonalityDomain, LinuxSeccomp,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process,
};

use super::mounts::Inside;
use super::{c_string, placement};
use crate::capability;
use crate::error::{Error, Result};
use crate::seccomp::{self, Filter};
use crate::sys::process::{MemoryPolicy, Processors, SchedulerAttributes, Strings};
use crate::sys::{self, Errno};

/// The capability sets of a specification, one bit a capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// A resource limit.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The process of a specification, ready to be executed.
pub(crate) struct ProcessPlan {
    /// The command as the user wrote it, for messages.
    pub(crate) command: String,
    /// Where the command may be, in the order of the search.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: Strings,
    pub(crate) environment: Strings,
    pub(crate) cwd: Inside,
    pub(crate) absolute_cwd: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) limits: Vec<Limit>,
    pub(crate) capabilities: Option<CapabilityPlan>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) io_priority: Option<u32>,
    pub(crate) scheduler: Option<SchedulerAttributes>,
    pub(crate) personality: Option<libc::c_ulong>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    /// Processors to run on before and after the cgroups are entered; of those who join a container only.
    pub(crate) affinity: [Option<Processors>; 2],
    pub(crate) filter: Option<Filter>,
}

impl ProcessPlan {
    pub(crate) fn new(
        process: &Process,
        seccomp: Option<&LinuxSeccomp>,
        linux: Option<&Linux>,
    ) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        let command = args
            .first()
            .filter(|command| !command.is_empty())
            .ok_or_else(|| {
                Error::invalid(
                    "process.args",
                    "must name a command: neither the image nor the command line gives one",
                )
            })?;
        let environment = process.env().as_deref().unwrap_or_default();
        let strings = |field: &str, list: &[String]| -> Result<Vec<CString>> {
            list.iter()
                .map(|text| c_string(field, text.as_str()))
                .collect()
        };
        let cwd = process.cwd();
        if !cwd.is_absolute() {
            return Err(Error::invalid(
                "process.cwd",
                format!("{} must be an absolute path", cwd.display()),
            ));
        }
        let cwd = clean(cwd);
        let user = process.user();
        let filter = match seccomp {
            Some(profile) => Some(seccomp::compile(profile)?),
            None => None,
        };
        Ok(Self {
            command: command.clone(),
            candidates: candidates(command, environment)?,
            arguments: Strings::new(strings("process.args", args)?),
            environment: Strings::new(strings("process.env", environment)?),
            absolute_cwd: c_string("process.cwd", cwd.as_os_str().as_bytes())?,
            cwd: Inside::new("process.cwd", &cwd)?,
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
            limits: limits(process.rlimits().as_deref().unwrap_or_default())?,
            capabilities: process.capabilities().as_ref().map(|sets| {
                let bits = |set: &Option<Capabilities>| set.as_ref().map_or(0, capability::bits);
                CapabilityPlan {
                    bounding: bits(sets.bounding()),
                    effective: bits(sets.effective()),
                    permitted: bits(sets.permitted()),
                    inheritable: bits(sets.inheritable()),
                    ambient: bits(sets.ambient()),
                }
            }),
            no_new_privileges: process.no_new_privileges() == Some(true),
            oom_score_adj: oom_score_adj(process.oom_score_adj())?,
            io_priority: match process.io_priority() {
                Some(priority) => Some(io_priority(priority.class(), priority.priority())?),
                None => None,
            },
            scheduler: process.scheduler().as_ref().map(placement::scheduler),
            personality: personality(linux.and_then(|linux| linux.personality().as_ref()))?,
            memory_policy: match linux.and_then(|linux| linux.memory_policy().as_ref()) {
                Some(policy) => Some(placement::memory_policy(policy)?),
                None => None,
            },
            affinity: placement::affinity(process)?,
            filter,
        })
    }
}

/// A path without `.` and `..`, by its text alone, as docker treats a working directory.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Where execvp(3) would look, by the container's own PATH.
fn candidates(command: &str, environment: &[String]) -> Result<Vec<CString>> {
    if command.contains('/') {
        return Ok(vec![c_string("process.args", command)?]);
    }
    // The kernel keeps the first of several, as getenv(3) does.
    let path = environment
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or("/bin:/usr/bin");
    path.split(':')
        .map(|directory| {
            let directory = if directory.is_empty() { "." } else { directory };
            c_string(
                "process.args",
                format!("{}/{command}", directory.trim_end_matches('/')),
            )
        })
        .collect()
}

fn oom_score_adj(value: Option<i32>) -> Result<Option<i32>> {
    match value {
        Some(value) if !(-1000..=1000).contains(&value) => Err(Error::invalid(
            "process.oomScoreAdj",
            format!("{value} is not within -1000 and 1000"),
        )),
        value => Ok(value),
    }
}

/// The kernel's name of a limit and the specification's.
fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// The kernel's number of a resource limit (setrlimit(2)).
pub fn rlimit_number(kind: PosixRlimitType) -> u32 {
    resource(kind)
}

/// The most this process may ask for: its own hard limit, or anything where it may raise limits.
fn ceiling(kind: PosixRlimitType) -> std::result::Result<u64, Errno> {
    if sys::credentials::capabilities()?.effective & capability::bit(capability::SYS_RESOURCE) != 0
    {
        return Ok(libc::RLIM_INFINITY);
    }
    Ok(sys::process::limit(resource(kind))?.1)
}

/// Lowers a limit to what this host can grant (a root without CAP_SYS_RESOURCE cannot raise its hard limits).
///
/// For limits that nobody asked for by number, such as an engine's own defaults. What a user asks for explicitly
/// belongs into the specification as it is: a limit there that cannot be granted is an error.
pub fn grantable_rlimit(limit: PosixRlimit) -> Result<PosixRlimit> {
    let ceiling =
        ceiling(limit.typ()).map_err(|errno| Error::setup("read the resource limits", errno))?;
    let hard = limit.hard().min(ceiling);
    PosixRlimitBuilder::default()
        .typ(limit.typ())
        .hard(hard)
        .soft(limit.soft().min(hard))
        .build()
        .map_err(|error| Error::invalid("process.rlimits", error.to_string()))
}

fn limits(limits: &[PosixRlimit]) -> Result<Vec<Limit>> {
    let mut seen = 0_u32;
    limits
        .iter()
        .map(|limit| {
            let name = limit.typ().to_string();
            let resource = resource(limit.typ());
            let field = format!("process.rlimits.{name}");
            if seen & (1 << resource) != 0 {
                return Err(Error::invalid(field, "is listed twice"));
            }
            seen |= 1 << resource;
            let show = |value: u64| if value == libc::RLIM_INFINITY { "unlimited".to_owned() } else { value.to_string() };
            if limit.soft() > limit.hard() {
                return Err(Error::invalid(
                    field,
                    format!("the soft limit {} is above the hard limit {}", show(limit.soft()), show(limit.hard())),
                ));
            }
            let ceiling = ceiling(limit.typ()).map_err(|errno| Error::setup("read the resource limits", errno))?;
            if limit.hard() > ceiling {
                return Err(Error::invalid(
                    field,
                    format!(
                        "{} is above this process's hard limit of {}, which only CAP_SYS_RESOURCE may raise",
                        show(limit.hard()),
                        show(ceiling)
                    ),
                ));
            }
            Ok(Limit { name, resource, soft: limit.soft(), hard: limit.hard() })
        })
        .collect()
}

/// The number ioprio_set(2) takes: class and level in one.
fn io_priority(class: IOPriorityClass, level: i64) -> Result<u32> {
    let class = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(level) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(Error::invalid(
            "process.ioPriority.priority",
            format!("{level} is not within 0 and 7"),
        )),
    }
}

fn personality(personality: Option<&LinuxPersonality>) -> Result<Option<libc::c_ulong>> {
    let Some(personality) = personality else {
        return Ok(None);
    };
    if personality
        .flags()
        .as_ref()
        .is_some_and(|flags| !flags.is_empty())
    {
        return Err(Error::unsupported(
            "linux.personality.flags",
            "the specification defines none",
        ));
    }
    // PER_LINUX and PER_LINUX32 of uapi/linux/personality.h.
    Ok(Some(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::PosixRlimitBuilder;

    use super::*;

    fn looked_up(command: &str, environment: &[&str]) -> Vec<String> {
        let environment: Vec<String> = environment.iter().map(|text| (*text).to_owned()).collect();
        candidates(command, &environment)
            .unwrap()
            .iter()
            .map(|path| path.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_command_is_searched_in_the_containers_own_path() {
        assert_eq!(
            looked_up("ls", &["HOME=/", "PATH=/opt/bin:/bin/"]),
            ["/opt/bin/ls", "/bin/ls"]
        );
        assert_eq!(looked_up("ls", &["PATH=:/bin"]), ["./ls", "/bin/ls"]);
        assert_eq!(looked_up("ls", &[]), ["/bin/ls", "/usr/bin/ls"]);
    }

    #[test]
    fn a_command_with_a_slash_is_not_searched() {
        assert_eq!(looked_up("./ls", &["PATH=/bin"]), ["./ls"]);
        assert_eq!(looked_up("/x/ls", &["PATH=/bin"]), ["/x/ls"]);
    }

    #[test]
    fn a_working_directory_loses_its_dots() {
        assert_eq!(clean(Path::new("/a/./b/../../../c")), Path::new("/c"));
        assert_eq!(clean(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn a_limit_that_nobody_asked_for_is_lowered_to_what_the_host_grants() {
        let wanted = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(u64::MAX)
            .hard(u64::MAX)
            .build()
            .unwrap();
        let granted = grantable_rlimit(wanted).unwrap();
        assert!(granted.soft() <= granted.hard());
        assert_eq!(
            granted.hard(),
            ceiling(PosixRlimitType::RlimitNofile).unwrap()
        );
    }

    #[test]
    fn a_limit_that_was_asked_for_and_cannot_be_granted_is_an_error() {
        let ceiling = ceiling(PosixRlimitType::RlimitNofile).unwrap();
        if ceiling == libc::RLIM_INFINITY {
            eprintln!("skipped: this process may raise limits");
            return;
        }
        let wanted = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(1_u64)
            .hard(ceiling + 1)
            .build()
            .unwrap();
        assert!(
            limits(&[wanted])
                .unwrap_err()
                .to_string()
                .contains("CAP_SYS_RESOURCE")
        );
    }

    #[test]
    fn a_soft_limit_above_the_hard_limit_is_refused() {
        let wanted = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitCore)
            .soft(2_u64)
            .hard(1_u64)
            .build()
            .unwrap();
        assert_eq!(
            limits(&[wanted]).unwrap_err().to_string(),
            "process.rlimits.RLIMIT_CORE: the soft limit 2 is above the hard limit 1"
        );
    }

    #[test]
    fn the_io_priority_has_its_class_in_the_upper_bits() {
        assert_eq!(
            io_priority(IOPriorityClass::IoprioClassBe, 4).unwrap(),
            0x4004
        );
        assert!(io_priority(IOPriorityClass::IoprioClassBe, 8).is_err());
    }
}

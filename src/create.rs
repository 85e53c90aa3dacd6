//! `plimsoll create`, and the flags of `run` and `create` as a specification.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use engine::logs::LogOptions;
use engine::mount::{self, MountFlags};
use engine::{Bytes, Home, InstanceSpec, Limits, RestartPolicy, STOP_TIMEOUT, Ulimit};

use crate::cli::CreateArguments;
use crate::network_flags;
use crate::registry::{Wanted, with_image};

pub(crate) fn create(root: &Path, arguments: &CreateArguments) -> anyhow::Result<u8> {
    let spec = spec(arguments)?;
    let home = Home::open(root)?;
    refuse_existing(arguments.cidfile.as_deref())?;
    let record = with_image(&home, &arguments.wanted(), || {
        engine::lifecycle::create(&home, &spec)
    })?;
    if let Some(path) = &arguments.cidfile {
        write_id(path, &record.id)?;
    }
    println!("{}", record.id);
    Ok(0)
}

impl CreateArguments {
    /// What is to be known of the image before there can be an instance of it.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            image: &self.image,
            policy: self.pull,
            platform: self.platform.as_deref(),
            quiet: self.quiet,
        }
    }
}

/// A file for an identifier that is there already belongs to another instance.
pub(crate) fn refuse_existing(cidfile: Option<&Path>) -> anyhow::Result<()> {
    match cidfile {
        Some(path) if path.exists() => bail!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        ),
        _ => Ok(()),
    }
}

/// Writes an instance's identifier to a new file.
pub(crate) fn write_id(path: &Path, id: &str) -> anyhow::Result<()> {
    fs::File::create_new(path)
        .and_then(|mut file| file.write_all(id.as_bytes()))
        .with_context(|| format!("cannot write the container ID file {}", path.display()))
}

/// The flags as a specification.
pub(crate) fn spec(arguments: &CreateArguments) -> anyhow::Result<InstanceSpec> {
    let security = security(&arguments.security_opt)?;
    let flags = MountFlags {
        volumes: &arguments.volume,
        mounts: &arguments.mount,
        tmpfs: &arguments.tmpfs,
        volumes_from: &arguments.volumes_from,
    };
    let here = std::env::current_dir().context("cannot tell the working directory")?;
    let mounts = mount::parse(&flags, &here)?;
    let spec = InstanceSpec {
        image: arguments.image.clone(),
        command: arguments.command.clone(),
        backend: arguments.backend.into(),
        accel: arguments.accel.into(),
        name: arguments.name.clone(),
        auto_remove: arguments.rm,
        interactive: arguments.interactive,
        terminal: arguments.tty,
        env: environment(arguments)?,
        workdir: arguments.workdir.clone(),
        user: arguments.user.clone(),
        hostname: arguments.hostname.clone(),
        entrypoint: arguments.entrypoint.as_ref().map(|program| {
            // docker: an empty entry point takes the image's away.
            if program.is_empty() {
                Vec::new()
            } else {
                vec![program.clone()]
            }
        }),
        limits: Limits {
            memory: arguments
                .memory
                .map(|bytes| bytes.0)
                .filter(|bytes| *bytes > 0),
            memory_swap: arguments.memory_swap.as_deref().map(swap).transpose()?,
            cpus: arguments.cpus,
            // docker: 0 and -1 are no limit.
            pids: arguments
                .pids_limit
                .and_then(|most| u64::try_from(most).ok())
                .filter(|most| *most > 0),
        },
        // A later start may be elsewhere.
        kernel: arguments.kernel.as_ref().map(|kernel| here.join(kernel)),
        no_template: arguments.no_template,
        seccomp_unconfined: security.seccomp_unconfined,
        no_new_privileges: security.no_new_privileges,
        read_only: arguments.read_only,
        network: network_flags::network(arguments)?,
        privileged: arguments.privileged,
        init: arguments.init,
        cap_add: arguments.cap_add.clone(),
        cap_drop: arguments.cap_drop.clone(),
        ulimits: arguments
            .ulimit
            .iter()
            .map(|text| ulimit(text))
            .collect::<anyhow::Result<_>>()?,
        cpuset: arguments.cpuset_cpus.clone(),
        restart: restart_policy(&arguments.restart)?,
        stop_signal: match &arguments.stop_signal {
            Some(name) => signal("--stop-signal", name)?,
            None => 0,
        },
        stop_timeout: arguments.stop_timeout.unwrap_or(STOP_TIMEOUT),
        labels: labels(arguments)?,
        log: log_options(&arguments.log_driver, &arguments.log_opt)?,
        mounts: mounts.mounts,
        volumes_from: mounts.volumes_from,
    };
    spec.check()?;
    Ok(spec)
}

/// A signal by name or number.
pub(crate) fn signal(flag: &str, text: &str) -> anyhow::Result<i32> {
    engine::signal_number(text).ok_or_else(|| {
        anyhow!(
            "invalid signal: {text} ({flag} takes a name such as TERM, or a number from 1 to 64)"
        )
    })
}

struct Security {
    seccomp_unconfined: bool,
    no_new_privileges: bool,
}

fn security(options: &[String]) -> anyhow::Result<Security> {
    let mut security = Security {
        seccomp_unconfined: false,
        no_new_privileges: false,
    };
    for option in options {
        match option.as_str() {
            "seccomp=unconfined" | "seccomp:unconfined" => security.seccomp_unconfined = true,
            "seccomp=builtin" | "seccomp:builtin" => security.seccomp_unconfined = false,
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
                security.no_new_privileges = true;
            }
            "no-new-privileges:false" | "no-new-privileges=false" => {
                security.no_new_privileges = false;
            }
            "label=disable" | "apparmor=unconfined" => {}
            _ => bail!(
                "--security-opt {option:?} is not known: use seccomp=unconfined or no-new-privileges"
            ),
        }
    }
    Ok(security)
}

fn swap(text: &str) -> anyhow::Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let bytes: Bytes = text
        .parse()
        .map_err(|reason: String| anyhow!("invalid value for --memory-swap: {reason}"))?;
    Ok(i64::try_from(bytes.0).unwrap_or(i64::MAX))
}

fn ulimit(text: &str) -> anyhow::Result<Ulimit> {
    let wrong = || {
        anyhow!(
            "invalid ulimit {text:?}: write NAME=SOFT[:HARD], such as nofile=1024:4096 (-1 for no limit)"
        )
    };
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        _ => text.parse::<u64>().map_err(|_| wrong()),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(values)?, number(values)?),
    };
    if soft > hard {
        bail!("invalid ulimit {text:?}: the soft limit must be at most the hard limit");
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

fn restart_policy(text: &str) -> anyhow::Result<RestartPolicy> {
    let (name, most) = match text.split_once(':') {
        Some((name, most)) => (name, Some(most)),
        None => (text, None),
    };
    match (name, most) {
        ("no" | "", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", None) => Ok(RestartPolicy::OnFailure(0)),
        ("on-failure", Some(most)) => most.parse().map(RestartPolicy::OnFailure).map_err(|_| {
            anyhow!("invalid restart policy {text:?}: maximum retry count must be an integer")
        }),
        ("no" | "always" | "unless-stopped", Some(_)) => bail!(
            "invalid restart policy {text:?}: maximum retry count can only be used with 'on-failure'"
        ),
        _ => bail!(
            "invalid restart policy {text:?}: use one of no, always, on-failure[:MAX], unless-stopped"
        ),
    }
}

/// `--env-file` and `-e`, the latter winning.
fn environment(arguments: &CreateArguments) -> anyhow::Result<Vec<String>> {
    let mut env = Vec::new();
    for path in &arguments.env_file {
        env.extend(lines(path, "environment")?);
    }
    for entry in &arguments.env {
        if entry.is_empty() || entry.starts_with('=') {
            bail!("invalid environment variable: {entry:?}: write KEY=VALUE");
        }
        env.push(entry.clone());
    }
    Ok(env)
}

fn labels(arguments: &CreateArguments) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut given = Vec::new();
    for path in &arguments.label_file {
        given.extend(lines(path, "label")?);
    }
    given.extend(arguments.label.iter().cloned());
    for entry in given {
        let (key, value) = entry.split_once('=').unwrap_or((&entry, ""));
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// The entries of a file as docker reads it: one a line, `#` at the beginning of a line opens a comment.
fn lines(path: &PathBuf, what: &str) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the {what} file {}", path.display()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        if key.is_empty() {
            bail!("{}: no variable name on line '{line}'", path.display());
        }
        if key.contains(char::is_whitespace) {
            bail!(
                "{}: poorly formatted {what}: variable '{key}' contains whitespaces",
                path.display()
            );
        }
        entries.push(line.to_owned());
    }
    Ok(entries)
}

fn log_options(driver: &str, options: &[String]) -> anyhow::Result<LogOptions> {
    let mut log = LogOptions::default();
    match driver {
        "json-file" | "local" => {}
        "none" => log.kept = false,
        _ => bail!("logger: no log driver named '{driver}' is registered: use json-file or none"),
    }
    for option in options {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            anyhow!("invalid log option {option:?}: write KEY=VALUE, such as max-size=10m")
        })?;
        match key {
            "max-size" if value == "-1" => log.max_size = None,
            "max-size" => {
                let bytes: Bytes = value
                    .parse()
                    .map_err(|reason: String| anyhow!("invalid log option max-size: {reason}"))?;
                if bytes.0 == 0 {
                    bail!("invalid log option max-size=0: max-size must be positive");
                }
                log.max_size = Some(bytes.0);
            }
            "max-file" => {
                log.max_file = value
                    .parse()
                    .ok()
                    .filter(|most| (1..=1000).contains(most))
                    .ok_or_else(|| {
                        anyhow!("invalid log option max-file={value}: max-file must be a number from 1 to 1000")
                    })?;
            }
            _ => bail!(
                "unknown log opt '{key}' for {driver} log driver: max-size and max-file are known"
            ),
        }
    }
    if log.max_file > 1
        && log.max_size.is_none()
        && options.iter().any(|o| o.starts_with("max-file"))
    {
        bail!("max-file cannot be used without max-size: say how large a file may be");
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_read_as_docker_reads_them() {
        assert_eq!(
            restart_policy("on-failure:3").unwrap(),
            RestartPolicy::OnFailure(3)
        );
        assert_eq!(restart_policy("always").unwrap(), RestartPolicy::Always);
        for wrong in ["sometimes", "always:3", "on-failure:x", "on-failure:-1"] {
            assert!(restart_policy(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ulimits_have_a_soft_and_a_hard_side() {
        let limit = ulimit("nofile=10:20").unwrap();
        assert_eq!((limit.soft, limit.hard), (10, 20));
        assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
        for wrong in ["nofile", "nofile=", "nofile=20:10", "nofile=a"] {
            assert!(ulimit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn log_options_are_checked() {
        let options = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|&text| text.to_owned()).collect();
            log_options("json-file", &list)
        };
        let log = options(&["max-size=10m", "max-file=3"]).unwrap();
        assert_eq!((log.max_size, log.max_file), (Some(10 << 20), 3));
        for wrong in [
            &["max-size=x"][..],
            &["max-file=0", "max-size=1m"],
            &["max-file=3"],
            &["compress"],
            &["x=1"],
        ] {
            assert!(options(wrong).is_err(), "{wrong:?}");
        }
        assert!(log_options("syslog", &[]).is_err());
    }
}

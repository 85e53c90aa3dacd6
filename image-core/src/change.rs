//! Changes to an image's configuration in Dockerfile syntax, as `import --change` takes them.

use std::collections::BTreeMap;
use std::str::FromStr;

use oci_spec::image::Config;

use crate::words::{self, Word};
use crate::{Error, Result};

/// One Dockerfile instruction that sets something in the configuration.
///
/// Values keep their variables (`$PATH`) until they are applied, because they mean the image's environment at that point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `CMD`: the default command, or default arguments of the entry point.
    Cmd(Vec<String>),
    /// `ENTRYPOINT`.
    Entrypoint(Vec<String>),
    /// `ENV`: names and values.
    Env(Vec<(Word, Word)>),
    /// `LABEL`: keys and values.
    Label(Vec<(Word, Word)>),
    /// `EXPOSE`: ports or ranges, each with an optional `/tcp` or `/udp`.
    Expose(Vec<Word>),
    /// `VOLUME`: paths.
    Volume(Vec<Word>),
    /// `USER`: `user[:group]`, names or numbers.
    User(Word),
    /// `WORKDIR`: an absolute path, or one below the directory so far.
    Workdir(Word),
    /// `STOPSIGNAL`: a signal's name or number.
    StopSignal(Word),
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, '\\')
    }
}

impl Change {
    /// Reads a change in which `escape` takes the meaning from the character after it.
    pub(crate) fn parse(text: &str, escape: char) -> Result<Self> {
        let refuse = |reason: String| Error::InvalidChange {
            text: text.to_owned(),
            reason,
        };
        let text = text.trim();
        let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let keyword = keyword.to_ascii_uppercase();
        let supported = matches!(
            keyword.as_str(),
            "CMD"
                | "ENTRYPOINT"
                | "ENV"
                | "LABEL"
                | "EXPOSE"
                | "VOLUME"
                | "USER"
                | "WORKDIR"
                | "STOPSIGNAL"
        );
        if !supported {
            return Err(refuse(format!(
                "{keyword:?} is not supported here; supported are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, \
                 VOLUME and WORKDIR"
            )));
        }
        if rest.is_empty() {
            return Err(refuse(format!("{keyword} needs a value")));
        }
        if rest.contains('\0') {
            return Err(refuse("it contains a NUL character".to_owned()));
        }
        match keyword.as_str() {
            "CMD" => Ok(Self::Cmd(command(rest))),
            "ENTRYPOINT" => Ok(Self::Entrypoint(command(rest))),
            "ENV" => pairs(rest, "ENV", escape).map(Self::Env),
            "LABEL" => pairs(rest, "LABEL", escape).map(Self::Label),
            "EXPOSE" => list(rest, escape).map(Self::Expose),
            "VOLUME" => volumes(rest, escape).map(Self::Volume),
            "USER" => single(rest, "USER", escape).map(Self::User),
            // Like docker, a working directory may hold unquoted blanks.
            "WORKDIR" => Word::parse(rest, escape).map(Self::Workdir),
            _ => single(rest, "STOPSIGNAL", escape).map(Self::StopSignal),
        }
        .map_err(refuse)
    }
}

/// A JSON array of strings is taken as it is; anything else is a line for the shell.
fn command(text: &str) -> Vec<String> {
    json_strings(text)
        .unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

pub(crate) fn json_strings(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn list(text: &str, escape: char) -> Result<Vec<Word>, String> {
    let words = words::split(text, escape);
    let words = words.into_iter().map(|word| Word::parse(word, escape));
    words.collect()
}

fn single(text: &str, keyword: &str, escape: char) -> Result<Word, String> {
    match words::split(text, escape)[..] {
        [word] => Word::parse(word, escape),
        _ => Err(format!("{keyword} takes exactly one value")),
    }
}

fn volumes(text: &str, escape: char) -> Result<Vec<Word>, String> {
    match json_strings(text) {
        Some(paths) => paths.iter().map(|path| Word::parse(path, escape)).collect(),
        None => list(text, escape),
    }
}

/// `K=V K2="V 2"`, or the old form `K the rest of the line`.
fn pairs(text: &str, keyword: &str, escape: char) -> Result<Vec<(Word, Word)>, String> {
    let words = words::split(text, escape);
    let first = words.first().copied().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{keyword} needs NAME=VALUE"))?;
        let value = Word::parse(value.trim_start(), escape)?;
        return Ok(vec![(Word::parse(name, escape)?, value)]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("a name is missing before {word:?}")),
            Some((name, value)) => Ok((Word::parse(name, escape)?, Word::parse(value, escape)?)),
            None => Err(format!("{word:?} is not NAME=VALUE")),
        })
        .collect()
}

/// The configuration that `changes`, one after another, make out of `base`.
///
/// # Errors
/// [`Error::InvalidChange`] for a value that turns out wrong once its variables are known.
pub fn apply(base: Option<&Config>, changes: &[Change]) -> Result<Config> {
    let mut draft = Draft::from(base);
    for change in changes {
        draft.apply(change).map_err(|reason| Error::InvalidChange {
            text: describe(change),
            reason,
        })?;
    }
    Ok(draft.finish())
}

impl Change {
    /// The same with all variables put in: what `lookup` does not know is empty.
    #[must_use]
    pub fn expanded(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let word = |word: &Word| Word::from(word.expand(lookup).as_str());
        let words = |list: &[Word]| list.iter().map(word).collect();
        let pairs = |list: &[(Word, Word)]| list.iter().map(|(k, v)| (word(k), word(v))).collect();
        match self {
            Self::Cmd(command) => Self::Cmd(command.clone()),
            Self::Entrypoint(command) => Self::Entrypoint(command.clone()),
            Self::Env(list) => Self::Env(pairs(list)),
            Self::Label(list) => Self::Label(pairs(list)),
            Self::Expose(list) => Self::Expose(words(list)),
            Self::Volume(list) => Self::Volume(words(list)),
            Self::User(one) => Self::User(word(one)),
            Self::Workdir(one) => Self::Workdir(word(one)),
            Self::StopSignal(one) => Self::StopSignal(word(one)),
        }
    }
}

fn describe(change: &Change) -> String {
    match change {
        Change::Cmd(_) => "CMD",
        Change::Entrypoint(_) => "ENTRYPOINT",
        Change::Env(_) => "ENV",
        Change::Label(_) => "LABEL",
        Change::Expose(_) => "EXPOSE",
        Change::Volume(_) => "VOLUME",
        Change::User(_) => "USER",
        Change::Workdir(_) => "WORKDIR",
        Change::StopSignal(_) => "STOPSIGNAL",
    }
    .to_owned()
}

/// A configuration being changed. Sets are sorted, so that equal inputs give equal documents.
#[derive(Default)]
struct Draft {
    user: Option<String>,
    ports: BTreeMap<String, ()>,
    env: Vec<(String, String)>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: BTreeMap<String, ()>,
    workdir: Option<String>,
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
}

impl Draft {
    fn from(base: Option<&Config>) -> Self {
        let Some(base) = base else {
            return Self::default();
        };
        let set = |list: &Option<Vec<String>>| {
            list.iter()
                .flatten()
                .map(|item| (item.clone(), ()))
                .collect()
        };
        let split = |variable: &String| match variable.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (variable.clone(), String::new()),
        };
        Self {
            user: base.user().clone(),
            ports: set(base.exposed_ports()),
            env: base.env().iter().flatten().map(split).collect(),
            entrypoint: base.entrypoint().clone(),
            cmd: base.cmd().clone(),
            volumes: set(base.volumes()),
            workdir: base.working_dir().clone(),
            labels: base
                .labels()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            stop_signal: base.stop_signal().clone(),
        }
    }

    fn apply(&mut self, change: &Change) -> Result<(), String> {
        // One instruction sees the environment as it was before it, as in a Dockerfile.
        let before = self.env.clone();
        let lookup = |name: &str| {
            let found = before.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let expand = |word: &Word| word.expand(&lookup);
        match change {
            Change::Cmd(words) => self.cmd = Some(words.clone()),
            Change::Entrypoint(words) => self.entrypoint = Some(words.clone()),
            Change::Env(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (expand(name), expand(value));
                    if name.is_empty() || name.contains('=') {
                        return Err(format!("{name:?} is not a variable's name"));
                    }
                    match self.env.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, old)) => *old = value,
                        None => self.env.push((name, value)),
                    }
                }
            }
            Change::Label(pairs) => {
                for (key, value) in pairs {
                    let key = expand(key);
                    if key.is_empty() {
                        return Err("a label's key is empty".to_owned());
                    }
                    self.labels.insert(key, expand(value));
                }
            }
            Change::Expose(words) => {
                for word in words {
                    for port in ports(&expand(word))? {
                        self.ports.insert(port, ());
                    }
                }
            }
            Change::Volume(words) => {
                for word in words {
                    let path = expand(word);
                    if path.trim().is_empty() {
                        return Err("a volume's path is empty".to_owned());
                    }
                    self.volumes.insert(path, ());
                }
            }
            Change::User(word) => {
                let user = expand(word);
                if user.is_empty() {
                    return Err("the user is empty".to_owned());
                }
                self.user = Some(user);
            }
            Change::Workdir(word) => {
                let path = expand(word);
                if path.is_empty() {
                    return Err("the directory is empty".to_owned());
                }
                self.workdir = Some(join(self.workdir.as_deref().unwrap_or("/"), &path));
            }
            Change::StopSignal(word) => {
                let signal = expand(word);
                if !is_signal(&signal) {
                    return Err(format!("{signal:?} is not a signal"));
                }
                self.stop_signal = Some(signal);
            }
        }
        Ok(())
    }

    fn finish(self) -> Config {
        let mut config = Config::default();
        let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
        config.set_user(self.user);
        config.set_exposed_ports(some(self.ports.into_keys().collect()));
        config.set_env(some(
            self.env
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ));
        config.set_entrypoint(self.entrypoint);
        config.set_cmd(self.cmd);
        config.set_volumes(some(self.volumes.into_keys().collect()));
        config.set_working_dir(self.workdir);
        config.set_labels((!self.labels.is_empty()).then(|| self.labels.into_iter().collect()));
        config.set_stop_signal(self.stop_signal);
        config
    }
}

/// `80`, `53/udp` or `8000-8003/tcp`, each port as `number/protocol`.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("{text:?} has no protocol of tcp, udp and sctp"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |digits: &str| -> Result<u16, String> {
        match digits.parse() {
            Ok(port) if port > 0 && digits.bytes().all(|c| c.is_ascii_digit()) => Ok(port),
            _ => Err(format!("{text:?} is not a port from 1 to 65535")),
        }
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{text:?} is a range that ends before it begins"));
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// `path` seen from `base`, with `.` and `..` resolved by name only: nothing of the image is looked at.
fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    let mut kept: Vec<&str> = Vec::new();
    for component in whole.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    format!("/{}", kept.join("/"))
}

/// A Linux signal as docker takes it: a number, or a name with or without SIG, RTMIN+n and RTMAX-n included.
fn is_signal(text: &str) -> bool {
    // The names of signal(7) for x86-64.
    const NAMES: [&str; 35] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
        "RTMIN",
    ];
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, most: u8| {
        let offset = name.strip_prefix(prefix).map(str::parse::<u8>);
        matches!(offset, Some(Ok(n)) if n >= 1 && n <= most)
    };
    // glibc keeps the first two real-time signals: 34 to 64 are left.
    NAMES.contains(&name) || name == "RTMAX" || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(changes: &[&str]) -> Config {
        let changes: Vec<Change> = changes.iter().map(|c| c.parse().unwrap()).collect();
        apply(None, &changes).unwrap()
    }

    fn strings(list: &Option<Vec<String>>) -> Vec<&str> {
        list.iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn commands_are_json_or_a_line_for_the_shell() {
        let c = config(&["CMD [\"a\", \"b c\"]", "entrypoint exec x $HOME"]);
        assert_eq!(strings(c.cmd()), ["a", "b c"]);
        assert_eq!(strings(c.entrypoint()), ["/bin/sh", "-c", "exec x $HOME"]);
        assert_eq!(
            strings(config(&["CMD [ -f x ]"]).cmd()),
            ["/bin/sh", "-c", "[ -f x ]"]
        );
        assert_eq!(config(&["CMD []"]).cmd(), &Some(vec![]));
    }

    #[test]
    fn environment_is_read_in_both_forms_and_replaced_in_place() {
        let c = config(&[
            r#"ENV A=1 B="two words" C=a\ b"#,
            "ENV D all the rest",
            "ENV A=2 E=$A",
            "ENV PATH=/x:$PATH F=${A}",
        ]);
        assert_eq!(
            strings(c.env()),
            [
                "A=2",
                "B=two words",
                "C=a b",
                "D=all the rest",
                "E=1",
                "PATH=/x:",
                "F=2"
            ]
        );
    }

    #[test]
    fn ports_volumes_labels_user_and_signal_are_kept() {
        let c = config(&[
            "EXPOSE 80 53/UDP 8000-8001",
            "VOLUME /data \"/with blank\"",
            "VOLUME [\"/json\"]",
            "LABEL a=1 \"b c\"=\"d e\"",
            "USER 1000:1000",
            "STOPSIGNAL sigrtmin+3",
        ]);
        assert_eq!(
            strings(c.exposed_ports()),
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]
        );
        assert_eq!(strings(c.volumes()), ["/data", "/json", "/with blank"]);
        let labels = c.labels().as_ref().unwrap();
        assert_eq!((labels["a"].as_str(), labels["b c"].as_str()), ("1", "d e"));
        assert_eq!(c.user().as_deref(), Some("1000:1000"));
        assert_eq!(c.stop_signal().as_deref(), Some("sigrtmin+3"));
    }

    #[test]
    fn working_directories_build_on_one_another() {
        let c = config(&["WORKDIR /a/b", "WORKDIR ../c d", "ENV X=e", "WORKDIR $X"]);
        assert_eq!(c.working_dir().as_deref(), Some("/a/c d/e"));
        assert_eq!(
            config(&["WORKDIR ../../.."]).working_dir().as_deref(),
            Some("/")
        );
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_change_named() {
        for bad in [
            "",
            "CMD",
            "RUN true",
            "HEALTHCHECK NONE",
            "ENV A",
            "ENV A=1 B",
            "ENV =x",
            "USER a b",
            "ENV A='x",
            "CMD a\0",
        ] {
            let error = bad.parse::<Change>().unwrap_err().to_string();
            assert!(error.starts_with("change \""), "{error}");
        }
        for bad in [
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 9-8",
            "EXPOSE 80/icmp",
            "EXPOSE +80",
            "STOPSIGNAL SIGNOPE",
            "STOPSIGNAL 65",
            "USER $NONE",
        ] {
            let change: Change = bad.parse().unwrap();
            assert!(apply(None, &[change]).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_build_on_an_images_configuration() {
        let base = config(&["ENV A=1", "CMD [\"x\"]", "LABEL l=1"]);
        let changes = ["ENV B=$A".parse().unwrap(), "LABEL l=2".parse().unwrap()];
        let changed = apply(Some(&base), &changes).unwrap();
        assert_eq!(strings(changed.env()), ["A=1", "B=1"]);
        assert_eq!(strings(changed.cmd()), ["x"]);
        assert_eq!(changed.labels().as_ref().unwrap()["l"], "2");
    }

    proptest! {
        #[test]
        fn no_change_makes_it_panic(keyword in "(CMD|ENV|LABEL|EXPOSE|VOLUME|USER|WORKDIR|STOPSIGNAL)", rest in ".{0,40}") {
            if let Ok(change) = format!("{keyword} {rest}").parse::<Change>() {
                let _ = apply(None, &[change]);
            }
        }
    }
}

//! `--filter KEY=VALUE`: values of one key are alternatives, keys must all hold; except labels, which must all hold.

use std::collections::BTreeMap;

use anyhow::bail;
use regex_lite::Regex;

/// What `ps --filter` knows.
pub(crate) const CONTAINER_KEYS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// What `volume ls --filter` knows.
pub(crate) const VOLUME_KEYS: &[&str] = &["dangling", "driver", "label", "name"];

/// What `images --filter` knows.
pub(crate) const IMAGE_KEYS: &[&str] = &[
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];

/// What the prunes know.
pub(crate) const PRUNE_KEYS: &[&str] = &["all", "label", "label!", "until"];

/// What `image prune` knows.
pub(crate) const IMAGE_PRUNE_KEYS: &[&str] = &["dangling", "label", "label!", "until"];

/// docker's words for where a container is in its life.
const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];

/// docker's words for health.
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// A flag's value that is none: docker's exit code for it is that of a flag, 125.
#[derive(Debug)]
pub(crate) struct FlagError(String);

impl std::fmt::Display for FlagError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FlagError {}

/// The filters of a command line.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

/// What the filters of `ps` look at. Fields that are not known can stay empty.
#[derive(Debug, Default, Clone)]
pub(crate) struct Candidate<'a> {
    /// The whole identifier.
    pub(crate) id: &'a str,
    /// Without a slash.
    pub(crate) name: &'a str,
    /// One of docker's words: created, running, ….
    pub(crate) state: &'a str,
    /// Of an instance that was started and has ended.
    pub(crate) exit_code: Option<i32>,
    /// starting, healthy, unhealthy or none (empty means none).
    pub(crate) health: &'a str,
    /// When it was created, in any unit that grows.
    pub(crate) created: u64,
    /// Labels of image and instance.
    pub(crate) labels: Option<&'a BTreeMap<String, String>>,
    /// Everything that its image, and what that was made from, is called: names with tag, whole identifiers.
    pub(crate) images: &'a [String],
    /// Names of volumes, sources of binds, and where they are mounted.
    pub(crate) volumes: &'a [String],
    /// Names and identifiers of networks.
    pub(crate) networks: &'a [String],
    /// Host's ports as `8080/tcp`.
    pub(crate) published: &'a [String],
    /// Its own ports as `80/tcp`.
    pub(crate) exposed: &'a [String],
}

impl Filters {
    /// Reads `KEY=VALUE`s, of which only `keys` are known.
    pub(crate) fn parse(flags: &[String], keys: &[&str]) -> anyhow::Result<Self> {
        let mut filters = BTreeMap::<String, Vec<String>>::new();
        for flag in flags {
            if flag.is_empty() {
                continue;
            }
            let Some((key, value)) = flag.split_once('=') else {
                bail!(FlagError(format!(
                    "invalid argument {flag:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)"
                )));
            };
            let (key, value) = match key.strip_suffix('!') {
                // label!=value
                Some(key) => (format!("{}!", key.trim().to_lowercase()), value),
                None => (key.trim().to_lowercase(), value),
            };
            if !keys.contains(&key.as_str()) {
                bail!("invalid filter '{key}'");
            }
            filters
                .entry(key)
                .or_default()
                .push(value.trim().to_owned());
        }
        let filters = Self(filters);
        filters.check()?;
        Ok(filters)
    }

    /// Refuses values that their keys do not have.
    fn check(&self) -> anyhow::Result<()> {
        let wrong = |key: &str, value: &str| anyhow::anyhow!("invalid filter '{key}={value}'");
        for (key, values) in &self.0 {
            for value in values {
                let known = match key.as_str() {
                    "status" => STATES.contains(&value.as_str()),
                    "health" => HEALTH.contains(&value.as_str()),
                    "exited" => value.parse::<i32>().is_ok(),
                    "is-task" | "dangling" | "all" => boolean(value).is_some(),
                    "publish" | "expose" => ports(value).is_some(),
                    "reference" => glob(value).is_some(),
                    _ => true,
                };
                if !known {
                    return Err(wrong(key, value));
                }
            }
        }
        Ok(())
    }

    /// The values given for a key.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a yes-or-no key was given, and what it says.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.values(key).first().and_then(|value| boolean(value))
    }

    /// Whether instances that do not run are to be listed without `-a`: docker does where a status is asked for.
    pub(crate) fn implies_all(&self) -> bool {
        !self.values("status").is_empty()
    }

    /// Whether every filter that was given lets this through. `created` says when the instance of that name or
    /// identifier was created, for `before` and `since`, or fails where there is none.
    pub(crate) fn matches(
        &self,
        candidate: &Candidate<'_>,
        created: &dyn Fn(&str) -> anyhow::Result<u64>,
    ) -> anyhow::Result<bool> {
        for (key, values) in &self.0 {
            let any = |holds: &dyn Fn(&str) -> bool| values.iter().any(|value| holds(value));
            let holds = match key.as_str() {
                "id" => any(&|value| matches_pattern(value, candidate.id)),
                // docker's names begin with a slash, and may be asked for with it.
                "name" => any(&|value| {
                    matches_pattern(value, candidate.name)
                        || matches_pattern(value, &format!("/{}", candidate.name))
                }),
                "status" => any(&|value| value == candidate.state),
                "health" => any(&|value| {
                    value == candidate.health || (value == "none" && candidate.health.is_empty())
                }),
                "exited" => any(&|value| {
                    candidate.exit_code.is_some() && value.parse().ok() == candidate.exit_code
                }),
                "label" => self.labels_hold(candidate.labels),
                "ancestor" => any(&|value| {
                    candidate
                        .images
                        .iter()
                        .any(|image| same_image(image, value))
                }),
                "volume" => any(&|value| candidate.volumes.iter().any(|volume| volume == value)),
                "network" => any(&|value| candidate.networks.iter().any(|name| name == value)),
                "publish" => any(&|value| has_port(candidate.published, value)),
                "expose" => any(&|value| has_port(candidate.exposed, value)),
                "is-task" => any(&|value| boolean(value) == Some(false)),
                "before" => {
                    let mut holds = true;
                    for value in values {
                        holds &= candidate.created < created(value)?;
                    }
                    holds
                }
                "since" => {
                    let mut holds = true;
                    for value in values {
                        holds &= candidate.created > created(value)?;
                    }
                    holds
                }
                _ => true,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether labels count at all.
    pub(crate) fn asks_for_labels(&self) -> bool {
        !self.values("label").is_empty() || !self.values("label!").is_empty()
    }

    /// Whether all `label` filters hold, and no `label!` does.
    pub(crate) fn labels_hold(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => {
                labels.is_some_and(|labels| labels.get(key).is_some_and(|label| label == value))
            }
            None => labels.is_some_and(|labels| labels.contains_key(wanted)),
        };
        self.values("label").iter().all(|wanted| has(wanted))
            && !self.values("label!").iter().any(|wanted| has(wanted))
    }

    /// Whether a name is one of those asked for: as a whole, or by a pattern. True if none is asked for.
    pub(crate) fn name_holds(&self, name: &str) -> bool {
        let wanted = self.values("name");
        wanted.is_empty() || wanted.iter().any(|value| matches_pattern(value, name))
    }

    /// Whether an image's name is one of those that `reference` asks for: `busybox`, `busybox:1.*`, `*/app`. True if none
    /// is asked for; an image without a name is never one of them.
    pub(crate) fn reference_holds(&self, repository: Option<&str>, tag: &str) -> bool {
        let wanted = self.values("reference");
        if wanted.is_empty() {
            return true;
        }
        repository.is_some_and(|name| {
            let whole = format!("{name}:{tag}");
            wanted
                .iter()
                .filter_map(|pattern| glob(pattern))
                .any(|pattern| pattern.is_match(name) || pattern.is_match(&whole))
        })
    }
}

/// docker takes a value for a regular expression that may match anywhere. One that is no expression matches only itself.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    pattern == text || Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
}

/// Go's path.Match: `*` and `?` match anything but a slash, `[a-z]` one of a set. None for what is no pattern.
fn glob(pattern: &str) -> Option<Regex> {
    let mut expression = String::from("^");
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' | ']' | '-' => expression.push(character),
            '\\' => {
                let literal = characters.next()?;
                expression.push_str(&regex_lite::escape(&literal.to_string()));
            }
            _ => expression.push_str(&regex_lite::escape(&character.to_string())),
        }
    }
    expression.push('$');
    Regex::new(&expression).ok()
}

/// Whether an image that is called `image` is meant by `wanted`: a name without a tag means latest, an identifier can be cut.
fn same_image(image: &str, wanted: &str) -> bool {
    if image == wanted {
        return true;
    }
    let has_tag = |name: &str| {
        name.rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'))
    };
    if !has_tag(image) && !has_tag(wanted) || has_tag(image) && !has_tag(wanted) {
        let latest = image.strip_suffix(":latest").unwrap_or(image);
        if latest == wanted {
            return true;
        }
    }
    if let Some(plain) = wanted.strip_suffix(":latest")
        && plain == image
    {
        return true;
    }
    let hex = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_owned();
    let (image, wanted) = (hex(image), hex(wanted));
    image.len() == 64
        && wanted.len() >= 4
        && wanted.bytes().all(|byte| byte.is_ascii_hexdigit())
        && image.starts_with(&wanted)
}

/// Go's words for yes and no.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `80`, `80/udp`, `8000-8080/tcp`: first, last, protocol.
fn ports(value: &str) -> Option<(u16, u16, &str)> {
    let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return None;
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last, protocol))
}

fn has_port(known: &[String], wanted: &str) -> bool {
    let Some((first, last, protocol)) = ports(wanted) else {
        return false;
    };
    known.iter().any(|port| {
        ports(port)
            .is_some_and(|(port, _, other)| other == protocol && (first..=last).contains(&port))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

    fn holds(flags: &[&str]) -> bool {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let labels = BTreeMap::from([
            ("role".to_owned(), "db".to_owned()),
            ("x".into(), String::new()),
        ]);
        let candidate = Candidate {
            id: ID,
            name: "web-1",
            state: "exited",
            exit_code: Some(3),
            created: 50,
            labels: Some(&labels),
            images: &["busybox:latest".into(), format!("sha256:{ID}")],
            volumes: &["data".into(), "/data".into()],
            networks: &["bridge".into()],
            published: &["8080/tcp".into()],
            exposed: &["80/tcp".into()],
            ..Candidate::default()
        };
        Filters::parse(&flags, CONTAINER_KEYS)
            .unwrap()
            .matches(&candidate, &|name| match name {
                "older" => Ok(10),
                "newer" => Ok(90),
                _ => bail!("no such container: {name}"),
            })
            .unwrap()
    }

    fn refusal(flag: &str) -> String {
        Filters::parse(&[flag.to_owned()], CONTAINER_KEYS)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn names_and_identifiers_are_patterns_that_match_anywhere() {
        for yes in [
            "name=web",
            "name=/web",
            "name=^/web-1$",
            "name=^web-.$",
            "name=eb",
            "id=a1b2",
            "id=8f90$",
        ] {
            assert!(holds(&[yes]), "{yes}");
        }
        for no in ["name=^eb", "name=db", "name=(", "id=zz"] {
            assert!(!holds(&[no]), "{no}");
        }
    }

    #[test]
    fn one_keys_values_are_alternatives_and_keys_must_all_hold() {
        assert!(holds(&["status=running", "status=exited"]));
        assert!(!holds(&["status=exited", "name=other"]));
        assert!(holds(&["exited=0", "exited=3", "name=web"]));
    }

    #[test]
    fn labels_must_all_hold() {
        assert!(holds(&["label=role"]));
        assert!(holds(&["label=role=db", "label=x"]));
        assert!(!holds(&["label=role=db", "label=y"]));
        assert!(!holds(&["label=role=web"]));
    }

    #[test]
    fn images_volumes_networks_and_ports_are_known_by_their_names() {
        for yes in [
            "ancestor=busybox",
            "ancestor=busybox:latest",
            "ancestor=a1b2c3d4e5f6",
            "volume=data",
            "volume=/data",
            "network=bridge",
            "publish=8080",
            "publish=8000-9000/tcp",
            "expose=80",
            "health=none",
            "is-task=false",
            "before=newer",
            "since=older",
        ] {
            assert!(holds(&[yes]), "{yes}");
        }
        for no in [
            "ancestor=busybox:1.0",
            "ancestor=alpine",
            "volume=dat",
            "network=host",
            "publish=8080/udp",
            "expose=81",
            "health=healthy",
            "is-task=true",
            "before=older",
            "since=newer",
        ] {
            assert!(!holds(&[no]), "{no}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused_in_dockers_words() {
        assert_eq!(refusal("foo=1"), "invalid filter 'foo'");
        assert_eq!(refusal("status=foo"), "invalid filter 'status=foo'");
        assert_eq!(refusal("exited=x"), "invalid filter 'exited=x'");
        assert_eq!(
            refusal("name"),
            "invalid argument \"name\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
        );
    }

    #[test]
    fn references_are_patterns_of_whole_names() {
        let filters =
            |pattern: &str| Filters::parse(&[format!("reference={pattern}")], IMAGE_KEYS).unwrap();
        let busybox = Some("busybox");
        assert!(filters("busybox").reference_holds(busybox, "1.36"));
        assert!(filters("busy*:1.*").reference_holds(busybox, "1.36"));
        assert!(filters("*/base").reference_holds(Some("plimsoll/base"), "latest"));
        assert!(!filters("busy").reference_holds(busybox, "1.36"));
        assert!(!filters("*").reference_holds(Some("plimsoll/base"), "latest"));
        assert!(!filters("*").reference_holds(None, ""));
        for wrong in ["[", "a[b", "a\\"] {
            let said = Filters::parse(&[format!("reference={wrong}")], IMAGE_KEYS).unwrap_err();
            assert_eq!(
                said.to_string(),
                format!("invalid filter 'reference={wrong}'")
            );
        }
    }

    proptest! {
        #[test]
        fn no_filter_makes_it_panic(key in "(id|name|label|ancestor|publish|volume|exited|reference)", value in ".{0,30}") {
            if let Ok(filters) = Filters::parse(&[format!("{key}={value}")], &[CONTAINER_KEYS, IMAGE_KEYS].concat()) {
                let _ = filters.matches(&Candidate { id: ID, name: "a", ..Candidate::default() }, &|_| Ok(1));
                filters.reference_holds(Some("a/b"), "c");
            }
        }
    }
}

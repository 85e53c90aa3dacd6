//! Image names as users type them: `[host/]path[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error};

/// The grammar's limit for a repository name, from the OCI distribution specification.
const LONGEST_REPOSITORY: usize = 255;

/// The grammar's limit for a tag.
const LONGEST_TAG: usize = 128;

/// An image name. Without tag and digest it means the tag `latest`.
///
/// Docker Hub's long forms are the same name as its short ones: `docker.io/library/debian` reads and shows as `debian`,
/// so that an archive by one tool and a command line typed for another agree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The name without tag and digest.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none when there is only a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, if the name says it.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::InvalidReference {
            text: text.to_owned(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it belongs to a registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(refuse)?;
        }
        let repository = familiar(name);
        check_repository(repository).map_err(refuse)?;
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self {
            repository: repository.to_owned(),
            tag,
            digest,
        })
    }
}

/// Docker Hub's names in their short form.
fn familiar(name: &str) -> &str {
    let Some(path) = name
        .strip_prefix("docker.io/")
        .or_else(|| name.strip_prefix("index.docker.io/"))
    else {
        return name;
    };
    match path.strip_prefix("library/") {
        Some(official) if !official.contains('/') => official,
        _ => path,
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let mut characters = tag.chars();
    let first = characters.next().ok_or("its tag is empty")?;
    if !(first.is_ascii_alphanumeric() || first == '_')
        || !characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    {
        return Err(
            "a tag holds letters, digits, '_', '.' and '-', and does not begin with '.' or '-'",
        );
    }
    if tag.len() > LONGEST_TAG {
        return Err("its tag is longer than 128 characters");
    }
    Ok(())
}

fn check_repository(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > LONGEST_REPOSITORY {
        return Err("it is longer than 255 characters");
    }
    if name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits are an image ID");
    }
    let path = match name.split_once('/') {
        Some((host, path)) if is_host(host) => {
            check_host(host)?;
            path
        }
        _ => name,
    };
    path.split('/').try_for_each(check_component)
}

/// A first component is a registry, not a part of the path, when it could be nothing else (docker's rule).
fn is_host(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':'])
        || component.chars().any(|c| c.is_ascii_uppercase())
}

fn check_host(host: &str) -> Result<(), &'static str> {
    const REASON: &str = "its registry is not a host name with an optional port";
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port_is_good = port
        .is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|c| c.is_ascii_digit()));
    if name.split('.').all(label_is_good) && port_is_good {
        Ok(())
    } else {
        Err(REASON)
    }
}

/// `[a-z0-9]+` parts, separated by one '.', one or two '_', or any number of '-'.
fn check_component(component: &str) -> Result<(), &'static str> {
    const REASON: &str =
        "names hold lower-case letters and digits, separated by '/', '.', '_', '__' or '-'";
    let bytes = component.as_bytes();
    let is_word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends_are_words =
        bytes.first().is_some_and(|c| is_word(*c)) && bytes.last().is_some_and(|c| is_word(*c));
    if !ends_are_words {
        return Err(REASON);
    }
    for separator in bytes.split(|c| is_word(*c)).filter(|s| !s.is_empty()) {
        match separator {
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|c| *c == b'-') => {}
            _ => return Err(REASON),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn a_name_without_tag_means_latest() {
        assert_eq!(shown("plimsoll/base"), "plimsoll/base:latest");
        assert_eq!(shown("debian:12"), "debian:12");
    }

    #[test]
    fn docker_hubs_long_names_are_its_short_ones() {
        assert_eq!(shown("docker.io/library/debian"), "debian:latest");
        assert_eq!(shown("index.docker.io/library/debian:12"), "debian:12");
        assert_eq!(shown("docker.io/plimsoll/base"), "plimsoll/base:latest");
        assert_eq!(
            shown("quay.io/library/debian"),
            "quay.io/library/debian:latest"
        );
    }

    #[test]
    fn a_port_is_not_a_tag() {
        let reference: Reference = "localhost:5000/a/b".parse().unwrap();
        assert_eq!(reference.repository(), "localhost:5000/a/b");
        assert_eq!(reference.tag(), Some("latest"));
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag() {
        let digest = Digest::of(b"m");
        let reference: Reference = format!("debian@{digest}").parse().unwrap();
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.digest(), Some(digest));
        let both: Reference = format!("debian:12@{digest}").parse().unwrap();
        assert_eq!(both.tag(), Some("12"));
        assert_eq!(both.to_string(), format!("debian:12@{digest}"));
    }

    #[test]
    fn what_is_not_a_name_is_refused_with_a_reason() {
        for bad in [
            "",
            ":",
            "a:",
            ":a",
            "Debian",
            "a//b",
            "/a",
            "a/",
            "a:b:c",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "a:.b",
            "ä",
            "a@b",
            "a@sha256:12",
            "ex_ample.com:x/a",
            "a.b:99999/c",
            "../x",
            "a/../b",
            "a\n",
            &"a".repeat(256),
            &format!("a:{}", "b".repeat(129)),
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_is_shown_parses_to_the_same(text in "[a-zA-Z0-9:/@._-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,60}") {
            let _ = text.parse::<Reference>();
        }
    }
}

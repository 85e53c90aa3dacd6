//! Which image of an index is taken.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Descriptor, ImageIndex};

use super::RegistryError;
use crate::{Error, Result};

/// `os/architecture[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Default for Platform {
    /// What this engine runs.
    fn default() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: None,
        }
    }
}

impl Platform {
    /// The platform as asked for, if this engine runs it.
    ///
    /// # Errors
    /// [`RegistryError::Platform`], or [`Error::ForeignPlatform`] for one that this engine does not run.
    pub fn wanted(text: &str) -> Result<Self> {
        let platform: Self = text.parse()?;
        if (platform.os.as_str(), platform.architecture.as_str()) != ("linux", "amd64") {
            return Err(Error::ForeignPlatform {
                image: "what --platform asks for".to_owned(),
                found: platform.to_string(),
            });
        }
        Ok(platform)
    }

    /// The level of amd64 (x86-64-v1 to v4) that programs for this platform need.
    fn level(&self) -> Option<u8> {
        match self.variant.as_deref() {
            None => Some(1),
            Some(variant) => variant.strip_prefix('v')?.parse().ok(),
        }
    }

    /// The descriptor in `index` for this platform: of its variant, or the nearest one below that its processors run too.
    ///
    /// A descriptor without a platform is taken when no other fits: its configuration says what it is for. Attestations have the platform
    /// unknown/unknown.
    pub(super) fn select<'d>(&self, index: &'d ImageIndex, image: &str) -> Result<&'d Descriptor> {
        let most = self.level().unwrap_or(1);
        let best = index
            .manifests()
            .iter()
            .filter_map(|descriptor| {
                let platform = Self::of(descriptor)?;
                let fits = (&platform.os, &platform.architecture) == (&self.os, &self.architecture);
                let level = platform.level().filter(|level| *level <= most)?;
                fits.then_some((level, descriptor))
            })
            // The first of equals.
            .reduce(|best, next| if next.0 > best.0 { next } else { best });
        if let Some((_, descriptor)) = best {
            return Ok(descriptor);
        }
        let unsaid = index.manifests().iter().find(|d| d.platform().is_none());
        unsaid.ok_or_else(|| {
            let mut found: Vec<String> = index
                .manifests()
                .iter()
                .filter_map(Self::of)
                .filter(|platform| platform.os != "unknown")
                // As many as a line holds: the list is the registry's.
                .take(16)
                .map(|platform| platform.to_string())
                .collect();
            found.dedup();
            if found.is_empty() {
                found.push("nothing".to_owned());
            }
            Error::ForeignPlatform {
                image: image.to_owned(),
                found: found.join(", "),
            }
        })
    }

    fn of(descriptor: &Descriptor) -> Option<Self> {
        let platform = descriptor.platform().as_ref()?;
        Some(Self {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|v| !v.is_empty()),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |text: &str| text.escape_debug().take(32).collect::<String>();
        write!(f, "{}/{}", escaped(&self.os), escaped(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", escaped(variant)),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let wrong = || RegistryError::Platform(text.to_owned());
        let parts: Vec<String> = text.split('/').map(str::to_ascii_lowercase).collect();
        let is_word = |part: &String| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
        };
        if !parts.iter().all(is_word) {
            return Err(wrong());
        }
        // docker: a single word is an architecture or an operating system.
        let (os, architecture, variant) = match &parts[..] {
            [one] if one == "linux" => ("linux", "amd64", None),
            [one] => ("linux", one.as_str(), None),
            [os, architecture] => (os.as_str(), architecture.as_str(), None),
            [os, architecture, variant] => (os.as_str(), architecture.as_str(), Some(variant)),
            _ => return Err(wrong()),
        };
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> ImageIndex {
        let manifests: Vec<serde_json::Value> = platforms
            .iter()
            .map(|platform| {
                let mut entry = serde_json::json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": crate::Digest::of(platform.as_bytes()).to_string(),
                    "size": 2,
                });
                if !platform.is_empty() {
                    let parts: Vec<&str> = platform.split('/').collect();
                    entry["platform"] =
                        serde_json::json!({"os": parts[0], "architecture": parts[1]});
                    if let Some(variant) = parts.get(2) {
                        entry["platform"]["variant"] = (*variant).into();
                    }
                }
                entry
            })
            .collect();
        serde_json::from_value(serde_json::json!({"schemaVersion": 2, "manifests": manifests}))
            .unwrap()
    }

    fn chosen(platforms: &[&str], wanted: &str) -> Option<usize> {
        let index = index(platforms);
        let platform = Platform::wanted(wanted).unwrap();
        let found = platform.select(&index, "x").ok()?.digest().to_string();
        platforms
            .iter()
            .position(|p| crate::Digest::of(p.as_bytes()).to_string() == found)
    }

    #[test]
    fn the_plain_image_is_taken_unless_a_variant_is_asked_for() {
        let all = [
            "linux/arm64/v8",
            "linux/amd64/v3",
            "linux/amd64",
            "linux/amd64/v2",
            "unknown/unknown",
        ];
        assert_eq!(chosen(&all, "linux/amd64"), Some(2));
        assert_eq!(chosen(&all, "linux/amd64/v2"), Some(3));
        assert_eq!(chosen(&all, "linux/amd64/v4"), Some(1));
        assert_eq!(chosen(&["linux/arm64", ""], "linux/amd64"), Some(1));
        assert_eq!(chosen(&["linux/amd64/v2"], "linux/amd64"), None);
    }

    #[test]
    fn an_index_without_ours_is_refused_with_what_it_has() {
        let error = Platform::default()
            .select(
                &index(&["linux/arm64/v8", "windows/amd64", "unknown/unknown"]),
                "x:1",
            )
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "x:1 is for linux/arm64/v8, windows/amd64, but this engine runs linux/amd64"
        );
    }

    #[test]
    fn platforms_are_read_as_docker_reads_them() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("amd64", "linux/amd64"),
            ("linux/x86_64/v2", "linux/amd64/v2"),
            ("linux", "linux/amd64"),
        ] {
            assert_eq!(Platform::wanted(text).unwrap().to_string(), shown);
        }
        for bad in ["", "a/b/c/d", "linux/", "linux/amd 64"] {
            assert!(
                matches!(bad.parse::<Platform>(), Err(RegistryError::Platform(_))),
                "{bad:?}"
            );
        }
        assert!(matches!(
            Platform::wanted("linux/arm64"),
            Err(Error::ForeignPlatform { .. })
        ));
    }
}

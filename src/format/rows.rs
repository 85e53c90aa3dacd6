//! The rows of lists, with docker's field names and words.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::time;
use crate::output;
use crate::template::{LABELS, quote};

/// docker's width for a command.
const COMMAND_WIDTH: usize = 20;
/// docker's width for a volume's name or a bind's source.
const MOUNT_WIDTH: usize = 15;

/// What `ps` shows of an instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerRow<'a> {
    /// The whole identifier.
    pub(crate) id: &'a str,
    /// As the user named it.
    pub(crate) image: &'a str,
    /// The program and its arguments.
    pub(crate) command: &'a [String],
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Where it is in its life.
    pub(crate) state: State<'a>,
    /// Such as `0.0.0.0:80->80/tcp`.
    pub(crate) ports: &'a str,
    /// Without a leading slash.
    pub(crate) name: &'a str,
    /// Labels of image and instance.
    pub(crate) labels: Option<&'a BTreeMap<String, String>>,
    /// Each volume's name, or a bind's source.
    pub(crate) mounts: &'a [String],
    /// How many of the mounts are volumes.
    pub(crate) volumes: usize,
    /// Names of networks.
    pub(crate) networks: &'a [String],
    /// `container` or `vm`.
    pub(crate) backend: &'a str,
    /// Bytes in the writable layer, and in all layers, where they were asked for.
    pub(crate) size: Option<(u64, u64)>,
}

/// Where an instance is in its life, as `ps` tells it. Times are in seconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum State<'a> {
    /// Not started yet.
    #[default]
    Created,
    /// Runs.
    Running {
        /// Since when.
        since: u64,
        /// `starting`, `healthy` or `unhealthy`, where there is a health check.
        health: Option<&'a str>,
    },
    /// Runs, and is paused.
    Paused {
        /// Since when it runs.
        since: u64,
    },
    /// Waits to be started again.
    Restarting {
        /// Exit code.
        code: i32,
        /// When it ended.
        at: u64,
    },
    /// Has ended.
    Exited {
        /// Exit code.
        code: i32,
        /// When it ended.
        at: u64,
    },
}

impl State<'_> {
    /// docker's word for it: the STATE column, and what `--filter status=` compares.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Restarting { .. } => "restarting",
            Self::Exited { .. } => "exited",
        }
    }

    /// The STATUS column.
    pub(crate) fn status(self) -> String {
        let up = |since: u64| output::duration(time::now().saturating_sub(since));
        match self {
            Self::Created => "Created".into(),
            Self::Running {
                since,
                health: None,
            } => format!("Up {}", up(since)),
            Self::Running {
                since,
                health: Some("starting"),
            } => format!("Up {} (health: starting)", up(since)),
            Self::Running {
                since,
                health: Some(health),
            } => format!("Up {} ({health})", up(since)),
            Self::Paused { since } => format!("Up {} (Paused)", up(since)),
            Self::Restarting { code, at } => format!("Restarting ({code}) {}", output::ago(at)),
            Self::Exited { code, at } => format!("Exited ({code}) {}", output::ago(at)),
        }
    }
}

impl ContainerRow<'_> {
    /// The row. Identifier, command and mounts are shortened unless `whole`.
    pub(crate) fn to_value(&self, whole: bool) -> Value {
        let mounts: Vec<String> = self
            .mounts
            .iter()
            .map(|mount| {
                if whole {
                    mount.clone()
                } else {
                    ellipsis(mount, MOUNT_WIDTH)
                }
            })
            .collect();
        let size = self.size.map_or_else(
            || "0B".to_owned(),
            |(own, all)| format!("{} (virtual {})", output::size(own), output::size(all)),
        );
        let code = match self.state {
            State::Exited { code, .. } | State::Restarting { code, .. } => Some(code),
            _ => None,
        };
        json!({
            "Backend": self.backend,
            "Command": command(self.command, whole),
            "CreatedAt": time::created_at(self.created),
            "ExitCode": code,
            "ID": id(self.id, whole),
            "Image": output::printable(self.image),
            "Labels": labels(self.labels),
            "LocalVolumes": self.volumes.to_string(),
            "Mounts": output::printable(&mounts.join(",")),
            "Names": self.name,
            "Networks": self.networks.join(","),
            "Platform": "linux/amd64",
            "Ports": self.ports,
            "RunningFor": output::ago(self.created),
            "Size": size,
            "State": self.state.word(),
            "Status": self.state.status(),
            LABELS: label_map(self.labels),
        })
    }
}

/// An identifier, of twelve characters unless `whole`.
pub(crate) fn id(id: &str, whole: bool) -> String {
    if whole {
        return id.to_owned();
    }
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

/// A command in quotes, of twenty characters unless `whole`. Arguments with spaces stand in quotes of their own.
pub(crate) fn command(words: &[String], whole: bool) -> String {
    let words: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(index, word)| {
            if index > 0 && word.contains(' ') {
                format!("'{word}'")
            } else {
                word.clone()
            }
        })
        .collect();
    let text = words.join(" ");
    quote(&if whole {
        text
    } else {
        ellipsis(&text, COMMAND_WIDTH)
    })
}

/// A text of at most `width` characters, the last of which says that it was cut.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// `a=1,b=2`.
pub(crate) fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    output::printable(&pairs.join(","))
}

fn label_map(labels: Option<&BTreeMap<String, String>>) -> Value {
    Value::Object(
        labels
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), output::printable(value).into()))
            .collect::<Map<String, Value>>(),
    )
}

/// A row of `volume ls`.
pub(crate) fn volume(
    name: &str,
    mountpoint: &str,
    volume_labels: &BTreeMap<String, String>,
) -> Value {
    json!({
        "Availability": "N/A",
        "Driver": "local",
        "Group": "N/A",
        "Labels": labels(Some(volume_labels)),
        "Links": "N/A",
        "Mountpoint": mountpoint,
        "Name": name,
        "Scope": "local",
        "Size": "N/A",
        "Status": "N/A",
        LABELS: label_map(Some(volume_labels)),
    })
}

/// A row of `network ls`.
pub(crate) fn network(
    id: &str,
    name: &str,
    driver: &str,
    created: u64,
    internal: bool,
    network_labels: Option<&BTreeMap<String, String>>,
) -> Value {
    json!({
        "CreatedAt": time::created_at(created),
        "Driver": driver,
        "ID": id,
        "IPv4": "true",
        "IPv6": "false",
        "Internal": internal.to_string(),
        "Labels": labels(network_labels),
        "Name": name,
        "Scope": "local",
        LABELS: label_map(network_labels),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_shortened_unless_the_whole_is_wanted() {
        let command: Vec<String> = ["sh", "-c", "echo \"a long enough line\""]
            .map(String::from)
            .into();
        let labels = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".into(), "1".into())]);
        let mounts = ["a-volume-with-a-long-name".to_owned()];
        let row = ContainerRow {
            id: "0123456789abcdef0123456789abcdef",
            image: "busybox",
            command: &command,
            state: State::Exited { code: 3, at: 0 },
            labels: Some(&labels),
            mounts: &mounts,
            ..ContainerRow::default()
        };
        let short = row.to_value(false);
        assert_eq!(short["ID"], "0123456789ab");
        assert_eq!(short["Command"], "\"sh -c 'echo \\\"a long…\"");
        assert_eq!(short["Mounts"], "a-volume-with-…");
        assert_eq!(short["Labels"], "a=1,b=2");
        assert!(short["Status"].as_str().unwrap().starts_with("Exited (3) "));
        let whole = row.to_value(true);
        assert_eq!(whole["ID"], row.id);
        assert_eq!(
            whole["Command"],
            "\"sh -c 'echo \\\"a long enough line\\\"'\""
        );
        assert_eq!(whole["Mounts"], "a-volume-with-a-long-name");
    }

    #[test]
    fn each_state_is_told_in_dockers_words() {
        let since = time::now() - 300;
        for (state, status) in [
            (State::Created, "Created"),
            (
                State::Running {
                    since,
                    health: None,
                },
                "Up 5 minutes",
            ),
            (
                State::Running {
                    since,
                    health: Some("starting"),
                },
                "Up 5 minutes (health: starting)",
            ),
            (
                State::Running {
                    since,
                    health: Some("healthy"),
                },
                "Up 5 minutes (healthy)",
            ),
            (State::Paused { since }, "Up 5 minutes (Paused)"),
            (
                State::Restarting { code: 1, at: since },
                "Restarting (1) 5 minutes ago",
            ),
            (
                State::Exited { code: 0, at: since },
                "Exited (0) 5 minutes ago",
            ),
        ] {
            assert_eq!(state.status(), status);
        }
    }
}

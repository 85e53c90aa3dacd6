//! `--format table|json|TEMPLATE|'table TEMPLATE'` for lists.

use std::io::Write;

use serde_json::Value;

use super::json;
use super::tabs;
use crate::template::{LABELS, Missing, Options, Shape, Template};

/// A list that docker has: its fields, its titles, and what it shows by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Each field and the title of its column.
    titles: &'static [(&'static str, &'static str)],
    /// The template of the table.
    table: &'static str,
    /// The field that `-q` shows.
    quiet: &'static str,
    /// docker's name for a row, in errors.
    go_type: &'static str,
    /// docker tries the template of `ps` on an empty row first.
    tries: bool,
}

/// `ps`, with a column that docker does not have: BACKEND.
pub(crate) const CONTAINERS: Kind = Kind {
    titles: &[
        ("Backend", "BACKEND"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("ExitCode", "EXIT CODE"),
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Labels", "LABELS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Mounts", "MOUNTS"),
        ("Names", "NAMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
        ("Ports", "PORTS"),
        ("RunningFor", "CREATED"),
        ("Size", "SIZE"),
        ("State", "STATE"),
        ("Status", "STATUS"),
    ],
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Backend}}",
    quiet: "ID",
    go_type: "*formatter.ContainerContext",
    tries: true,
};

/// `ps --size`.
pub(crate) const CONTAINERS_WITH_SIZE: Kind = Kind {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Backend}}\t{{.Size}}",
    ..CONTAINERS
};

/// `images`.
pub(crate) const IMAGES: Kind = Kind {
    titles: &[
        ("Bytes", "BYTES"),
        ("Containers", "CONTAINERS"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("SharedSize", "SHARED SIZE"),
        ("Size", "SIZE"),
        ("Tag", "TAG"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("VirtualSize", "SIZE"),
    ],
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}",
    quiet: "ID",
    go_type: "*formatter.imageContext",
    tries: false,
};

/// `images --digests`.
pub(crate) const IMAGES_WITH_DIGESTS: Kind = Kind {
    table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}",
    ..IMAGES
};

/// `volume ls`.
pub(crate) const VOLUMES: Kind = Kind {
    titles: &[
        ("Availability", "AVAILABILITY"),
        ("Driver", "DRIVER"),
        ("Group", "GROUP"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
    ],
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "Name",
    go_type: "*formatter.volumeContext",
    tries: false,
};

/// `network ls`.
pub(crate) const NETWORKS: Kind = Kind {
    titles: &[
        ("CreatedAt", "CREATED AT"),
        ("Driver", "DRIVER"),
        ("ID", "NETWORK ID"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("Name", "NAME"),
        ("Scope", "SCOPE"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "ID",
    go_type: "*network.networkContext",
    tries: false,
};

/// `stats`.
pub(crate) const STATS: Kind = Kind {
    titles: &[
        ("BlockIO", "BLOCK I/O"),
        ("CPUPerc", "CPU %"),
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("MemPerc", "MEM %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("Name", "NAME"),
        ("NetIO", "NET I/O"),
        ("PIDs", "PIDS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "ID",
    go_type: "*container.statsContext",
    tries: false,
};

/// Prints a list to standard output. Rows are objects with docker's field names; their labels are also under
/// [`LABELS`] for `.Label "name"`.
pub(crate) fn print(
    kind: &Kind,
    format: Option<&str>,
    quiet: bool,
    rows: &[Value],
) -> anyhow::Result<()> {
    if quiet && format.is_some_and(|format| !matches!(format, "" | "table")) {
        eprintln!("WARNING: Ignoring custom format, because both --format and --quiet are set.");
    }
    let text = render(kind, format, quiet, rows)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Whether a list in this format has to know what is costly to find out, such as `Size`.
pub(crate) fn mentions(format: Option<&str>, field: &str) -> bool {
    format.is_some_and(|format| format.contains(&format!(".{field}")) || format == "json")
}

fn render(
    kind: &Kind,
    format: Option<&str>,
    quiet: bool,
    rows: &[Value],
) -> anyhow::Result<String> {
    if quiet {
        return Ok(rows
            .iter()
            .map(|row| {
                let name = row.get(kind.quiet).and_then(Value::as_str);
                format!("{}\n", name.unwrap_or_default())
            })
            .collect());
    }
    let format = match format {
        None | Some("") => "table",
        Some(format) => format,
    };
    if format == "json" {
        return Ok(rows
            .iter()
            .map(|row| json::write(row, Shape::Any, false) + "\n")
            .collect());
    }
    let (table, body) = match format.strip_prefix("table") {
        Some("") => (true, kind.table),
        Some(body) => (true, body),
        None => (false, format),
    };
    let body = body
        .trim_matches(' ')
        .replace("\\t", "\t")
        .replace("\\n", "\n");
    let template = Template::parse(&body)?;
    let options = Options {
        missing: Missing::Field(kind.go_type),
        ..Options::default()
    };
    if kind.tries {
        template.render(&titles(kind, |_| ""), options)?;
    }
    let mut text = String::new();
    if table {
        let options = Options {
            titles: true,
            ..Options::default()
        };
        text = template.render(&titles(kind, |title| title), options)?;
        text.push('\n');
    }
    for row in rows {
        text.push_str(&template.render(row, options)?);
        text.push('\n');
    }
    Ok(if table { tabs::align(&text) } else { text })
}

/// A row of titles, or of something else in their place.
fn titles(kind: &Kind, cell: impl Fn(&'static str) -> &'static str) -> Value {
    let mut row: serde_json::Map<String, Value> = kind
        .titles
        .iter()
        .map(|(field, title)| ((*field).to_owned(), cell(title).into()))
        .collect();
    row.insert(LABELS.into(), Value::Object(serde_json::Map::new()));
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Vec<Value> {
        vec![
            json!({"Driver": "local", "Name": "data", "Labels": "a=1", LABELS: {"a": "1"}}),
            json!({"Driver": "local", "Name": "another", "Labels": ""}),
        ]
    }

    #[track_caller]
    fn gives(format: Option<&str>, wanted: &str) {
        assert_eq!(render(&VOLUMES, format, false, &rows()).unwrap(), wanted);
    }

    #[test]
    fn a_table_has_titles_and_aligned_columns() {
        let wanted = "DRIVER    VOLUME NAME\nlocal     data\nlocal     another\n";
        gives(None, wanted);
        gives(Some("table"), wanted);
        gives(
            Some("table {{.Name}}\\t{{upper .Driver}}"),
            "VOLUME NAME   DRIVER\ndata          LOCAL\nanother       LOCAL\n",
        );
        assert_eq!(
            render(&VOLUMES, None, false, &[]).unwrap(),
            "DRIVER    VOLUME NAME\n"
        );
    }

    #[test]
    fn a_template_gives_a_line_a_row_without_titles() {
        gives(
            Some("{{.Name}}\\t{{.Driver}}"),
            "data\tlocal\nanother\tlocal\n",
        );
    }

    #[test]
    fn json_gives_an_object_a_line_without_what_is_hidden() {
        gives(
            Some("json"),
            "{\"Driver\":\"local\",\"Labels\":\"a=1\",\"Name\":\"data\"}\n{\"Driver\":\"local\",\"Labels\":\"\",\"Name\":\"another\"}\n",
        );
        gives(
            Some("{{json .}}"),
            "{\"Driver\":\"local\",\"Labels\":\"a=1\",\"Name\":\"data\"}\n{\"Driver\":\"local\",\"Labels\":\"\",\"Name\":\"another\"}\n",
        );
    }

    #[test]
    fn a_label_is_a_column_with_a_title_of_its_own() {
        let rows = &rows()[..1];
        assert_eq!(
            render(
                &VOLUMES,
                Some("table {{.Label \"a\"}}\\t{{.Label \"com.x.my-label\"}}"),
                false,
                rows
            )
            .unwrap(),
            "a         my label\n1         \n"
        );
    }

    #[test]
    fn quiet_gives_the_key_alone() {
        assert_eq!(
            render(&VOLUMES, None, true, &rows()).unwrap(),
            "data\nanother\n"
        );
    }

    #[test]
    fn a_field_that_is_not_there_is_refused_in_dockers_words() {
        let error = render(&CONTAINERS, Some("{{.Foo}}"), false, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "template parsing error: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext"
        );
    }
}

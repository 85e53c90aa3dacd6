//! The versions of the parts under test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::peers;

/// All of them. Those of peers stand with their arms.
pub(crate) fn of_parts(program: &Path, kernel: &Path) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut add = |name: &str, value: Result<String, String>| {
        if let Ok(value) = value
            && !value.is_empty()
        {
            versions.insert(name.to_owned(), value);
        }
    };
    let first_line = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    add(
        "plimsoll",
        peers::output(Command::new(program).arg("-v")).map(first_line),
    );
    add(
        "rustc",
        peers::output(Command::new("rustc").arg("--version")).map(first_line),
    );
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    add(
        "commit",
        peers::output(
            Command::new("git")
                .arg("-C")
                .arg(tree)
                .args(["describe", "--always", "--dirty"]),
        )
        .map(first_line),
    );
    if let Some(qemu) = engine::qemu_binary() {
        add(
            "qemu",
            peers::output(Command::new(qemu).arg("--version")).map(first_line),
        );
    }
    add(
        "guest kernel",
        fs::canonicalize(kernel)
            .map_err(|error| error.to_string())
            .map(|path| {
                path.parent()
                    .and_then(Path::file_name)
                    .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }),
    );
    versions
}

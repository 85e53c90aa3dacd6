//! `cp` and `diff`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::same_in_vms;
use crate::steps::{both, copy, error, host};

/// Everything below a directory: path, mode, content.
fn tree(directory: &std::path::Path) -> String {
    let mut lines = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let shown = path.strip_prefix(directory).unwrap_or(&path).display();
            let Ok(facts) = path.symlink_metadata() else {
                continue;
            };
            let mode = facts.permissions().mode() & 0o7777;
            if facts.is_dir() {
                lines.push(format!("{shown}/ {mode:o}"));
                open.push(path);
            } else if facts.is_symlink() {
                lines.push(format!(
                    "{shown} -> {}",
                    fs::read_link(&path).unwrap_or_default().display()
                ));
            } else {
                lines.push(format!(
                    "{shown} {mode:o} {:?}",
                    fs::read_to_string(&path).unwrap_or_default()
                ));
            }
        }
    }
    lines.sort();
    lines.join("\n")
}

#[test]
fn cp_follows_dockers_rules_for_slashes() {
    same_in_vms(
        "cp",
        &[
            host("files to copy", |directory| {
                let at = |name: &str| directory.join(name);
                fs::create_dir_all(at("from/sub")).unwrap();
                fs::write(at("from/a"), "a").unwrap();
                fs::write(at("from/sub/b"), "b").unwrap();
                fs::write(at("one"), "one").unwrap();
                fs::set_permissions(at("one"), fs::Permissions::from_mode(0o640)).unwrap();
                std::os::unix::fs::symlink("one", at("link")).unwrap();
                fs::create_dir(at("to")).unwrap();
                tree(directory)
            }),
            both("create --name box $I sh -c 'cd /tmp; find . | sort; cat /tmp/one /tmp/renamed'"),
            copy("cp $D/one box:/tmp"),
            copy("cp $D/one box:/tmp/renamed"),
            copy("cp $D/one box:/tmp/"),
            error("cp $D/one box:/tmp/no-such/", &["no such directory"]),
            error("cp $D/one box:/no-such/file", &["/no-such"]),
            copy("cp $D/from box:/tmp"),
            copy("cp $D/from box:/tmp/new"),
            copy("cp $D/from/. box:/tmp/contents"),
            copy("cp $D/from/. box:/tmp/new"),
            error("cp $D/from box:/tmp/one", &["directory"]),
            copy("cp $D/link box:/tmp/as-link"),
            copy("cp -L $D/link box:/tmp/followed"),
            both("start -a box"),
            copy("cp box:/data $D/to"),
            copy("cp box:/data/. $D/to/contents"),
            copy("cp box:/data/from-image $D/to"),
            copy("cp box:/data/from-image $D/to/renamed"),
            copy("cp box:data/from-image $D/to/relative"),
            error(
                "cp box:/data/from-image $D/no-such/",
                &["no such directory"],
            ),
            error("cp box:/no/such $D/to", &["/no/such"]),
            error("cp no-such:/data $D/to", &["no-such"]),
            error("cp $D/no-such box:/tmp", &["no-such"]),
            error(
                "cp box:/data box:/other",
                &["copying between containers is not supported"],
            ),
            error(
                "cp $D/one $D/two",
                &["must specify at least one container source"],
            ),
            host("what came out", |directory| tree(&directory.join("to"))),
            both("cp box:/data/from-image -").differs(
                "docker's tar headers are ustar's with the names of owners, ours GNU's with numbers",
                0,
                0,
            ),
            both("rm box"),
        ],
    );
}

#[test]
fn cp_reaches_into_running_containers_and_volumes() {
    same_in_vms(
        "cp while running",
        &[
            host("a file", |directory| {
                fs::write(directory.join("one"), "one\n").unwrap();
                String::new()
            }),
            both("run -d --name up -v stuff:/vol --tmpfs /t $I sleep 1000"),
            copy("cp $D/one up:/tmp/in"),
            both("exec up cat /tmp/in"),
            copy("cp $D/one up:/vol/in"),
            both("exec up cat /vol/in"),
            both("exec up sh -c 'echo made >/tmp/out'"),
            copy("cp up:/tmp/out $D/out"),
            host("what came out", |directory| {
                fs::read_to_string(directory.join("out")).unwrap_or_default()
            }),
            both("rm -f up"),
            both("volume rm stuff"),
        ],
    );
}

#[test]
fn diff_tells_what_was_added_changed_and_deleted() {
    same_in_vms(
        "diff",
        &[
            both(
                "run --name box $I sh -c 'echo new >/tmp/new; echo more >>/data/from-image; rm /data/inner/deep; mkdir -p /made/here; rm -r /data/inner'",
            ),
            both("diff box").unordered(),
            both("create --name untouched $I true"),
            both("diff untouched"),
            error("diff no-such", &["no such container: no-such"]),
            error("diff", &["requires exactly 1 argument"]),
            // What an instance wrote is there when it starts again (N11).
            both("run --name keeps $I sh -c 'cat /kept 2>/dev/null; echo again >>/kept'"),
            both("start -a keeps"),
            both("start -a keeps"),
        ],
    );
}

//! `commit`, `export`, and what the prunes and `system df` say of images.

use std::fs;

use crate::common::{Host, ways};
use crate::skip;

/// What every instance here does before it is committed.
const WORK: &str = "echo new >/etc/new; rm /etc/group; mkdir -p /deep/er; echo x >/deep/er/x; chown 7:8 /deep; rm -r /srv; mkdir /srv; echo inside >/srv/file; ln -s /etc/new /link; ln /etc/new /hard";

/// What an image of it must say.
const LOOK: &str = "cat /etc/new /link /hard /deep/er/x; stat -c %u:%g /deep; ls /etc/group 2>/dev/null; ls /srv; ls -d /proc /dev";
const SEEN: &str = "new\nnew\nnew\nx\n7:8\nfile\n/dev\n/proc";

#[test]
fn what_an_instance_has_written_becomes_an_image_that_runs_every_way() {
    for way in ways() {
        let host = Host::new();
        let run = [
            &["run", "--name", "made", "-e", "A=b"],
            way.as_slice(),
            &["plimsoll/base", "sh", "-c", WORK],
        ];
        host.plimsoll(run.concat()).ok();
        let said = host.plimsoll([
            "commit",
            "-m",
            "a message",
            "-a",
            "somebody",
            "-c",
            "ENV C=d",
            "-c",
            "CMD [\"sh\"]",
            "made",
            "committed:1",
        ]);
        let id = said.ok().to_owned();
        assert!(id.starts_with("sha256:"), "{id}");
        let inspect = |template: &str| {
            let said = host.plimsoll(["inspect", "-f", template, "committed:1"]);
            said.ok().to_owned()
        };
        assert_eq!(
            inspect("{{.Id}} {{.Author}} {{.Comment}}"),
            format!("{id} somebody a message")
        );
        assert_eq!(inspect("{{.Config.Env}} {{.Config.Cmd}}"), "[A=b C=d] [sh]");
        for other in ways() {
            let said = host.plimsoll(
                [
                    &["run", "--rm"],
                    other.as_slice(),
                    &["committed:1", "sh", "-c", LOOK],
                ]
                .concat(),
            );
            assert_eq!(said.ok(), SEEN, "{way:?} in {other:?}");
        }
        // All of its files, as one archive.
        let archive = host.scratch().join("exported.tar");
        let path = archive.to_str().unwrap();
        host.plimsoll(["export", "-o", path, "made"]).ok();
        host.plimsoll(["import", path, "imported:1"]).ok();
        let said = host.plimsoll(["run", "--rm", "imported:1", "sh", "-c", LOOK]);
        assert_eq!(said.ok(), SEEN, "{way:?}");
        assert_eq!(
            host.plimsoll(["run", "--rm", "imported:1", "sh", "-c", "echo $A"])
                .ok(),
            ""
        );
        // The instance is as it was.
        host.plimsoll(["start", "made"]).ok();
        host.plimsoll(["wait", "made"]).ok();
        host.plimsoll(["rm", "made"]).ok();
    }
}

#[test]
fn a_running_container_stands_still_while_it_is_committed_and_its_volumes_are_no_part_of_it() {
    let host = Host::new();
    let work = "while true; do date >>/log; done";
    let run = [
        "run",
        "-d",
        "--name",
        "busy",
        "-v",
        "/data",
        "--tmpfs",
        "/temporary",
        "plimsoll/base",
        "sh",
        "-c",
        work,
    ];
    host.plimsoll(run).ok();
    host.plimsoll([
        "exec",
        "busy",
        "sh",
        "-c",
        "echo kept >/kept; echo volume >/data/file; echo gone >/temporary/file",
    ])
    .ok();
    host.plimsoll(["commit", "busy", "from-busy"]).ok();
    let archive = host.scratch().join("busy.tar");
    host.plimsoll(["export", "-o", archive.to_str().unwrap(), "busy"])
        .ok();
    assert_eq!(host.inspect("busy", "{{.State.Status}}"), "running");
    host.plimsoll(["rm", "-f", "busy"]).ok();
    let said = host.plimsoll([
        "run",
        "--rm",
        "from-busy",
        "sh",
        "-c",
        "cat /kept; ls /data /temporary | grep -c file",
    ]);
    assert_eq!(said.stdout, "kept\n0\n");
    host.plimsoll(["import", archive.to_str().unwrap(), "exported"])
        .ok();
    let said = host.plimsoll([
        "run",
        "--rm",
        "exported",
        "sh",
        "-c",
        "cat /kept; ls /data /temporary /proc | grep -c file",
    ]);
    assert!(said.stdout.starts_with("kept\n"), "{said:?}");
    host.plimsoll(["commit", "nobody"]).fails(1, &["nobody"]);
    host.plimsoll(["export", "nobody"]).fails(1, &["nobody"]);
}

#[test]
fn a_running_vm_is_committed_only_if_it_need_not_stand_still() {
    let Some(way) = ways().into_iter().find(|way| way.contains(&"vm")) else {
        skip!("no VM starts quickly here");
    };
    let host = Host::new();
    host.detached(&way, &["--name", "busy"], &["sleep", "1000"]);
    host.plimsoll([
        "exec",
        "busy",
        "sh",
        "-c",
        "echo kept >/kept; rm /etc/group",
    ])
    .ok();
    host.plimsoll(["commit", "busy", "no"])
        .fails(1, &["--pause=false", "VM"]);
    host.plimsoll(["commit", "--pause=false", "busy", "yes"])
        .ok();
    let said = host.plimsoll(["run", "--rm", "yes", "sh", "-c", "cat /kept; ls /etc/group"]);
    assert_eq!(said.stdout, "kept\n");
    let archive = host.scratch().join("busy.tar");
    host.plimsoll(["export", "-o", archive.to_str().unwrap(), "busy"])
        .ok();
    host.plimsoll(["import", archive.to_str().unwrap(), "exported"])
        .ok();
    assert_eq!(
        host.plimsoll(["run", "--rm", "exported", "cat", "/kept"])
            .ok(),
        "kept"
    );
}

#[test]
fn what_nothing_uses_is_pruned_and_what_an_instance_is_made_from_stays() {
    let host = Host::new();
    host.plimsoll([
        "run",
        "--name",
        "one",
        "plimsoll/base",
        "sh",
        "-c",
        "echo 1 >/1",
    ])
    .ok();
    let first = host.plimsoll(["commit", "one", "named"]).ok().to_owned();
    // The name moves, and the image that had it stays without one.
    host.plimsoll(["commit", "-c", "LABEL keep=yes", "one", "named"])
        .ok();
    host.plimsoll(["tag", "named", "other:tag"]).ok();
    host.plimsoll(["create", "--name", "user", &first]).ok();
    let said = host.plimsoll(["image", "prune", "-f"]);
    assert_eq!(
        said.ok(),
        "Total reclaimed space: 0B",
        "an instance is made from it"
    );
    host.plimsoll(["rm", "user"]).ok();
    let said = host.plimsoll_with_input(b"n\n", &["image", "prune"]);
    assert!(
        said.ok()
            .starts_with("WARNING! This will remove all dangling images."),
        "{said:?}"
    );
    let said = host.plimsoll(["image", "prune", "-f"]);
    assert_eq!(
        said.ok(),
        format!("Deleted Images:\ndeleted: {first}\n\nTotal reclaimed space: 0B")
    );
    let filter = |filter: &str| host.plimsoll(["image", "prune", "-af", "--filter", filter]);
    assert!(!filter("label!=keep").ok().contains("other:tag"));
    assert!(!filter("until=1h").ok().contains("other:tag"));
    filter("nothing=x").fails(1, &["invalid filter 'nothing'"]);
    let df = host.plimsoll(["system", "df"]);
    let titles: Vec<&str> = df.ok().lines().next().unwrap().split_whitespace().collect();
    assert_eq!(titles, ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    let said = host.plimsoll(["image", "prune", "-af"]);
    assert!(
        said.ok()
            .contains("untagged: named:latest\nuntagged: other:tag\n")
            || said
                .ok()
                .contains("untagged: other:tag\nuntagged: named:latest\n"),
        "{said:?}"
    );
    assert!(said.ok().ends_with("Total reclaimed space: 2B"), "{said:?}");
    let left = fs::read_dir(host.root().join("images/layers"))
        .unwrap()
        .count();
    assert_eq!(left, 1, "the one that instance `one` is made from");
    host.plimsoll(["rmi", "plimsoll/base"]).fails(1, &["rm"]);
    let said = host.plimsoll(["system", "prune", "-af", "--volumes"]);
    assert!(said.ok().contains("Deleted Containers:"), "{said:?}");
    let left = fs::read_dir(host.root().join("images/layers"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn an_image_has_a_history_in_dockers_columns() {
    let host = Host::new();
    host.plimsoll([
        "run",
        "--name",
        "one",
        "plimsoll/base",
        "sh",
        "-c",
        "echo 12 >/1",
    ])
    .ok();
    let id = host
        .plimsoll(["commit", "-m", "why", "one", "named"])
        .ok()
        .to_owned();
    let said = host.plimsoll(["history", "named"]);
    let lines: Vec<&str> = said.ok().lines().collect();
    let titles: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        titles,
        ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    );
    assert!(
        lines[1].contains("sh -c echo 12 >/1") && lines[1].ends_with("why"),
        "{said:?}"
    );
    assert!(lines[2].starts_with("<missing>"), "{said:?}");
    let format = [
        "history",
        "--no-trunc",
        "--human=false",
        "--format",
        "{{.ID}} {{.Size}} {{.CreatedAt}}",
        "named",
    ];
    let said = host.plimsoll(format);
    assert!(said.ok().starts_with(&format!("{id} 3 20")), "{said:?}");
    assert_eq!(
        host.plimsoll(["image", "history", "-q", "named"])
            .ok()
            .lines()
            .count(),
        2
    );
    host.plimsoll(["history", "nothing"]).fails(1, &["nothing"]);
}

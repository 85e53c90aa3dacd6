//! `build`: Dockerfiles become images that run every way, the same inputs the same image, and nothing half made.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::world::{OUTSIDE_ADDRESS, World};
use common::{Host, Said, eventually, in_lab, vm_ways, ways, which};

/// A context: a directory with a Dockerfile and files.
struct Context(tempfile::TempDir);

impl Context {
    fn new(dockerfile: &str) -> Self {
        let context = Self(tempfile::tempdir().unwrap());
        context.file("Dockerfile", dockerfile);
        context
    }

    fn file(&self, path: &str, content: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

fn build(host: &Host, context: &Context, flags: &[&str]) -> Said {
    host.plimsoll([&["build"], flags, &[context.path()]].concat())
}

/// What a command in an image of that name says.
#[track_caller]
fn says(host: &Host, image: &str, command: &[&str]) -> String {
    host.plimsoll([&["run", "--rm", image], command].concat())
        .ok()
        .to_owned()
}

#[test]
fn a_dockerfile_of_two_stages_becomes_an_image_that_runs_every_way() {
    let host = Host::new();
    let context = Context::new(
        "# escape=\\\n\
         ARG BASE=none\n\
         FROM ${BASE} AS maker\n\
         ARG WHO=nobody\n\
         ENV GREETING=\"hello $WHO\" KEPT=${NONE:-default}\n\
         WORKDIR /work/deep\n\
         COPY files/ one.txt ./\n\
         # a comment\n\
         RUN echo \"$GREETING $KEPT $WHO\" >out \\\n\
           # another\n\
           && cat one.txt >>out && rm /etc/nsswitch.conf && ls >listed\n\
         SHELL [\"/bin/sh\", \"-ec\"]\n\
         RUN false | cat; echo shell >>out\n\
         \n\
         FROM maker\n\
         RUN test ! -e /etc/nsswitch.conf\n\
         COPY --from=maker --chown=daemon:12 --chmod=640 /work/deep/out /result\n\
         LABEL made.by=test\n\
         EXPOSE 80 53/udp\n\
         VOLUME /data\n\
         STOPSIGNAL SIGINT\n\
         HEALTHCHECK --interval=30s CMD [\"true\"]\n\
         MAINTAINER somebody\n\
         USER 12:12\n\
         ENTRYPOINT [\"cat\"]\n\
         CMD [\"/result\"]\n",
    );
    context.file("files/two.txt", "2").file("one.txt", "1\n");
    let flags = [
        "--build-arg",
        "BASE=plimsoll/base",
        "--build-arg=WHO=you",
        "-t",
        "built:1",
        "-t",
        "example.org/other",
        "--label",
        "more=label",
    ];
    let said = build(&host, &context, &flags);
    let output = said.ok();
    assert!(
        output.starts_with("Step 1/21 : FROM ${BASE} AS maker\n ---> "),
        "{output}"
    );
    assert!(
        output
            .contains("Successfully tagged built:1\nSuccessfully tagged example.org/other:latest")
    );
    for way in ways() {
        let said = host.plimsoll([&["run", "--rm"], way.as_slice(), &["built:1"]].concat());
        assert_eq!(said.ok(), "hello you default you\n1\nshell", "{way:?}");
    }
    let listed = "Dockerfile";
    let in_image = says(&host, "built:1", &["/work/deep/listed"]);
    assert_eq!(in_image, "listed\none.txt\nout\ntwo.txt", "no {listed}");
    let inspect = |template: &str| {
        let said = host.plimsoll(["image", "inspect", "-f", template, "built:1"]);
        said.ok().to_owned()
    };
    assert_eq!(
        inspect("{{.Config.Entrypoint}} {{.Config.Cmd}}"),
        "[cat] [/result]"
    );
    assert_eq!(
        inspect("{{.Config.User}} {{.Config.WorkingDir}}"),
        "12:12 /work/deep"
    );
    assert_eq!(
        inspect("{{json .Config.Labels}}"),
        r#"{"made.by":"test","more":"label","org.plimsoll.base":"#.to_owned()
            + inspect("{{json (index .Config.Labels \"org.plimsoll.base\")}}").as_str()
            + "}"
    );
    assert_eq!(
        inspect("{{.Config.Healthcheck.Test}} {{.Author}}"),
        "[CMD true] somebody"
    );
    assert_eq!(
        inspect("{{.Config.StopSignal}} {{json .Config.ExposedPorts}}"),
        r#"SIGINT {"53/udp":{},"80/tcp":{}}"#
    );
    let owner = [
        "run",
        "--rm",
        "--entrypoint",
        "stat",
        "built:1",
        "-c",
        "%u:%g %a",
        "/result",
    ];
    assert_eq!(host.plimsoll(owner).ok(), "1:12 640");
    let history = host.plimsoll([
        "history",
        "--no-trunc",
        "--format",
        "{{.CreatedBy}}",
        "built:1",
    ]);
    assert!(
        history.ok().contains("|1 WHO=you /bin/sh -c echo"),
        "{history:?}"
    );
    assert_eq!(
        host.plimsoll(["ps", "-aq"]).ok(),
        "",
        "no RUN leaves an instance"
    );
    assert!(host.leftovers().is_empty());
}

#[test]
fn a_second_build_comes_from_the_cache_until_what_goes_into_a_step_is_different() {
    let host = Host::new();
    let context = Context::new(
        "FROM plimsoll/base\n\
         RUN cat /proc/sys/kernel/random/uuid >/first\n\
         ARG V=1\n\
         COPY f /f\n\
         RUN cat /proc/sys/kernel/random/uuid >/second\n\
         CMD [\"cat\", \"/first\", \"/second\"]\n",
    );
    context.file("f", "1");
    let id = |flags: &[&str]| {
        let said = build(&host, &context, &[&["-q"], flags].concat());
        said.ok().to_owned()
    };
    let hits = |flags: &[&str]| {
        let said = build(&host, &context, flags);
        said.ok().matches(" ---> Using cache").count()
    };
    let first = id(&["-t", "cached"]);
    let stamps = says(&host, "cached", &[]);
    assert_eq!(hits(&[]), 5);
    assert_eq!(id(&["-t", "cached"]), first);
    // A newer time is no other content.
    let file = fs::File::open(Path::new(context.path()).join("f")).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    assert_eq!(hits(&[]), 5);
    // A build argument counts for what runs after it.
    assert_eq!(hits(&["--build-arg", "V=2"]), 3, "RUN, ARG and COPY");
    context.file("f", "2");
    let changed = id(&["-t", "cached"]);
    assert_ne!(changed, first);
    let now = says(&host, "cached", &[]);
    assert_eq!(stamps.lines().next(), now.lines().next());
    assert_ne!(stamps.lines().nth(1), now.lines().nth(1));
    // What is executable is other content, too.
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(Path::new(context.path()).join("f"), mode).unwrap();
    assert_eq!(hits(&[]), 2);
    assert_eq!(hits(&["--no-cache"]), 0);
    let usage = host.plimsoll(["system", "df", "--format", "{{.Type}} {{.TotalCount}}"]);
    assert!(usage.ok().contains("Build Cache "), "{usage:?}");
    host.plimsoll(["system", "prune", "-f"]).ok();
    assert_eq!(hits(&[]), 0);
}

#[test]
fn the_same_inputs_give_the_same_digest_in_another_store_at_another_time() {
    let context = Context::new(
        "FROM plimsoll/base\nWORKDIR /a/b\nCOPY . .\nADD packed.tar /unpacked/\nRUN mkdir /made && echo x >/made/x\nLABEL a=1\n",
    );
    context.file("one", "1").file("sub/two", "2");
    let packed = common::tar_of(&[("inner", 0o600, b"3")]);
    fs::write(Path::new(context.path()).join("packed.tar"), packed).unwrap();
    let made: Vec<String> = (0..2)
        .map(|turn| {
            let host = Host::new();
            let mut command = host.command();
            command
                .args(["build", "-q", "-t", "same", context.path()])
                .env("SOURCE_DATE_EPOCH", "1700000000");
            common::finish(command).ok();
            // Newer files, of the same content.
            context.file("one", "1");
            let said = host.plimsoll([
                "images",
                "--digests",
                "--no-trunc",
                "--format",
                "{{.Repository}} {{.Digest}} {{.ID}} {{.CreatedAt}}",
            ]);
            let line = said
                .ok()
                .lines()
                .find(|line| line.starts_with("same"))
                .unwrap()
                .to_owned();
            assert!(line.contains("2023-11-14 22:13:20"), "{turn}: {line}");
            line
        })
        .collect();
    assert_eq!(made[0], made[1]);
}

#[test]
fn what_is_not_supported_or_wrong_is_refused_by_name_and_line_and_nothing_is_made() {
    let host = Host::new();
    for (dockerfile, words) in [
        ("FROM plimsoll/base\nONBUILD RUN x\n", ["line 2", "ONBUILD"]),
        (
            "FROM plimsoll/base\nRUN --mount=type=cache,target=/x true\n",
            ["line 2", "RUN --mount"],
        ),
        (
            "FROM plimsoll/base\n\n\nRUN <<EOF\nx\nEOF\n",
            ["line 4", "heredocs"],
        ),
        (
            "FROM plimsoll/base\nADD https://example.org/x /\n",
            ["line 2", "ADD of https://example.org/x"],
        ),
        (
            "FROM plimsoll/base\nFRMO x\n",
            ["line 2", "unknown instruction: FRMO"],
        ),
        ("FROM nowhere:1\n", ["line 1", "nowhere:1"]),
        (
            "FROM --platform=linux/arm64 plimsoll/base\n",
            ["line 1", "linux/arm64"],
        ),
        (
            "FROM plimsoll/base\nCOPY missing /\n",
            ["line 2", "missing"],
        ),
        (
            "FROM plimsoll/base\nCOPY ../../etc/passwd /x\n",
            ["line 2", "etc/passwd"],
        ),
        (
            "FROM plimsoll/base\nCOPY a b /x\n",
            ["line 2", "end with a /"],
        ),
        (
            "FROM plimsoll/base\nCOPY --chown=nobody-here a /x\n",
            ["line 2", "nobody-here"],
        ),
        (
            "FROM plimsoll/base\nCOPY --chmod=u+x a /x\n",
            ["line 2", "--chmod=u+x"],
        ),
        ("FROM plimsoll/base\nCOPY --from=9 a /x\n", ["line 2", "9"]),
        ("FROM plimsoll/base\nEXPOSE x\n", ["line 2", "port"]),
        ("FROM plimsoll/base\nADD x.tar.xz /\n", ["line 2", "xz"]),
        ("FROM scratch\nRUN true\n", ["line 2", "root file system"]),
        ("FROM scratch\nLABEL a=b\n", ["no layers", "COPY"]),
    ] {
        let context = Context::new(dockerfile);
        context.file("a", "a").file("b", "b");
        fs::write(
            Path::new(context.path()).join("x.tar.xz"),
            b"\xfd7zXZ\0rest",
        )
        .unwrap();
        build(&host, &context, &["-t", "refused"]).fails(1, &words);
    }
    let context = Context::new("FROM plimsoll/base\n");
    build(&host, &context, &["--target", "none"]).fails(1, &["--target", "none"]);
    build(&host, &context, &["-t", "UPPER"]).fails(1, &["UPPER"]);
    host.plimsoll(["build", "-"]).fails(1, &["standard input"]);
    host.plimsoll(["build", "/no/such"]).fails(1, &["/no/such"]);
    assert!(!host.plimsoll(["images"]).ok().contains("refused"));
    assert!(host.leftovers().is_empty());
}

#[test]
fn a_command_that_fails_ends_the_build_with_its_code_and_its_words() {
    let host = Host::new();
    let context = Context::new("FROM plimsoll/base\nRUN echo before; exit 7\nRUN never\n");
    let said = build(&host, &context, &["-t", "failed"]);
    said.fails(
        7,
        &["The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7"],
    );
    assert!(said.stdout.contains("before\n"));
    let said = build(&host, &context, &["-q"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(7), ""));
    assert!(said.stderr.contains("before\n"), "{said:?}");
    assert!(!host.plimsoll(["images"]).ok().contains("failed"));
    assert!(host.leftovers().is_empty());
}

#[test]
fn copies_land_where_docker_puts_them_and_ignored_files_stay_behind() {
    let host = Host::new();
    let context = Context::new(
        "FROM plimsoll/base\n\
         RUN mkdir -p /real/dir && ln -s /real/dir /link && ln -s /etc/../real /rel\n\
         COPY a.txt /new/place/renamed\n\
         COPY a.txt /link\n\
         COPY dir /copied\n\
         COPY dir/ *.txt /many/\n\
         COPY [\"with blank\", \"/blank/\"]\n\
         COPY to-file /through-link\n\
         COPY out /outside\n\
         ADD packed.tar.gz /unpacked\n\
         COPY packed.tar.gz /whole/\n\
         WORKDIR /rel\n\
         COPY b.txt .\n",
    );
    context
        .file("a.txt", "a")
        .file("b.txt", "b")
        .file("dir/in", "in")
        .file("dir/sub/deep", "deep")
        .file("dir/no.tmp", "")
        .file("dir/sub/no.tmp", "")
        .file("dir/sub/kept.tmp", "kept")
        .file("with blank", "blank")
        .file(".git/config", "secret")
        .file(
            ".dockerignore",
            "# comment\n**/*.tmp\n!dir/sub/kept.tmp\n.git\n",
        );
    let at = |name: &str| Path::new(context.path()).join(name);
    symlink("a.txt", at("to-file")).unwrap();
    // A link out of the context is one into it: its root is all there is.
    fs::create_dir(at("out")).unwrap();
    symlink("/etc/passwd", at("out/passwd")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &common::tar_of(&[("x/y", 0o644, b"packed")])).unwrap();
    fs::write(at("packed.tar.gz"), gzip.finish().unwrap()).unwrap();
    build(&host, &context, &["-t", "copied"]).ok();
    let listed = says(
        &host,
        "copied",
        &[
            "sh",
            "-c",
            "cd /; find new real copied many blank through-link outside unpacked whole -not -type d | sort",
        ],
    );
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        [
            "blank/with blank",
            "copied/in",
            "copied/sub/deep",
            "copied/sub/kept.tmp",
            "many/a.txt",
            "many/b.txt",
            "many/in",
            "many/sub/deep",
            "many/sub/kept.tmp",
            "new/place/renamed",
            "outside/passwd",
            "real/b.txt",
            "real/dir/a.txt",
            "through-link",
            "unpacked/x/y",
            "whole/packed.tar.gz",
        ]
    );
    assert_eq!(
        says(&host, "copied", &["readlink", "/outside/passwd"]),
        "/etc/passwd"
    );
    assert_eq!(
        says(
            &host,
            "copied",
            &[
                "sh",
                "-c",
                "cat /through-link; stat -c %u:%g /new /new/place/renamed"
            ]
        ),
        "a0:0\n0:0"
    );
}

#[test]
fn only_the_stages_that_the_target_needs_are_built() {
    let host = Host::new();
    let context = Context::new(
        "FROM plimsoll/base AS a\nRUN echo a >/a\n\
         FROM plimsoll/base AS broken\nRUN false\n\
         FROM a AS wanted\nCOPY --from=a /a /copy\nCMD [\"cat\", \"/copy\"]\n\
         FROM broken\nRUN true\n",
    );
    let said = build(&host, &context, &["--target", "wanted", "-t", "wanted"]);
    assert!(said.ok().contains("Step 5/5"), "{said:?}");
    assert_eq!(says(&host, "wanted", &[]), "a");
    build(&host, &context, &[]).fails(1, &["false"]);
    // A Dockerfile of another name, from standard input, with nothing but a base.
    let mut command = host.command();
    command.args(["build", "-q", "-f", "-", "-t", "renamed", context.path()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"FROM wanted").unwrap();
    assert!(child.wait().unwrap().success());
    let id = |name: &str| {
        host.plimsoll(["image", "inspect", "-f", "{{.Id}}", name])
            .ok()
            .to_owned()
    };
    assert_eq!(id("renamed"), id("wanted"));
}

#[test]
fn what_a_build_uses_stays_while_everything_is_pruned_and_its_base_removed() {
    let host = Host::new();
    let base = Context::new("FROM plimsoll/base\nRUN echo base >/base\n");
    build(&host, &base, &["-t", "base:1"]).ok();
    let context = Context::new(
        "FROM base:1\nRUN echo one >/one\nRUN sleep 3; cat /base /one\nCMD [\"cat\", \"/base\", \"/one\"]\n",
    );
    let mut command = host.command();
    command.args(["build", "-t", "survives", context.path()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    eventually("the last command runs", || {
        host.plimsoll(["ps", "-aq"]).ok().lines().count() == 1
            && host
                .plimsoll(["system", "df", "--format", "{{.Type}} {{.TotalCount}}"])
                .ok()
                .contains("Build Cache 2")
    });
    host.plimsoll(["rmi", "-f", "base:1"]).ok();
    let said = host.plimsoll(["system", "prune", "-af"]);
    said.ok();
    assert!(said.stderr.contains("a build is using it"), "{said:?}");
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(says(&host, "survives", &[]), "base\none");
    assert!(!host.plimsoll(["images"]).ok().contains("\nbase "));
}

#[test]
fn a_build_killed_at_any_moment_leaves_no_image_and_the_next_one_goes_on() {
    let host = Host::new();
    let context = Context::new(
        "FROM plimsoll/base\nRUN echo one >/one\nCOPY big /big\nRUN echo two >/two\nCMD [\"cat\", \"/one\", \"/two\"]\n",
    );
    context.file("big", &"x".repeat(4 << 20));
    host.plimsoll(["images"]).ok();
    for step in 0..20u64 {
        let mut command = host.command();
        command.args(["build", "--no-cache", "-t", "victim", context.path()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step * 15));
        common::kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        if host.plimsoll(["images"]).ok().contains("victim") {
            assert_eq!(says(&host, "victim", &[]), "one\ntwo");
            host.plimsoll(["rmi", "victim"]).ok();
        }
        eventually("what ran is gone", || {
            host.plimsoll(["ps", "-aq"]).ok().is_empty()
        });
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
    build(&host, &context, &["-t", "whole"]).ok();
    assert_eq!(says(&host, "whole", &[]), "one\ntwo");
    host.plimsoll(["rmi", "whole"]).ok();
    host.plimsoll(["system", "prune", "-af"]).ok();
    let tmp = host.root().join("images/tmp");
    assert_eq!(fs::read_dir(tmp).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(host.root().join("images/layers"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_run_is_on_the_default_bridge_as_an_instance_is_unless_another_network_is_asked_for() {
    let world = World::new();
    let before = world.snapshot();
    const LOOK: &str = "FROM plimsoll/base\n\
        RUN ls /sys/class/net | tr '\\n' ' ' >/links; ip -4 addr show eth0 2>/dev/null | grep -c 'inet 10.208.0.2/' >/on-bridge; \
            cat /etc/resolv.conf >/names; grep -c '^10.208.0.2' /etc/hosts >/hosts; true\n";
    let context = Context::new(LOOK);
    let build = |flags: &[&str]| {
        let words = [
            &["build", "--no-cache", "-t", "seen"],
            flags,
            &[context.path()],
        ]
        .concat();
        world.plimsoll(words).ok();
        let said = world.line("run --rm --network none seen cat /links /on-bridge /hosts");
        let names = world.line("run --rm --network none seen cat /names").stdout;
        (said.ok().replace('\n', " "), names)
    };
    let as_run = world
        .line("run --rm plimsoll/base cat /etc/resolv.conf")
        .stdout;
    assert!(as_run.contains("nameserver"), "{as_run}");
    for flags in [&[][..], &["--network", "bridge"], &["--network=default"]] {
        let (links, names) = build(flags);
        assert_eq!(links, "eth0 lo 1 1", "{flags:?}");
        assert_eq!(names, as_run, "{flags:?}");
    }
    assert_eq!(build(&["--network", "none"]).0, "lo 0 0");
    let (links, names) = build(&["--network", "host"]);
    assert!(
        links.starts_with("cable lo ") && !links.contains("eth0"),
        "{links}"
    );
    assert_eq!(names, fs::read_to_string("/etc/resolv.conf").unwrap());
    world
        .plimsoll(["build", "--network", "moon", context.path()])
        .fails(125, &["--network", "moon", "bridge", "host", "none"]);
    // What was mounted for the command is no part of the image.
    let kept = fs::read_dir(world.host.root().join("images/layers")).unwrap();
    let with_names = kept.flatten().filter(|layer| {
        fs::read_to_string(layer.path().join("etc/resolv.conf")).is_ok_and(|text| !text.is_empty())
    });
    assert_eq!(with_names.count(), 0);
    eventually("links, rules and forwarding are as they were", || {
        world.snapshot() == before
    });
    assert!(world.host.leftovers().is_empty());
}

#[test]
fn a_run_reaches_the_hosts_neighbours_over_the_bridge_and_nothing_without_a_network() {
    let world = World::new();
    // One process that ends with the test, however that ends.
    struct Server(std::process::Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let pages = tempfile::tempdir().unwrap();
    fs::write(pages.path().join("page"), "from outside\n").unwrap();
    let mut server = std::process::Command::new("busybox");
    server.args(["httpd", "-f", "-p", "8000", "-h"]);
    server.arg(pages.path()).stdin(Stdio::null());
    world.outside.enter(&mut server);
    let server = Server(server.spawn().unwrap());
    let context = Context::new(&format!(
        "FROM plimsoll/base\nRUN for i in 1 2 3 4 5 6 7 8 9 10; do \
            printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {OUTSIDE_ADDRESS} 8000 | grep outside >/got && exit 0; sleep 0.2; done; exit 9\n"
    ));
    let path = context.path();
    let reached = world.plimsoll(["build", "-t", "reached", path]);
    let alone = world.plimsoll(["build", "--no-cache", "--network", "none", path]);
    drop(server);
    reached.ok();
    let said = world.line("run --rm --network none reached cat /got");
    assert_eq!(said.ok(), "from outside");
    alone.fails(9, &["returned a non-zero code: 9"]);
}

#[test]
fn redis_installed_on_debian_by_a_dockerfile_runs_every_way_and_is_built_once() {
    if in_lab() {
        skip!("the lab has no Debian mirror; the host's run of this test covers it");
    }
    if which("debootstrap").is_none() {
        skip!("debootstrap is not installed (make test installs it)");
    }
    let host = Host::new();
    let archive: PathBuf = common::debian::archive();
    host.plimsoll(["import", archive.to_str().unwrap(), "debian:bookworm"])
        .ok();
    let context = Context::new(
        "FROM debian:bookworm\n\
         RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server \\\n\
             && rm -rf /var/lib/apt/lists/*\n\
         EXPOSE 6379\n\
         CMD [\"redis-server\", \"--version\"]\n",
    );
    build(&host, &context, &["-t", "redis"]).ok();
    let mut ways = vec![vec!["--backend", "container"]];
    ways.extend(vm_ways());
    for way in ways {
        let said = host.plimsoll([&["run", "--rm"], way.as_slice(), &["redis"]].concat());
        assert!(
            said.ok().starts_with("Redis server v="),
            "{way:?}: {said:?}"
        );
    }
    let id = host
        .plimsoll(["run", "-d", "redis", "redis-server", "--save", ""])
        .ok()
        .to_owned();
    eventually("redis answers", || {
        host.plimsoll(["exec", &id, "redis-cli", "ping"])
            .stdout
            .trim()
            == "PONG"
    });
    host.plimsoll(["rm", "-f", &id]).ok();
    let again = build(&host, &context, &["-t", "redis"]);
    assert_eq!(
        again.ok().matches(" ---> Using cache").count(),
        3,
        "{again:?}"
    );
}

//! The commands of the notes, row by row of the mission, on every backend that starts quickly here. A slip in the notes is
//! shown both ways: the corrected line works, the broken one is refused.
//!
//! tests/network.rs has what is published from every side; here are the notes' own lines.

mod common;

use std::fs;

use common::tmux::Terminal;
use common::world::{HOST_ADDRESS, World};
use common::{Host, Said, eventually, ways};

/// A verb, a way's flags and the network there is so far, and the rest of the line, cut at spaces.
fn line<'a>(verb: &'a str, way: &[&'a str], rest: &'a str) -> Vec<&'a str> {
    let mut words = vec![verb, "--network", "none"];
    words.extend(way);
    words.extend(rest.split(' '));
    words
}

/// The same with one more word at the end, a script with spaces.
fn script<'a>(verb: &'a str, way: &[&'a str], rest: &'a str, script: &'a str) -> Vec<&'a str> {
    let mut words = line(verb, way, rest);
    words.extend(["sh", "-c", script]);
    words
}

/// Runs a line whose words stand between spaces.
#[track_caller]
fn plain(host: &Host, line: &str) -> Said {
    host.plimsoll(line.split(' '))
}

#[test]
fn the_notes_from_the_first_command_to_the_last_on_one_host() {
    for way in ways() {
        let world = World::new();
        let before = world.snapshot();
        let run = |flags: &str, script: &str| {
            let mut words = vec!["run"];
            words.extend(&way);
            words.extend(flags.split(' '));
            words.push("plimsoll/base");
            if !script.is_empty() {
                words.extend(["sh", "-c", script]);
            }
            world.plimsoll(words)
        };
        let page = |port: &str| {
            let script = format!(
                "exec 3<>/dev/tcp/{HOST_ADDRESS}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 5 tail -n 1 <&3"
            );
            world.outside.sh(&script).stdout
        };
        let serve = |text: &str| {
            format!("mkdir /www; echo {text} >/www/index.html; exec httpd -f -p 80 -h /www")
        };

        // N7, N12: what is needed, and what there is.
        let doctor = world.line("doctor");
        for facility in ["kernel", "64", "root"] {
            assert!(doctor.stdout.contains(facility), "{doctor:?}");
        }
        assert!(world.line("-v").ok().starts_with("plimsoll version"));
        // N1, N2: whose kernel it is.
        let kernel = run("--rm", "uname -r").ok().to_owned();
        let own = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(kernel == own.trim(), way.contains(&"container"), "{way:?}");
        // N9, N13: an image, and a web server on the host's port 80.
        assert!(world.line("images").ok().contains("plimsoll/base"));
        run("-d --name mywebserver -p 80:80", &serve("mine")).ok();
        eventually("the web server is reached from outside", || {
            page("80") == "mine\n"
        });
        // N15: what runs, where its port leads, and that it ends and comes back.
        assert_eq!(world.line("port mywebserver").ok(), "80/tcp -> 0.0.0.0:80");
        assert_eq!(
            world.line("ps --format {{.Names}}\t{{.Ports}}").ok(),
            "mywebserver\t0.0.0.0:80->80/tcp"
        );
        world.line("stop -t 0 mywebserver").ok();
        assert_eq!(world.line("ps -q").ok(), "");
        assert_eq!(
            page("80"),
            "",
            "{way:?}: a port of what has stopped is closed"
        );
        world.line("start mywebserver").ok();
        eventually("the web server is back", || page("80") == "mine\n");
        // N16 to N19: a database whose files are a volume's.
        world.line("volume create --name myvolume").ok();
        let database = "[ -n \"$MYSQL_ROOT_PASSWORD\" ] || { echo 'no password is given' >&2; exit 1; }; \
                        mkdir -p /var/lib/mysql; [ -e /var/lib/mysql/posts ] || echo 'first post' >/var/lib/mysql/posts; \
                        exec nc -ll -p 3306 -e cat /var/lib/mysql/posts";
        let flags = "-d --name wordpressdb -e MYSQL_ROOT_PASSWORD=password -e MYSQL_DATABASE=wordpress --expose 3306 -v myvolume:/var/lib/mysql";
        run(flags, database).ok();
        // N20: a blog that is linked to it, on a port that the host chooses.
        let blog = "mkdir /www; for try in 1 2 3 4 5 6 7 8 9; do nc -w 5 mysql $MYSQL_PORT_3306_TCP_PORT </dev/null >/www/index.html && \
                    [ -s /www/index.html ] && break; sleep 0.5; done; exec httpd -f -p 80 -h /www";
        run("-d --name wordpress --link wordpressdb:mysql -p 80", blog).ok();
        let port = world.line("port wordpress 80").ok().to_owned();
        let port = port.rsplit(':').next().unwrap().to_owned();
        eventually("the blog shows what the database has", || {
            page(&port) == "first post\n"
        });
        // N21: one address after another.
        let addresses = ["mywebserver", "wordpressdb", "wordpress"].map(|name| {
            let address = world.address(name);
            address.rsplit('.').next().unwrap().parse::<u8>().unwrap()
        });
        assert!(
            addresses[0] + 1 == addresses[1] && addresses[1] + 1 == addresses[2],
            "{way:?}: {addresses:?}"
        );
        // N19: the database goes, its data stay.
        world.line("rm -f wordpressdb").ok();
        let kept = run(
            "--rm --volumes-from wordpress -v myvolume:/seen",
            "cat /seen/posts",
        );
        assert_eq!(kept.ok(), "first post", "{way:?}");
        // N22: one without its password says why.
        run("-d --name no_passwd", database).ok();
        assert_eq!(world.line("wait no_passwd").ok(), "1", "{way:?}");
        let logs = world.line("logs --tail 2 no_passwd");
        assert_eq!(logs.stderr, "no password is given\n", "{way:?}: {logs:?}");
        // N15, N18: everything goes again.
        world.line("rm -f mywebserver wordpress").ok();
        world.line("container prune -f").ok();
        assert_eq!(world.line("ps -aq").ok(), "", "{way:?}");
        world.line("volume rm myvolume").ok();
        assert_eq!(world.line("volume ls -q").ok(), "", "{way:?}");
        eventually("links, rules and forwarding are as before", || {
            world.snapshot() == before
        });
    }
}

#[test]
fn n11_a_stopped_instance_keeps_its_writes_until_rm_and_the_image_never_changes() {
    for way in ways() {
        let host = Host::new();
        host.plimsoll(script(
            "run",
            &way,
            "--name keeps plimsoll/base",
            "cat /kept 2>/dev/null; echo written >>/kept; echo more >>/etc/os-release; rm -f /etc/nsswitch.conf",
        ))
        .ok();
        let mut changes: Vec<String> = plain(&host, "diff keeps")
            .ok()
            .lines()
            .map(str::to_owned)
            .collect();
        changes.sort();
        assert_eq!(
            changes,
            [
                "A /kept",
                "C /etc",
                "C /etc/os-release",
                "D /etc/nsswitch.conf"
            ],
            "{way:?}"
        );
        assert_eq!(plain(&host, "start -a keeps").ok(), "written", "{way:?}");
        assert_eq!(
            plain(&host, "start -a keeps").ok(),
            "written\nwritten",
            "{way:?}"
        );
        plain(&host, "rm keeps").ok();
        let said = host.plimsoll(script(
            "run",
            &way,
            "--rm plimsoll/base",
            "ls /kept; ls /etc/nsswitch.conf",
        ));
        assert_eq!(said.stdout, "/etc/nsswitch.conf\n", "{way:?}: {said:?}");
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

#[test]
fn n13_n14_run_with_a_terminal_leave_it_and_come_back() {
    for way in ways() {
        let host = Host::new();
        let Some(terminal) = Terminal::start(&host) else {
            return;
        };
        terminal.plimsoll(&format!(
            "run -i -t --name myubuntu --network none {} plimsoll/base:latest",
            way.join(" ")
        ));
        terminal.answers(1001);
        terminal.presses(&["C-p", "C-q"]);
        terminal.is_outside(1);
        assert_eq!(
            plain(&host, "ps --format {{.Names}}").ok(),
            "myubuntu",
            "{way:?}"
        );
        terminal.plimsoll("attach myubuntu");
        terminal.answers(1002);
        terminal.types("exit");
        terminal.is_outside(2);
        assert_eq!(plain(&host, "ps --format {{.Names}}").ok(), "", "{way:?}");
        assert_eq!(
            plain(&host, "ps -a --format {{.Names}}").ok(),
            "myubuntu",
            "{way:?}"
        );
        // create, start and attach by hand come to the same.
        host.plimsoll(line(
            "create",
            &way,
            "-i -t --name mycentos plimsoll/base:latest",
        ))
        .ok();
        assert_eq!(plain(&host, "start mycentos").ok(), "mycentos", "{way:?}");
        terminal.plimsoll("attach mycentos");
        terminal.answers(1003);
        terminal.presses(&["C-d"]);
        terminal.is_outside(3);
        plain(&host, "rm myubuntu mycentos").ok();
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

#[test]
fn n13_n15_n20_ports_are_published_as_asked_and_told_by_port_and_ps() {
    for way in ways() {
        let world = World::new();
        let serve = "mkdir /www; echo served >/www/index.html; exec httpd -f -p 80 -h /www";
        world.detached(&way, "--name web1 -p 80:80", serve);
        world.detached(&way, "--name web2 -p 80", serve);
        assert_eq!(
            world.line("port web1").ok(),
            "80/tcp -> 0.0.0.0:80",
            "{way:?}"
        );
        let second = world.line("port web2 80").ok().to_owned();
        let number: u16 = second.rsplit(':').next().unwrap().parse().unwrap();
        assert!(number > 1023, "{way:?}: {second}");
        for port in [80, number] {
            let page = format!(
                "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 5 tail -n 1 <&3"
            );
            eventually(&format!("port {port} answers"), || {
                world.inside.sh(&page).stdout == "served\n"
            });
        }
        assert_eq!(
            world.line("ps --format {{.Ports}} --filter name=web1").ok(),
            "0.0.0.0:80->80/tcp"
        );
        // A port that is taken is refused, and so is what is no port.
        let mut taken = vec!["run", "--rm", "-p", "80:80"];
        taken.extend(&way);
        taken.extend(["plimsoll/base", "true"]);
        world
            .plimsoll(taken)
            .fails(125, &["port is already allocated", "web1"]);
        world
            .line("run --rm -p 80:x plimsoll/base true")
            .fails(125, &["invalid containerPort: x"]);
        world.line("rm -f web1 web2").ok();
    }
}

#[test]
fn n15_instances_are_listed_stopped_started_removed_and_pruned() {
    for way in ways() {
        let host = Host::new();
        assert!(plain(&host, "images").ok().contains("plimsoll/base"));
        host.plimsoll(line("run", &way, "-d --name up plimsoll/base sleep 1000"))
            .ok();
        host.plimsoll(line("create", &way, "--name idle plimsoll/base true"))
            .ok();
        assert_eq!(plain(&host, "ps --format {{.Names}}").ok(), "up", "{way:?}");
        assert_eq!(
            plain(&host, "ps -a --format {{.Names}}").ok(),
            "idle\nup",
            "{way:?}"
        );
        let table = plain(&host, "ps -a");
        let header = table.ok().lines().next().unwrap_or_default();
        for title in [
            "CONTAINER ID",
            "IMAGE",
            "COMMAND",
            "CREATED",
            "STATUS",
            "PORTS",
            "NAMES",
        ] {
            assert!(header.contains(title), "{header}");
        }
        plain(&host, "rm up").fails(1, &["running"]);
        assert_eq!(plain(&host, "stop -t 1 up").ok(), "up", "{way:?}");
        assert_eq!(
            plain(&host, "ps -f status=exited --format {{.Names}}").ok(),
            "up",
            "{way:?}"
        );
        assert_eq!(plain(&host, "start up").ok(), "up", "{way:?}");
        assert_eq!(plain(&host, "ps --format {{.Names}}").ok(), "up", "{way:?}");
        assert_eq!(plain(&host, "rm -f up").ok(), "up", "{way:?}");
        let pruned = host.plimsoll_with_input(b"y\n", &["container", "prune"]);
        assert!(pruned.ok().contains("[y/N]"), "{pruned:?}");
        assert!(
            pruned.stdout.contains("Total reclaimed space: "),
            "{pruned:?}"
        );
        assert_eq!(plain(&host, "ps -aq").ok(), "", "{way:?}");
        // rm of all of them, as the notes have it.
        host.plimsoll(line("run", &way, "--name first plimsoll/base true"))
            .ok();
        host.plimsoll(line("run", &way, "--name second plimsoll/base true"))
            .ok();
        let all = plain(&host, "ps -a -q");
        let mut command = vec!["rm"];
        command.extend(all.ok().lines());
        host.plimsoll(command).ok();
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

#[test]
fn n16_directories_and_single_files_of_the_host_are_shared_and_hide_what_the_image_had() {
    for way in ways() {
        let host = Host::new();
        let at = |name: &str| host.scratch().join(name).display().to_string();
        fs::create_dir(at("wordpress_db")).unwrap();
        fs::write(at("wordpress_db/table"), "rows\n").unwrap();
        fs::write(at("hello"), "hello\n").unwrap();
        let flags = format!(
            "-d --name wordpressdb -e MYSQL_ROOT_PASSWORD=password -e MYSQL_DATABASE=wordpress -v {}:/etc -v {}:/hello plimsoll/base",
            at("wordpress_db"),
            at("hello"),
        );
        host.plimsoll(script(
            "run",
            &way,
            &flags,
            "ls /etc; cat /etc/table /hello; echo $MYSQL_DATABASE $MYSQL_ROOT_PASSWORD; echo of-the-instance >/etc/written",
        ))
        .ok();
        assert_eq!(plain(&host, "wait wordpressdb").ok(), "0", "{way:?}");
        // The directory's own content is all there is: the image's /etc is hidden. (What is put there for each instance,
        // hosts and the like, is not the image's.)
        let logs = plain(&host, "logs wordpressdb");
        let words: Vec<&str> = logs.ok().lines().collect();
        assert!(words.contains(&"table"), "{way:?}: {logs:?}");
        assert!(!words.contains(&"os-release"), "{way:?}: {logs:?}");
        assert!(
            logs.stdout.ends_with("rows\nhello\nwordpress password\n"),
            "{way:?}: {logs:?}"
        );
        assert_eq!(
            fs::read_to_string(at("wordpress_db/written")).unwrap(),
            "of-the-instance\n",
            "{way:?}"
        );
        plain(&host, "rm wordpressdb").ok();
        assert!(fs::exists(at("wordpress_db/table")).unwrap(), "{way:?}");
    }
}

#[test]
fn n17_volumes_from_shares_what_another_instance_has() {
    for way in ways() {
        let host = Host::new();
        let directory = host.scratch().join("home");
        fs::create_dir(&directory).unwrap();
        let flags = format!(
            "--name volume_overide -v {}:/home/testdir_2 -v /anonymous plimsoll/base",
            directory.display()
        );
        host.plimsoll(script(
            "run",
            &way,
            &flags,
            "echo shared >/home/testdir_2/test; echo unnamed >/anonymous/test",
        ))
        .ok();
        let said = host.plimsoll(line(
            "run",
            &way,
            "--rm --volumes-from volume_overide plimsoll/base cat /home/testdir_2/test /anonymous/test",
        ));
        assert_eq!(said.ok(), "shared\nunnamed", "{way:?}");
        host.plimsoll(line(
            "run",
            &way,
            "--rm --volumes-from nobody plimsoll/base true",
        ))
        .fails(125, &["nobody"]);
        plain(&host, "rm -v volume_overide").ok();
    }
}

#[test]
fn n18_named_and_anonymous_volumes_and_mount_do_what_the_notes_say() {
    for way in ways() {
        let host = Host::new();
        assert_eq!(
            plain(&host, "volume create --name myvolume").ok(),
            "myvolume"
        );
        assert!(plain(&host, "volume ls").ok().contains("myvolume"));
        // The same volume in two instances at once.
        host.plimsoll(line(
            "run",
            &way,
            "-d --name one -v myvolume:/root/ plimsoll/base sleep 1000",
        ))
        .ok();
        host.plimsoll(script(
            "run",
            &way,
            "--rm -v myvolume:/root/ plimsoll/base",
            "echo hello, volume! >> /root/volume",
        ))
        .ok();
        assert_eq!(
            plain(&host, "exec one cat /root/volume").ok(),
            "hello, volume!",
            "{way:?}"
        );
        let inspected = plain(&host, "inspect --type volume myvolume");
        let value: serde_json::Value = serde_json::from_str(inspected.ok()).unwrap();
        assert_eq!(value[0]["Name"], "myvolume");
        assert_eq!(value[0]["Driver"], "local");
        plain(&host, "volume rm myvolume").fails(1, &["myvolume", "in use"]);
        // An anonymous one, and what inspect says of it.
        host.plimsoll(line(
            "create",
            &way,
            "--name auto -v /root plimsoll/base true",
        ))
        .ok();
        let inspected = plain(&host, "container inspect auto");
        let value: serde_json::Value = serde_json::from_str(inspected.ok()).unwrap();
        assert_eq!(value[0]["Mounts"][0]["Type"], "volume", "{way:?}");
        assert_eq!(value[0]["Mounts"][0]["Destination"], "/root", "{way:?}");
        assert_eq!(
            value[0]["Mounts"][0]["Name"].as_str().map(str::len),
            Some(64),
            "{way:?}"
        );
        // --mount for a volume and for a bind. The notes have spaces after the commas, which a shell makes words of.
        let flags =
            "--rm --mount type=volume,source=myvolume,target=/seen plimsoll/base cat /seen/volume";
        assert_eq!(
            host.plimsoll(line("run", &way, flags)).ok(),
            "hello, volume!",
            "{way:?}"
        );
        let flags = "--rm --mount type=volume, source=myvolume, target=/seen plimsoll/base true";
        let said = host.plimsoll(line("run", &way, flags));
        assert_eq!(said.code, Some(125), "{way:?}: {said:?}");
        let bind = host.scratch().join("bind");
        fs::create_dir(&bind).unwrap();
        fs::write(bind.join("file"), "of the host\n").unwrap();
        let flags = format!(
            "--rm --mount type=bind,source={},target=/seen plimsoll/base cat /seen/file",
            bind.display()
        );
        assert_eq!(
            host.plimsoll(line("run", &way, &flags)).ok(),
            "of the host",
            "{way:?}"
        );
        plain(&host, "rm -f one auto").ok();
        // Without -a only the anonymous one goes.
        plain(&host, "volume prune -f").ok();
        assert_eq!(plain(&host, "volume ls -q").ok(), "myvolume", "{way:?}");
        plain(&host, "volume prune -f -a").ok();
        assert_eq!(plain(&host, "volume ls -q").ok(), "", "{way:?}");
    }
}

#[test]
fn n19_data_outlives_its_instance_and_is_read_by_the_other_backend() {
    let host = Host::new();
    let all = ways();
    for (index, writer) in all.iter().enumerate() {
        let volume = format!("data{index}");
        host.plimsoll(script(
            "run",
            writer,
            &format!("--name writer -v {volume}:/data plimsoll/base"),
            "echo outlives >/data/file; mkdir /data/deep; ln -s ../file /data/deep/link",
        ))
        .ok();
        plain(&host, "rm writer").ok();
        for reader in &all {
            let said = host.plimsoll(line(
                "run",
                reader,
                &format!("--rm -v {volume}:/data:ro plimsoll/base cat /data/deep/link"),
            ));
            assert_eq!(
                said.ok(),
                "outlives",
                "written by {writer:?}, read by {reader:?}"
            );
        }
        plain(&host, &format!("volume rm {volume}")).ok();
    }
}

#[test]
fn n20_n21_a_database_and_what_is_linked_to_it_as_the_notes_have_them() {
    for database in ways() {
        for client in ways() {
            let world = World::new();
            world.detached(
                &database,
                "--name wordpressdb -h wordpressdb --expose 3306 -e MYSQL_DATABASE=wordpress",
                "echo stored >/answer; exec nc -ll -p 3306 -e cat /answer",
            );
            let mut words = vec![
                "run",
                "--rm",
                "--name",
                "wordpress",
                "--link",
                "wordpressdb:mysql",
            ];
            words.extend(&client);
            words.extend([
                "plimsoll/base",
                "sh",
                "-c",
                "for try in 1 2 3 4 5 6 7 8; do nc -w 5 mysql $MYSQL_PORT_3306_TCP_PORT </dev/null && break; sleep 0.5; done; echo $MYSQL_ENV_MYSQL_DATABASE; ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*'",
            ]);
            let said = world.plimsoll(words);
            let lines: Vec<&str> = said.ok().lines().collect();
            assert_eq!(
                lines[..2],
                ["stored", "wordpress"],
                "{database:?} {client:?}"
            );
            // The second instance has the second address.
            let first = world.address("wordpressdb");
            let number =
                |address: &str| -> u8 { address.rsplit('.').next().unwrap().parse().unwrap() };
            assert_eq!(number(lines[2]), number(&first) + 1, "{said:?}");
            world.line("rm -f wordpressdb").ok();
        }
    }
}

#[test]
fn n22_logs_tell_what_happened_also_after_a_failure() {
    for way in ways() {
        let host = Host::new();
        // A database that wants a password, and says so.
        let database = "if [ -z \"$MYSQL_ROOT_PASSWORD\" ]; then echo 'error: database is uninitialized and password option is not specified' >&2; exit 1; fi; echo ready";
        host.plimsoll(script(
            "run",
            &way,
            "-d --name no_passwd plimsoll/base",
            database,
        ))
        .ok();
        assert_eq!(plain(&host, "wait no_passwd").ok(), "1", "{way:?}");
        let logs = plain(&host, "logs no_passwd");
        assert_eq!(logs.code, Some(0), "{logs:?}");
        assert!(
            logs.stderr.contains("password option is not specified"),
            "{way:?}: {logs:?}"
        );
        host.plimsoll(script(
            "run",
            &way,
            "-d --name mysql -e MYSQL_ROOT_PASSWORD=1234 plimsoll/base",
            "for i in 1 2 3; do echo line $i; done; while [ ! -e /stop ]; do sleep 0.05; done; echo last",
        ))
        .ok();
        eventually("three lines", || {
            plain(&host, "logs mysql").stdout.lines().count() == 3
        });
        assert_eq!(
            plain(&host, "logs --tail 2 mysql").ok(),
            "line 2\nline 3",
            "{way:?}"
        );
        // The notes' slip.
        let said = plain(&host, "logs tail 2");
        assert_eq!(said.code, Some(1), "{said:?}");
        for line in plain(&host, "logs -t mysql").ok().lines() {
            let (time, text) = line.split_once(' ').unwrap_or_default();
            assert!(
                time.len() == 30 && time.ends_with('Z') && text.starts_with("line "),
                "{way:?}: {line:?}"
            );
        }
        let mut command = host.command();
        command
            .args(["logs", "-f", "mysql"])
            .stdout(std::process::Stdio::piped());
        let follower = command.spawn().unwrap();
        plain(&host, "exec mysql touch /stop").ok();
        let followed = follower.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&followed.stdout),
            "line 1\nline 2\nline 3\nlast\n",
            "{way:?}"
        );
        assert_eq!(plain(&host, "logs --tail 1 mysql").ok(), "last", "{way:?}");
        plain(&host, "rm no_passwd mysql").ok();
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

//! `run`: exit codes, streams, and what its flags do to the process.

use std::fs;

use crate::steps::{both, error, host};
use crate::{same, same_in_vms};

#[test]
fn exit_codes_and_streams_are_dockers() {
    same_in_vms(
        "exit codes and streams",
        &[
            both("run --rm $I echo hi"),
            both("run --rm $I sh -c 'echo out; echo err >&2; exit 7'"),
            both("run --rm $I sh -c 'exit 255'"),
            both("run --rm $I sh -c 'sh -c \"kill -9 \\$\\$\"; exit $?'"),
            both("run --rm $I sh -c 'trap \"\" TERM; kill -TERM $$; echo alive'"),
            error(
                "run --rm $I no-such-program",
                &["no-such-program", "not found"],
            ),
            error(
                "run --rm $I /no/such/file",
                &["/no/such/file", "no such file"],
            ),
            error(
                "run --rm $I /etc/not-a-program",
                &["/etc/not-a-program", "permission denied"],
            ),
            error("run --rm $I /etc", &["/etc"]),
            error("run --rm -w /etc/passwd $I true", &["/etc/passwd"]),
            both("run --rm -i $I cat").input("one\ntwo\n"),
            both("run --rm $I cat").input("not passed on"),
            both("run --rm -i $I sh -c 'read a; echo got $a; exit 3'").input("line\nrest\n"),
            both("run --rm -a stderr $I sh -c 'echo out; echo err >&2'"),
            both("run --rm -a stdout $I sh -c 'echo out; echo err >&2'"),
            both("run --rm $I printf '\\001\\000\\377'"),
            both("ps -a --format {{.Names}}"),
        ],
    );
}

#[test]
fn what_run_cannot_do_is_refused_as_docker_refuses_it() {
    same(
        "refusals of run",
        &[
            error("run", &["requires at least 1 argument"]),
            error("run --no-such-flag $I true", &["--no-such-flag"]),
            error("run --rm --restart always $I true", &["--restart", "--rm"]),
            error(
                "run --rm --env-file $D/nowhere $I true",
                &["$DIR/nowhere", "no such file"],
            ),
            error("run --rm -m 1m $I true", &["memory"]),
            error("run --rm -m lots $I true", &["lots"]),
            error("run --rm -e =x $I true", &["=x"]),
            error("run --rm -u nobody $I true", &["nobody", "passwd"]),
            error("run --rm --name -bad $I true", &["-bad"]),
            error("run --rm --ulimit nofile $I true", &["nofile"]),
            error(
                "run --rm --ulimit nofile=5:3 $I true",
                &["nofile", "soft", "hard"],
            ),
            error("run --rm --ulimit no-such=5 $I true", &["no-such"]),
            error("run --rm --cpus x $I true", &["x"]),
            error("run --restart sometimes $I true", &["sometimes"]),
            error("run --restart always:3 $I true", &["restart"]),
            error("run --rm --cap-add no_such $I true", &["no_such"]),
            error("run --rm --stop-signal NOPE $I true", &["NOPE"]),
            error("run --rm -w relative $I true", &["relative"]),
            error("run --rm --log-driver nope $I true", &["nope"]),
            error("run --rm --security-opt nope=1 $I true", &["nope"]),
            error("run --rm --tmpfs relative $I true", &["relative"]),
            error("run -d -a stdout $I true", &["conflicting options"]).differs(
                "docker 20.10 exits 1, docker 28 exits 125",
                1,
                125,
            ),
            error("no-such-verb", &["no-such-verb"]),
            both("ps -a --format {{.Names}}"),
        ],
    );
}

#[test]
fn flags_of_run_reach_the_process() {
    same(
        "flags of run",
        &[
            host("an environment file", |directory| {
                fs::write(
                    directory.join("env"),
                    "# comment\nFROM_FILE=a b\n\nEMPTY=\nQUOTED=\"q\"\nNOT_SET_HERE\n",
                )
                .unwrap();
                String::new()
            }),
            both("run --rm -e A=1 -e 'B=two words' -e A=3 -h web $I env").unordered(),
            both("run --rm -h web --env-file $D/env -e A=1 $I env").unordered(),
            both("run --rm -h web -e NOT_SET_HERE $I env").unordered(),
            both("run --rm -h web -e OF_IMAGE $I env").unordered(),
            both("run --rm -h web -e PATH=/bin $I env").unordered(),
            both("run --rm -h web -u user $I env").unordered(),
            both("run --rm -w /made/here $I pwd"),
            both("run --rm -w /data $I ls"),
            both("run --rm -u user $I id"),
            both("run --rm -u 1000 $I id"),
            both("run --rm -u 1000:7 $I id"),
            both("run --rm -u user:extra $I id"),
            both("run --rm -u 4242 $I id"),
            both("run --rm --group-add 7 --group-add extra -u user $I id").differs(
                "Plimsoll has no --group-add yet",
                0,
                125,
            ),
            both("run --rm -h web $I hostname"),
            both("run --rm -h web.example.org $I hostname"),
            both("run --rm -h web $I cat /etc/hostname"),
            both("run --rm --entrypoint echo $I a b"),
            both("run --rm --entrypoint '' $I echo b"),
            both("run --rm --read-only $I touch /x"),
            both("run --rm --read-only --tmpfs /t $I sh -c 'touch /t/x && echo made'"),
            both(
                "run --rm --tmpfs /t:size=64k,mode=700 $I sh -c 'grep \" /t \" /proc/mounts; stat -c %a /t'",
            ),
            both("run --rm --tmpfs /t:rw,exec $I sh -c 'cp /bin/busybox /t/echo; /t/echo ran'"),
            both(
                "run --rm --ulimit nofile=100:200 --ulimit core=0 $I sh -c 'ulimit -n; ulimit -Hn; ulimit -c'",
            ),
            both("run --rm --init $I sh -c 'echo $$; true'").differs(
                "docker's init becomes PID 1 and the shell PID 7 or so; ours counts from 2",
                0,
                0,
            ),
            both("run --rm -m 32m $I sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes'"),
            both("run --rm --pids-limit 20 $I sh -c 'cat /sys/fs/cgroup/pids/pids.max'"),
            both("run --rm --cpus 0.5 $I sh -c 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us'"),
            both("run --rm --cap-drop all $I sh -c 'grep Cap /proc/self/status'"),
            both("run --rm --cap-drop chown $I sh -c 'chown 1 /tmp || echo refused'"),
            both("run --rm $I sh -c 'grep -E \"Cap|NoNewPrivs|Seccomp:\" /proc/self/status'"),
            both("run --rm -u user $I sh -c 'grep -E \"Cap\" /proc/self/status'"),
            both("run --rm --security-opt no-new-privileges $I grep NoNewPrivs /proc/self/status"),
            both("run --rm --security-opt seccomp=unconfined $I grep Seccomp: /proc/self/status"),
            both("run --rm $I sh -c 'ls /dev | sort'"),
            both(
                "run --rm $I sh -c 'ls -A /sys/firmware /proc/scsi /proc/acpi 2>/dev/null | wc -l; echo x >/proc/sysrq-trigger'",
            ),
            both("run --rm $I sh -c 'ls -A / | grep -v dockerenv'"),
            both("run --rm $I ls /.dockerenv").differs(
                "docker leaves a mark of its own in every root",
                0,
                1,
            ),
            both("run --rm $I cat /etc/hosts"),
            both("run --rm $I sh -c 'df -h /dev/shm | tail -n 1'"),
            both("run --rm --shm-size 1m $I sh -c 'df -h /dev/shm | tail -n 1'").differs(
                "Plimsoll has no --shm-size yet",
                0,
                125,
            ),
            both("run --rm $I sh -c 'ulimit -n; umask; pwd; id'"),
            both("run --rm $I sh -c 'cat /proc/self/oom_score_adj'"),
            both("run --rm --oom-score-adj 500 $I sh -c 'cat /proc/self/oom_score_adj'").differs(
                "Plimsoll has no --oom-score-adj yet",
                0,
                125,
            ),
            both("run --rm --sysctl net.ipv4.ip_forward=1 $I cat /proc/sys/net/ipv4/ip_forward")
                .differs("Plimsoll has no --sysctl yet", 0, 125),
            both("run --cidfile $D/cid --name with-cid $I true"),
            host("the file of --cidfile", |directory| {
                fs::read_to_string(directory.join("cid")).unwrap_or_else(|error| error.to_string())
            }),
            error("run --cidfile $D/cid --name again $I true", &["$DIR/cid"]),
            both("ps -a --format {{.Names}}"),
        ],
    );
}

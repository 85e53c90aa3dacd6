//! From `create` to `rm`, and what can be asked in between.

use crate::same_in_vms;
use crate::steps::{both, error};

#[test]
fn the_life_of_a_container_is_dockers() {
    same_in_vms(
        "lifecycle",
        &[
            both("create --name one $I sh -c 'echo out; echo err >&2; exit 7'"),
            both("ps -a --format '{{.Names}} {{.State}} {{.Status}} {{.Image}} {{.Command}}'"),
            both(
                "inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}} {{.State.StartedAt}}' one",
            ),
            error(
                "create --name one $I true",
                &["/one", "already in use", "<id>"],
            ),
            error(
                "run --name one $I true",
                &["/one", "already in use", "<id>"],
            ),
            both("start one"),
            both("wait one"),
            both("logs one"),
            both("start -a one"),
            both("start --attach one"),
            both("logs one"),
            both(
                "inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{.Name}}' one",
            ),
            both("start one one"),
            both("wait one one"),
            error("start no-such", &["no such container: no-such"]),
            error("start one no-such", &["no such container: no-such"]),
            error("wait no-such", &["no such container: no-such"]),
            both("stop one"),
            error("kill one", &["one", "is not running"]),
            error("pause one", &["is not running"]),
            error("unpause one", &["is not paused"]),
            error("exec one true", &["is not running"]),
            error("top one", &["is not running"]),
            error("attach one", &["stopped container"]),
            both("rename one two"),
            error("rename two two", &["same name"]),
            error("rename no-such three", &["no such container: no-such"]),
            error("rename two -bad", &["shorthand flag: 'b' in -bad"]),
            error("rename two", &["requires exactly 2 arguments"]),
            both("create --name other $I true"),
            error("rename two other", &["/other", "already in use"]),
            both("rm two"),
            error("rm two", &["no such container: two"]),
            error("rm -f two", &["no such container: two"]),
            error("rm", &["requires at least 1 argument"]),
            error("rm other no-such", &["no such container: no-such"]),
            both("ps -a --format {{.Names}}"),
        ],
    );
}

#[test]
fn a_running_container_is_stopped_killed_and_paused_as_dockers() {
    same_in_vms(
        "running containers",
        &[
            both(
                "run -d --name up $I sh -c 'trap \"echo term; exit 5\" TERM; while true; do sleep 0.05; done'",
            ),
            both("ps --format '{{.Names}} {{.State}} {{.Status}}'"),
            both(
                "inspect --format '{{.State.Running}} {{.State.Status}} {{.State.FinishedAt}}' up",
            ),
            error("rm up", &["running", "container"]),
            error("start --no-such up", &["--no-such"]),
            both("start up"),
            both("pause up"),
            both("ps --format '{{.Names}} {{.State}} {{.Status}}'"),
            error("pause up", &["already paused"]),
            error("exec up true", &["paused"]),
            both("inspect --format '{{.State.Running}} {{.State.Paused}} {{.State.Status}}' up"),
            both("unpause up"),
            error("unpause up", &["not paused"]),
            both("exec up echo inside"),
            error("top up -o args", &["PID field"])
                .not_for_vms("its agent lists its processes, and knows no flags of ps"),
            both("stop up"),
            both("inspect --format '{{.State.Running}} {{.State.ExitCode}}' up"),
            both("logs up"),
            both("restart -t 5 up"),
            // A shell that has not set its traps yet is PID 1 without a handler, which no signal but SIGKILL harms.
            both("exec up sleep 0.3"),
            both("stop -t 5 up"),
            both("logs up"),
            both("start up"),
            both("kill up"),
            both("wait up"),
            both("inspect --format '{{.State.ExitCode}} {{.State.OOMKilled}}' up"),
            both("rm up"),
            both("run -d --name hard $I sh -c 'trap \"\" TERM; while true; do sleep 0.05; done'"),
            both("stop -t 1 hard"),
            both("wait hard"),
            both("start hard"),
            error("kill --signal NOPE hard", &["invalid signal: NOPE"]),
            both("kill -s SIGKILL hard"),
            both("wait hard"),
            both("start hard"),
            both("rm -f hard"),
            both(
                "run -d --name sig --stop-signal SIGUSR1 $I sh -c 'trap \"echo usr1; exit 4\" USR1; trap \"exit 6\" HUP; while true; do sleep 0.05; done'",
            ),
            both("inspect --format '{{.Config.StopSignal}}' sig"),
            both("exec sig sleep 0.3"),
            both("stop sig"),
            both("wait sig"),
            both("logs sig"),
            both("start sig"),
            both("exec sig sleep 0.3"),
            both("kill -s HUP sig"),
            both("wait sig"),
            both("rm sig"),
            both("run -d --rm --name gone $I sleep 1000"),
            both("kill gone"),
            error("stop no-such", &["no such container: no-such"]),
            error("kill no-such", &["no such container: no-such"]),
            error("restart no-such", &["no such container: no-such"]),
            error("pause no-such", &["no such container: no-such"]),
        ],
    );
}

#[test]
fn exec_is_dockers() {
    same_in_vms(
        "exec",
        &[
            both("run -d --name up -h web -e A=1 -w /data -u user $I sleep 1000"),
            both("exec up sh -c 'echo out; echo err >&2; exit 9'"),
            both("exec up pwd"),
            both("exec up id"),
            both("exec -u root up id"),
            both("exec -u 5:6 up id"),
            both("exec -w /tmp up pwd"),
            both("exec -e B=2 -e A=9 up env").unordered(),
            both("exec -i up cat").input("through\n"),
            both("exec up cat").input("not passed on\n"),
            both("exec -d up sleep 0.1"),
            both("exec up sh -c 'kill -9 $$'"),
            error("exec up no-such-program", &["no-such-program"]).differs(
                "docker 20.10 gives 126 for what is not there, docker 28 gives 127",
                126,
                127,
            ),
            error("exec up /etc/not-a-program", &["/etc/not-a-program"]),
            error("exec -u no-such up true", &["no-such", "passwd"]),
            error("exec -w /no/such up pwd", &["/no/such"]).differs(
                "docker 20.10 gives 126 for what is not there, docker 28 gives 127",
                126,
                127,
            ),
            error("exec up", &["requires at least 2 arguments"]),
            error("exec no-such true", &["no such container: no-such"]),
            both("exec up cat /proc/1/comm"),
            both("rm -f up"),
        ],
    );
}

#[test]
fn logs_are_dockers() {
    same_in_vms(
        "logs",
        &[
            both(
                "run --name talks $I sh -c 'for i in 1 2 3 4 5; do echo out$i; done; printf unfinished'",
            ),
            both("logs talks"),
            both("logs --tail 2 talks"),
            both("logs -n 3 talks"),
            both("logs --tail 0 talks"),
            both("logs --tail all talks"),
            both("logs --tail -1 talks"),
            both("logs --tail few talks"),
            both("logs -t talks"),
            both("logs -t --tail 1 talks"),
            both("logs -f talks"),
            both("logs --since 1h talks"),
            both("logs --since 2001-01-01T00:00:00Z talks"),
            both("logs --since 2040-01-01 talks"),
            both("logs --until 2001-01-01T00:00:00Z talks"),
            error("logs --since yesterday talks", &["yesterday"]),
            both("logs --details talks"),
            // The notes' slip: `logs tail 2`.
            error("logs tail 2", &["requires exactly 1 argument"]),
            error("logs", &["requires exactly 1 argument"]),
            error("logs no-such", &["no such container: no-such"]),
            both("run --name both $I sh -c 'echo out; echo err >&2'"),
            both("logs both"),
            both("logs -t both"),
            both("run -d --name empty $I true"),
            both("wait empty"),
            both("logs empty"),
            both("create --name unstarted $I true"),
            both("logs unstarted"),
        ],
    );
}

#[test]
fn prunes_ask_and_tell() {
    same_in_vms(
        "container prune",
        &[
            both("create --name aa $I true"),
            both("run --name bb --label keep=yes $I true"),
            both("run -d --name cc $I sleep 1000"),
            both("container prune").input("n\n"),
            both("container prune").input("\n"),
            both("ps -a --format {{.Names}}"),
            both("container prune -f --filter label!=keep=yes"),
            both("ps -a --format {{.Names}}"),
            both("container prune")
                .input("y\n")
                .not_for_vms("its writable layer is a disk, which is never empty"),
            both("ps -a --format {{.Names}}"),
            both("container prune -f").not_for_vms("nothing was pruned there before"),
            error("container prune -f --filter foo=bar", &["foo"]),
            both("container ls --format {{.Names}}"),
            both("container stop -t 0 cc"),
            both("container rm cc"),
        ],
    );
}

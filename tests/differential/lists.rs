//! `ps`, `images` and `inspect`: formats and filters.

use crate::same;
use crate::steps::{both, error};

#[test]
fn ps_lists_filters_and_formats_as_dockers() {
    same(
        "ps",
        &[
            both("ps").differs("ours has a column BACKEND", 0, 0),
            both("ps --format 'table {{.ID}}\\t{{.Names}}\\t{{.Status}}'"),
            both("ps -q"),
            both("create --name never --label color=red $I echo 'a rather long command line'"),
            both("run --name done --label color=blue --label size=big $I sh -c 'exit 3'"),
            both("run -d --name up --label color=red $I sleep 1000"),
            both("ps --format '{{.Names}}'"),
            both("ps -a --format '{{.Names}}'"),
            both("ps -a --format '{{.ID}} {{.Image}} {{.Command}} {{.State}} {{.Status}}'"),
            both("ps -a --no-trunc --format '{{.ID}} {{.Command}}'"),
            both(
                "ps -a --format 'table {{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.CreatedAt}}\\t{{.RunningFor}}\\t{{.Names}}'",
            ),
            both(
                "ps -a --format 'table {{.Names}}\\t{{.Label \"color\"}}\\t{{.Label \"some.my-size\"}}'",
            ),
            both("ps -a --format 'table {{.Names | upper}}\\t{{truncate .ID 4 | len}}'"),
            both("ps -a --format '{{.Ports}}|{{.Mounts}}|{{.Networks}}|{{.LocalVolumes}}'"),
            both("ps -a --format '{{json .Names}} {{json .State}}'"),
            both("ps -aq --no-trunc"),
            both("ps -l --format {{.Names}}"),
            both("ps -n 2 --format {{.Names}}"),
            both("ps --last 1 --format {{.Names}}"),
            both("ps -a -f name=o --format {{.Names}}"),
            both("ps -a -f name=^/done$ --format {{.Names}}"),
            both("ps -a -f name=up -f name=done --format {{.Names}}"),
            both("ps -a -f label=color --format {{.Names}}"),
            both("ps -a -f label=color=red --format {{.Names}}"),
            both("ps -a -f label=color=blue -f label=size=big --format {{.Names}}"),
            both("ps -a -f label=color=red -f label=size=big --format {{.Names}}"),
            both("ps -f status=exited --format {{.Names}}"),
            both("ps -f status=created -f status=running --format {{.Names}}"),
            both("ps -a -f exited=3 --format {{.Names}}"),
            both("ps -a -f exited=0 --format {{.Names}}"),
            both("ps -a -f ancestor=$I --format {{.Names}}"),
            both("ps -a -f ancestor=no-such --format {{.Names}}"),
            both("ps -a -f before=up --format {{.Names}}"),
            both("ps -a -f since=never --format {{.Names}}"),
            both("ps -a -f network=none --format {{.Names}}"),
            both("ps -a -f network=no-such --format {{.Names}}"),
            both("ps -a -f volume=no-such --format {{.Names}}"),
            both("ps -a -f health=none --format {{.Names}}"),
            both("ps -a -f is-task=false --format {{.Names}}"),
            both("ps -a -f id=zzz --format {{.Names}}"),
            both("ps -a -f publish=80 --format {{.Names}}"),
            error("ps -a -f since=no-such", &["no such container", "no-such"]),
            error("ps -f foo=bar", &["invalid filter 'foo'"]),
            error("ps -f status=foo", &["invalid filter 'status=foo'"]),
            error("ps -f foo", &["bad format of filter"]),
            error(
                "ps --format '{{.Foo}}'",
                &[
                    "executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext",
                ],
            ),
            error("ps --format '{{.ID'", &["template: :1: unclosed action"]),
            error(
                "ps --format '{{nope .ID}}'",
                &["template: :1: function \"nope\" not defined"],
            ),
            error("ps --no-such-flag", &["--no-such-flag"]),
            error("ps extra", &[]),
            both("ps --format '{{if eq .Names \"up\"}}it is {{.Names}}{{else}}no{{end}}'"),
            both("ps -a --format '{{range $i, $w := split .Command \" \"}}{{$i}}={{$w}};{{end}}'"),
            both(
                "ps -a --format '{{printf \"%-10s|%5s|\" .Names .State}}{{pad .Names 1 2}}|{{title .State}}'",
            ),
            both("ps -a --format '{{- .Names -}} x'"),
        ],
    );
}

#[test]
fn inspect_has_dockers_members() {
    same(
        "inspect",
        &[
            both(
                "create --name full -i -t -e A=1 -w /data -u user:extra -h web -m 64m --memory-swap 128m --cpus 1.5 --cpuset-cpus 0 --pids-limit 50 --read-only --cap-add NET_ADMIN --cap-drop CHOWN --security-opt seccomp=unconfined --tmpfs /t:size=1m --ulimit nofile=10:20 --init --label a=b --stop-signal SIGUSR1 --stop-timeout 3 --restart on-failure:4 --entrypoint /bin/echo $I x y",
            ),
            both("create --name plain $I"),
            both(
                "inspect -f '{{.Name}} {{.Path}} {{.Args}} {{.Driver}} {{.Platform}} {{.RestartCount}}' full plain",
            ),
            both("inspect -f '{{.Id}} {{.Created}}' full"),
            both("inspect -f '{{.ID}}' full"),
            both("inspect -f '{{.State}}' full"),
            both("inspect -f '{{json .State}}' full"),
            both(
                "inspect -f '{{.Config.Hostname}} {{.Config.User}} {{.Config.Tty}} {{.Config.OpenStdin}} {{.Config.StdinOnce}} {{.Config.WorkingDir}} {{.Config.StopSignal}}' full",
            ),
            both(
                "inspect -f '{{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.Config.AttachStderr}}' full plain",
            ),
            both(
                "inspect -f '{{.Config.Env}} {{.Config.Cmd}} {{.Config.Entrypoint}} {{.Config.Image}} {{.Config.Volumes}} {{.Config.OnBuild}} {{.Config.Labels}}' full plain",
            ),
            both(
                "inspect -f '{{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.Volumes}} {{json .Config.Labels}}' full plain",
            ),
            both(
                "inspect -f '{{.Config.User}}|{{.Config.WorkingDir}}|{{.Config.Domainname}}' plain",
            ),
            both(
                "inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.CpusetCpus}} {{.HostConfig.ShmSize}}' full plain",
            ),
            both(
                "inspect -f '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Tmpfs}} {{.HostConfig.Privileged}} {{.HostConfig.AutoRemove}}' full plain",
            ),
            both(
                "inspect -f '{{json .HostConfig.CapAdd}} {{json .HostConfig.CapDrop}} {{json .HostConfig.SecurityOpt}} {{json .HostConfig.Binds}} {{json .HostConfig.VolumesFrom}} {{json .HostConfig.PortBindings}}' full plain",
            ),
            both(
                "inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.HostConfig.NetworkMode}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}' full plain",
            ),
            both(
                "inspect -f '{{json .HostConfig.Ulimits}} {{json .HostConfig.RestartPolicy}} {{json .HostConfig.LogConfig}}' full",
            ),
            both(
                "inspect -f '{{range .HostConfig.Ulimits}}{{.Name}} {{.Soft}} {{.Hard}}{{end}}' full",
            ),
            both("inspect -f '{{range .Config.Env}}{{println .}}{{end}}' full"),
            both(
                "inspect -f '{{index .Config.Env 0}} {{index .Config.Labels \"a\"}}|{{index .Config.Labels \"none\"}}|{{len .Config.Env}}' full",
            ),
            both("inspect -f '{{.Mounts}} {{json .Mounts}} {{len .Mounts}}' full"),
            both("create --name mounted --mount type=tmpfs,target=/m $I true"),
            both(
                "inspect -f '{{range .Mounts}}{{.Type}} {{.Name}}|{{.Source}}|{{.Destination}} {{.RW}}{{end}} {{.HostConfig.Tmpfs}}' mounted",
            ),
            both("rm mounted"),
            both(
                "inspect -f '{{range $n, $e := .NetworkSettings.Networks}}{{$n}}{{end}} {{.NetworkSettings.IPAddress}}|{{.NetworkSettings.Ports}}' full",
            ),
            both("inspect -f '{{.State.Health}} {{if .State.Running}}yes{{else}}no{{end}}' full"),
            both("inspect -f '{{.Id}}\\t{{.Name}}\\n' full"),
            both("inspect --type container -f '{{.Name}}' full"),
            both("container inspect -f '{{.Name}}' full"),
            error(
                "inspect -f '{{.Foo}}' full",
                &["template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""],
            ),
            error(
                "inspect -f '{{.State.Foo}}' full",
                &[
                    "template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\"",
                ],
            ),
            error(
                "inspect -f '{{.State.Health.Status}}' full",
                &[
                    "template: :1:8: executing \"\" at <.State.Health.Status>: map has no entry for key \"Health\"",
                ],
            ),
            error(
                "inspect -f '{{.Id' full",
                &["template: :1: unclosed action"],
            )
            .differs("docker exits 64 here, and nowhere else", 64, 1),
            error(
                "inspect -f '{{index .Args 7}}' full",
                &["error calling index"],
            ),
            error("inspect no-such", &["no such object: no-such"]),
            error("container inspect no-such", &["no such container: no-such"]),
            error(
                "inspect --type container no-such",
                &["no such container: no-such"],
            ),
            error("inspect --type image no-such", &["no such image: no-such"]),
            error(
                "inspect --type volume no-such",
                &["no such volume: no-such"],
            ),
            error("inspect --type nonsense full", &["nonsense"]).differs(
                "a flag's value that is none ends with 125, as docker's own flags do",
                1,
                125,
            ),
            error("inspect", &["requires at least 1 argument"]),
            both(
                "inspect -f '{{.RepoTags}} {{.Os}} {{.Architecture}} {{.Config.Cmd}} {{.Config.Env}} {{.Config.Labels}}' $I",
            ),
            both(
                "image inspect -f '{{.RepoTags}} {{.Author}}|{{.RootFS.Type}} {{len .RootFS.Layers}}' $I",
            ),
            both("inspect -f '{{.Name}}' plain full"),
            both("rm full plain"),
            both("create --name short --stop-signal USR1 $I true"),
            both("inspect -f '{{.Config.StopSignal}}' short").differs(
                "docker keeps the word that was given, Plimsoll the signal",
                0,
                0,
            ),
            both("rm short"),
        ],
    );
}

#[test]
fn images_lists_as_dockers() {
    same(
        "images",
        &[
            both("images --format '{{.Repository}}:{{.Tag}}' -f reference=differential/*"),
            both("images $I --format '{{.Repository}} {{.Tag}} {{.Size}}'"),
            both("images --format 'table {{.Repository}}\\t{{.Tag}}' differential/base"),
            both("images -q no-such"),
            both("images no-such --format {{.ID}}"),
            error("images -f foo=bar", &["invalid filter 'foo'"]),
            error("images --format '{{.Foo}}'", &["can't evaluate field Foo"]),
        ],
    );
}

//! `-v`, `--mount`, `--volumes-from`, `volume …`.

use std::fs;

use crate::same_in_vms;
use crate::steps::{both, error, host};

#[test]
fn volumes_are_made_listed_and_removed_as_dockers() {
    same_in_vms(
        "volume",
        &[
            both("volume ls"),
            both("volume create --name named --label a=b"),
            both("volume create plain"),
            both("volume create plain"),
            both("volume create"),
            both("volume ls -q -f name=plain"),
            both("volume ls --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}' -f label=a"),
            both("volume ls -f label=a=c -q"),
            both("volume ls -f name=named"),
            both("volume ls --format 'table {{.Driver}}\\t{{.Name}}' -f name=named"),
            both("volume inspect -f '{{.Name}} {{.Driver}} {{.Labels}} {{.Options}} {{.Scope}}' named plain"),
            both("volume inspect -f '{{json .Labels}}' named"),
            both("inspect --type volume -f '{{.Name}}' named"),
            error("volume inspect no-such", &["no such volume: no-such"]),
            error("volume rm no-such", &["no-such"]),
            error("volume create 'bad name'", &["bad name"]),
            error("volume rm", &["requires at least 1 argument"]),
            both("create --name user -v named:/v $I true"),
            error("volume rm named", &["named", "in use", "<id>"]),
            error("volume rm -f named", &["in use"]),
            both("volume ls -q -f dangling=false"),
            both("volume rm plain"),
            both("ps -a -f volume=named --format {{.Names}}"),
            both("rm user"),
            both("volume rm named"),
            error("volume ls -f foo=bar", &["invalid filter 'foo'"]),
            both("volume prune").input("n\n").differs("docker 20.10 warns of all unused volumes; docker 28 and Plimsoll of anonymous ones", 0, 0),
            both("volume create stays"),
            both("volume prune -f").differs("docker 20.10 removes named volumes too; docker 28 and Plimsoll only with -a", 0, 0),
            both("volume ls -q").differs("the volume that only docker 20.10 removed", 0, 0),
            both("volume rm -f stays"),
        ],
    );
}

#[test]
fn mounts_of_every_kind_are_dockers() {
    same_in_vms(
        "mounts",
        &[
            host("files to mount", |directory| {
                fs::create_dir_all(directory.join("dir")).unwrap();
                fs::write(directory.join("dir/inside"), "of the host\n").unwrap();
                fs::write(directory.join("file"), "one file\n").unwrap();
                String::new()
            }),
            both("run --rm -v $D/dir:/data $I sh -c 'ls /data; echo written >/data/new'"),
            host("what was written", |directory| {
                fs::read_to_string(directory.join("dir/new")).unwrap_or_default()
            }),
            both("run --rm -v $D/dir:/data:ro $I sh -c 'cat /data/inside; touch /data/x'"),
            both("run --rm -v $D/file:/etc/one -v $D/dir:/two $I sh -c 'cat /etc/one; ls /two'"),
            both(
                "run --rm -v $D/file:/data/from-image:ro $I sh -c 'cat /data/from-image; ls /data'",
            ),
            both("run --rm -v $D/made-by-v:/m $I ls /m"),
            host("a source that was missing", |directory| {
                directory.join("made-by-v").is_dir().to_string()
            }),
            error(
                "run --rm --mount type=bind,source=$D/not-made,target=/m $I true",
                &["not-made"],
            ),
            both(
                "run --rm --mount type=bind,source=$D/dir,target=/m,readonly $I sh -c 'ls /m; touch /m/x'",
            ),
            both("run --rm --mount type=bind,src=$D/dir,dst=/m,ro $I ls /m"),
            both("run --rm --mount type=volume,source=vol,target=/m $I sh -c 'echo kept >/m/f'"),
            both("run --rm --mount source=vol,target=/m $I cat /m/f"),
            both("run --rm -v vol:/m:ro $I sh -c 'cat /m/f; touch /m/x'"),
            both(
                "run --rm --mount type=tmpfs,target=/m,tmpfs-size=64k,tmpfs-mode=700 $I sh -c 'grep \" /m \" /proc/mounts; stat -c %a /m'",
            ),
            // The notes' slip: spaces after the commas.
            error(
                "run --rm --mount type=volume, source=vol, target=/m $I true",
                &["invalid argument"],
            ),
            error(
                "run --rm --mount type=nonsense,target=/m $I true",
                &["nonsense"],
            ),
            error(
                "run --rm --mount type=volume,source=vol $I true",
                &["target"],
            ),
            error("run --rm --mount type=bind,target=/m $I true", &["source"]),
            error(
                "run --rm --mount type=volume,nonsense=1,target=/m $I true",
                &["nonsense"],
            ),
            error(
                "run --rm --mount type=volume,source=vol,target=relative $I true",
                &["relative"],
            ),
            error("run --rm -v vol:relative $I true", &["relative"]),
            error("run --rm -v $D/dir:/m:nonsense $I true", &["nonsense"]),
            error("run --rm -v relative/path:/m $I true", &["relative/path"]),
            error("run --rm -v vol:/ $I true", &["/"]),
            error(
                "run --rm -v vol:/m -v other:/m $I true",
                &["duplicate mount point: /m"],
            ),
            error("run --rm -v a:b:c:d $I true", &["a:b:c:d"]),
            both("volume rm vol"),
        ],
    );
}

#[test]
fn data_is_copied_up_shared_and_outlives_containers() {
    same_in_vms(
        "copy-up and sharing",
        &[
            both("run --rm -v fresh:/data $I sh -c 'cat /data/from-image; echo mine >/data/mine'"),
            both("run --rm -v fresh:/data $I sh -c 'find /data | sort; stat -c \"%a %u %g\" /data/inner /data/from-image'"),
            both("run --rm -v fresh:/else $I sh -c 'cat /else/mine; find /else | sort'"),
            both("run --rm --mount source=plain,target=/data,volume-nocopy $I ls /data"),
            both("create --name first -v shared:/s -v /anonymous $I sh -c 'echo from-first >/s/f; echo anon >/anonymous/f'"),
            both("inspect -f '{{range .Mounts}}{{println .Type .Destination .Driver .Mode .RW .Propagation}}{{end}}' first").unordered(),
            both("inspect -f '{{.HostConfig.Binds}} {{json .Config.Volumes}}' first"),
            both("start -a first"),
            both("run --rm --volumes-from first $I cat /s/f /anonymous/f"),
            both("run --rm --volumes-from first:ro $I sh -c 'cat /s/f; touch /s/x'"),
            error("run --rm --volumes-from no-such $I true", &["no such container: no-such"]),
            error("run --rm --volumes-from first:nonsense $I true", &["nonsense"]),
            both("volume ls -q").unordered(),
            both("rm -v first"),
            both("volume ls -q").unordered(),
            both("run --rm -v shared:/s $I cat /s/f"),
            both("run --rm -v /gone $I touch /gone/x"),
            both("volume ls -q").unordered(),
            both("run --name keeps -v /kept $I touch /kept/x"),
            both("rm keeps"),
            both("volume ls -q").unordered(),
            both("run -d --name writer -v shared:/s $I sleep 1000"),
            both("run --rm -v shared:/s $I sh -c 'echo seen >/s/seen'"),
            both("exec writer cat /s/seen"),
            both("rm -f writer"),
            both("volume rm fresh plain shared"),
        ],
    );
}

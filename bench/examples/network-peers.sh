#!/bin/bash
# What a network costs beside docker's: the same servers on the host, published by docker's container, by our container and by our VM, and asked
# from another network namespace over a cable, turn by turn in one run; and one container asking another on one bridge. Everything happens
# in namespaces, a state directory and a dockerd of this script's own; medians of the rounds are printed, with the ratio to docker's.
#
# Servers (but the VM's) are on CPU 1 and clients on CPU 0, in every arm alike: where the scheduler happens to put the two makes a request take
# 20 us or 55, whatever is between them.
#
#   network-peers.sh [ROUNDS [ACCELERATOR]]     as root, after `cargo build --release`; such as: network-peers.sh 9 tcg
#
# It needs debootstrap, docker.io, redis-tools, wrk and iproute2, and the Debian mirror (its images are made by debootstrap and our own `build`).
set -euo pipefail

readonly rounds=${1:-9} accel=${2:-tcg}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly plimsoll=$here/target/x86_64-unknown-linux-gnu/release/plimsoll
work=${WORK:-}

if [[ -z $work ]]; then
    work=$(mktemp -d --tmpdir plimsoll-peers-XXXXXX)
    trap 'rm -rf -- "$work"' EXIT
    export PLIMSOLL_ROOT=$work/root
    mkdir "$work/context"
    tar=/var/cache/plimsoll/test/debian-bookworm-minbase.tar
    if [[ ! -f $tar ]]; then
        tar=$work/debian.tar
        debootstrap --variant=minbase bookworm "$work/debian" http://deb.debian.org/debian >"$work/debootstrap.log"
        tar --numeric-owner --xattrs -C "$work/debian" -cf "$tar" .
    fi
    "$plimsoll" import "$tar" debian:bookworm >/dev/null
    "$plimsoll" run --name copy --network none plimsoll/base true
    "$plimsoll" cp copy:/bin/workload "$work/context/workload"
    cp "$work/context/workload" "$work/workload"
    "$plimsoll" rm copy >/dev/null
    cat >"$work/context/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server nginx-light \
    && rm -rf /var/lib/apt/lists/* && sed -i "/\[::\]/d" /etc/nginx/sites-available/default \
    && head -c 4096 /dev/zero | tr '\0' x >/var/www/html/page
COPY --chmod=755 workload /bin/workload
CMD redis-server --save '' --protected-mode no --daemonize yes --bind 0.0.0.0 >/dev/null && nginx && exec /bin/workload echo 7000
DOCKERFILE
    "$plimsoll" build -q --network host -t peers "$work/context" >/dev/null
    "$plimsoll" save -o "$work/peers.tar" peers
    WORK=$work unshare --net --mount --fork --kill-child bash "${BASH_SOURCE[0]}" "$rounds" "$accel"
    exit
fi

# --- In namespaces of our own --------------------------------------------------------------------------------------

mount -t tmpfs none /run
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1
unshare --net sleep infinity &
outside=$!
until [[ $(readlink /proc/$outside/ns/net) != "$(readlink /proc/self/ns/net)" ]]; do sleep 0.01; done
ip link add cable type veth peer name cable netns "$outside"
ip addr add 198.51.100.1/24 dev cable
ip link set cable up
from_outside() { nsenter --net="/proc/$outside/ns/net" -- taskset -c 0 "$@"; }
from_outside ip link set lo up
from_outside ip addr add 198.51.100.2/24 dev cable
from_outside ip link set cable up
readonly host=198.51.100.1

had_docker=$(ls -d /sys/fs/cgroup/*/docker /sys/fs/cgroup/docker 2>/dev/null || true)
dockerd --data-root "$work/docker" --exec-root "$work/exec" --pidfile "$work/docker.pid" --host "unix://$work/docker.sock" \
    --exec-opt native.cgroupdriver=cgroupfs --default-ulimit nofile=20000:20000 >"$work/dockerd.log" 2>&1 &
dockerd=$!
docker() { command docker --host "unix://$work/docker.sock" "$@"; }
finish() {
    "$plimsoll" rm -f $("$plimsoll" ps -aq) >/dev/null 2>&1 || true
    docker rm -f $(docker ps -aq) >/dev/null 2>&1 || true
    kill "$dockerd" "$outside" 2>/dev/null || true
    wait "$dockerd" 2>/dev/null || true
    if [[ -z $had_docker ]]; then
        find /sys/fs/cgroup -maxdepth 3 -depth -type d -path '*/docker*' -exec rmdir {} + 2>/dev/null || true
    fi
}
trap finish EXIT
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker load -q -i "$work/peers.tar" >/dev/null

# Arms and the host's ports of their three servers: the host's own redis and nginx are not installed, so the host has the workload's server only.
taskset -c 1 "$work/workload" echo 7000 >/dev/null &
own=$!
trap 'kill $own 2>/dev/null; finish' EXIT
docker run -d --cpuset-cpus 1 --name server -p 7010:7000 -p 6310:6379 -p 8010:80 peers >/dev/null
"$plimsoll" run -d --cpuset-cpus 1 --name server -p 7020:7000 -p 6320:6379 -p 8020:80 peers >/dev/null
"$plimsoll" run -d --name machine --backend vm --accel "$accel" -m 512m -p 7030:7000 -p 6330:6379 -p 8030:80 peers >/dev/null
docker run -d --cpuset-cpus 0 --name client peers >/dev/null
"$plimsoll" run -d --cpuset-cpus 0 --name client peers >/dev/null
inside() { docker inspect -f '{{.NetworkSettings.IPAddress}}' server; }
inside_ours() { "$plimsoll" inspect -f '{{.NetworkSettings.IPAddress}}' server; }
docker_at=$(inside) ours_at=$(inside_ours)

elapsed() { awk '$1 == "ok" { print $2; found = 1 } END { exit !found }'; }
requests() { elapsed | awk '{ printf "%.2f\n", $1 / 2000 / 1000 }'; }
stream() { elapsed | awk '{ printf "%.0f\n", 4000 * 131072 / 1048576 / ($1 / 1e9) }'; }
measure() { # WHAT ARM
    local port
    case $2 in host) port=7000 ;; docker) port=7010 ;; ours) port=7020 ;; vm) port=7030 ;; esac
    case $1 in
    "request, us") from_outside "$work/workload" once rr 2000 "peer=$host:$port" | requests ;;
    "stream, MiB/s") from_outside "$work/workload" once stream 4000 "peer=$host:$port" | stream ;;
    "redis GET, /s") from_outside redis-benchmark -h "$host" -p $((port - 700)) -t get -n 40000 -c 20 -q --csv | awk -F'"' 'END { print $4 }' ;;
    "redis p99, us") from_outside redis-benchmark -h "$host" -p $((port - 700)) -t get -n 40000 -c 20 --csv | awk -F'"' 'END { printf "%.0f\n", $14 * 1000 }' ;;
    "nginx, /s") from_outside wrk -t 1 -c 20 -d 2 "http://$host:$((port + 1000))/page" | awk '/Requests\/sec/ { print $2 }' ;;
    "container to container: request, us")
        case $2 in docker) docker exec client workload once rr 2000 "peer=$docker_at:7000" ;; ours) "$plimsoll" exec client workload once rr 2000 "peer=$ours_at:7000" ;; esac | requests ;;
    "container to container: stream, MiB/s")
        case $2 in docker) docker exec client workload once stream 4000 "peer=$docker_at:7000" ;; ours) "$plimsoll" exec client workload once stream 4000 "peer=$ours_at:7000" ;; esac | stream ;;
    esac
}
arms() { # WHAT: the arms that have it
    case $1 in container*) echo docker ours ;; redis* | nginx*) echo docker ours $machines ;; *) echo host docker ours $machines ;; esac
}
# A VM's servers answer some time after it has started; one that does not is told, and left out.
machines=vm
reached=
for _ in $(seq 150); do
    measure "nginx, /s" vm 2>/dev/null | grep -q . && reached=yes && break
    sleep 0.2
done
if [[ -z $reached ]]; then
    echo "the VM's servers are not reached:" >&2
    "$plimsoll" logs --tail 5 machine >&2 || true
    "$plimsoll" ps -a >&2
    machines=
fi

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
printf '%-40s %10s %10s %10s %10s %14s\n' "medians of $rounds rounds, VM by $accel" host docker ours vm 'ours/docker'
for what in "request, us" "stream, MiB/s" "redis GET, /s" "redis p99, us" "nginx, /s" "container to container: request, us" "container to container: stream, MiB/s"; do
    read -ra order <<<"$(arms "$what")"
    for round in $(seq "$rounds"); do
        for arm in "${order[@]}"; do measure "$what" "$arm" >>"$work/$arm.values"; done
        # There and back.
        mapfile -t order < <(printf '%s\n' "${order[@]}" | tac)
    done
    declare -A figure=()
    for arm in host docker ours vm; do
        figure[$arm]=-
        [[ ! -f $work/$arm.values ]] || figure[$arm]=$(median <"$work/$arm.values")
        rm -f "$work/$arm.values"
    done
    ratio=$(awk -v a="${figure[ours]}" -v b="${figure[docker]}" 'BEGIN { printf "%.2f", a / b }')
    printf '%-40s %10s %10s %10s %10s %14s\n' "$what" "${figure[host]}" "${figure[docker]}" "${figure[ours]}" "${figure[vm]}" "$ratio"
done

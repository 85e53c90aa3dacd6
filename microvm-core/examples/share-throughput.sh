#!/bin/bash
# How fast a guest writes and reads a file on a directory of the host: our own monitor's server against QEMU's virtiofsd, on
# the same KVM. For a look at the ratio; nothing here is a result of a measurement (those are cargo bench's).
#
#   share-throughput.sh [MiB [DD-FLAGS...]]      such as: share-throughput.sh 256 direct
set -euo pipefail

readonly mib=${1:-256} how=${2:-}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d --tmpdir plimsoll-share-XXXXXX)
trap 'rm -rf -- "$work"' EXIT
mkdir -p "$work/root/bin" "$work/shared"
cp "$(command -v busybox)" "$work/root/bin/busybox"
ln -s busybox "$work/root/bin/sh"
mkfs.erofs "$work/image" "$work/root" >/dev/null
(cd "$here" && cargo build --quiet --release -p microvm-core --example session)
target=$(cd "$here" && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
session=$(find "$target" -path '*release/examples/session' -type f -print -quit)

# By the guest's own clock, whose hundredths of a second are read without another program.
script="now() { read up _ </proc/uptime; echo \$1 at \$up s; }
now start; busybox dd if=/dev/zero of=/data/file bs=1M count=$mib conv=fsync ${how:+oflag=$how} 2>/dev/null; now written
busybox dd if=/data/file of=/dev/null bs=1M ${how:+iflag=$how} 2>/dev/null; now read"
for accelerator in ${ACCELERATORS:-kvm qemu-kvm}; do
  printf '%s, %s MiB in pieces of 1 MiB, written and read%s\n' "$accelerator" "$mib" "${how:+, $how}"
  rm -f "$work/shared/file"
  "$session" --accel "$accelerator" --image "$work/image" --share "$work/shared:/data" --limit 300 -- /bin/sh -c "$script" </dev/null
done

#!/bin/bash
# Builds the guest kernel from Debian's linux-source package, once for each digest of what goes into it.
#
#   build.sh                  build if missing, point `current` at the result, print the path of vmlinux
#   build.sh --print-digest   print the digest and do nothing
#   build.sh --check          say whether the kernel is there (exit 0) or what is missing (exit 1)
#
# Result: $PLIMSOLL_CACHE/kernels/<digest>/{vmlinux,config,System.map,release}; PLIMSOLL_CACHE is /var/cache/plimsoll.
set -euo pipefail

# Raised whenever this script changes what it builds; part of the digest.
readonly RECIPE=1
readonly PACKAGE=linux-source-6.12
readonly TARBALL=/usr/src/$PACKAGE.tar.xz
readonly SUFFIX=-plimsoll
# In the order in which they apply.
readonly PATCHES=(kvm_pvm.patch kvm_pvm_boot.patch stale_int3.patch virtio_fs_interrupt.patch)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly kernels=${PLIMSOLL_CACHE:-/var/cache/plimsoll}/kernels

say() { printf 'guest kernel: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What the build runs, and the Debian package that mends its absence.
readonly TOOLS=(make:make gcc:gcc ld:binutils flex:flex bison:bison bc:bc perl:perl-base xz:xz-utils tar:tar
  patch:patch flock:util-linux setpriv:util-linux unshare:util-linux sha256sum:coreutils strip:binutils readelf:binutils)

check_tools() {
  local pair tool missing=()
  for pair in "${TOOLS[@]}"; do
    tool=${pair%%:*}
    command -v "$tool" >/dev/null || missing+=("${pair#*:}")
  done
  # objtool links against libelf; its header stands for the -dev package.
  [[ -e /usr/include/libelf.h ]] || missing+=(libelf-dev)
  [[ -e /usr/include/stdio.h ]] || missing+=(libc6-dev)
  if ((${#missing[@]})); then
    die "tools are missing; mend it with: apt-get install $(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')"
  fi
}

source_version() {
  dpkg-query -W -f '${Version}' "$PACKAGE" 2>/dev/null || true
}

check_source() {
  [[ -n $(source_version) && -r $TARBALL ]] ||
    die "the package $PACKAGE is not installed ($TARBALL); mend it with: apt-get install $PACKAGE"
}

digest() {
  {
    printf 'recipe %s\nsource %s %s\n' "$RECIPE" "$PACKAGE" "$(source_version)"
    cat "$here/config" "${PATCHES[@]/#/$here/}"
  } | sha256sum | cut -c1-16
}

publish() { # DIGEST: point `current` at it, atomically
  local link=$kernels/.current.$$
  ln -s "$1" "$link"
  mv -T "$link" "$kernels/current"
}

work=
child=
cleanup() {
  local status=$?
  trap - EXIT
  trap '' HUP INT TERM
  if [[ -n $child ]]; then
    # Not TERM: unshare waits for its child whatever it is told, and its child is an init, which heeds only what it
    # has asked for.
    kill -KILL -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  [[ -z $work ]] || rm -rf -- "$work"
  exit "$status"
}

# Runs in the background, so that a signal to this script is acted on at once, and as a PID namespace where that is
# allowed, so that the whole tree of makes and compilers dies with this script even if that is killed outright. The
# lock's descriptor stays here.
step() { # LOG COMMAND…
  local log=$1 lead=(setpriv --pdeathsig KILL)
  shift
  ! unshare --pid --fork --mount-proc true 2>/dev/null || lead+=(unshare --pid --fork --mount-proc --kill-child=KILL)
  set -m
  "${lead[@]}" -- "$@" >>"$log" 2>&1 </dev/null 9>&- &
  child=$!
  set +m
  local status=0
  wait "$child" || status=$?
  child=
  if ((status)); then
    tail -n 30 "$log" >&2
    die "'$*' failed (exit code $status); the last lines of its output are above"
  fi
}

# A line of the fragment that Kconfig dropped (a symbol renamed, or a dependency not met) would otherwise be noticed
# only when a guest lacks the feature.
check_config() { # FRAGMENT RESULT
  local line name bad=()
  while IFS= read -r line; do
    case $line in
      CONFIG_*=n) name=${line%%=*}; ! grep -q "^$name=" "$2" || bad+=("$line") ;;
      CONFIG_*=*) grep -qxF -- "$line" "$2" || bad+=("$line") ;;
      '# CONFIG_'*' is not set') name=${line#\# }; name=${name%% *}; ! grep -q "^$name=" "$2" || bad+=("$line") ;;
    esac
  done <"$1"
  ((${#bad[@]} == 0)) || die "Kconfig did not take these lines of $1: ${bad[*]}"
}

build() { # DIGEST
  local tree out log jobs patch
  # Build trees of scripts that were killed outright; the lock says that none of them is at work.
  rm -rf -- "$kernels"/.build-*
  rm -f -- "$kernels"/.current.*
  work=$(mktemp -d "$kernels/.build-XXXXXXXX")
  tree=$work/linux out=$work/out log=$work/log
  jobs=${PLIMSOLL_JOBS:-$(nproc)}
  mkdir "$tree" "$out" "$work/done"

  say "building $1 from $PACKAGE $(source_version) with $jobs jobs; this takes some minutes"
  # Left out: what no file of an x86 build includes; unpacking is a quarter of the time otherwise.
  step "$log" tar -xJf "$TARBALL" -C "$tree" --strip-components=1 --wildcards \
    --exclude="$PACKAGE/Documentation/*/*" --exclude="$PACKAGE/sound/*/*.[ch]" \
    --exclude="$PACKAGE/drivers/gpu/drm/*/*.[ch]" --exclude="$PACKAGE/tools/testing/*" \
    --exclude="$PACKAGE/arch/arm*/boot/dts/*" --exclude="$PACKAGE/drivers/staging/*.[ch]"
  for patch in "${PATCHES[@]}"; do
    step "$log" patch -d "$tree" -p1 --no-backup-if-mismatch -i "$here/$patch"
  done
  cp "$here/config" "$out/.config"

  # Nothing of the machine or the moment goes into the image: the same digest gives the same bytes.
  local make=(make -C "$tree" "O=$out" -j"$jobs" -s ARCH=x86_64 "LOCALVERSION=$SUFFIX"
    KBUILD_BUILD_USER=plimsoll KBUILD_BUILD_HOST=plimsoll "KBUILD_BUILD_TIMESTAMP=1970-01-01" KBUILD_BUILD_VERSION=1)
  step "$log" "${make[@]}" olddefconfig
  check_config "$here/config" "$out/.config"
  step "$log" "${make[@]}" vmlinux
  # Program headers are all a loader needs; symbols stay readable through System.map.
  step "$log" strip -s -o "$work/done/vmlinux" "$out/vmlinux"
  readelf -nW "$work/done/vmlinux" | grep Xen >/dev/null || die "vmlinux has no PVH entry point; CONFIG_PVH is needed"
  cp "$out/System.map" "$work/done/System.map"
  cp "$out/.config" "$work/done/config"
  cp "$out/include/config/kernel.release" "$work/done/release"
  chmod 755 "$work/done"
  mv -T "$work/done" "$kernels/$1"
}

main() {
  local digest began=$SECONDS
  case ${1-} in
    '') ;;
    --print-digest) check_source; digest; return ;;
    --check)
      check_source
      digest=$(digest)
      [[ -s $kernels/$digest/vmlinux ]] || die "$kernels/$digest/vmlinux is not built; mend it with: $here/build.sh"
      printf '%s\n' "$kernels/$digest/vmlinux"
      return ;;
    *) die "unknown argument '$1'; usage: build.sh [--print-digest | --check]" ;;
  esac

  check_source
  digest=$(digest)
  if [[ ! -s $kernels/$digest/vmlinux || $(readlink "$kernels/current" || true) != "$digest" ]]; then
    check_tools
    mkdir -p "$kernels" || die "cannot create $kernels"
    trap cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    exec 9>"$kernels/lock"
    flock -n 9 || { say "another build is at work; waiting for it"; flock 9; }
    if [[ ! -s $kernels/$digest/vmlinux ]]; then
      build "$digest"
      say "built in $((SECONDS - began)) s"
    fi
    publish "$digest"
  fi
  printf '%s\n' "$kernels/$digest/vmlinux"
}

main "$@"

#!/bin/bash
# From nothing: makes a Debian system in a folder, clones this repository into it, and runs `./dev demo` and
# `./dev test` there, twice each, with times. Then looks for processes and files that were left behind.
#
#   tests/chroot_check.sh SUITE [--keep] [--user] [FOLDER]
#
# SUITE: bookworm (Debian 12), trixie (13), or another that debootstrap knows. FOLDER (default: a new one under /var/tmp) is removed at the end unless --keep. --user: as a user with sudo, not root.
# Needs root, debootstrap, 6 GiB, and a mirror: the one that this machine's own package sources name.
# Mounts and processes live in namespaces of their own, so they go with this script, however it ends.
set -u -o pipefail

fail() { echo "chroot_check: $*" >&2; exit 1; }

if [ -z "${BETTERBOX_CHROOT_CHECK_INSIDE-}" ]; then
  keep=0 as_user=0 folder= suite=
  for argument in "$@"; do
    case $argument in
      --keep) keep=1 ;;
      --user) as_user=1 ;;
      -*) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
      *) if [ -z "$suite" ]; then suite=$argument; else folder=$argument; fi ;;
    esac
  done
  [ -n "$suite" ] || fail "which system? tests/chroot_check.sh bookworm, or trixie"
  [ "$(id -u)" -eq 0 ] || fail "this needs root"
  command -v debootstrap >/dev/null || fail "debootstrap is not there"
  repository=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd) || exit 1
  [ -n "$folder" ] || folder=$(mktemp -d /var/tmp/betterbox-chroot.XXXXXX) || exit 1
  mkdir -p "$folder" && folder=$(CDPATH='' cd -P -- "$folder" && pwd) || exit 1
  export BETTERBOX_CHROOT_CHECK_INSIDE=1 repository folder keep as_user suite
  unshare --mount --pid --fork --propagation private bash "$0"
  status=$?
  [ "$keep" -eq 1 ] && echo "kept: $folder" || rm -rf --one-file-system -- "$folder"
  exit "$status"
fi

system=${folder:?}/system
home=/root
timed() {
  local what=$1 began=$SECONDS status
  shift
  "$@"
  status=$?
  printf '\n=== %s: %d s, exit code %d\n\n' "$what" "$((SECONDS - began))" "$status"
  times+=("$(printf '%5d s  exit %d  %s' "$((SECONDS - began))" "$status" "$what")")
  [ "$status" -eq 0 ] || failed=1
  return "$status"
}
inside() { chroot "$system" /usr/bin/env -i HOME="$home" PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "${proxies[@]}" "$@"; }
dev() {
  if [ "$as_user" -eq 1 ]; then
    inside su tester -c "cd $home/betterbox && ./dev $*"
  else
    inside bash -c "cd $home/betterbox && ./dev $*"
  fi
}

proxies=()
for name in http_proxy https_proxy no_proxy; do [ -n "${!name-}" ] && proxies+=("$name=${!name}"); done
[ ${#proxies[@]} -gt 0 ] || proxies=(LANG=C.UTF-8)
times=() failed=0

# One mirror has all of Debian's suites.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
  awk '$2 ~ /^(bookworm|trixie|forky|sid|stable|testing)$/ && $3 == "main" { print $1; exit }')
[ -n "$mirror" ] || fail "this machine's package sources name no mirror of Debian"

if [ ! -e "$system/etc/debian_version" ]; then
  timed "debootstrap" debootstrap --variant=minbase --include=sudo "$suite" "$system" "$mirror" >"$folder/debootstrap.log" ||
    { tail -n 5 "$folder/debootstrap.log"; exit 1; }
fi
cp /etc/resolv.conf "$system/etc/resolv.conf" 2>/dev/null
# As an installed system has it: programs of Open MPI look their own host's name up, and would wait for a name server.
[ -e "$system/etc/hosts" ] || echo "127.0.0.1 localhost $(hostname)" >"$system/etc/hosts"
# Tests make mount namespaces, so the root there must be a mount point; and networks, with a device.
mount --bind "$system" "$system" || fail "cannot mount in $system"
[ ! -e /dev/net/tun ] || [ -e "$system/dev/net/tun" ] || { mkdir -p "$system/dev/net" && mknod "$system/dev/net/tun" c 10 200; }
mount -t proc proc "$system/proc" && mkdir -p "$system/dev/shm" "$system/dev/pts" &&
  mount -t tmpfs tmpfs "$system/dev/shm" && mount -t devpts devpts "$system/dev/pts" -o newinstance,ptmxmode=0666 ||
  fail "cannot mount in $system"
if [ "$as_user" -eq 1 ]; then
  home=/home/tester
  chroot "$system" id tester >/dev/null 2>&1 || chroot "$system" useradd -m -s /bin/bash tester
  echo 'tester ALL=(ALL) NOPASSWD: ALL' >"$system/etc/sudoers.d/tester"
fi
rm -rf -- "$system$home/betterbox"
timed "clone" git clone -q --no-hardlinks "$repository" "$system$home/betterbox" || exit 1
[ "$as_user" -eq 1 ] && chroot "$system" chown -R tester: "$home/betterbox"

timed "first ./dev demo (packages, build, run)" dev demo --json demo.json
timed "second ./dev demo" dev demo
timed "first ./dev test (builds, sanitizers, run)" dev test
timed "second ./dev test" dev test

echo "=== left behind"
left=$(chroot "$system" sh -c 'for p in /proc/[0-9]*; do tr "\0" " " <"$p/cmdline" 2>/dev/null; echo; done' | grep -i '[b]etterbox' | grep -v chroot_check)
files=$(find "$system/dev/shm" "$system"/tmp/betterbox-* -type f -o -type s 2>/dev/null)
[ -z "$left$files" ] && echo "nothing" || { printf '%s\n' "$left" "$files"; failed=1; }
echo "=== times"
printf '%s\n' "${times[@]}"
cat "$system$home/betterbox/demo.json" 2>/dev/null
exit "$failed"

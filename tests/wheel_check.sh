#!/bin/bash
# Wheels where nothing else is: installs those of build/wheels in bare Debian systems (python3 and venv, no compiler, no headers, no
# libraries of ours) and in other Pythons of this machine, and runs tests/installed_programs.py there.
#
#   tests/wheel_check.sh [--suite SUITE]... [--python PATH]... [--systems FOLDER]
#
# --suite: bookworm, trixie, bullseye (default: all three and no --python). In each that has a wheel for its Python: in a virtual
# environment, with --user, in one whose files are read-only, and through a symbolic link to it; where there is none, pip must refuse
# with a text that says so. --python: a Python of this machine, in a virtual environment.
# FOLDER (default /var/tmp/betterbox-systems) keeps the systems. Needs root and, the first time, debootstrap and a mirror: the one that this
# machine's own package sources name. Mounts and processes live in namespaces of their own, so they go with this script.
set -u -o pipefail

fail() { echo "wheel_check: $*" >&2; exit 1; }
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd) || exit 1

if [ -z "${BETTERBOX_WHEEL_CHECK_INSIDE-}" ]; then
  [ "$(id -u)" -eq 0 ] || fail "this needs root"
  ls "$root"/build/wheels/*.whl >/dev/null 2>&1 || fail "build/wheels is empty: ./dev wheel"
  BETTERBOX_WHEEL_CHECK_INSIDE=1 exec unshare --mount --pid --fork --propagation private --mount-proc bash "$0" "$@"
fi

suites=() pythons=() systems=/var/tmp/betterbox-systems
while [ $# -gt 0 ]; do
  case $1 in
    --suite) suites+=("${2:?}"); shift 2 ;;
    --python) pythons+=("${2:?}"); shift 2 ;;
    --systems) systems=${2:?}; shift 2 ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ $((${#suites[@]} + ${#pythons[@]})) -gt 0 ] || suites=(bookworm trixie bullseye)
mkdir -p "$systems" || exit 1

mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
  awk '$2 ~ /^(bookworm|trixie)$/ && $3 == "main" { print $1; exit }')

# What the programs need, and the wheels with what they depend on: systems have no network.
given=$(mktemp -d) || exit 1
mkdir -p "$given/wheels"
cp -r "$root/README.md" "$root/examples" "$root/tests/installed_programs.py" "$root/tests/python/api_program.py" "$given"
cp "$root"/build/wheels/*.whl "$given/wheels"
python3 -m pip download -q --no-deps --dest "$given/wheels" cloudpickle || fail "cloudpickle could not be downloaded"

failed=0 lines=()
# step NAME COMMAND...: one line of the table at the end.
step() {
  local name=$1 began=$SECONDS status=0
  shift
  echo "=== $name"
  "$@" || status=$?
  [ "$status" -eq 0 ] || failed=1
  lines+=("$(printf '%-9s %4d s  %s' "$([ "$status" -eq 0 ] && echo ok || echo FAILED)" "$((SECONDS - began))" "$name")")
}

make_system() {
  local suite=$1 system=$systems/$1
  [ -e "$system/made" ] && return
  [ -n "$mirror" ] || fail "this machine's package sources name no mirror of Debian"
  command -v debootstrap >/dev/null || fail "debootstrap is not there"
  rm -rf --one-file-system -- "$system"
  debootstrap --variant=minbase --include=python3,python3-venv "$suite" "$system" "$mirror" >"$systems/$suite.log" ||
    { tail -n 5 "$systems/$suite.log"; fail "no system of $suite could be made"; }
  chroot "$system" useradd -m tester && touch "$system/made"
}

mount_system() {
  local system=$systems/$1
  rm -rf -- "$system/given" && mkdir -p "$system/given" "$system/dev/shm" "$system/dev/pts" && cp -r "$given/." "$system/given" &&
    mount --bind "$system" "$system" && mount -t proc proc "$system/proc" && mount -t tmpfs tmpfs "$system/dev/shm" &&
    mount -t devpts devpts "$system/dev/pts" -o newinstance,ptmxmode=0666 || fail "cannot mount in $system"
}

# inside SUITE LINE: a shell line in that system.
inside() { chroot "$systems/$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PIP_NO_INDEX=1 PIP_FIND_LINKS=/given/wheels sh -e -c "$2"; }

check_is_bare() {
  inside "$1" 'for name in cc gcc g++ clang ld cmake; do if command -v "$name"; then exit 1; fi; done
    for name in zmq sodium spdlog fmt; do if ls /usr/lib/*-linux-gnu/lib$name.* 2>/dev/null; then exit 1; fi; done
    echo "no compiler, no libraries of ours; $(ldd --version | head -n 1)"'
}

in_a_venv() { inside "$1" 'rm -rf /opt/env; python3 -m venv /opt/env; /opt/env/bin/pip install -q betterbox; cd /; /opt/env/bin/python /given/installed_programs.py /given'; }
read_only() {
  inside "$1" 'chmod -R a-w /opt/env; mkdir -p /tmp/home; chown tester /tmp/home; cd /
    su tester -c "! touch /opt/env/lib/python3*/site-packages/betterbox/x 2>/dev/null && /opt/env/bin/python /given/installed_programs.py /given"'
}
over_a_link() { inside "$1" 'ln -sfn /opt/env /opt/link; cd /; /opt/link/bin/python /given/installed_programs.py /given'; }
for_a_user() {
  inside "$1" 'rm -rf /home/tester/.local /opt/pip; python3 -m venv /opt/pip; cd /home/tester
    su tester -c "PIP_NO_INDEX=1 PIP_FIND_LINKS=/given/wheels PIP_BREAK_SYSTEM_PACKAGES=1 /opt/pip/bin/pip --python /usr/bin/python3 install -q --user betterbox &&
      python3 /given/installed_programs.py /given"'
}
refused() {
  inside "$1" 'rm -rf /opt/env; python3 -m venv /opt/env
    ! /opt/env/bin/pip install /given/wheels/betterbox-*.whl >/tmp/said 2>&1; cat /tmp/said; grep -E "not a supported wheel|requires a different Python|No matching" /tmp/said'
}
# Whatever its Python is, its C library is old enough to be a test of the programs.
programs_start() {
  inside "$1" 'rm -rf /opt/unpacked; python3 -m zipfile -e "$(ls /given/wheels/betterbox-*.whl | head -n 1)" /opt/unpacked
    chmod +x /opt/unpacked/betterbox/_bin/*
    for name in scheduler worker; do /opt/unpacked/betterbox/_bin/betterbox-$name --help | head -n 1; done'
}
of_this_machine() {
  local env
  env=$(mktemp -d) && "$1" -m venv "$env/env" && PIP_NO_INDEX=1 PIP_FIND_LINKS=$given/wheels "$env/env/bin/pip" install -q betterbox &&
    (cd / && "$env/env/bin/python" "$given/installed_programs.py" "$given")
  local status=$?
  rm -rf -- "$env"
  return "$status"
}

for suite in ${suites[@]+"${suites[@]}"}; do
  step "$suite: a bare system" make_system "$suite"
  mount_system "$suite"
  step "$suite: is bare" check_is_bare "$suite"
  tag=$(inside "$suite" 'python3 -c "import sys; print(\"cp%d%d\" % sys.version_info[:2])"')
  if ls "$given"/wheels/betterbox-*-"$tag"-*.whl >/dev/null 2>&1; then
    step "$suite, $tag: in a virtual environment" in_a_venv "$suite"
    step "$suite, $tag: through a symbolic link" over_a_link "$suite"
    step "$suite, $tag: read-only, as another user" read_only "$suite"
    step "$suite, $tag: pip install --user" for_a_user "$suite"
  else
    step "$suite, $tag: refused, for there is no wheel" refused "$suite"
  fi
  step "$suite: the programs start" programs_start "$suite"
done
for python in ${pythons[@]+"${pythons[@]}"}; do
  step "$("$python" -c 'import platform as p, sys; print(p.python_implementation(), p.python_version(), "of", sys.executable)')" of_this_machine "$python"
done
rm -rf -- "$given"
echo "=== results"
printf '%s\n' "${lines[@]}"
exit "$failed"

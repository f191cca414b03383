# Part of ./dev (read by tests/run_suites.bash): `./dev test pythons`, the tests in Python with other interpreters than
# the system's. Each has a folder build/pythons/VERSION: a virtual environment with what tests import, from PyPI, and a
# build of the module alone. The programs hold no Python: they are those of the release build.

oldest_minor=10  # of Python 3

# What goes through all of the native code, and what depends on the version most.
smoke_files=(tests/python/test_{boxes,by_value,executor,functions,interpreters,newer_pythons,outcomes,pickling,programs,submissions,surroundings,waiting}.py)

suite_pythons() {
  local given=() files=("${smoke_files[@]}") path tag seen=' ' found=0
  while [ $# -gt 0 ]; do
    case $1 in
      --python) [ $# -gt 1 ] || fail "--python wants the path of an interpreter"
                given+=("$2"); shift ;;
      --whole) mapfile -t files < <(cd "$root" && printf '%s\n' tests/python/test_*.py) ;;
      *) fail "test pythons takes no $1 (./dev test --help says more)" ;;
    esac
    shift
  done
  for path in ${given[@]+"${given[@]}"}; do
    [ -n "$(python_tag "$path")" ] || fail "--python $path is no CPython from 3.$oldest_minor on that has its headers"
  done
  build release product || { suite_failed pythons "build failed"; return; }
  while IFS= read -r path; do
    tag=$(python_tag "$path")
    case $seen in *" $tag "*) tag= ;; esac
    [ -n "$tag" ] || continue
    seen+="$tag "
    found=$((found + 1))
    note "pythons: $tag is $path"
    test_python "$tag" "$path" "${files[@]}"
  done < <(printf '%s\n' ${given[@]+"${given[@]}"}; other_pythons)
  [ "$found" -gt 0 ] && return
  note "pythons: skipped: there is no other CPython here than the system's, which the suite python runs with"
  printf '<testsuite><testcase classname="pythons" name="others"><skipped message="there is only one"/></testcase></testsuite>\n' \
    >"$reports/pythons.xml"
}

# The system's own is left out: the suite python is its.
other_pythons() {
  local path own
  own=$(python_tag /usr/bin/python3)
  for path in /usr/bin/python3.[0-9]* /usr/local/bin/python3.[0-9]* "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 \
              "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/*/bin/python3; do
    case ${path##*/} in *-*) continue ;; esac  # python3.11-config
    [ -x "$path" ] && [ "$(python_tag "$path")" != "$own" ] && printf '%s\n' "$path"
  done
}

# python_tag PATH: 3.12, or 3.13t; nothing if it cannot be built for.
python_tag() {
  "$1" -I -c "import os, sys, sysconfig as s
if (sys.implementation.name == 'cpython' and sys.version_info >= (3, $oldest_minor)
        and os.path.exists(os.path.join(s.get_path('include'), 'Python.h'))):
    print('%d.%d%s' % (*sys.version_info[:2], sys.abiflags))" 2>/dev/null
}

# test_python TAG PATH FILE...
test_python() {
  local tag=$1 folder=$root/build/pythons/$1 log=$root/build/pythons/$1.log environment
  environment=$folder/environment
  mkdir -p "$folder"
  if ! make_environment "$2" "$environment" >"$log" 2>&1 9>&-; then
    tail -n 20 "$log"
    suite_failed "pythons-$tag" "no environment with what tests import (log: $log)"
    return
  fi
  if ! build_module "$folder" "$environment" >>"$log" 2>&1 9>&-; then
    tail -n 40 "$log"
    suite_failed "pythons-$tag" "build failed (log: $log)"
    return
  fi
  python=$environment/bin/python PYTHONPATH=$folder/python PATH=$folder/bin:$environment/bin:$PATH \
    BETTERBOX_SCHEDULER=$folder/python/betterbox/_bin/betterbox-scheduler run_pytest "pythons-$tag" "${@:3}"
}

make_environment() {
  [ ! -e "$2/complete" ] || return 0
  rm -rf -- "$2"
  "$1" -m venv "$2" &&
    "$2/bin/python" -m pip install --disable-pip-version-check --only-binary :all: pybind11 cloudpickle numpy pytest pytest-timeout pyzmq tqdm &&
    touch "$2/complete"
}

build_module() {
  local package=$1/python/betterbox
  cmake -S "$root" -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBETTERBOX_TESTS=OFF -DBETTERBOX_BENCHMARKS=OFF \
    -DCMAKE_CXX_COMPILER_LAUNCHER="$(command -v ccache)" -DPython3_EXECUTABLE="$2/bin/python" \
    -Dpybind11_DIR="$("$2/bin/python" -m pybind11 --cmakedir)" &&
    ninja -C "$1" -j "$(jobs_for_build)" _core bytecode && ln -sfn "$release/python/betterbox/_bin" "$package/_bin"
}

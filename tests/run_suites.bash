# Part of ./dev (read by it): the suites of `./dev test`. Each leaves a JUnit file in build/reports; tests/tally.py
# adds them up. A suite that could not be built or that ran nothing counts as one failure.
#
# The order keeps two cores busy: the sanitizer builds, which are the longest part, compile while the Python tests
# of the release build, which mostly wait, run.

reports=$root/build/reports
suite_started=$SECONDS

note() { printf 'dev: [%3d s] %s\n' "$((SECONDS - suite_started))" "$*"; }

# suite_failed NAME REASON: a report with one failure.
suite_failed() {
  printf 'dev: %s: %s\n' "$1" "$2" >&2
  printf '<testsuite name="%s"><testcase classname="%s" name="%s"><failure message="%s"/></testcase></testsuite>\n' \
    "$1" "$1" "suite" "$2" >"$reports/$1.xml"
}

# run_native NAME PRESET CTEST_ARGUMENTS...
run_native() {
  local name=$1 preset=$2
  shift 2
  note "$name: native tests of build/$preset"
  (cd "$root/build/$preset" && ${no_aslr[@]+"${no_aslr[@]}"} ctest --output-on-failure --no-tests=error --timeout 300 -j "$cores" \
    --output-junit "$reports/$name.xml" "$@") 9>&- >"$root/build/$name.log" 2>&1 ||
    grep -v -E '^ *(Start +[0-9]+|[0-9]+/[0-9]+ Test +#[0-9]+:.* Passed )' "$root/build/$name.log" | tail -n 300
  [ -s "$reports/$name.xml" ] || suite_failed "$name" "no test was run"
}

# run_pytest NAME FILE...: environment from the caller.
run_pytest() {
  local name=$1
  shift
  note "$name: tests in Python"
  (cd "$root" && printf '%s\0' "$@" | xargs -0 -n 1 -P 2 tests/run_pytest_file.bash "$reports/$name") 9>&-
}

suite_unit() {
  build release product test_programs || { suite_failed unit "build failed"; return; }
  run_native unit release -E NOT_BUILT
}

# Where suite_asan runs as well: without the cores' tests, which end alike in every build.
suite_unit_without_cores() {
  build release product other_test_programs || { suite_failed unit "build failed"; return; }
  run_native unit release -E NOT_BUILT -LE core
}

python_tests() { (cd "$root" && printf '%s\n' tests/*_test.py tests/*/test_*.py); }

suite_python() {
  build release product || { suite_failed python "build failed"; return; }
  local files
  mapfile -t files < <(python_tests)
  PYTHONPATH=$release/python PATH=$release/bin:$PATH BETTERBOX_SCHEDULER=$release/python/betterbox/_bin/betterbox-scheduler \
    run_pytest python "${files[@]}"
}

# What runs in Python under AddressSanitizer: the files that go through all of the native code.
asan_python_files=(tests/decoder/test_decoder.py tests/python/test_boxes.py tests/python/test_pickling.py tests/python/test_functions.py)

suite_asan() {
  build_asan || { suite_failed asan "build failed"; return; }
  ASAN_OPTIONS=detect_leaks=1:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 run_native asan asan -E NOT_BUILT
  local libraries folder=$root/build/asan
  libraries="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
  # Python keeps objects until the process ends, which is no leak of ours. Tests make processes die of signals: that
  # is not to be reported as a finding.
  ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_abort=0 UBSAN_OPTIONS=print_stacktrace=1 \
    preload=$libraries PYTHONPATH=$folder/python PATH=$folder/bin:$PATH \
    BETTERBOX_SCHEDULER=$folder/python/betterbox/_bin/betterbox-scheduler \
    run_pytest asan_python "${asan_python_files[@]}"
}

suite_tsan() {
  build_tsan || { suite_failed tsan "build failed"; return; }
  # Kernels with many bits of address randomisation put memory where ThreadSanitizer expects none.
  local no_aslr=()
  setarch "$(uname -m)" -R true 2>/dev/null && no_aslr=(setarch "$(uname -m)" -R)
  # Left out: what uses libzmq, MPI or forks, which ThreadSanitizer does not see into; and what was not built.
  TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 run_native tsan tsan -E 'Zmq|Mpi|Linked|BusStart|BusFile|NOT_BUILT'
}

no_aslr=()
build_asan() { build asan product test_programs; }
build_tsan() { build tsan tsan_programs; }

# shellcheck source=tests/pythons.bash
. "$root/tests/pythons.bash"

run_suites() {
  local suite status
  rm -rf -- "$reports"
  mkdir -p "$reports" || exit 1
  if [ "${1-}" = pythons ]; then
    suite_pythons "${@:2}"
  elif [ $# -gt 0 ]; then
    for suite in "$@"; do
      case $suite in
        unit|python|asan|tsan) "suite_$suite" ;;
        *) echo "dev: there is no suite $suite; there are: unit python asan tsan, and pythons alone" >&2; exit 2 ;;
      esac
    done
  else
    run_all_suites
  fi
  prepared
  note "done; reports and logs: build/reports, build/*.log"
  /usr/bin/python3 "$root/tests/tally.py" "$reports"
  status=$?
  exit "$status"
}

run_all_suites() {
  suite_unit_without_cores
  # Sanitizer builds in the background, at low priority; their lines appear between those of the tests.
  (note "building asan and tsan beside the tests in Python"; renice -n 10 "$BASHPID" >/dev/null 2>&1
   build_asan; build_tsan) &
  local builds=$!
  suite_python
  wait "$builds"
  suite_asan
  suite_tsan
}

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

# run_pytest NAME PYTEST_ARGUMENTS...: environment from the caller.
run_pytest() {
  local name=$1
  shift
  note "$name: tests in Python"
  (cd "$root" && exec /usr/bin/python3 -m pytest -p no:cacheprovider -q --no-header --junitxml "$reports/$name.xml" "$@") 9>&-
  [ -s "$reports/$name.xml" ] || suite_failed "$name" "pytest did not finish"
}

suite_unit() {
  build release || { suite_failed unit "build failed"; return; }
  run_native unit release
}

suite_python() {
  build release || { suite_failed python "build failed"; return; }
  PYTHONPATH=$release/python PATH=$release/bin:$PATH run_pytest python tests
}

# What runs under AddressSanitizer in Python: the tests marked `asan` if there are any, else the short ones by name.
asan_python_arguments=(tests/python -m "asan")

suite_asan() {
  build_asan || { suite_failed asan "build failed"; return; }
  ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 run_native asan asan
  local library
  library=$(g++ -print-file-name=libasan.so)
  # Python keeps objects until the process ends, which is no leak of ours; detect_stack_use_after_return needs memory
  # that forked slots would copy.
  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1 \
    LD_PRELOAD="$library $(g++ -print-file-name=libstdc++.so)" PYTHONPATH=$root/build/asan/python PATH=$root/build/asan/bin:$PATH \
    BETTERBOX_TESTS_SANITIZED=1 run_pytest asan_python "${asan_python_arguments[@]}"
}

suite_tsan() {
  build_tsan || { suite_failed tsan "build failed"; return; }
  # Kernels with many bits of address randomisation put memory where ThreadSanitizer expects none.
  local no_aslr=()
  setarch "$(uname -m)" -R true 2>/dev/null && no_aslr=(setarch "$(uname -m)" -R)
  # Left out: what uses libzmq or forks, which ThreadSanitizer does not see into; and what was not built.
  TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 run_native tsan tsan -E 'Zmq|BusStart|BusFile|NOT_BUILT'
}

no_aslr=()
build_asan() { build asan; }
build_tsan() { build tsan tsan_tests; }

run_suites() {
  local suite status
  rm -rf -- "$reports"
  mkdir -p "$reports" || exit 1
  if [ $# -gt 0 ]; then
    for suite in "$@"; do
      case $suite in
        unit|python|asan|tsan) "suite_$suite" ;;
        *) echo "dev: there is no suite $suite; there are: unit python asan tsan" >&2; exit 2 ;;
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
  suite_unit
  # Sanitizer builds in the background, at low priority; their lines appear between those of the tests.
  (note "building asan and tsan beside the tests in Python"; renice -n 10 "$BASHPID" >/dev/null 2>&1
   build_asan; build_tsan) &
  local builds=$!
  suite_python
  wait "$builds"
  suite_asan
  suite_tsan
}

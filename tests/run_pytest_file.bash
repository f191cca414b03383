#!/usr/bin/env bash
# Part of ./dev test: runs one file of tests in Python in a process of its own, so that what crashes takes no other
# file along. Leaves a JUnit report and a log.
#
#   tests/run_pytest_file.bash REPORT_PREFIX FILE
#
# In the environment: `preload`, libraries for Python; `python`, the interpreter (default: the system's).
prefix=$1
file=$2
report=$prefix-$(basename "$file" .py).xml
log=${report%.xml}.log

LD_PRELOAD=${preload-} "${python:-/usr/bin/python3}" -X faulthandler -m pytest -p no:cacheprovider -q --no-header \
  --junitxml "$report" "$file" >"$log" 2>&1
status=$?
if [ "$status" -eq 0 ]; then
  printf 'dev: %s: %s\n' "$file" "$(tail -n 1 "$log")"
else
  printf 'dev: %s:\n' "$file"
  tail -n 200 "$log"
  [ -s "$report" ] || printf '<testsuite><testcase classname="%s" name="the whole file"><failure message="%s"/></testcase></testsuite>\n' \
    "$file" "pytest ended with exit code $status" >"$report"
fi
exit 0

# Part of ./dev (read by it): wheels that need nothing but a C library (docs/decisions/0031-wheels-need-only-the-c-library.md).

# The oldest GNU C library that they run with.
glibc=2.28

wheel_work=$root/build/wheel
libraries=$wheel_work/libraries
tools=$wheel_work/tools
wheel_cc=$wheel_work/compiler/zig-clang wheel_cxx=$wheel_work/compiler/zig-clang++

# shellcheck source=packaging/wheel/libraries.bash
. "$root/packaging/wheel/libraries.bash"

install_wheel_tools() {
  if ! cmp -s "$root/packaging/wheel/requirements.txt" "$tools/installed"; then
    say "installing the tools for wheels from PyPI: $(grep -v '^#' "$root/packaging/wheel/requirements.txt" | tr '\n' ' ')"
    rm -rf -- "$tools"
    { python3 -m venv "$tools" && "$tools/bin/python" -m pip install -q -r "$root/packaging/wheel/requirements.txt"; } ||
      fail "the tools could not be installed (above)"
    cp "$root/packaging/wheel/requirements.txt" "$tools/installed"
  fi
  # Always in the same place, so that ccache knows what it has compiled.
  pybind11=$("$tools/bin/python" -c 'import pybind11; print(pybind11.get_cmake_dir())') || exit 1
  zig=$("$tools/bin/python" -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))') || exit 1
}

# Programs named like compilers, as CMake, configure and ccache know them. They are written only if they change: ccache looks.
make_compilers() {
  local name verb text
  export CCACHE_COMPILERCHECK=content ZIG_GLOBAL_CACHE_DIR=$wheel_work/zig ZIG_LOCAL_CACHE_DIR=$wheel_work/zig
  mkdir -p "$wheel_work/compiler" || exit 1
  for name in zig-clang:cc zig-clang++:c++; do
    verb=${name#*:}
    text=$(printf '#!/bin/sh\n# zig %s\nexec "%s" %s -target %s-linux-gnu.%s "$@"\n' "$("$zig" version)" "$zig" "$verb" "$(uname -m)" "$glibc")
    [ "$(cat "$wheel_work/compiler/${name%:*}" 2>/dev/null)" = "$text" ] && continue
    printf '%s\n' "$text" >"$wheel_work/compiler/${name%:*}" && chmod 755 "$wheel_work/compiler/${name%:*}" || exit 1
  done
  # Debian keeps a part of Python's headers in a folder of the processor's; /usr/include itself is another C library's.
  mkdir -p "$wheel_work/include/$(uname -m)-linux-gnu" || exit 1
  for name in "/usr/include/$(uname -m)-linux-gnu"/python3*; do
    [ ! -e "$name" ] || ln -sfn "$name" "$wheel_work/include/$(uname -m)-linux-gnu/${name##*/}"
  done
}

# build_wheel PYTHON: one wheel into build/wheel/raw, and from there, named for the C library, into build/wheels.
build_wheel() {
  local python=$1 log=$wheel_work/wheel.log launcher=()
  say "building a wheel for $("$python" -c 'import platform, sys; print(platform.python_implementation(), platform.python_version(), "of", sys.executable)')"
  command -v ccache >/dev/null 2>&1 && launcher=(--config-settings=cmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache)
  rm -rf -- "$wheel_work/raw"
  PKG_CONFIG_LIBDIR=$libraries/lib/pkgconfig CC=$wheel_cc CXX=$wheel_cxx CMAKE_BUILD_PARALLEL_LEVEL=$(jobs_for_build) \
    nice "$tools/bin/python" -m pip --python "$python" wheel -v --no-deps --wheel-dir "$wheel_work/raw" \
    --config-settings=build-dir="$wheel_work/cmake" "${launcher[@]}" \
    --config-settings=cmake.define.CMAKE_PREFIX_PATH="$libraries" --config-settings=cmake.define.pybind11_DIR="$pybind11" \
    --config-settings=cmake.define.CMAKE_CXX_FLAGS="-isystem $wheel_work/include -ffunction-sections -fdata-sections" \
    --config-settings=cmake.define.PKG_CONFIG_ARGN=--static \
    --config-settings=cmake.define.HAS_FLTO_THIN=ON --config-settings=cmake.define.HAS_FLTO_AUTO=ON \
    --config-settings=cmake.define.BETTERBOX_LICENCES="$libraries/licences" \
    "$root" >"$log" 2>&1 || { grep -v '^ *Removed ' "$log" | tail -n 40 >&2; fail "the wheel could not be built (whole log: $log)"; }
  PATH="$tools/bin:$PATH" "$tools/bin/auditwheel" repair --plat "manylinux_${glibc/./_}_$(uname -m)" --wheel-dir "$root/build/wheels" \
    "$wheel_work"/raw/*.whl >"$log" 2>&1 || { cat "$log" >&2; fail "the wheel needs more than glibc $glibc (above)"; }
  wheel=$(ls -t "$root"/build/wheels/*.whl | head -n 1)
}

# build_wheels PYTHON...
build_wheels() {
  local python wheel
  install_wheel_tools
  make_compilers
  build_libraries
  mkdir -p "$root/build/wheels"
  for python in "$@"; do
    build_wheel "$python"
    "$tools/bin/python" "$root/packaging/wheel/check.py" "$wheel" || fail "$wheel is not what a wheel should be (above)"
    say "$wheel"
  done
}

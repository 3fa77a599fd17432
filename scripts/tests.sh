# The pieces of which `make check`, `make test` and .ci/run are made.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/frameworks.sh"
cd "$TOP"

# So many tests of a version run at once, each in a server of its worker's own: most of the time a test waits.
WORKERS=${WORKERS:-5}

format_and_lints() {
    say "format"
    cargo fmt --all --check
    say "lints"
    cargo clippy --quiet --workspace --all-targets -- -D warnings
    local source
    for source in webhook stream sqs kafka file; do
        cargo clippy --quiet --package audit-relay --no-default-features --features "$source" -- -D warnings
    done
}

# Of the files themselves: no server is needed, and it takes seconds.
source_tests() {
    say "sources (layout, imports, words)"
    /usr/bin/python3 -B -m pytest -q -p no:cacheprovider tests/sources
}

# Of the extension itself they run beside those inside the server.
unit_tests() {
    say "unit tests, without PostgreSQL"
    cargo test --quiet --workspace --exclude audit_cdc
    cargo build --quiet --package audit-relay --package audit-keeper --package audit-examples
}

# pg_tests VERSION: those that run inside the server, in a cluster of their own; and the unit tests beside them
pg_tests() (
    say "PostgreSQL $1: tests inside the server"
    data=$(mktemp -d "${TMPDIR:-/tmp}/audit_cdc.XXXXXX")
    trap 'rm -rf "$data"' EXIT
    run=()
    if [ "$(id -u)" -eq 0 ]; then
        install_packages sudo # by which cargo pgrx becomes postgres
        chown postgres "$data"
        run=(--runas postgres)
    fi
    # one after the other: each holds what it made until it is rolled back
    RUST_TEST_THREADS=1 quietly cargo pgrx test "pg$1" "${run[@]}" --pgdata "$data" --no-default-features --features "pg$1"
)

# in_copy VERSION COMMAND…: with a copy of that PostgreSQL in $folder, whose servers are gone afterwards
in_copy() (
    version=$1
    shift
    folder=$(mktemp -d "${TMPDIR:-/tmp}/audit_cdc.XXXXXX")
    trap 'stop_all "$folder"; rm -rf "$folder"' EXIT
    copy_of_postgresql "$version" "$folder"
    "$@"
)

stop_all() {
    local data
    for data in "$1"/*/data; do
        [ ! -e "$data/postmaster.pid" ] || AUDIT_DATA=$data scripts/server stop
    done
}

golden_tests() {
    say "PostgreSQL $version: golden tests (roles, messages, SQLSTATEs)"
    new_cluster "$folder/golden"
    tests/pg_regress/run "$folder"
    scripts/server stop
}

# build_and_test VERSION: what needs a server, and takes minutes
build_and_test() {
    pg_tests "$1"
    say "PostgreSQL $1: building"
    package "$(pg_config_of "$1")" --debug # which is built in a fraction of the time
    in_copy "$1" golden_tests
}

# end_to_end_tests PYTEST_OPTIONS…: what waits most of its time
end_to_end_tests() {
    say "PostgreSQL $version: end-to-end tests (corpus, faults, pages, relay), $WORKERS at a time"
    # a folder of its own: pytest closes the one that its runs share
    AUDIT_SERVERS=$folder /usr/bin/python3 -B -m pytest -q -p no:cacheprovider --basetemp "$folder/pytest" \
        -n "$WORKERS" --dist loadfile --durations 20 "$@" tests/e2e
}

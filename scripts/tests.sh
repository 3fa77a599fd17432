# The pieces of which `make check`, `make test` and .ci/run are made.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
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

unit_tests() {
    say "pure core: unit and property tests, without PostgreSQL"
    cargo test --quiet --package audit-core
    cargo test --quiet --lib --no-default-features --features pg15
    say "relay: building, unit tests"
    cargo test --quiet --package audit-relay
    cargo build --quiet --package audit-relay
}

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

# end_to_end_tests PYTEST_OPTIONS…
end_to_end_tests() {
    say "PostgreSQL $version: end-to-end tests (corpus, faults, pages, relay), $WORKERS at a time"
    # a folder of its own: pytest closes the one that its runs share
    AUDIT_SERVERS=$folder /usr/bin/python3 -B -m pytest -q -p no:cacheprovider --basetemp "$folder/pytest" \
        -n "$WORKERS" --dist loadfile --durations 20 "$@" tests/
}

all_tests() {
    golden_tests
    end_to_end_tests "$@"
}

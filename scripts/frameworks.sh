# What the tests of the examples need: the frameworks, and pgbouncer.
# shellcheck shell=bash

# Unpacked, not installed: Debian would start it.
install_pgbouncer() {
    install_packages libc-ares2 libevent-2.1-7
    local folder=$TOP/target/pgbouncer
    if [ -e "$folder/installed" ]; then return; fi
    say "unpacking pgbouncer"
    rm -rf "$folder"
    mkdir -p "$folder"
    quietly as_root apt-get update
    (cd "$folder" && quietly apt-get download pgbouncer && dpkg -x pgbouncer_*.deb . && rm pgbouncer_*.deb)
    chmod a+rX "$folder"
    touch "$folder/installed"
}

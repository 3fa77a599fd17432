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

# Of the examples in Python.
install_python_frameworks() {
    install_wheels "$TOP/target/frameworks/python" "Django==5.2.19 SQLAlchemy==2.1.9 greenlet==3.5.6 asyncpg==0.32.0
        psycopg==3.3.9 psycopg-binary==3.3.9 psycopg-pool==3.3.3 fastapi==0.165.0 uvicorn==0.54.0" "Django, SQLAlchemy, psycopg and FastAPI"
}

# Of the examples for Node, with a Node of their own: Prisma needs a newer one than Debian has. No package runs scripts of its own.
install_node_frameworks() {
    local folder=$TOP/target/frameworks/node machine=x64
    [ "$(uname -m)" != aarch64 ] || machine=arm64
    local wanted="node-linux-$machine@22.23.5 pg@8.23.1 drizzle-orm@0.45.4 prisma@7.10.1 @prisma/client@7.10.0 @prisma/adapter-pg@7.10.1"
    local made
    made="$wanted $(sha256sum <"$TOP/examples/prisma/schema.prisma")"
    if [ "$(cat "$folder/installed" 2>/dev/null)" = "$made" ]; then return; fi
    command -v npm >/dev/null || install_packages nodejs npm
    say "installing Node, pg, Drizzle and Prisma"
    rm -rf "$folder"
    mkdir -p "$folder/bin"
    echo '{}' >"$folder/package.json"
    # shellcheck disable=SC2086
    (cd "$folder" && quietly npm install --ignore-scripts --no-package-lock --no-audit --no-fund $wanted)
    ln -s "../node_modules/node-linux-$machine/bin/node" "$folder/bin/node"
    # It looks for an engine that it does not use here, and that another server would have.
    cp "$TOP/examples/prisma/schema.prisma" "$folder/"
    (cd "$folder" && PRISMA_SCHEMA_ENGINE_BINARY=/bin/true quietly bin/node node_modules/prisma/build/index.js generate)
    echo "$made" >"$folder/installed"
}

install_frameworks() {
    install_pgbouncer
    install_python_frameworks
    install_node_frameworks
}

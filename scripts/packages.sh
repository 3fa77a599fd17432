# Packages of what was built: for Debian, and of the sources for PGXN.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version_of_sources() { sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' "$TOP/Cargo.toml"; }

# debian_package NAME DEPENDS DESCRIPTION FOLDER OUT: of the files in FOLDER, which are as on the machine that it is for
debian_package() {
    local name=$1 depends=$2 description=$3 folder=$4 out=$5 version libraries
    version=$(version_of_sources)
    install -Dm 644 "$TOP/LICENSE" "$folder/usr/share/doc/$name/copyright"
    gzip -9nc "$TOP/CHANGELOG.md" >"$folder/usr/share/doc/$name/changelog.gz"
    mkdir -p "$folder/debian" "$folder/DEBIAN" "$out"
    chmod 755 "$folder"
    printf 'Source: audit-cdc\n\nPackage: %s\nArchitecture: any\n' "$name" >"$folder/debian/control"
    find "$folder/usr" \( -name '*.so' -o -path '*/bin/*' \) -type f -exec strip --strip-unneeded {} +
    libraries=$(cd "$folder" && find usr \( -name '*.so' -o -path '*/bin/*' \) -type f -exec dpkg-shlibdeps -O {} + 2>/dev/null)
    rm -r "$folder/debian"
    cat >"$folder/DEBIAN/control" <<-END
	Package: $name
	Version: $version-1
	Architecture: $(dpkg --print-architecture)
	Maintainer: $(git -C "$TOP" log -1 --format='%an <%ae>')
	Section: database
	Priority: optional
	Installed-Size: $(du -sk "$folder/usr" | cut -f1)
	Depends: ${libraries#shlibs:Depends=}${depends:+, $depends}
	Description: $description
	END
    dpkg-deb --root-owner-group -Zgzip --build "$folder" "$out" >/dev/null
}

# package_extension VERSION OUT: what `package` has built for that PostgreSQL
package_extension() {
    local folder built=$TOP/target/package/pg$1
    folder=$(mktemp -d)
    place "$built" "$folder/usr/lib/postgresql/$1/lib" "$folder/usr/share/postgresql/$1/extension"
    debian_package "postgresql-$1-audit-cdc" "postgresql-$1" "append-only audit log in PostgreSQL $1, filled from its own WAL" "$folder" "$2"
    rm -r "$folder"
}

# package_relay PROGRAM OUT
package_relay() {
    local folder
    folder=$(mktemp -d)
    install -Dm 755 "$1" "$folder/usr/bin/audit-relay"
    mkdir -p "$folder/usr/lib/systemd/system"
    sed 's|/usr/local/bin/|/usr/bin/|' "$TOP/crates/relay/audit-relay@.service" >"$folder/usr/lib/systemd/system/audit-relay@.service"
    debian_package audit-relay "" "hands change messages from Sequin's sinks to audit_cdc" "$folder" "$2"
    rm -r "$folder"
}

# package_keeper PROGRAM OUT: it runs from a timer of yours, so it has no unit
package_keeper() {
    local folder
    folder=$(mktemp -d)
    install -Dm 755 "$1" "$folder/usr/bin/audit-keeper"
    install -Dm 644 -t "$folder/usr/share/audit-keeper" "$TOP"/crates/keeper/sql/*.sql
    debian_package audit-keeper "" "keeps months of audit_cdc's log as Parquet files, in a folder or in S3" "$folder" "$2"
    rm -r "$folder"
}

# package_sources OUT: of the commit that is checked out
package_sources() {
    local name
    name=audit_cdc-$(version_of_sources)
    mkdir -p "$1"
    git -C "$TOP" archive --format zip --prefix "$name/" --output "$1/$name.zip" HEAD
}

#!/bin/sh
# Makes a release of the commit that is checked out, as docs/release.md tells: dist/ gets a tar for each machine, and their
# SHA256SUMS. Each binary is built twice, in two folders; both must be the same to the byte.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

need_packages jq:jq file:file gzip:gzip strings:binutils /usr/share/doc/musl/copyright:musl
need_rust x86_64-unknown-linux-musl aarch64-unknown-linux-musl
cd "$root"
[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
grep -qE "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md || die "CHANGELOG.md does not date $version"
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
sysroot=$(rustc --print sysroot)
rust=$(rustc --version | cut -d ' ' -f 2)
cargo_home=${CARGO_HOME:-$HOME/.cargo}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
for folder in "$work/one" "$work/another/folder"; do
	say "building $version (${commit%"${commit#????????????}"}) with Rust $rust in $folder (two minutes)"
	mkdir -p "$folder"
	git archive HEAD | tar -x -C "$folder"
	for arch in x86_64 aarch64; do
		# Messages of a panic name source files: without this, those of this machine.
		(cd "$folder" && RUSTFLAGS="--remap-path-prefix=$folder=. --remap-path-prefix=$cargo_home=cargo" \
			cargo build --quiet --release --locked --target "$arch-unknown-linux-musl")
	done
done

# sbom ARCH: reads lines of name, version, licence and SHA-256 of the packages that are linked; writes SPDX 2.3.
sbom() {
	jq -Rn --arg version "$version" --arg arch "$1" --arg commit "$commit" --arg rust "$rust" --arg musl "$musl" \
		--arg binary "$binary_hash" --arg time "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" '
	def id: "SPDXRef-" + gsub("[^A-Za-z0-9.-]"; "-");
	def package($name; $version; $license; $purpose): {
		SPDXID: ($name | id), name: $name, versionInfo: $version, downloadLocation: "NOASSERTION",
		filesAnalyzed: false, licenseConcluded: $license, licenseDeclared: $license, copyrightText: "NOASSERTION",
		primaryPackagePurpose: $purpose};
	def sha256($hash): {checksums: [{algorithm: "SHA256", checksumValue: $hash}]};
	def relates($from; $how; $to): {
		spdxElementId: ($from | id), relationshipType: $how, relatedSpdxElement: ($to | id)};
	([inputs / "\t" | package(.[0]; .[1]; .[2]; "LIBRARY") + sha256(.[3]) + {externalRefs: [{
		referenceCategory: "PACKAGE-MANAGER", referenceType: "purl", referenceLocator: "pkg:cargo/\(.[0])@\(.[1])"}]}
	] + [
		package("rust-std"; $rust; "MIT OR Apache-2.0"; "LIBRARY"),
		package("musl"; $musl; "MIT"; "LIBRARY")
	]) as $linked | {
		spdxVersion: "SPDX-2.3", dataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT",
		name: "uid-nri-plugin-\($version)-\($arch)",
		documentNamespace: "urn:uid-nri-plugin:\($version):\($arch):\($binary)",
		creationInfo: {created: $time, creators: ["Tool: uid-nri-plugin-release.sh"]},
		packages: ([package("uid-nri-plugin"; $version; "MIT"; "APPLICATION") + sha256($binary)
			+ {sourceInfo: "git commit \($commit), built with Rust \($rust)"}] + $linked),
		relationships: ([relates("DOCUMENT"; "DESCRIBES"; "uid-nri-plugin")]
			+ [$linked[] | relates("uid-nri-plugin"; "STATIC_LINK"; .name)])}'
}

rm -rf dist
mkdir dist
for arch in x86_64 aarch64; do
	triple=$arch-unknown-linux-musl
	binary=$work/one/target/$triple/release/uid-nri-plugin
	cmp "$binary" "$work/another/folder/target/$triple/release/uid-nri-plugin" || die "$arch: two folders, two binaries"
	file -b "$binary" | grep -q 'static.*stripped' || die "$arch: not static and stripped: $(file -b "$binary")"
	for path in "$work" "$root" "$cargo_home"; do
		if grep -aqF "$path" "$binary"; then die "$arch: the binary names $path"; fi
	done
	binary_hash=$(sha256sum <"$binary" | cut -d ' ' -f 1)
	musl=$(strings "$sysroot/lib/rustlib/$triple/lib/self-contained/libc.a" | grep -xE '1\.[0-9]+\.[0-9]+')

	name=uid-nri-plugin-$version-$arch
	to=$work/$name
	mkdir -p "$to/licenses/rust-std" "$to/licenses/musl"
	cp "$binary" "$to/"
	cp -r LICENSE README.md CHANGELOG.md SECURITY.md docs "$to/"
	cp "$sysroot/share/doc/rust/COPYRIGHT-library.html" "$to/licenses/rust-std/"
	cp /usr/share/doc/musl/copyright "$to/licenses/musl/"
	cargo tree --locked --edges normal,no-proc-macro --prefix none --target "$triple" --format '{p}' | sort -u >"$work/linked"
	cargo metadata --locked --format-version 1 --filter-platform "$triple" |
		jq -r '.packages[] | select(.source) | [.name, .version, .license, .manifest_path] | @tsv' |
		while IFS='	' read -r package number license manifest; do
			grep -qx "$package v$number" "$work/linked" || continue
			mkdir "$to/licenses/$package"
			cp "${manifest%/*}"/LICENSE* "$to/licenses/$package/"
			printf '%s\t%s\t%s\t%s\n' "$package" "$number" "$license" \
				"$(grep -A 3 "^name = \"$package\"" Cargo.lock | grep -A 3 "^version = \"$number\"" | sed -n 's/^checksum = "\(.*\)"/\1/p')"
		done >"$work/packages"
	# All but the program itself, which cargo names with its folder.
	[ "$(wc -l <"$work/packages")" = $(($(wc -l <"$work/linked") - 1)) ] || die "$arch: packages of which nothing is known"
	sbom "$arch" <"$work/packages" >"$to/sbom.spdx.json"
	(cd "$to" && find . -type f ! -name SHA256SUMS | sort | xargs sha256sum >SHA256SUMS)
	chmod -R u=rwX,go=rX "$to"
	tar -C "$work" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
		-cf - "$name" | gzip -9n >"dist/$name.tar.gz"
done
(cd dist && sha256sum ./*.tar.gz >SHA256SUMS && cat SHA256SUMS)

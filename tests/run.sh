#!/bin/sh
# All tests: format, lints, unit and property tests, the release's form, the documents, the protocol against NRI's own
# library, and end to end against the real containerd, runc and crictl. Needs root; installs and builds what is
# missing. The protocol and end-to-end tests make their nodes in namespaces of their own.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

need_lab
need_packages file:file man:man-db groff:groff zstd:zstd xz:xz-utils bzip2:bzip2 shellcheck:shellcheck
need_go
need_rust x86_64-unknown-linux-musl aarch64-unknown-linux-musl
need_cargo_deny
cd "$root"

say "format and lints"
cargo fmt --check
cargo clippy --quiet --all-targets --target "$target" -- -D warnings
unformatted=$(gofmt -l tests)
[ -z "$unformatted" ] || die "gofmt would change: $unformatted"
# shellcheck disable=SC2046 # no script's name has a space
shellcheck -S warning -x $(grep -rlE '^#!/bin/(ba)?sh|^# shellcheck shell=sh' .ci tests)

say "licences, sources and versions of what is linked"
cargo deny --locked --log-level error check licenses bans sources

say "unit and property tests (about a minute when nothing is built yet)"
cargo test --quiet --target "$target"

say "release builds (about a minute when nothing is built yet)"
for arch in x86_64 aarch64; do
	cargo build --quiet --release --target "$arch-unknown-linux-musl"
	binary=target/$arch-unknown-linux-musl/release/uid-nri-plugin
	kind=$(file -b "$binary")
	case $kind in
	*'static-pie linked'*stripped* | *'statically linked'*stripped*) ;;
	*) die "$binary is not static and stripped: $kind" ;;
	esac
	case $kind in
	*interpreter*) die "$binary has an interpreter: $kind" ;;
	esac
	size=$(stat -c %s "$binary")
	[ "$size" -le $((1000 * 1024)) ] || die "$binary has $size bytes, over 1000 KiB"
	say "$arch: $size bytes, static"
done
allowed='libc lexopt protobuf'
for package in $(cargo metadata --format-version 1 --no-deps | jq -r '.packages[0].dependencies[] | select(.kind == null).name'); do
	case " $allowed " in
	*" $package "*) ;;
	*) die "$package is a run-time dependency beyond $allowed" ;;
	esac
done

sh tests/docs.sh

say "protocol tests against NRI 0.12.5, 0.12.0, 0.11 and 0.8 (about two minutes)"
UID_NRI_PLUGIN=$plugin
export UID_NRI_PLUGIN
(
	cd tests/nri
	go vet ./...
	go test -count=1 .
	go test -count=1 -modfile=nri-0.12.0.mod -tags nri0120 .
	go test -count=1 -modfile=nri-0.11.mod -tags nri011 .
	go test -count=1 -modfile=nri-0.8.mod -tags nri08 .
)

say "tests of supervise with hostile callers (half a minute)"
(
	cd tests/supervise
	go vet ./...
	go test -count=1 .
	SUPERVISE_RACE_SECONDS=1
	export SUPERVISE_RACE_SECONDS
	for kernel in 5.5 5.18 6.8 6.12; do
		say "the same, with what kernels after Linux $kernel have hidden (ten seconds)"
		SUPERVISE_KERNEL=$kernel go test -count=1 \
			-run '^Test(Chown.*|Attribute.*|Roots|Rights|Proc|SetIDs.*|386Program|SetGroups.*|Threads|UserNamespaces|OuterGroups|GoPrograms|Signals|Stopped|Vanishing|ReusedPid|Killed.*)$' .
	done
)

build_peers
build_other_peers
build_kubernetes
need_rootless
build_fuse_overlayfs
build_debian
say "end-to-end tests (about five minutes)"
(
	cd tests/e2e
	go vet ./...
	go test -count=1 ./...
)
say "a real cluster (about six minutes)"
sh tests/cluster.sh
say "all tests passed"

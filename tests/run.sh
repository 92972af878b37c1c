#!/bin/sh
# All tests, or one part of them, or one test of a part; tests/README.md tells what is in which. Needs root; installs and
# builds what is missing. The tests make their nodes in namespaces of their own.
#
#     tests/run.sh                                                    everything
#     tests/run.sh form|unit|nri|supervise|e2e|cluster                one part
#     tests/run.sh unit|nri|supervise|e2e|cluster -run NAME           one test, in Rust's or Go's way; of cluster, one map
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

[ "$(id -u)" = 0 ] || die "run as root; a plain user can run cargo test"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Format, lints, what is linked, the release's form and the documents.
form() {
	need_packages file:file man:man-db groff:groff jq:jq shellcheck:shellcheck
	need_rust x86_64-unknown-linux-musl aarch64-unknown-linux-musl
	need_go
	need_cargo_deny
	say "format and lints"
	cargo fmt --check
	cargo clippy --quiet --all-targets --target "$target" -- -D warnings
	unformatted=$(gofmt -l tests)
	[ -z "$unformatted" ] || die "gofmt would change: $unformatted"
	(cd tests && go vet ./...)
	# shellcheck disable=SC2046 # no script's name has a space
	shellcheck -S warning -x $(grep -rlE '^#!/bin/(ba)?sh|^# shellcheck shell=sh' .ci tests)

	say "licences, sources and versions of what is linked"
	cargo deny --locked --log-level error check licenses bans sources
	allowed='libc lexopt protobuf'
	for package in $(cargo metadata --format-version 1 --no-deps | jq -r '.packages[0].dependencies[] | select(.kind == null).name'); do
		case " $allowed " in
		*" $package "*) ;;
		*) die "$package is a run-time dependency beyond $allowed" ;;
		esac
	done

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
	sh tests/docs.sh
}

unit() {
	need_packages zstd:zstd xz:xz-utils bzip2:bzip2
	need_rust "$target"
	say "unit and property tests (about a minute when nothing is built yet)"
	# A plain "cargo test" leaves out those that need root; none may get lost here.
	cargo test --quiet --target "$target" -- --ignored --list >"$log"
	listed=$(grep -c ': test$' "$log" || :)
	marked=$(grep -rF '#[ignore = "needs root"]' src | wc -l)
	[ "$listed" = "$marked" ] || die "$listed tests are left out by cargo test, but $marked in src need root"
	{
		cargo test --quiet --target "$target" -- --include-ignored ${run:+"$run"} || echo FAILED
	} | tee "$log"
	! grep -q FAILED "$log" || die "unit tests failed"
	grep -q '^test result: ok. [1-9]' "$log" || die "no unit test has $run in its name"
}

# suite NAME OPTION...: the tests of a Go suite.
suite() {
	suite_name=$1
	shift
	(cd tests && go test -count=1 -timeout "$((15 * TIME_FACTOR))m" "$@" "./$suite_name")
}

# one NAME: the test of a Go suite that was asked for, and what it said.
one() {
	{
		suite "$1" -v -run "$run" || echo FAILED
	} | tee "$log"
	grep -q '^ok.*s$' "$log" || die "$run of $1 failed, or there is no such test"
}

nri() {
	need_lab
	build_tested
	[ -z "$run" ] || { one nri && return; }
	say "protocol tests against NRI 0.12.5, 0.12.0, 0.11 and 0.8 (about two minutes)"
	suite nri
	suite nri -modfile=peers/nri-0.12.0.mod -tags nri0120
	suite nri -modfile=peers/nri-0.11.mod -tags nri011
	suite nri -modfile=peers/nri-0.8.mod -tags nri08
}

supervise() {
	need_lab
	build_tested
	build_programs
	[ -z "$run" ] || { one supervise && return; }
	say "tests of supervise with hostile callers (half a minute)"
	suite supervise
	for kernel in 5.5 5.18 6.8 6.12; do
		say "the same, with what kernels after Linux $kernel have hidden (ten seconds)"
		(
			SUPERVISE_KERNEL=$kernel SUPERVISE_RACE_SECONDS=1
			export SUPERVISE_KERNEL SUPERVISE_RACE_SECONDS
			suite supervise -run '^Test(Chown.*|Attribute.*|Roots|Rights|Proc|SetIDs.*|386Program|SetGroups.*|Threads|UserNamespaces|OuterGroups|GoPrograms|Signals|Stopped|Vanishing|ReusedPid|Killed.*)$'
		)
	done
}

e2e() {
	need_lab
	build_tested
	build_peers
	build_other_peers
	build_kubernetes
	need_rootless
	build_fuse_overlayfs
	build_debian
	[ -z "$run" ] || { one e2e && return; }
	say "end-to-end tests (about five minutes)"
	suite e2e
}

cluster() {
	say "a real cluster (about six minutes)"
	sh tests/cluster.sh ${run:+"$run"}
}

# The program that the Go suites test.
build_tested() {
	need_rust "$target"
	need_go
	build_plugin
	UID_NRI_PLUGIN=$plugin
	export UID_NRI_PLUGIN
}

usage() {
	die "usage: tests/run.sh [form|unit|nri|supervise|e2e|cluster [-run NAME]]"
}

part=${1:-} run=
case $# in
0 | 1) ;;
3) [ "$2" = -run ] && [ -n "$3" ] && [ "$part" != form ] && run=$3 || usage ;;
*) usage ;;
esac
cd "$root"
time_factor
case $part in
form | unit | nri | supervise | e2e | cluster) "$part" ;;
'')
	for part in form unit nri supervise e2e cluster; do "$part"; done
	say "all tests passed"
	;;
*) usage ;;
esac

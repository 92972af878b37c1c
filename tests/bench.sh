#!/bin/sh
# Measures the plugin beside a Go plugin that does nothing, both driven by NRI's own library; then "supervise" beside the
# kernel itself, and beside what there is for ids that a node lacks: fuse-overlayfs and proot.
# Prints medians, percentiles, memory and ratios, then PASS or MISS for each reach. Fails only if it cannot measure.
#
#     tests/bench.sh            the plugin that cargo builds
#     UID_NRI_PLUGIN=FILE tests/bench.sh
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

[ "$(id -u)" = 0 ] || die "run as root: a user namespace with 2048 ids is to be made"
need_packages gcc:gcc /usr/include/stdlib.h:libc6-dev jq:jq
need_packages fuse-overlayfs:fuse-overlayfs proot:proot
need_lab
need_go
if [ -z "${UID_NRI_PLUGIN:-}" ]; then
	need_rust "$target"
	build_plugin
	UID_NRI_PLUGIN=$plugin
fi
[ -x "$UID_NRI_PLUGIN" ] || die "there is no program at $UID_NRI_PLUGIN"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say "building what to measure with (the first time, under a minute)"
cd "$tests/nri"
CGO_ENABLED=0 go build -buildvcs=false -ldflags "-s -w" -o "$work/nothing" ./bench/nothing
CGO_ENABLED=0 go build -buildvcs=false -o "$work/bench" ./bench
gcc -O2 -Wall -Wextra -o "$work/userns" bench/userns.c
sh "$root/tests/supervise/c/build.sh" "$work"

build_peers
foldbench=$(go_tool foldbench ./e2e/cmd/foldbench)

say "measuring the plugin (about ten seconds)"
UID_NRI_NOTHING=$work/nothing
UID_NRI_USERNS=$work/userns
UID_NRI_CALLER=$work/caller
export UID_NRI_PLUGIN UID_NRI_NOTHING UID_NRI_USERNS UID_NRI_CALLER
"$work/bench"

say "measuring supervise (about two minutes)"
"$foldbench"

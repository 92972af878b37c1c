#!/bin/sh
# Creates and removes 20,000 containers through the real containerd, then has 200 pods alive at once. Prints what the
# plugin, supervise and the node hold before, in the middle and after, and fails if any of it has grown.
#
#     tests/soak.sh                                  five minutes on a quiet machine, twenty on a busy one
#     SOAK_CYCLES=500 SOAK_PODS=20 tests/soak.sh     a minute or two
#     UID_NRI_PLUGIN=FILE tests/soak.sh              instead of what cargo builds
#     SOAK_LIMIT=2h tests/soak.sh                    how long it may take at most, an hour if not told
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

need_lab
need_go
if [ -z "${UID_NRI_PLUGIN:-}" ]; then
	need_rust "$target"
	build_plugin
	UID_NRI_PLUGIN=$plugin
fi
[ -x "$UID_NRI_PLUGIN" ] || die "there is no program at $UID_NRI_PLUGIN"
export UID_NRI_PLUGIN
build_peers
soak=$(go_tool soak ./cmd/soak)
say "creating and removing ${SOAK_CYCLES:-20000} containers, then ${SOAK_PODS:-200} pods at once"
"$soak" -cycles "${SOAK_CYCLES:-20000}" -pods "${SOAK_PODS:-200}" -limit "${SOAK_LIMIT:-1h}"
say "nothing has grown"

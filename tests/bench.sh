#!/bin/sh
# Measures the plugin beside a Go plugin that does nothing, both driven by NRI's own library; then "supervise" beside the
# kernel itself, and beside what there is for ids that a node lacks: fuse-overlayfs and proot.
# Prints medians, percentiles, memory and ratios, then PASS or MISS for each reach. Fails only if it cannot measure.
#
#     tests/bench.sh            the plugin that cargo builds
#     tests/bench.sh --programs real programs in a container: natively, under supervise, in a namespace of the plugin;
#                               BENCH_ROUNDS and BENCH_STARTS are how often (5 and 100)
#     UID_NRI_PLUGIN=FILE tests/bench.sh
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

# The root file system of the programs: sets programs_root, and packages, which are fetched there and not installed. What
# cannot be installed is told, and is then missing there.
programs_root() {
	packages='openssh-server rsync less man-db nano vim-tiny curl procps psmisc iproute2 iputils-ping net-tools strace lsof
		file patch make'
	packages=$(echo $packages)
	programs='tar git redis-server redis-tools postgresql openmpi-bin python3-mpi4py'
	build_debian
	programs_root=$cache/bench-$suite-$(printf '%s' "$packages $programs 1" | sha256sum | cut -c 1-12).tar
	[ ! -e "$programs_root" ] || return 0
	say "installing the programs to measure (about two minutes, once)"
	apt-get update -qq
	tree=$work/root
	mkdir "$tree"
	tar -C "$tree" --numeric-owner -xpf "$LAB_DEBIAN"
	# This machine's lists, so that nothing needs a network later.
	rm -rf "$tree"/etc/apt/sources.list* "$tree/var/lib/apt/lists"
	cp -a /etc/apt/sources.list* "$tree/etc/apt/"
	cp -a /var/lib/apt/lists "$tree/var/lib/apt/"
	mkdir -p "$tree/var/cache/apt/archives/partial" "$tree/etc/postgresql-common"
	printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
	chmod 755 "$tree/usr/sbin/policy-rc.d"
	echo 'create_main_cluster = false' >"$tree/etc/postgresql-common/createcluster.conf"
	for package in $programs; do
		# shellcheck disable=SC2086 # words
		fetched "$package" && in_tree apt-get -qq -y --no-download --no-install-recommends install "$package" >"$work/log" 2>&1 || {
			say "$package cannot be had: $(grep -m 1 '^E:' "$work/log" || tail -n 1 "$work/log")"
		}
	done
	rm -f "$tree"/var/cache/apt/archives/*.deb
	# shellcheck disable=SC2086 # words
	fetched $packages || die "these packages cannot be had: $(tail -n 3 "$work/log")"
	tar -C "$tree" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -cf "$programs_root.new" .
	mv "$programs_root.new" "$programs_root"
}

# fetched PACKAGE...: with what they need, for the tree.
fetched() {
	apt-get -qq -y --no-install-recommends --download-only -o Dir::State::status="$tree/var/lib/dpkg/status" \
		-o Dir::Cache::archives="$tree/var/cache/apt/archives" install "$@" >"$work/log" 2>&1
}

in_tree() {
	unshare --mount --propagation private sh -c 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' \
		"$tree" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

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

if [ "${1:-}" = --programs ]; then
	programs_root
	build_peers
	runner=$(go_tool programs ./cmd/programs)
	export UID_NRI_PLUGIN
	say "measuring programs"
	# A command of the node has a minute, and some of these need more.
	TIME_FACTOR=10 "$runner" -rounds "${BENCH_ROUNDS:-5}" -starts "${BENCH_STARTS:-100}" "$programs_root" "$packages"
	exit
fi

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

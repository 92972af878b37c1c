#!/bin/sh
# A real Kubernetes cluster in a real rootless node: a user of 2048 subordinate ids, Podman, systemd, kubeadm. Each case
# is tried with kubectl, on the plain map and on the planned one, and the controls without the two lines of the Dockerfile.
# Needs root; installs and builds what is missing (the first time about twenty minutes). Everything that it starts ends
# with it.
#
#   sh tests/cluster.sh                 all of it
#   sh tests/cluster.sh plain|planned   on one of the two maps
#   KEEP=1 sh tests/cluster.sh plain    then a shell in the node
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cluster=$root/tests/cluster
user=hpc
id=41047
first=2937359488

# node_base: the root file system of a node, as a tar file made once: sets NODE_BASE. What kind's base image has, from
# Debian; nfs-common among it, whose folder of 65534 a user of few ids cannot unpack.
node_base() {
	packages="systemd,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,nfs-common"
	packages="$packages,e2fsprogs,bash,ca-certificates,jq,procps,socat,hostname,containernetworking-plugins"
	made_root node "$packages" '
		ln -sf /lib/systemd/systemd sbin/init
		rm -f lib/systemd/system/multi-user.target.wants/* etc/systemd/system/*.wants/* \
			lib/systemd/system/local-fs.target.wants/* lib/systemd/system/sockets.target.wants/*udev* \
			lib/systemd/system/sysinit.target.wants/*udev* lib/systemd/system/sockets.target.wants/*initctl* \
			lib/systemd/system/basic.target.wants/*
		mkdir -p etc/systemd/system/multi-user.target.wants etc/kubernetes/manifests opt/cni
		ln -s /usr/lib/cni opt/cni/bin
		for unit in containerd kubelet; do
			ln -s "/etc/systemd/system/$unit.service" etc/systemd/system/multi-user.target.wants/
		done
		echo ReadKMsg=no >>etc/systemd/journald.conf
	'
	NODE_BASE=$made
}

# A Debian with the programs that ask for ids: sets PROGRAMS.
programs_root() {
	made_root programs openssh-server,openssh-client,iputils-ping,busybox-static 'mkdir -p run/sshd; rm -f etc/ssh/ssh_host*'
	PROGRAMS=$made
}

# made_root NAME PACKAGES CHANGES: a Debian of this machine's release with these packages: sets made, a tar file.
made_root() {
	need_packages debootstrap:debootstrap
	debian_mirror
	made=$cache/$1-$suite-$(printf '%s' "$2 $3" | sha256sum | cut -c 1-12).tar
	[ ! -e "$made" ] || return 0
	say "fetching a Debian for the $1 (about two minutes, once)"
	made_tmp=$(mktemp -d "$cache/.root.XXXXXX")
	debootstrap --variant=minbase "--include=$2" "$suite" "$made_tmp/root" "$mirror" >"$made_tmp/log" 2>&1 || {
		tail -n 20 "$made_tmp/log" >&2
		rm -rf "$made_tmp"
		die "debootstrap could not make a $suite from $mirror"
	}
	(cd "$made_tmp/root" && eval "$3")
	tar -C "$made_tmp/root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
		--exclude='./var/cache/apt/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' -cf "$made_tmp/tar" .
	mv "$made_tmp/tar" "$made"
	rm -rf "$made_tmp"
}

# The image of Kubernetes' own programs: sets CONTROL_PLANE, a tar file with all of them, and nft for kube-proxy.
control_plane_root() {
	CONTROL_PLANE=$cache/control-plane-$(printf "%s" "proxy-link $LAB_KUBERNETES $LAB_ETCD $LAB_COREDNS" | sha256sum | cut -c 1-12).tar
	[ ! -e "$CONTROL_PLANE" ] || return 0
	need_packages nft:nftables
	tree=$(mktemp -d "$cache/.control.XXXXXX")
	mkdir -p "$tree/usr/bin" "$tree/usr/local/bin" "$tree/usr/sbin" "$tree/etc" "$tree/tmp"
	for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
		cp "$LAB_KUBERNETES/$program" "$tree/usr/bin/"
	done
	ln -s /usr/bin/kube-proxy "$tree/usr/local/bin/" # where kubeadm's DaemonSet wants it
	cp "$LAB_ETCD/server" "$tree/usr/bin/etcd"
	cp "$LAB_COREDNS/coredns" "$tree/coredns"
	cp /usr/sbin/nft "$tree/usr/sbin/"
	ldd /usr/sbin/nft | awk '/\// { print $(NF - 1) }' | while read -r library; do
		mkdir -p "$tree/$(dirname "$library")"
		cp -L "$library" "$tree/$library"
	done
	echo 'root:x:0:0::/:/bin/false' >"$tree/etc/passwd"
	chmod 755 "$tree"
	tar -C "$tree" --owner=0 --group=0 --numeric-owner -cf "$CONTROL_PLANE.new" .
	mv "$CONTROL_PLANE.new" "$CONTROL_PLANE"
	rm -rf "$tree"
}

# What podman build is given.
build_context() {
	mkdir -p "$work/context/bin" "$work/context/sbin" "$work/context/usrbin" "$work/images"
	cp -r "$cluster/." "$work/context/"
	for program in containerd containerd-shim-runc-v2 ctr; do
		cp "$LAB_CONTAINERD/$program" "$work/context/bin/"
	done
	cp "$LAB_CRICTL/crictl" "$work/context/bin/"
	cp "$LAB_RUNC/runc" "$work/context/sbin/runc.real"
	for program in kubelet kubeadm kubectl; do
		cp "$LAB_KUBERNETES/$program" "$work/context/usrbin/"
	done
	"$LAB_CONTAINERD/ctr" oci spec >"$work/context/node/etc/containerd/cri-base.json"
	cgroups='cgroupDriver: systemd'
	if ! grep -qw memory "$base/cgroup.controllers"; then
		say "not real here: this machine delegates no controllers, so pods have no limits, and no cgroups by systemd"
		cgroups='cgroupDriver: cgroupfs\ncgroupsPerQOS: false\nenforceNodeAllocatable: [none]'
		sed -i '/SystemdCgroup/s/true/false/' "$work/context/node/etc/containerd/config.toml"
	fi
	sed -i "s/^VERSION$/$(kubernetes_version)/; s/VERSION/$(kubernetes_version)/; s/^CGROUPS$/$cgroups/" "$work/context/node/etc/kubeadm.yaml"
	say "writing the images"
	"$images" "$work/images" "control-plane=$CONTROL_PLANE" "programs=$PROGRAMS"
	mkdir "$work/plugin"
	cp "$plugin" "$work/plugin/uid-nri-plugin"
	tar -C "$work/plugin" -cf "$work/plugin.tar" uid-nri-plugin
	cp "$plugin" "$work/bin/"
	: >"$work/node-base.tar"
	mount --bind "$NODE_BASE" "$work/node-base.tar"
	chmod -R a+rX "$work/context" "$work/images" "$work/bin" "$work/plugin.tar"
}

# as_user COMMAND...: as the user, in a cgroup that is the user's.
as_user() {
	sh -c 'echo $$ >"$0/user/cgroup.procs" && exec "$@"' "$base" setpriv --reuid=$id --regid=$id --groups=$id,41100,41200,41300 \
		--inh-caps=-all env -i USER=$user HOME="$work/home" XDG_RUNTIME_DIR="$work/run" PATH="$work/bin:$PATH" \
		CONTAINERS_CONF="$work/containers.conf" STORAGE_DRIVER=overlay sh -c 'cd && exec "$@"' sh "$@"
}

# The user, in this mount namespace only.
make_user() {
	chmod 755 "$work"
	mkdir -p "$work/home" "$work/run" "$work/bin"
	chown $id:$id "$work/home" "$work/run"
	chmod 700 "$work/run"
	for file in passwd group subuid subgid; do
		cat /etc/$file >"$work/$file" 2>/dev/null || :
	done
	echo "$user:x:$id:$id::$work/home:/bin/sh" >>"$work/passwd"
	for group in $user:$id project-a:41100 project-b:41200 gpu:41300; do
		echo "${group%:*}:x:${group#*:}:$user" >>"$work/group"
	done
	echo "$user:$first:2048" >>"$work/subuid"
	echo "$user:$first:2048" >>"$work/subgid"
	for file in passwd group subuid subgid; do
		[ -e /etc/$file ] || : >/etc/$file
		mount --bind "$work/$file" /etc/$file
	done
	cat >"$work/containers.conf" <<-'CONF'
		[engine]
		cgroup_manager = "cgroupfs"
		events_logger = "file"
	CONF
	mount -t tmpfs -o mode=1777 tmpfs /dev/shm # Podman leaves its locks there
	# Everybody's, as on a machine with udev.
	mknod "$work/tun" c 10 200
	chmod 666 "$work/tun"
	mount --bind "$work/tun" /dev/net/tun
}

# Sets base: the cgroup of the test, in the one hierarchy of version 2.
find_cgroup() {
	if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
	fi
	base=/sys/fs/cgroup/${work##*/}
}

make_cgroup() {
	find_cgroup
	mkdir -p "$base"
	for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :
		echo "+$controller" >"$base/cgroup.subtree_control" 2>/dev/null || :
	done
	mkdir -p "$base/user"
	chown -R $id:$id "$base"
}

# Builds the node's images as a user does: the base cannot be unpacked by podman alone.
build_images() {
	say "building the node's image, as $user"
	if as_user podman import "$work/node-base.tar" localhost/node-base >"$work/log" 2>&1; then
		die "podman unpacked the node's base image without supervise"
	fi
	grep -q 'insufficient UIDs or GIDs' "$work/log" || die "podman import failed for another reason: $(tail -n 3 "$work/log")"
	sed -n 's/.*\(potentially insufficient.*\)/    without supervise: \1/p' "$work/log" | cut -c 1-150 | head -n 1
	supervised podman import "$work/node-base.tar" localhost/node-base
	supervised podman import "$work/plugin.tar" localhost/uid-nri-plugin
	supervised podman build -q -t localhost/node -f "$work/context/Dockerfile.node" "$work/context"
	supervised podman build -q -t localhost/node-with-plugin -f "$work/context/Dockerfile" "$work/context"
}

supervised() {
	as_user podman unshare uid-nri-plugin supervise -- "$@" >"$work/log" 2>&1 || die "$*: $(tail -n 5 "$work/log")"
}

if [ "${1:-}" = no-cgroup ]; then
	find_cgroup
	for _ in 1 2 3 4 5 6 7 8 9 10; do # until the last process has gone
		find "$base" -depth -type d -exec rmdir {} + 2>/dev/null || :
		[ -e "$base" ] || exit 0
		sleep 1
	done
	die "the cgroup $base is left"
fi
say "packages and programs"
need_lab
need_go
need_rust "$target"
need_rootless
need_packages setpriv:util-linux /usr/bin/mknod:coreutils
mkdir -p "$cache"
if [ "${1:-}" != inside ]; then
	build_plugin
	build_peers
	build_kubernetes
	build_cluster
	node_base
	programs_root
	control_plane_root
	time_factor
	images=$(go_tool images ./e2e/cmd/images)
	export NODE_BASE PROGRAMS CONTROL_PLANE images
	work=$(mktemp -d /var/tmp/uid-nri-cluster.XXXXXX)
	export work
	trap 'rm -rf "$work"; unshare --mount sh "$0" no-cgroup' EXIT
	trap 'exit 130' INT TERM
	code=0
	unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc sh "$0" inside "$@" || code=$?
	exit $code
fi
shift
mount --make-rshared / # with nobody
make_cgroup
make_user
build_context
build_images
# shellcheck source=tests/cluster/cases.sh
. "$cluster/cases.sh"
# shellcheck source=tests/cluster/checks.sh
. "$cluster/checks.sh"
[ $# != 0 ] || set -- plain planned
for which in "$@"; do
	case $which in
	plain | planned) "$which" ;;
	*) die "$which: plain or planned" ;;
	esac
	if [ -n "${KEEP:-}" ]; then
		say "a shell in the node $node; it is removed when the shell ends"
		as_user podman exec -it "$node" bash || :
	fi
	end_node
done
if [ "$differences" != 0 ]; then
	die "$differences lines differ from what is expected"
fi
say "all lines are as expected"

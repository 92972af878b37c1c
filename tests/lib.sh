# shellcheck shell=sh
# Functions for the scripts beside this file: what a bare Debian machine needs, and the real programs to test against.
# The script that reads this sets "root" to the top of the source tree.
: "${root:?set root before reading lib.sh}"

tests=$root/tests
cache=${XDG_CACHE_HOME:-$HOME/.cache}/uid-nri-plugin
target=$(uname -m)-unknown-linux-musl
plugin=$root/target/$target/release/uid-nri-plugin

say() {
	printf '==> %s\n' "$*"
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# need_packages THING:PACKAGE...: THING is a command, or a path when it has a slash. Asks apt only for what is missing.
need_packages() {
	missing=
	for pair in "$@"; do
		case $pair in
		/*) [ -e "${pair%%:*}" ] || missing="$missing ${pair#*:}" ;;
		*) command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}" ;;
		esac
	done
	[ -n "$missing" ] || return 0
	[ "$(id -u)" = 0 ] || die "run as root, or install first:$missing"
	command -v apt-get >/dev/null 2>&1 || die "no apt-get here; install first:$missing"
	say "installing$missing"
	if [ -z "${apt_updated:-}" ]; then
		apt-get update -qq
		apt_updated=1
	fi
	# shellcheck disable=SC2086 # one word a package
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# What the end-to-end tests and their peers take from the distribution.
need_lab() {
	[ "$(id -u)" = 0 ] || die "run as root: nodes are user namespaces of ids that only root may map"
	need_packages jq:jq ip:iproute2 nsenter:util-linux /bin/busybox:busybox-static \
		/usr/lib/cni/bridge:containernetworking-plugins gcc:gcc /usr/include/stdlib.h:libc6-dev \
		/usr/include/seccomp.h:libseccomp-dev pkg-config:pkg-config
}

# Go of at least the versions in the .mod files. From 1.21 on, go fetches that itself; an older one fetches it as a module.
need_go() {
	need_packages go:golang-go
	go_asked=$(sed -n 's/^go //p' "$tests"/*.mod "$tests"/peers/*.mod | sort -V | tail -n 1)
	go_here=$(cd / && go env GOVERSION)
	go_here=${go_here#go}
	[ "$(printf '%s\n' "$go_asked" "$go_here" | sort -V | head -n 1)" != "$go_asked" ] || return 0
	if [ "$(printf '%s\n' 1.21 "$go_here" | sort -V | head -n 1)" = 1.21 ]; then
		GOTOOLCHAIN=go$go_asked
		export GOTOOLCHAIN
		return 0
	fi
	say "fetching go $go_asked (this machine has $go_here)"
	go_dir=$(cd / && GO111MODULE=on go mod download -json "golang.org/toolchain@v0.0.1-go$go_asked.linux-$(go env GOARCH)" | jq -r .Dir)
	[ -d "$go_dir/bin" ] || die "go $go_asked could not be fetched; install it"
	chmod -R u+x "$go_dir/bin" "$go_dir/pkg/tool" # a module's files are not executable
	PATH=$go_dir/bin:$PATH
	GOROOT=$go_dir
	export PATH GOROOT
}

# need_rust TARGET...: a cargo that can build for these.
need_rust() {
	if ! command -v cargo >/dev/null 2>&1; then
		[ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
		if ! command -v cargo >/dev/null 2>&1; then
			[ "$(id -u)" = 0 ] && apt-get update -qq && apt_updated=1
			apt-cache show rustup 2>/dev/null | grep -q . || die "no cargo here, and this Debian has no rustup package: install Rust first"
			need_packages rustup:rustup
			rustup -q default stable
		fi
	fi
	if command -v rustup >/dev/null 2>&1; then
		for rust_target in "$@"; do
			rustup target list --installed | grep -qx "$rust_target" || {
				say "adding the Rust target $rust_target"
				rustup -q target add "$rust_target"
			}
		done
	fi
}

# cargo-deny, which is no package of Debian's: about four minutes, once.
need_cargo_deny() {
	command -v cargo-deny >/dev/null 2>&1 || {
		say "building cargo-deny (about four minutes, once)"
		cargo install --quiet --locked cargo-deny@0.20.2
	}
}

build_plugin() {
	say "building uid-nri-plugin (about a minute when nothing is built yet)"
	(cd "$root" && cargo build --release --quiet --target "$target")
	[ -x "$plugin" ] || die "cargo built no $plugin"
}

# Sets TIME_FACTOR, by which the tests' limits of time grow: how slowly this machine starts programs, idle or not.
time_factor() {
	[ -z "${TIME_FACTOR:-}" ] || return 0
	began=$(date +%s%N)
	started=0
	while [ $started -lt 500 ]; do
		/bin/true
		started=$((started + 1))
	done
	TIME_FACTOR=$((1 + ($(date +%s%N) - began) / 500000000))
	export TIME_FACTOR
	[ "$TIME_FACTOR" = 1 ] || say "a slow or busy machine: limits of time times $TIME_FACTOR"
}

# go_build OUT MODFILE PACKAGE...: of the versions that MODFILE, a file of tests/peers, pins; trimmed, on two cores at most.
# GO_TAGS and GO_LDFLAGS come from the caller.
go_build() {
	go_out=$1 go_modfile=$2
	shift 2
	(cd "$tests" && go build -modfile="peers/$go_modfile" -p 2 -trimpath -buildvcs=false \
		-tags "$GO_TAGS" -ldflags "-s -w $GO_LDFLAGS" -o "$go_out/" "$@")
}

# peer NAME MODFILE PACKAGE...: builds the programs that MODFILE pins, once for each content of MODFILE; prints their folder.
peer() {
	peer_name=$1 peer_mod=$2
	shift 2
	peer_hash=$(cd "$tests/peers" && {
		printf '%s\n' "$@" "$GO_TAGS" "${CGO_ENABLED:-}" ${GOARCH:+"$GOARCH"}
		go version
		cat "$peer_mod" "${peer_mod%.mod}.sum"
	} | sha256sum | cut -c 1-12)
	peer_dir=$cache/peers/$peer_name-$peer_hash
	if [ ! -d "$peer_dir" ]; then
		say "building $peer_name for the tests (one to four minutes, once; kubernetes: about ten)" >&2
		mkdir -p "$cache/peers"
		peer_tmp=$(mktemp -d "$cache/peers/.building.XXXXXX")
		go_build "$peer_tmp" "$peer_mod" "$@" || {
			rm -rf "$peer_tmp"
			die "$peer_name could not be built"
		}
		chmod 755 "$peer_tmp"
		mv -T "$peer_tmp" "$peer_dir" 2>/dev/null || rm -rf "$peer_tmp" # another run may have been first
	fi
	printf '%s\n' "$peer_dir"
}

# containerd_peer NAME MODFILE [MODULE]: containerd, its shim and ctr, which tell the version that MODFILE pins.
containerd_peer() {
	containerd=${3:-github.com/containerd/containerd/v2}
	containerd_version=$(cd "$tests" && go list -modfile="peers/$2" -m -f '{{.Version}}' "$containerd")
	GO_TAGS="no_btrfs no_zfs no_devmapper no_blockfile no_erofs no_tracing urfave_cli_no_docs"
	GO_LDFLAGS="-X $containerd/version.Version=$containerd_version"
	CGO_ENABLED=0
	export CGO_ENABLED
	peer "$1" "$2" "$containerd/cmd/containerd" "$containerd/cmd/containerd-shim-runc-v2" "$containerd/cmd/ctr"
	unset CGO_ENABLED
}

# The containerd of today, with runc and crictl: sets LAB_CONTAINERD, LAB_RUNC and LAB_CRICTL.
build_peers() {
	LAB_CONTAINERD=$(containerd_peer containerd containerd-2.3.mod)
	GO_TAGS=seccomp GO_LDFLAGS=''
	LAB_RUNC=$(peer runc containerd-2.3.mod github.com/opencontainers/runc)
	GO_TAGS='' GO_LDFLAGS=''
	LAB_CRICTL=$(CGO_ENABLED=0 && export CGO_ENABLED && peer crictl containerd-2.3.mod sigs.k8s.io/cri-tools/cmd/crictl)
	export LAB_CONTAINERD LAB_RUNC LAB_CRICTL
}

# go_tool NAME PACKAGE: builds a program of the tests themselves; prints its path.
go_tool() {
	mkdir -p "$cache/bin"
	(cd "$tests" && CGO_ENABLED=0 go build -buildvcs=false -o "$cache/bin/$1" "$2") || die "$1 could not be built"
	printf '%s\n' "$cache/bin/$1"
}

# The C programs of the suite supervise: sets SUPERVISE_PROGRAMS, their folder.
build_programs() {
	SUPERVISE_PROGRAMS=$cache/programs-$(cat "$tests"/supervise/c/* | sha256sum | cut -c 1-12)
	export SUPERVISE_PROGRAMS
	[ ! -d "$SUPERVISE_PROGRAMS" ] || return 0
	mkdir -p "$cache"
	programs_tmp=$(mktemp -d "$cache/.programs.XXXXXX")
	sh "$tests/supervise/c/build.sh" "$programs_tmp" || {
		rm -rf "$programs_tmp"
		die "the programs of tests/supervise/c could not be built"
	}
	mv -T "$programs_tmp" "$SUPERVISE_PROGRAMS" 2>/dev/null || rm -rf "$programs_tmp" # another run may have been first
}

# What a user needs for a node in RootlessKit or Podman. Podman's network is not used, nor what it recommends for that.
need_rootless() {
	need_packages newuidmap:uidmap rootlesskit:rootlesskit slirp4netns:slirp4netns podman:podman crun:crun \
		fuse-overlayfs:fuse-overlayfs mount.fuse3:fuse3
}

# The containerds before and after, for the version rules: sets LAB_CONTAINERD_2_4, LAB_CONTAINERD_2_2, LAB_CONTAINERD_2_1
# and LAB_CONTAINERD_1_7.
build_other_peers() {
	LAB_CONTAINERD_2_4=$(containerd_peer containerd-2.4 containerd-2.4.mod)
	LAB_CONTAINERD_2_2=$(containerd_peer containerd-2.2 containerd-2.2.mod)
	LAB_CONTAINERD_2_1=$(containerd_peer containerd-2.1 containerd-2.1.mod)
	LAB_CONTAINERD_1_7=$(containerd_peer containerd-1.7 containerd-1.7.mod github.com/containerd/containerd)
	export LAB_CONTAINERD_2_4 LAB_CONTAINERD_2_2 LAB_CONTAINERD_2_1 LAB_CONTAINERD_1_7
}

# A real Kubernetes: sets LAB_KUBERNETES, the folder of its programs, and LAB_KUBELET, the folder of kubelet.
build_kubernetes() {
	GO_TAGS=providerless GO_LDFLAGS="-X k8s.io/component-base/version.gitVersion=$(kubernetes_version)"
	LAB_KUBERNETES=$(CGO_ENABLED=0 && export CGO_ENABLED && peer kubernetes kubernetes.mod \
		k8s.io/kubernetes/cmd/kubelet k8s.io/kubernetes/cmd/kubeadm k8s.io/kubernetes/cmd/kubectl \
		k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager \
		k8s.io/kubernetes/cmd/kube-scheduler k8s.io/kubernetes/cmd/kube-proxy)
	LAB_KUBELET=$LAB_KUBERNETES
	export LAB_KUBERNETES LAB_KUBELET
}

kubernetes_version() {
	sed -n 's/^\(require\)\{0,1\}[[:space:]]*k8s.io\/kubernetes \(v[0-9.]*\).*/\2/p' "$tests/peers/kubernetes.mod"
}

# What a cluster needs besides: sets LAB_ETCD and LAB_COREDNS.
build_cluster() {
	GO_TAGS='' GO_LDFLAGS=''
	LAB_ETCD=$(CGO_ENABLED=0 && export CGO_ENABLED && peer etcd etcd.mod go.etcd.io/etcd/server/v3)
	GO_TAGS=cluster
	LAB_COREDNS=$(CGO_ENABLED=0 && export CGO_ENABLED && peer coredns coredns.mod ./peers/coredns)
	export LAB_ETCD LAB_COREDNS
}

# A snapshotter for a user's node: sets LAB_FUSE_OVERLAYFS.
build_fuse_overlayfs() {
	GO_TAGS='' GO_LDFLAGS=''
	LAB_FUSE_OVERLAYFS=$(CGO_ENABLED=0 && export CGO_ENABLED && peer fuse-overlayfs fuse-overlayfs.mod \
		github.com/containerd/fuse-overlayfs-snapshotter/v2/cmd/containerd-fuse-overlayfs-grpc)
	export LAB_FUSE_OVERLAYFS
}

# Sets suite and mirror: this machine's release of Debian, and where it comes from.
debian_mirror() {
	# shellcheck source=/dev/null
	suite=$(. /etc/os-release && printf '%s\n' "${VERSION_CODENAME:-}")
	mirror=$(apt-get indextargets --format "\$(RELEASE) \$(REPO_URI)" | awk -v suite="$suite" '$1 == suite { print $2; exit }')
	[ -n "$mirror" ] || die "apt knows no mirror of ${suite:-this release}: this machine must be a Debian"
}

# A small Debian of this machine's release, as a tar file made once: sets LAB_DEBIAN.
build_debian() {
	need_packages debootstrap:debootstrap
	debian_mirror
	LAB_DEBIAN=$cache/debian-$suite.tar
	export LAB_DEBIAN
	[ ! -e "$LAB_DEBIAN" ] || return 0
	say "fetching a Debian $suite for the tests (about a minute, once)"
	mkdir -p "$cache"
	debian_tmp=$(mktemp -d "$cache/.debian.XXXXXX")
	debootstrap --variant=minbase "$suite" "$debian_tmp/root" "$mirror" >"$debian_tmp/log" 2>&1 || {
		tail -n 20 "$debian_tmp/log" >&2
		rm -rf "$debian_tmp"
		die "debootstrap could not make a $suite from $mirror"
	}
	tar -C "$debian_tmp/root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
		--exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' -cf "$debian_tmp/tar" .
	mv "$debian_tmp/tar" "$LAB_DEBIAN"
	rm -rf "$debian_tmp"
}

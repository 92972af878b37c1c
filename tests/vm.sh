#!/bin/sh
# Runs the tests on other kernels than this machine's, each in a virtual machine: Debian's 5.10, 6.1 and 6.12, the newest
# one, and 6.12 on arm64. Prints a table in the end, and fails if one of its cells does.
#
#     tests/vm.sh [5.10|6.1|6.12|newest|arm64]...      all of them, if none is named
#     VM_PARTS='unit nri supervise e2e hardened' VM_RUN='^TestChown' tests/vm.sh 6.1
#
# VM_PARTS says which suites, VM_RUN which tests of the Go suites. What the machines need is kept in
# ~/.cache/uid-nri-plugin/vm: 2 GB for all. KEEP_LOG=FOLDER keeps what the machines said.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
vm=$cache/vm

# What a machine has besides Debian's minimal system.
packages=busybox-static,iproute2,jq,kmod,libseccomp2,procps,uidmap,containernetworking-plugins

# private_apt FOLDER ARCH SUITE...: an apt of its own, which knows only these suites and has nothing installed.
private_apt() {
	apt=$1 apt_arch=$2
	shift 2
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/etc/apt.conf.d" "$apt/etc/preferences.d"
	for apt_suite in "$@"; do
		printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$apt_suite"
	done >"$apt/etc/sources.list"
	cat >"$apt/apt.conf" <<-END
		Dir::State "$apt"; Dir::State::lists "$apt/lists"; Dir::State::status "/dev/null";
		Dir::Cache "$apt/cache"; Dir::Etc "$apt/etc"; Dir::Etc::sourcelist "$apt/etc/sources.list";
		APT::Architecture "$apt_arch"; APT::Architectures "$apt_arch"; APT::Default-Release "$apt_suite";
		APT::Sandbox::User "root"; APT::Install-Recommends "false"; Acquire::Languages "none";
	END
	APT_CONFIG=$apt/apt.conf apt-get update -qq
}

# extract FOLDER PACKAGE...: of the private apt.
extract() {
	extract_to=$1
	shift
	mkdir -p "$apt/deb" "$extract_to"
	(cd "$apt/deb" && APT_CONFIG=$apt/apt.conf apt-get -qq download "$@")
	for deb in "$apt"/deb/*.deb; do
		dpkg-deb -x "$deb" "$extract_to"
		rm "$deb"
	done
}

# A kernel with its modules, in $vm/kernel-NAME. The last of the suites is the one that it is taken from.
fetch_kernel() {
	name=$1 arch=$2
	shift 2
	kernel=$vm/kernel-$name
	[ ! -d "$kernel" ] || return 0
	say "fetching Debian's kernel $name"
	private_apt "$work/apt-$name" "$arch" "$@"
	debs=$(APT_CONFIG=$apt/apt.conf apt-get -s install "linux-image-$arch" |
		sed -nE 's/^Inst (linux-(image|binary|modules)-[0-9][^ ]*) .*/\1/p')
	# shellcheck disable=SC2086 # one word a package
	extract "$work/kernel" $debs
	modules=$(find "$work/kernel" -path '*/lib/modules/*' -prune)
	mkdir -p "$work/new/lib/modules"
	mv "$modules" "$work/new/lib/modules/"
	depmod -b "$work/new" "${modules##*/}" 2>/dev/null # warns where a package has no list of built-in modules
	mv "$(find "$work/kernel" "$work/new" -name 'vmlinuz*' -type f -print -quit)" "$work/new/vmlinuz"
	image "$work/new/modules" "$work/new/lib/modules" 1500
	mv "$work/new" "$kernel"
	rm -rf "$work/kernel"
}

# image FILE FOLDER MEBIBYTES: an ext4 file system of a folder's files.
image() {
	mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$2" "$1.new" "${3}M" >/dev/null
	mv "$1.new" "$1"
}

# initrd: the first steps of a machine, which find its disks. Needs kernel and arch.
make_initrd() {
	initrd=$work/initrd-$name
	mkdir -p "$work/initrd/bin" "$work/initrd/modules"
	cp "$vm/busybox-$arch/bin/busybox" "$work/initrd/bin/"
	n=100
	for driver in virtio_pci virtio_blk ext4; do
		modprobe -d "$kernel" -S "$(ls "$kernel/lib/modules")" --show-depends "$driver" 2>/dev/null | sed -n 's/^insmod //p'
	done | awk '!seen[$1]++ { print $1 }' >"$work/drivers"
	while read -r driver; do
		n=$((n + 1))
		case $driver in
		*.xz) xz -dc "$driver" ;;
		*.zst) zstd -qdc "$driver" ;;
		*) cat "$driver" ;;
		esac >"$work/initrd/modules/$n.ko"
	done <"$work/drivers"
	install -m 755 "$root/tests/vm/init" "$work/initrd/init"
	(cd "$work/initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$initrd"
	rm -rf "$work/initrd"
}

# boot DISK PAYLOAD PARAMETER...: a machine with these two disks, to its end.
boot() {
	boot_disk=$1 boot_payload=$2
	shift 2
	case $arch in
	amd64) qemu='qemu-system-x86_64 -machine q35' console=ttyS0 cpu=max ;;
	arm64) qemu='qemu-system-aarch64 -machine virt' console=ttyAMA0 cpu=cortex-a72 ;;
	esac
	[ "$(slowness)" != 1 ] || cpu='host,-arch-capabilities -enable-kvm'
	# shellcheck disable=SC2086 # words
	timeout "$((1800 * $(slowness)))" $qemu -cpu $cpu -smp 2 -m 6144 -display none -serial stdio -monitor none -nic none -no-reboot \
		-drive "file=$boot_disk,if=virtio,format=raw" -drive "file=$boot_payload,if=virtio,format=raw,readonly=on" \
		-drive "file=$kernel/modules,if=virtio,format=raw,readonly=on" \
		-kernel "$kernel/vmlinuz" -initrd "$initrd" -append "console=$console panic=-1 quiet $*" </dev/null
}

# 10 if the processor is emulated, else 1: by how much time limits grow. /dev/kvm alone does not tell that KVM can run any
# kernel: in some virtual machines it is there without the processor's help.
slowness() {
	if [ "$arch" = "$(dpkg --print-architecture)" ] && [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
		echo 1
	else
		echo 10
	fi
}

# The system that all machines of an architecture boot, as a disk: $vm/system-ARCH.
make_system() {
	system=$vm/system-$arch
	[ ! -e "$system" ] || return 0
	say "making a Debian $suite for $arch (a minute, once; emulated about ten)"
	foreign=
	[ "$arch" = "$(dpkg --print-architecture)" ] || foreign=--foreign
	debootstrap $foreign --arch="$arch" --variant=minbase --include="$packages" "$suite" "$work/system" "$mirror" >"$work/log" 2>&1 || {
		tail -n 20 "$work/log" >&2
		die "debootstrap could not make a $suite for $arch"
	}
	mkdir "$work/system/vm"
	[ -n "$foreign" ] || rm -f "$work"/system/var/cache/apt/archives/*.deb
	image "$work/disk" "$work/system" 2000
	rm -rf "$work/system"
	if [ -n "$foreign" ]; then
		mkdir "$work/nothing"
		image "$work/empty" "$work/nothing" 8
		boot "$work/disk" "$work/empty" vm.first=debootstrap >"$work/log" 2>&1 || :
		grep -q '^VM-END' "$work/log" || {
			tail -n 20 "$work/log" >&2
			die "debootstrap's second stage failed"
		}
	fi
	mv "$work/disk" "$system"
}

# What is to be tested, built here for the machines of an architecture: a disk at $work/payload-ARCH.
make_payload() {
	payload=$work/payload-$arch
	[ ! -e "$payload" ] || return 0
	say "building the program, its tests and the runtimes for $arch"
	case $arch in
	amd64) triple=x86_64-unknown-linux-musl CC=gcc ;;
	arm64) triple=aarch64-unknown-linux-musl CC=aarch64-linux-gnu-gcc ;;
	esac
	to=$work/to
	mkdir -p "$to/programs" "$to/peers"
	(cd "$root" && cargo build --quiet --release --target "$triple")
	cp "$root/target/$triple/release/uid-nri-plugin" "$to/"
	unit=$(cd "$root" && cargo test --quiet --no-run --target "$triple" --message-format json |
		jq -r 'select(.profile.test and .executable) | .executable')
	cp "$unit" "$to/unit"
	CC=$CC sh "$root/tests/supervise/c/build.sh" "$to/programs"
	(
		if [ "$arch" != "$(dpkg --print-architecture)" ]; then
			GOARCH=$arch
			export GOARCH
		fi
		for suite_of in nri supervise e2e; do
			(cd "$tests" && CGO_ENABLED=0 go test -c -o "$to/$suite_of.test" "./$suite_of")
		done
		(cd "$tests" && CGO_ENABLED=0 go build -buildvcs=false -o "$to/drop" ./e2e/cmd/drop)
		build_vm_peers
		cp -r "$LAB_CONTAINERD" "$to/peers/containerd"
		cp -r "$LAB_RUNC" "$to/peers/runc"
		cp -r "$LAB_CRICTL" "$to/peers/crictl"
	)
	cp "$root/tests/vm/guest" "$to/"
	image "$payload" "$to" 1000
	rm -rf "$to"
}

build_vm_peers() {
	if [ "$arch" != "$(dpkg --print-architecture)" ]; then
		sysroot=$vm/sysroot-$arch
		[ -d "$sysroot" ] || extract "$sysroot" libseccomp-dev libseccomp2
		CGO_ENABLED=1 CC=aarch64-linux-gnu-gcc CGO_CFLAGS="-I$sysroot/usr/include"
		CGO_LDFLAGS="-L$sysroot/usr/lib/aarch64-linux-gnu"
		PKG_CONFIG_LIBDIR=$sysroot/usr/lib/aarch64-linux-gnu/pkgconfig
		export CGO_ENABLED CC CGO_CFLAGS CGO_LDFLAGS PKG_CONFIG_LIBDIR
	fi
	build_peers
}

# machine NAME: boots it with the suites and keeps what it says.
machine() {
	name=$1
	case $name in
	5.10) arch=amd64 suites=bullseye ;;
	6.1) arch=amd64 suites=bookworm ;;
	6.12) arch=amd64 suites=trixie ;;
	newest) arch=amd64 suites='trixie trixie-backports' ;;
	arm64) arch=arm64 suites=trixie ;;
	*) die "$name: 5.10, 6.1, 6.12, newest or arm64" ;;
	esac
	mkdir -p "$vm"
	# shellcheck disable=SC2086
	fetch_kernel "$name" "$arch" $suites
	private_apt "$work/apt" "$arch" "$suite"
	[ -d "$vm/busybox-$arch" ] || extract "$vm/busybox-$arch" busybox-static
	make_initrd
	make_system
	make_payload
	say "$name: $(ls "$kernel/lib/modules"), time limits times $(slowness)"
	boot "$system,snapshot=on" "$payload" "vm.slow=$(slowness)" "vm.parts=$parts" "vm.run=${VM_RUN:-}" 2>&1 | sed -u 's/\r$//' | tee "$work/$name.log" | grep --line-buffered '^VM-' || :
	[ -z "${KEEP_LOG:-}" ] || cp "$work/$name.log" "$KEEP_LOG/"
	grep -q '^VM-END' "$work/$name.log" || {
		tail -n 20 "$work/$name.log" >&2
		printf 'VM-CELL|the machine|FAILED before its end\n' >>"$work/$name.log"
	}
}

[ "$(id -u)" = 0 ] || die "run as root: debootstrap and the cross-built runtimes need it"
for name in "$@"; do
	case $name in
	5.10 | 6.1 | 6.12 | newest | arm64) ;;
	*) die "$name: 5.10, 6.1, 6.12, newest or arm64" ;;
	esac
done
[ $# != 0 ] || set -- 5.10 6.1 6.12 newest arm64
parts=$(printf '%s' "${VM_PARTS:-unit nri supervise e2e hardened}" | tr ' ' ,)
need_lab
need_go
need_rust x86_64-unknown-linux-musl aarch64-unknown-linux-musl
need_packages qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap cpio:cpio mke2fs:e2fsprogs modprobe:kmod \
	xz:xz-utils zstd:zstd gzip:gzip
case " $* " in
*' arm64 '*) need_packages qemu-system-aarch64:qemu-system-arm aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu \
	/usr/aarch64-linux-gnu/include/stdlib.h:libc6-dev-arm64-cross ;;
esac
debian_mirror
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
for name in "$@"; do
	machine "$name"
done

# The table: a line for each cell, a column for each machine.
for name in "$@"; do
	sed -n "s/^VM-CELL|\(.*\)|\(.*\)/$name|\1|\2/p" "$work/$name.log"
done | awk -F '|' -v names="$*" '
	BEGIN { columns = split(names, name, " ") }
	!($2 in seen) { seen[$2] = 1; row[++rows] = $2 }
	{ cell[$1, $2] = $3 }
	END {
		printf "%-44s", ""
		for (c = 1; c <= columns; c++) printf " %-18s", name[c]
		for (r = 1; r <= rows; r++) {
			printf "\n%-44s", row[r]
			for (c = 1; c <= columns; c++) printf " %-18s", cell[name[c], row[r]]
		}
		print ""
	}'
for name in "$@"; do
	if grep -q '^VM-CELL|.*|FAILED' "$work/$name.log"; then die "a cell failed"; fi
done
say "all cells are as expected"

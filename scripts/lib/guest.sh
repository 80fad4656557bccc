# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What the test machines boot: the kernel, a read-only root image that all of
# them share, and an initramfs that finds it. Nothing in them is ours: that comes as
# a disk of its own.

GUEST_PACKAGES=(
	bash coreutils util-linux mount procps psmisc kmod iproute2 iputils-ping ethtool
	e2fsprogs xfsprogs dmsetup fio sqlite3 xxhash drbd-utils strace
)
# What it takes to reach the image, the network and the harness.
INITRAMFS_MODULES=(virtio_pci virtio_blk virtio_net virtio_console ext4 overlay)

# Copies the modules of kernel $1 into tree $2.
install_guest_modules() {
	mkdir -p "$2/usr/lib/modules"
	cp --recursive --reflink=auto "$KERNELS/$1/packages/usr/lib/modules/$1" "$2/usr/lib/modules/"
	rm -f "$2/usr/lib/modules/$1/vmlinuz"
	enter depmod --basedir "$2" "$1"
}

# Puts busybox, the first modules and the order to load them into folder $3.
fill_initramfs() {
	local kernel=$1 tree=$2 folder=$3 module
	mkdir -p "$folder"/{bin,modules,dev,proc,sys}
	cp "$BUILD_ROOT/bin/busybox" "$folder/bin/"
	ln -s busybox "$folder/bin/sh"
	enter modprobe --dirname "$tree" --set-version "$kernel" --show-depends --all "${INITRAMFS_MODULES[@]}" |
		sed -n 's/^insmod //p' | awk '!seen[$0]++' | while read -r module; do
		enter xz --decompress --stdout "$module" >"$folder/modules/$(basename "$module" .xz)"
		basename "$module" .xz >>"$folder/modules/order"
	done
	install --mode=755 "$REPO/qemu-tests/guest/init" "$folder/init"
}

# Leaves the kernel and the root image.
make_guest() {
	local kernel home work
	kernel=$(kernel_version)
	home=$KERNELS/$kernel work=$CACHE/guest.new
	say "making the guest image for $kernel (about a minute, 100 MB to fetch)"
	rm -rf --one-file-system "$work"
	debian_tree "$work/tree" "${GUEST_PACKAGES[@]}"
	install_guest_modules "$kernel" "$work/tree"
	rm -f "$home/guest.img.new"
	enter mke2fs -q -t ext4 -m 0 -O ^has_journal -L weft-guest -d "$work/tree" "$home/guest.img.new" 2G
	rm -rf --one-file-system "$work"
	# An emulated processor would take a second to decompress it at every boot.
	enter "$home/tree/scripts/extract-vmlinux" "$home/vmlinuz" >"$home/vmlinux.new" 2>/dev/null ||
		die "cannot decompress $home/vmlinuz"
	mv "$home/vmlinux.new" "$home/vmlinux"
	mv "$home/guest.img.new" "$home/guest.img"
}

# Leaves the initramfs. It changes more often than the image, and is quickly made.
make_initramfs() {
	local kernel home work
	kernel=$(kernel_version)
	home=$KERNELS/$kernel work=$CACHE/initramfs.new
	say "making the initramfs for $kernel"
	rm -rf --one-file-system "$work"
	mkdir -p "$work/tree/usr/lib" && ln -s usr/lib "$work/tree/lib"
	install_guest_modules "$kernel" "$work/tree"
	fill_initramfs "$kernel" "$work/tree" "$work/initramfs"
	(cd "$work/initramfs" && enter sh -c 'find . | cpio --quiet --create --format=newc --owner=0:0') >"$home/initramfs.new"
	rm -rf --one-file-system "$work"
	mv "$home/initramfs.new" "$home/initramfs"
}

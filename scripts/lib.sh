# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Shared by every script here: places, messages, cached steps and the way into
# the build root.

REPO=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/weft
BUILD_ROOT=$CACHE/root
KERNELS=$CACHE/kernel
OUT=$CACHE/out
export REPO CACHE BUILD_ROOT KERNELS OUT

# What a module of this kernel must be built with (Debian's own compilers).
KBUILD_VARIABLES=(
	CC=x86_64-linux-gnu-gcc-14
	HOSTCC=gcc-14
	LIBCLANG_PATH=/usr/lib/llvm-19/lib
	LOCALVERSION=+deb13-amd64
)

say() { printf '==> %s\n' "$*" >&2; }
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}
usage() {
	printf 'usage: %s\n' "$*" >&2
	exit 2
}

need_root() {
	[ "$(id -u)" = 0 ] || die "needs root (chroot and mounts): run it with sudo -E"
}

# Runs a command in the build root. The repository and the cache keep their
# paths; the mounts live in a private namespace and end with the command.
enter() {
	need_root
	DIRECTORY=$PWD unshare --mount --propagation private --kill-child --fork \
		bash -euc '
		root=$BUILD_ROOT
		bind() { mkdir -p "$root$1"; mount --bind "$1" "$root$1"; }
		mount --bind "$root" "$root"
		for place in /dev /proc /sys "$REPO" "$CACHE"; do bind "$place"; done
		mount -t tmpfs tmpfs "$root/tmp"
		mount -t tmpfs tmpfs "$root/dev/shm"
		cat /etc/resolv.conf >"$root/etc/resolv.conf"
		cd "$root" && case $DIRECTORY in "$REPO" | "$REPO"/* | "$CACHE"/*) ;; *) DIRECTORY=$REPO ;; esac
		exec env -i "${keep[@]}" chroot "$root" sh -c "cd \"\$DIRECTORY\" && exec \"\$@\"" sh "$@"
	' enter "$@"
}

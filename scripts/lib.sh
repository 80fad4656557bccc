# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Shared by every script: places, messages, cached steps, the way into the
# build root.
set -euo pipefail

REPO=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/weft
BUILD_ROOT=$CACHE/root
DEBS=$CACHE/debs
KERNELS=$CACHE/kernel
# Every clone has its own place for what is built from it: cargo and make know the sources
# of two clones apart by their times only, and tests are about what was built from theirs.
CLONE=$CACHE/clones/$(printf '%s' "$REPO" | cksum | cut -d' ' -f1)
OUT=$CLONE/out
# Not called TARGET: bindgen takes a variable of that name for the machine to compile for.
CRATES=$CLONE/crates
export REPO CACHE BUILD_ROOT DEBS KERNELS CLONE OUT CRATES

say() { printf '==> %s\n' "$*" >&2; }
usage() { printf 'usage: %s\n' "$*" >&2 && exit 2; }

# The commit of the source, and whether it was changed since.
commit() { git -C "$REPO" describe --always --dirty --abbrev=12 2>/dev/null || echo unknown; }

# die CAUSE [NEXT STEP]
die() {
	printf 'error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf 'next: %s\n' "$2" >&2
	exit 1
}

# Everything happens in a chroot with own mounts, which only root can make.
# Starts the calling script again through sudo unless it runs as root.
become_root() {
	[ "$(id -u)" != 0 ] || return 0
	command -v sudo >/dev/null || die "$0 needs root for its chroot" "run it as root"
	exec sudo --preserve-env "HOME=$HOME" "XDG_CACHE_HOME=${CACHE%/weft}" "$0" "$@"
}

# cached NAME RECIPE INPUT... runs the function RECIPE unless it has made NAME
# before, from the same inputs. A recipe copes with the remains of a run that was
# killed.
cached() {
	local stamp=$CACHE/stamps/$1 recipe=$2 key
	shift 2
	key=$( (printf '%s\n' "$@" && declare -f "$recipe") | sha256sum | cut -d' ' -f1)
	[ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || return 0
	mkdir -p "${stamp%/*}"
	rm -f "$stamp"
	"$recipe"
	printf '%s\n' "$key" >"$stamp.new" && mv "$stamp.new" "$stamp"
}

# Waits until no other set-up or build works in this cache, and keeps others out.
lock_cache() {
	local holder
	mkdir -p "$CACHE" && exec 9>>"$CACHE/lock"
	if ! flock --nonblock 9; then
		holder=$(cat "$CACHE/lock")
		say "waiting for another set-up or build in $CACHE (process ${holder:-unknown})"
		flock 9
	fi
	printf '%s\n' $$ >"$CACHE/lock"
}

# What the host's cargo knows about registries and proxies is valid here too.
share_cargo_configuration() {
	local theirs=${CARGO_HOME:-$HOME/.cargo}/config.toml ours=$CACHE/cargo/config.toml
	mkdir -p "${ours%/*}"
	if [ -f "$theirs" ]; then
		cmp --silent "$theirs" "$ours" || cp "$theirs" "$ours"
	else
		rm -f "$ours"
	fi
}

# Runs inside `unshare --mount`: mounts what the build root lacks.
mount_build_root() {
	local place
	for place in /dev /proc /sys /tmp "$REPO" "$CACHE"; do
		mkdir -p "$BUILD_ROOT$place"
		mount --rbind "$place" "$BUILD_ROOT$place"
	done
	for place in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt \
		"${SSL_CERT_FILE:-}" "${CARGO_HTTP_CAINFO:-}"; do
		[ -f "$place" ] || continue
		mkdir -p "$BUILD_ROOT${place%/*}"
		[ -f "$BUILD_ROOT$place" ] || : >"$BUILD_ROOT$place"
		mount --bind "$place" "$BUILD_ROOT$place"
	done
}

# enter CMD [ARG...] runs a command in the build root.
enter() { (exec_inside "$@"); }

# Turns this shell into a command in the build root. The repository, the cache and
# /tmp keep their paths. The mounts live in a namespace that ends with the last
# process in it; nothing stands between the caller and the command, so that signals
# reach it.
exec_inside() {
	local directory=$PWD
	[ -x "$BUILD_ROOT/usr/bin/cargo" ] || die "there is no build root yet" "scripts/setup"
	case $directory/ in "$REPO"/* | "$CACHE"/* | /tmp/*) ;; *) directory=$REPO ;; esac
	share_cargo_configuration
	# Without incremental builds: a run that is killed leaves no half of one behind.
	# shellcheck disable=SC2016 # the inner shell expands it
	exec env --unset=LD_LIBRARY_PATH --unset=TMPDIR \
		--unset=RUSTC --unset=RUSTC_WRAPPER --unset=RUSTUP_HOME --unset=RUSTUP_TOOLCHAIN \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
		CARGO_HOME="$CACHE/cargo" CARGO_TARGET_DIR="$CRATES" WEFT_OUT="$OUT" XDG_CACHE_HOME="${CACHE%/weft}" CARGO_INCREMENTAL=0 \
		unshare --mount --propagation private bash -euc '
			. "$1/scripts/lib.sh"
			mount_build_root
			exec chroot "$BUILD_ROOT" env --chdir="$2" "${@:3}"
		' enter "$REPO" "$directory" "$@"
}

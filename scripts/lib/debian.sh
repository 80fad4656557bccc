# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Debian 13 trees made by mmdebstrap: the build root.

BUILD_PACKAGES=(
	# the kernel's build
	gcc-14 gcc-14-for-host make rustc rust-src bindgen clang-19 libclang-19-dev
	flex bison bc libelf-dev libssl-dev kmod cpio xz-utils pahole perl python3 rsync
	# ours
	cargo rustfmt rust-clippy gcc libc6-dev shellcheck git ca-certificates
	# the test machines
	qemu-system-x86 busybox-static e2fsprogs zstd
)

# debian_mirror ARCHIVE prints the mirror of "debian" or "debian-security" that
# this host's apt uses, else Debian's own.
debian_mirror() {
	# shellcheck disable=SC2016 # apt expands it
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		grep --max-count=1 "/$1/\?$" || printf 'http://deb.debian.org/%s\n' "$1"
}

# The host's proxy for apt, as mmdebstrap options.
apt_proxy_options() {
	local scheme proxy
	for scheme in http https; do
		eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
		[ -z "${proxy:-}" ] || printf -- '--aptopt=Acquire::%s::Proxy "%s";\n' "$scheme" "$proxy"
	done
}

install_mmdebstrap() {
	local missing=()
	command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
	[ -f /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "this set-up needs mmdebstrap, and the host has no apt" "install mmdebstrap"
	say "installing on this host: ${missing[*]}"
	apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"
}

# debian_tree FOLDER PACKAGE... makes a Debian 13 tree; downloads are kept.
debian_tree() {
	local folder=$1 packages options mirror security
	shift
	packages=$(IFS=, && printf '%s' "$*")
	mapfile -t options < <(apt_proxy_options)
	mirror=$(debian_mirror debian) security=$(debian_mirror debian-security)
	mkdir -p "$DEBS/archives/partial"
	rm -rf --one-file-system "$folder"
	mkdir -p "${folder%/*}"
	unshare --mount --propagation private mmdebstrap --variant=apt --include="$packages" \
		--keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
		--aptopt='APT::Install-Recommends "false"' "${options[@]}" \
		--skip=download/empty --skip=essential/unlink --skip=cleanup/apt/cache --skip=cleanup/apt/lists \
		--setup-hook="mkdir -p \"\$1/var/cache/apt/archives\" && mount --bind '$DEBS/archives' \"\$1/var/cache/apt/archives\"" \
		--customize-hook="umount \"\$1/var/cache/apt/archives\"" \
		trixie "$folder" \
		"deb $mirror trixie main" "deb $security trixie-security main" "deb $mirror trixie-backports main"
}

make_build_root() {
	say "making the build root $BUILD_ROOT (some minutes, about 500 MB to fetch)"
	install_mmdebstrap
	debian_tree "$BUILD_ROOT.new" "${BUILD_PACKAGES[@]}"
	[ ! -d "$BUILD_ROOT" ] || mv "$BUILD_ROOT" "$BUILD_ROOT.old"
	mv "$BUILD_ROOT.new" "$BUILD_ROOT"
	rm -rf --one-file-system "$BUILD_ROOT.old"
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The stock Debian kernel for which the module is built, and which the test
# machines boot. Debian's headers package lacks what Rust modules need, so the
# source package of the same version is prepared again with the same compilers.

# What Kbuild must be told so that the tree equals Debian's build.
kbuild_variables() {
	printf '%s\n' CC=x86_64-linux-gnu-gcc-14 HOSTCC=gcc-14 LIBCLANG_PATH=/usr/lib/llvm-19/lib \
		"LOCALVERSION=+${1#*+}"
}

# The kernel in use: the one set-up chose, or the one asked for.
kernel_version() { printf '%s\n' "${WEFT_KERNEL:-$(readlink "$KERNELS/current")}"; }

# The kernels that Debian offers, or the one asked for, newest first.
kernel_candidates() {
	enter apt-cache pkgnames linux-headers-7 |
		sed -n 's/^linux-headers-\(7\.[0-9.]*+deb13-amd64\)$/\1/p' |
		if [ -n "${WEFT_KERNEL:-}" ]; then grep --fixed-strings --line-regexp "$WEFT_KERNEL"; else cat; fi | sort --version-sort --reverse
}

in_debs() { (cd "$DEBS" && enter "$@"); }

# has_package NAME VERSION
has_package() {
	enter apt-cache madison "$1" | awk -v version="$2" '$3 == version { found = 1 } END { exit !found }'
}

# Prints the names of the packages that kernel $1 in package version $2 needs,
# or fails with the reason in words.
kernel_packages() {
	local kernel=$1 version=$2 series image
	series=$(printf '%s' "$kernel" | cut -d. -f1,2)
	for image in "linux-binary-$kernel" "linux-image-$kernel" ""; do
		[ -n "$image" ] || { printf 'no kernel image' && return 1; }
		! has_package "$image" "$version" || break
	done
	for name in "linux-modules-$kernel" "linux-base-$kernel" "linux-source-$series"; do
		has_package "$name" "$version" || { printf 'no %s' "$name" && return 1; }
	done
	printf '%s\n' "linux-headers-$kernel" "$image" "linux-modules-$kernel" "linux-base-$kernel" "linux-source-$series"
}

# fetch_package NAME VERSION FOLDER downloads (once) and unpacks a package.
fetch_package() {
	local name=$1 version=$2 folder=$3
	mkdir -p "$DEBS" "$folder"
	compgen -G "$DEBS/${name}_${version//:/%3a}_*.deb" >/dev/null ||
		in_debs apt-get -o APT::Sandbox::User=root -qq download "$name=$version"
	enter dpkg-deb --extract "$DEBS/${name}_${version//:/%3a}"_*.deb "$folder"
}

# The rustc that built kernel $1, as its configuration states it.
rustc_of_kernel() {
	sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' \
		"$KERNELS/$1/packages/usr/src/linux-headers-$1/.config"
}

# Sets kernel, version and packages to the newest kernel that fits.
choose_kernel() {
	local rustc reasons="" built_by
	rustc=$(enter rustc --version)
	for kernel in $(kernel_candidates); do
		version=$(enter apt-cache madison "linux-headers-$kernel" | awk 'NR == 1 { print $3 }')
		if ! packages=$(kernel_packages "$kernel" "$version"); then
			reasons+="  $kernel: $packages in version $version"$'\n'
			continue
		fi
		fetch_package "linux-headers-$kernel" "$version" "$KERNELS/$kernel/packages"
		built_by=$(rustc_of_kernel "$kernel")
		[ "$built_by" != "$rustc" ] || return 0
		reasons+="  $kernel: built by ${built_by:-no Rust compiler}, Debian 13 has $rustc"$'\n'
	done
	printf 'Kernels in trixie-backports that do not fit:\n%s\n' "${reasons:-  (there is none)}" >&2
	die "supported are the 7.x+deb13-amd64 kernels of trixie-backports that are complete and built by Debian 13's rustc"
}

# prepare_kernel_tree KERNEL
prepare_kernel_tree() {
	local home=$KERNELS/$1 series variables
	series=$(printf '%s' "$1" | cut -d. -f1,2)
	mapfile -t variables < <(kbuild_variables "$1")
	rm -rf "$home/tree" "$home/linux-source-$series"
	tar --directory "$home" --extract --file "$home/packages/usr/src/linux-source-$series.tar.xz"
	mv "$home/linux-source-$series" "$home/tree"
	cp "$home/packages/usr/src/linux-headers-$1/"{.config,Module.symvers} "$home/tree/"
	enter make --directory "$home/tree" --jobs="$(nproc)" --silent "${variables[@]}" \
		olddefconfig prepare modules_prepare
	# Kconfig drops Rust without a word when a tool does not work.
	grep --quiet '^CONFIG_RUST=y' "$home/tree/.config" ||
		die "Kconfig finds no usable Rust for kernel $1" "scripts/enter make -C $home/tree ${variables[*]} rustavailable"
	[ "$(enter make --directory "$home/tree" --silent "${variables[@]}" kernelrelease)" = "$1" ] ||
		die "the prepared tree does not carry the release name $1"
}

make_kernel() {
	local kernel version packages package
	say "looking for the newest kernel that fits"
	enter apt-get -qq update
	choose_kernel
	say "preparing kernel $kernel (some minutes, about 350 MB to fetch)"
	for package in $packages; do
		fetch_package "$package" "$version" "$KERNELS/$kernel/packages"
	done
	ln --force --symbolic --relative --no-target-directory \
		"$KERNELS/$kernel/packages/usr/lib/modules/$kernel/vmlinuz" "$KERNELS/$kernel/vmlinuz"
	prepare_kernel_tree "$kernel"
	[ -n "${WEFT_KERNEL:-}" ] || ln --force --symbolic --no-target-directory "$kernel" "$KERNELS/current"
	say "kernel $kernel is ready"
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Builds what gets installed on a node: the module and static programs.

STATIC_TARGET=x86_64-unknown-linux-gnu

# install_changed FILE TARGET leaves an equal target alone.
install_changed() { cmp --silent "$1" "$2" || install -D "$1" "$2"; }

# Leaves weft.ko for the kernel in use in $OUT.
build_module() {
	local kernel objects variables
	kernel=$(kernel_version)
	objects=$CACHE/module/$kernel
	mapfile -t variables < <(kbuild_variables "$kernel")
	say "building the module for $kernel"
	mkdir -p "$objects"
	enter make --directory "$REPO/kmod" --jobs="$(nproc)" "${variables[@]}" \
		KDIR="$KERNELS/$kernel/tree" MO="$objects" modules
	enter strip --strip-debug -o "$objects/weft.stripped.ko" "$objects/weft.ko"
	install_changed "$objects/weft.stripped.ko" "$OUT/weft.ko"
}

# Leaves the named programs in $OUT, static, for any Linux.
build_programs() {
	local program
	say "building ${*}"
	RUSTFLAGS='-C target-feature=+crt-static' enter cargo build --release --locked \
		--target "$STATIC_TARGET" "${@/#/--bin=}"
	for program in "$@"; do
		install_changed "$CACHE/target/$STATIC_TARGET/release/$program" "$OUT/$program"
	done
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Builds what gets installed on a node: the module and static programs.

STATIC_TARGET=x86_64-unknown-linux-gnu

# install_changed FILE TARGET leaves an equal target alone.
install_changed() { cmp --silent "$1" "$2" || install -D "$1" "$2"; }

# compile_module KERNEL FOLDER [VARIABLE...] leaves objects and weft.ko in a folder.
compile_module() {
	local kernel=$1 objects=$2 variables
	mapfile -t variables < <(kbuild_variables "$kernel")
	mkdir -p "$objects"
	enter make --directory "$REPO/kmod" --jobs="$(nproc)" --no-print-directory \
		"${variables[@]}" KDIR="$KERNELS/$kernel/tree" MO="$objects" "${@:3}" modules
}

# Fails on the first warning of the kernel's set of lints.
lint_module() {
	local kernel
	kernel=$(kernel_version)
	compile_module "$kernel" "$CLONE/lint/$kernel" CLIPPY=1 W=e
}

# Leaves weft.ko for the kernel in use in $OUT.
build_module() {
	local kernel objects
	kernel=$(kernel_version)
	objects=$CLONE/module/$kernel
	say "building the module for $kernel"
	compile_module "$kernel" "$objects"
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
		install_changed "$CRATES/$STATIC_TARGET/release/$program" "$OUT/$program"
	done
}

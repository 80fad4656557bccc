/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel interfaces that Rust cannot reach by itself: inline functions and
 * macros, wrapped in shim.c as weft_*(), and constants as WEFT_*.
 *
 * bindgen reads this file (options in shim.bindgen).
 */
#ifndef WEFT_SHIM_H
#define WEFT_SHIM_H

/* First: see rust/bindings/bindings_helper.h of the kernel. */
#include <linux/hrtimer_types.h>

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/crc32c.h>

/* Checksums */

#endif /* WEFT_SHIM_H */

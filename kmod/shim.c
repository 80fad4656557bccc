// SPDX-License-Identifier: GPL-2.0-only
/* Wrappers declared in shim.h, in the same order. Nothing here decides anything. */

#include "shim.h"

/* SPDX-License-Identifier: Apache-2.0 */
/* The programs of fastpath.c while the node enforces network policies. */
#define POLICY
#include "fastpath.c"

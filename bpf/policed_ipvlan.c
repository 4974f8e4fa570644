/* SPDX-License-Identifier: Apache-2.0 */
/* The programs of ipvlan.c while the node enforces network policies. */
#define POLICY
#include "ipvlan.c"

// SPDX-License-Identifier: Apache-2.0
/*
 * The maps of connection.h alone. No program of it is loaded: package internal/datapath/fastpath gets
 * their names and types from it, which are the same in every kind's programs.
 */
#include "connection.h"

/* A type that is used keeps its values in the object. */
const enum state *states;

/*
 * startup_pruning.h
 *		A generic plan starts only the leaf that its parameters select.
 */
#ifndef RUN_OPS_STARTUP_PRUNING_H
#define RUN_OPS_STARTUP_PRUNING_H

#include "nodes/plannodes.h"

extern void startup_pruning_init(void);

/* Gives the columns of each leaf the names that the result has. */
extern void name_leaf_columns(Plan *plan);

#endif							/* RUN_OPS_STARTUP_PRUNING_H */

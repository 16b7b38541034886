/*
 * seam_pruning.h
 *		Planner support of run_ops.resides.
 */
#ifndef RUN_OPS_SEAM_PRUNING_H
#define RUN_OPS_SEAM_PRUNING_H

#include "nodes/parsenodes.h"

#include "reads/lookup_condition.h"

/* run_ops_split.seam_pruning */
extern bool seam_pruning;

extern void seam_pruning_init(void);

/*
 * What the conditions say about rows of a store: a condition without the column
 * that is true if they let any such row pass, and, if that is exact, then only
 * such rows.  NULL if they say nothing.
 */
extern Expr *residency_of_conditions(Node *conditions, IdColumn *id, Const *store,
									 bool *exact);

#endif							/* RUN_OPS_SEAM_PRUNING_H */

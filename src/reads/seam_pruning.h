/*
 * seam_pruning.h
 *		Planner support of run_ops.resides.
 */
#ifndef RUN_OPS_SEAM_PRUNING_H
#define RUN_OPS_SEAM_PRUNING_H

#include "nodes/parsenodes.h"
#include "utils/array.h"

/* run_ops_split.seam_pruning */
extern bool seam_pruning;

extern void seam_pruning_init(void);

/* Makes a call of the function of this name in schema run_ops. */
extern Expr *make_store_call(const char *name, Oid result, Node *ids,
							 Node *store);

/*
 * Does a CHECK constraint of the relation prove that function(column, store) is
 * true?  On a foreign table a constraint is a declaration of its owner about the
 * remote rows.
 */
extern bool is_proven_by_check(RangeTblEntry *rte, Oid function, Var *column,
							   Const *store);

/*
 * Sets *any if an id of the text array resides in the store, and *all if every
 * id does.
 */
extern void array_residency(ArrayType *ids, const char *store, int store_len,
							bool *any, bool *all);

#endif							/* RUN_OPS_SEAM_PRUNING_H */

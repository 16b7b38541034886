/*
 * seam_pruning.h
 *		Planner support of run_ops.resides.
 */
#ifndef RUN_OPS_SEAM_PRUNING_H
#define RUN_OPS_SEAM_PRUNING_H

#include "nodes/primnodes.h"
#include "utils/array.h"

#include "reads/lookup_condition.h"

/* run_ops_split.seam_pruning */
extern bool seam_pruning;

extern void seam_pruning_init(void);

/* Makes a call of the function of this name in schema run_ops. */
extern Expr *make_store_call(const char *name, Oid result, Node *ids,
							 Node *store);

/*
 * Sets *any if an id of the text array resides in the store, and *all if every
 * id does.
 */
extern void array_residency(ArrayType *ids, const char *store, int store_len,
							bool *any, bool *all);

/*
 * What conditions on a column say about resides(column, store): if the result
 * is false, no row that meets them belongs in the store.  NULL if they say
 * nothing.  Sets *exact if every row that meets them does where it is true.
 */
extern Expr *seam_precheck(Node *quals, column_test is_column, void *arg,
						   Const *store, bool *exact);

#endif							/* RUN_OPS_SEAM_PRUNING_H */

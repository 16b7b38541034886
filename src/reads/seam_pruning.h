/*
 * seam_pruning.h
 *		Planner support of run_ops.resides.
 */
#ifndef RUN_OPS_SEAM_PRUNING_H
#define RUN_OPS_SEAM_PRUNING_H

#include "nodes/parsenodes.h"
#include "utils/array.h"

#include "reads/lookup_condition.h"

/* run_ops_split.seam_pruning */
extern bool seam_pruning;

extern void seam_pruning_init(void);

/*
 * Makes a call of the function of this name in schema run_ops, with copies of the
 * ids and the store as arguments, or with these arguments.
 */
extern Expr *make_run_ops_call(const char *name, Oid result, List *args);
extern Expr *make_store_call(const char *name, Oid result, Node *ids,
							 Node *store);

/*
 * Sets *any if an id of the text array resides in the store, and *all if every
 * id does.
 */
extern void array_residency(ArrayType *ids, const char *store, int store_len,
							bool *any, bool *all);

/*
 * What the conditions say about rows of a store: a condition without the column
 * that is true if they let any such row pass, and, if that is exact, then only
 * such rows.  NULL if they say nothing.
 */
extern Expr *residency_of_conditions(Node *conditions, column_test is_column,
									 void *column, Const *store, bool *exact);

/* Does a CHECK constraint of a table say that all its rows are of the store? */
extern bool is_proven_by_check(Oid relid, bool inherited, AttrNumber column,
							   Const *store);

#endif							/* RUN_OPS_SEAM_PRUNING_H */

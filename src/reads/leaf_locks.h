/*
 * leaf_locks.h
 *		SELECT ... FOR UPDATE and the like of a view over several stores.
 */
#ifndef RUN_OPS_LEAF_LOCKS_H
#define RUN_OPS_LEAF_LOCKS_H

#include "nodes/parsenodes.h"

#include "reads/union_view.h"

/* run_ops_split.leaf_locks */
extern bool leaf_locks;

extern void leaf_locks_init(void);

/*
 * Raises an error if rows of the view, which is this range table entry of the
 * query, cannot be locked as the mark says.
 */
extern void refuse_unlockable(Query *query, Index rti, UnionView *view,
							  RowMarkClause *mark);

/*
 * Locks the rows that the leaf returns, for a leaf that takes the place of the
 * view.
 */
extern void lock_leaf(Query *leaf, RowMarkClause *mark);

/*
 * Locks the rows in each leaf, with the conditions, ORDER BY and LIMIT of the
 * query.
 */
extern void lock_each_leaf(Query *query, Index rti, UnionView *view,
						   RowMarkClause *mark);

#endif							/* RUN_OPS_LEAF_LOCKS_H */

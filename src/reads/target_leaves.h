/*
 * target_leaves.h
 *		Marks the tables from which an UPDATE or DELETE of a view over several
 *		stores reads the rows that it changes.
 */
#ifndef RUN_OPS_TARGET_LEAVES_H
#define RUN_OPS_TARGET_LEAVES_H

#include "nodes/pathnodes.h"

/* Marks the target leaves of a query that has not been planned. */
extern void mark_target_leaves(Query *query);

/*
 * The same while the planner is at the filter of the view.  "column" is the
 * first argument of the filter.
 */
extern void mark_target_leaves_late(PlannerInfo *root, Node *column);

extern void target_leaves_init(void);

#endif							/* RUN_OPS_TARGET_LEAVES_H */

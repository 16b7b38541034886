/*
 * stand_ins.h
 *		Lets postgres_fdw ship what it would not: enums, now(), rows, and the filter resides().
 */
#ifndef RUN_OPS_STAND_INS_H
#define RUN_OPS_STAND_INS_H

#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"

/*
 * Replaces conditions of the relation by their stand-ins, and those that depend on
 * the order of the store (store_order.h) by what is not sent.  Returns what
 * restore_conditions() needs.
 */
extern List *replace_conditions(PlannerInfo *root, RelOptInfo *rel);

/* The second for the other clauses of a scan: those of joins. */
extern List *keep_join_clauses_here(PlannerInfo *root, RelOptInfo *rel, List *clauses);
extern void restore_conditions(List *replaced);

/*
 * The same in a plan that was made in between: everything, or only what is computed
 * for the store.
 */
extern void restore_conditions_of_plan(ForeignScan *plan, List *replaced);
extern void restore_values_of_conditions(ForeignScan *plan, List *replaced);

/*
 * The target list of an UPDATE with stand-ins for new values.  In a plan that was made
 * with it, the parameters become the values that they stand for.
 */
extern List *replace_new_values(List *targetlist, List **values);
extern void restore_values(ForeignScan *plan, List *values);

/*
 * The target of a grouping in which enums have stand-ins; NULL if it has none.
 * The scan list of a plan that was made for it gets its enums back.
 */
extern PathTarget *replace_groups(PathTarget *target);
extern void restore_groups(ForeignScan *plan, PathTarget *target);

#endif							/* RUN_OPS_STAND_INS_H */

/*
 * shipped_enums.h
 *		Lets postgres_fdw ship what it would not, because a column is an enum.
 */
#ifndef RUN_OPS_SHIPPED_ENUMS_H
#define RUN_OPS_SHIPPED_ENUMS_H

#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"

/*
 * Replaces conditions of the relation on enums by their stand-ins.  Returns what
 * restore_enum_conditions() needs.
 */
extern List *replace_enum_conditions(PlannerInfo *root, RelOptInfo *rel);
extern void restore_enum_conditions(List *replaced);

/* The same in a plan that was made in between. */
extern void restore_enums_of_plan(ForeignScan *plan, List *replaced);

/*
 * The target of a grouping in which enums have stand-ins; NULL if it has none.
 * The scan list of a plan that was made for it gets its enums back.
 */
extern PathTarget *replace_enums_of_target(PathTarget *target);
extern void restore_enums_of_grouping(ForeignScan *plan, PathTarget *target);

#endif							/* RUN_OPS_SHIPPED_ENUMS_H */

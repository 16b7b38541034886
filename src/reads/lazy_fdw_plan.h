/*
 * lazy_fdw_plan.h
 *		What the planner is told of a table of run_ops_fdw, and the options that
 *		it is told by.
 */
#ifndef RUN_OPS_LAZY_FDW_PLAN_H
#define RUN_OPS_LAZY_FDW_PLAN_H

#include "foreign/fdwapi.h"

/*
 * Option of a column of a foreign table: true means that the column is the
 * first one of an index of the remote table, so a lookup by it is cheap.
 */
#define RUN_OPS_FDW_OPTION_INDEXED "indexed"

/*
 * Option of a foreign table: the name of the column that identifies a row of
 * the remote table, so a lookup by it finds at most one row.
 */
#define RUN_OPS_FDW_OPTION_KEY "key"

/* the callbacks of postgres_fdw; lazy_fdw.c fills them when the handler runs */
extern FdwRoutine postgres_fdw_routine;

extern void lazyGetForeignRelSize(PlannerInfo *root, RelOptInfo *rel,
								  Oid relid);
extern void lazyGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid relid);
extern ForeignScan *lazyGetForeignPlan(PlannerInfo *root, RelOptInfo *rel,
									   Oid relid, ForeignPath *best_path,
									   List *tlist, List *scan_clauses,
									   Plan *outer_plan);

#endif							/* RUN_OPS_LAZY_FDW_PLAN_H */

/*
 * lazy_fdw.h
 *		run_ops_fdw: its options, and what its two files share.
 */
#ifndef RUN_OPS_LAZY_FDW_H
#define RUN_OPS_LAZY_FDW_H

#include "foreign/fdwapi.h"

/*
 * Option of a foreign table's column: true says that the column leads an
 * index of the remote table, so that a lookup by it is worth a round trip.
 */
#define RUN_OPS_FDW_OPTION_INDEXED "indexed"

/*
 * Option of a foreign table: the column that alone identifies a row of the
 * remote table, so that a lookup by it is known to find one row.
 */
#define RUN_OPS_FDW_OPTION_KEY "key"

/* postgres_fdw's own callbacks; there once the handler has run */
extern FdwRoutine lazy_fdw_stock;

/* lazy_fdw_plan.c: its callbacks */
extern void lazyGetForeignRelSize(PlannerInfo *root, RelOptInfo *rel,
								  Oid relid);
extern void lazyGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid relid);
extern ForeignScan *lazyGetForeignPlan(PlannerInfo *root, RelOptInfo *rel,
									   Oid relid, ForeignPath *best_path,
									   List *tlist, List *scan_clauses,
									   Plan *outer_plan);

#endif							/* RUN_OPS_LAZY_FDW_H */

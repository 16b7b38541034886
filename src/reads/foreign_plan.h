/*
 * foreign_plan.h
 *		What the planner is told of a table of run_ops_fdw, and the options that
 *		it is told by.
 */
#ifndef RUN_OPS_FOREIGN_PLAN_H
#define RUN_OPS_FOREIGN_PLAN_H

#include "foreign/fdwapi.h"

/*
 * Option of a column of a foreign table: true means that the column is the
 * first one of an index of the remote table, so a lookup by it is cheap.
 */
#define RUN_OPS_FDW_OPTION_INDEXED "indexed"

/* the callbacks of postgres_fdw; run_ops_fdw.c fills them when the handler runs */
extern FdwRoutine postgres_fdw_routine;

/* Sets the callbacks. */
extern void foreign_plan_routine(FdwRoutine *routine);

#endif							/* RUN_OPS_FOREIGN_PLAN_H */

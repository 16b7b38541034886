/*
 * foreign_plan.h
 *		What the planner is told of a table of run_ops_fdw.
 */
#ifndef RUN_OPS_FOREIGN_PLAN_H
#define RUN_OPS_FOREIGN_PLAN_H

#include "foreign/fdwapi.h"

/* the callbacks of postgres_fdw; run_ops_fdw.c fills them when the handler runs */
extern FdwRoutine postgres_fdw_routine;

/* Sets the callbacks. */
extern void foreign_plan_routine(FdwRoutine *routine);

#endif							/* RUN_OPS_FOREIGN_PLAN_H */

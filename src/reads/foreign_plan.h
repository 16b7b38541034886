/*
 * foreign_plan.h
 *		What the planner is told of a table of run_ops_fdw.
 */
#ifndef RUN_OPS_FOREIGN_PLAN_H
#define RUN_OPS_FOREIGN_PLAN_H

#include "foreign/fdwapi.h"

/* the callbacks of postgres_fdw; run_ops_fdw.c fills them when the handler runs */
extern FdwRoutine postgres_fdw_routine;

/* The options of a foreign table that determine its costs. */
typedef struct CostOptions
{
	double		startup_cost;
	double		tuple_cost;
	int			fetch_size;		/* 0: not set */
} CostOptions;

extern CostOptions foreign_cost_options(Oid relid);

/*
 * The cost of a rescan, as a share of fdw_startup_cost.  The connection and
 * the remote transaction exist already; a rescan is one query.
 */
#define RESCAN_STARTUP_SHARE 0.1

/* Sets the callbacks. */
extern void foreign_plan_routine(FdwRoutine *routine);

#endif							/* RUN_OPS_FOREIGN_PLAN_H */

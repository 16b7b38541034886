/*
 * assumed_statistics.h
 *		What the planner assumes of a foreign table that was never analyzed.
 */
#ifndef RUN_OPS_ASSUMED_STATISTICS_H
#define RUN_OPS_ASSUMED_STATISTICS_H

/* The number of rows that such a table is assumed to have. */
extern double assumed_rows(Oid relid);

extern void assumed_statistics_init(void);

#endif							/* RUN_OPS_ASSUMED_STATISTICS_H */

/*
 * leaf_aggregates.h
 *		A query that groups or counts the rows of a view over several stores does
 *		so in each store, and puts the results together.
 */
#ifndef RUN_OPS_LEAF_AGGREGATES_H
#define RUN_OPS_LEAF_AGGREGATES_H

#include "nodes/params.h"
#include "nodes/parsenodes.h"

/* run_ops_split.leaf_aggregates */
extern bool leaf_aggregates;

extern void leaf_aggregates_init(void);

/*
 * If the query, which has not been planned, aggregates over one routed view and
 * nothing else, lets each leaf of the view aggregate its own rows.  The view may
 * be in a subquery; aggregates of a subquery are not looked at.
 */
extern void aggregate_in_leaves(Query *query, ParamListInfo params);

/*
 * The same for queries, also subqueries, that aggregate over a join of a view
 * with local tables.  This does not always pay.  False if there is no such query.
 */
extern bool aggregate_below_joins(Query *query);

#endif							/* RUN_OPS_LEAF_AGGREGATES_H */

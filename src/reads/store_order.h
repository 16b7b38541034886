/*
 * store_order.h
 *		Keeps order and ranges from a store that orders values in another way.
 */
#ifndef RUN_OPS_STORE_ORDER_H
#define RUN_OPS_STORE_ORDER_H

#include "nodes/pathnodes.h"

/*
 * Does the value of the expression depend on the order of a column that its store
 * orders in another way than this database?
 */
extern bool depends_on_store_order(PlannerInfo *root, Node *expr);

/* Do rows of these relations have another order in their store? */
extern bool store_orders_differently(PlannerInfo *root, Relids relids, List *pathkeys);

/* Removes the paths of a relation whose order is made by such a store. */
extern void remove_store_ordered_paths(PlannerInfo *root, RelOptInfo *rel);

/* The condition in a form that postgres_fdw leaves to this server. */
extern Expr *kept_here(Expr *condition);

#endif							/* RUN_OPS_STORE_ORDER_H */

/*
 * leaf_plans.h
 *		The plan of a statement that writes to the view of a routed table.
 */
#ifndef RUN_OPS_LEAF_PLANS_H
#define RUN_OPS_LEAF_PLANS_H

extern void leaf_plans_init(void);

#endif							/* RUN_OPS_LEAF_PLANS_H */

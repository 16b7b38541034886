/*
 * leaf_statements.h
 *		A statement that writes to the view of a routed table is planned as one
 *		statement on the table of each store.
 */
#ifndef RUN_OPS_LEAF_STATEMENTS_H
#define RUN_OPS_LEAF_STATEMENTS_H

extern void leaf_statements_init(void);

#endif							/* RUN_OPS_LEAF_STATEMENTS_H */

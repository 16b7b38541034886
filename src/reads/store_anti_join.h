/*
 * store_anti_join.h
 *		Rows whose keys are not in the table of a store.
 */
#ifndef RUN_OPS_STORE_ANTI_JOIN_H
#define RUN_OPS_STORE_ANTI_JOIN_H

extern void store_anti_join_init(void);

#endif							/* RUN_OPS_STORE_ANTI_JOIN_H */

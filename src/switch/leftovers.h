/*
 * leftovers.h
 *		Rows that have moved to a store and are still in the local table.
 */
#ifndef RUN_OPS_LEFTOVERS_H
#define RUN_OPS_LEFTOVERS_H

extern void leftovers_init(void);

#endif							/* RUN_OPS_LEFTOVERS_H */

/*
 * gathered_changes.h
 *		Changes of foreign tables whose rows are sent as sets.
 */
#ifndef RUN_OPS_GATHERED_CHANGES_H
#define RUN_OPS_GATHERED_CHANGES_H

#include "stores/store_modify.h"

/*
 * From now on until the memory of the query goes away, what the executor gets from the
 * plan of a change are rows that were sent already, or are promised.
 */
extern void gather_changes(StoreModify *modify, ModifyTableState *statement);

/* Stores a promised row, as RETURNING shows it.  The slot has it but for DELETE. */
extern void gathered_promise_row(StoreModify *modify, TupleTableSlot *slot,
								 TupleTableSlot *plan_slot);

extern void gathered_changes_init(void);

#endif							/* RUN_OPS_GATHERED_CHANGES_H */

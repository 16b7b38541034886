/*
 * gathered_changes.h
 *		Changes of foreign tables whose rows are sent as sets.
 */
#ifndef RUN_OPS_GATHERED_CHANGES_H
#define RUN_OPS_GATHERED_CHANGES_H

#include "stores/store_modify.h"

/*
 * Is it computed here what the statement needs of a change, before the store is told?
 * Its number of rows, and those of RETURNING.
 */
typedef enum EarlyRows
{
	EARLY_NEVER,
	EARLY_FOR_CHANGES,			/* if another change reads what one returns */
	EARLY_ALWAYS				/* the statement reads the table in another place */
} EarlyRows;

/* The name by which the plan of a DELETE carries the row, if it may be computed. */
#define WHOLE_ROW_NAME "wholerow"

/*
 * From now on until the memory of the query goes away, what the executor gets from the
 * plan of a change are rows that were sent already, or are promised.
 */
extern void gather_changes(StoreModify *modify, ModifyTableState *statement,
						   EarlyRows early);

/*
 * Stores what RETURNING shows of the row that the executor got last.  False if the
 * store has not changed it.
 */
extern bool gathered_row(StoreModify *modify, TupleTableSlot *slot,
						 TupleTableSlot *plan_slot);

/* At the end of the statement.  An error if rows were not sent. */
extern void gathered_end(StoreModify *modify);

extern void gathered_changes_init(void);

#endif							/* RUN_OPS_GATHERED_CHANGES_H */

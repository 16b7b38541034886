/*
 * row_recheck.h
 *		Evaluates an UPDATE or DELETE of a view again for the new version of a
 *		local row.
 */
#ifndef RUN_OPS_ROW_RECHECK_H
#define RUN_OPS_ROW_RECHECK_H

#include "commands/trigger.h"
#include "storage/itemptr.h"

#include "writes/write_frame.h"

/* One version of a local row: the table or partition that has it, and its place. */
typedef struct LocalVersion
{
	Oid			relid;
	ItemPointerData tid;
} LocalVersion;

/*
 * For a row that the statement has seen in the local table, but cannot find
 * there any more: locks its newest version, and evaluates the statement again
 * for it.  Sets *version to that version, and the rows of the trigger to those
 * of the new evaluation.  Returns false if there is nothing to change: the row
 * is gone, it does not meet the conditions any more, or nobody else has changed
 * it.  "keys" and "nulls" are the key of the row, as for ACTION_FIND.
 */
extern bool row_recheck(WriteFrame *frame, StoreTable *table,
						TriggerData *trigdata, Datum *keys, char *nulls,
						LocalVersion *version);

/* Raises the error for a row that another transaction has changed. */
extern void report_changed_row(Oid relid);

/*
 * Has the statement that fires the trigger locked the rows that it has read from
 * this foreign table?  Not if it was planned while this library was being
 * loaded, and the planner could not be told any more; see target_leaves.c.
 */
extern bool row_is_locked(TriggerData *trigdata, Oid relid);

extern void row_recheck_init(void);

#endif							/* RUN_OPS_ROW_RECHECK_H */

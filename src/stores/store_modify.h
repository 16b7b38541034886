/*
 * store_modify.h
 *		A change of a foreign table: the rows that are sent to its store.
 */
#ifndef RUN_OPS_STORE_MODIFY_H
#define RUN_OPS_STORE_MODIFY_H

#include "access/tupdesc.h"
#include "funcapi.h"
#include "nodes/execnodes.h"
#include "utils/hsearch.h"

#include "stores/remote_change.h"

typedef struct StoreModify
{
	EState	   *estate;
	ResultRelInfo *target;
	CmdType		operation;
	List	   *columns;		/* as the plan has them */
	const char *conflict;
	List	   *conflict_values;	/* its values, as expressions */
	bool		returning;
	Wire	   *wire;
	WireStatement *statement;
	RemoteChange *change;		/* NULL until there is a row */
	AttInMetadata *in;
	int			nkeys;
	AttrNumber *keys;			/* where the plan has them */
	bool		version;		/* with the ctid */
	AttrNumber *columns_at;		/* and where a row has the columns */
	HTAB	   *changed;		/* keys, if a row may be met several times */
	MemoryContext row_context;
	Datum	   *values;			/* of one row */
	bool	   *nulls;

	/* if the rows of the plan are sent as sets; see gathered_changes.c */
	struct GatheredChange *gathered;
	List	   *new_columns;	/* of UPDATE, in the order of the plan */
} StoreModify;

/* How the rows are written; begins with the first row, as a leaf mostly has none. */
extern RemoteChange *store_modify_change(StoreModify *modify);

/* Are there rows that were not sent yet? */
extern bool store_modify_has_rows(StoreModify *modify);

/* Adds one row: the key from the plan, and the values that are written. */
extern void store_modify_add(StoreModify *modify, TupleTableSlot *row,
							 TupleTableSlot *plan_slot);

/*
 * Was the row that was added last changed before?  Then it is forgotten: as in
 * PostgreSQL, only the first of several changes counts.
 */
extern bool store_modify_changed_before(StoreModify *modify);

/*
 * Sends what was added, and before it the whole of other changes.  Returns how many
 * rows the store has written of the last one.
 */
extern int	store_modify_send(StoreModify *modify, List *others);

/* Stores a row of the result in the slot. */
extern void store_modify_returned(StoreModify *modify, int row, TupleTableSlot *slot);

#endif							/* RUN_OPS_STORE_MODIFY_H */

/*
 * store_modify.h
 *		A change of a foreign table: the rows that are sent to its store.
 */
#ifndef RUN_OPS_STORE_MODIFY_H
#define RUN_OPS_STORE_MODIFY_H

#include "access/tupdesc.h"
#include "funcapi.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"
#include "utils/hsearch.h"
#include "utils/tuplestore.h"

#include "stores/remote_change.h"

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

typedef struct StoreModify
{
	dlist_node	node;			/* in "gathering" */
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
	bool		asked;			/* is it known whether */
	bool		skips_rows;		/* the store may write other rows than it is sent? */
	MemoryContext row_context;
	Datum	   *values;			/* of one row */
	bool	   *nulls;

	/* if the rows of the plan are gathered */
	PlanState  *plan;
	ExecProcNodeMtd read_plan;
	List	   *new_columns;	/* of UPDATE, in the order of the plan */
	bool		counts;			/* for the number of rows of the query */
	bool		waits;			/* its rows depend on those of another change */
	EarlyRows	early;
	AttrNumber	whole_row;		/* where the plan of a DELETE has the row */
	bool		promised;		/* its rows are given before they are sent */
	Tuplestorestate *promises;	/* those of INSERT and UPDATE that were given */
	RemoteText	promised_text;	/* of their columns */
	bool		filled;			/* the next set is in "change" */
	bool		ready;			/* its rows can be given */
	bool		whole;			/* and it is all there is */
	bool		begun;			/* a set was sent */
	bool		sent;			/* it was sent with that of another change */
	int			written;		/* rows that are to be counted then */
	Tuplestorestate *rows;
	TupleTableSlot *stored;		/* a row of "rows" */
	TupleTableSlot *given;		/* the same, of the kind that the plan returns */
	int		   *answers;		/* for each row of the set: the number of its
								 * row in the result; -1: it was not changed */
	int			max_rows;		/* room in "answers" */
	int			nrows;			/* of the set */
	int			row;			/* the next one to give */
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

/*
 * store_modify.c
 *		A change of a foreign table: the rows that are sent to its store.
 *
 * The one idea: a row is a key, from the plan, and the values of columns.  What sends
 * the rows does not matter here: one by one as the executor comes to them, or in sets.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ground/key_set.h"
#include "stores/foreign_scan.h"
#include "stores/store_modify.h"

/*
 * Where a row has the columns that are written: by their numbers in a row of the
 * table.  The plan of an UPDATE whose rows are gathered gives new values only, in an
 * order of its own.
 */
static AttrNumber *
columns_in_row(StoreModify *modify)
{
	AttrNumber *result = palloc(sizeof(AttrNumber) * Max(modify->change->nvalues, 1));
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, modify->change->columns)
	{
		AttrNumber *at = &result[foreach_current_index(lc)];

		*at = lfirst_int(lc);
		if (modify->new_columns == NIL)
			continue;
		*at = InvalidAttrNumber;
		foreach(lc2, modify->new_columns)
		{
			if (lfirst_int(lc2) == lfirst_int(lc))
				*at = foreach_current_index(lc2) + 1;
		}
		if (*at == InvalidAttrNumber)
			elog(ERROR, "could not find column %d in the plan", lfirst_int(lc));
	}
	return result;
}

/* The values of ON CONFLICT are the same for all rows. */
static void
set_conflict_values(StoreModify *modify)
{
	int			n = list_length(modify->conflict_values);
	const char **texts = palloc0(sizeof(char *) * n);
	RemoteText	text = {0};
	ExprContext *econtext = CreateExprContext(modify->estate);
	ListCell   *lc;
	int			nest_level;

	text.output = palloc0(sizeof(FmgrInfo) * n);
	foreach(lc, modify->conflict_values)
		remote_text_add(&text, exprType((Node *) ((ExprState *) lfirst(lc))->expr));
	nest_level = remote_text_begin(&text);
	foreach(lc, modify->conflict_values)
	{
		int			i = foreach_current_index(lc);
		bool		isnull;
		Datum		value = ExecEvalExprSwitchContext(lfirst(lc), econtext, &isnull);

		if (!isnull)
			texts[i] = OutputFunctionCall(&text.output[i], value);
	}
	remote_text_end(nest_level);
	remote_change_set_extra(modify->change, n, texts);
}

RemoteChange *
store_modify_change(StoreModify *modify)
{
	Relation	rel = modify->target->ri_RelationDesc;
	MemoryContext oldcontext;

	if (modify->change)
		return modify->change;
	oldcontext = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	modify->in = TupleDescGetAttInMetadata(RelationGetDescr(rel));
	modify->row_context = AllocSetContextCreate(CurrentMemoryContext, "run_ops row",
												ALLOCSET_DEFAULT_SIZES);
	modify->change = remote_change_begin(rel, modify->operation, modify->columns, modify->conflict,
										 modify->returning, modify->version, modify->wire,
										 modify->statement);
	modify->values = palloc(sizeof(Datum) * Max(modify->change->nvalues, 1));
	modify->nulls = palloc(sizeof(bool) * Max(modify->change->nvalues, 1));
	modify->columns_at = columns_in_row(modify);
	if (modify->conflict_values)
		set_conflict_values(modify);
	MemoryContextSwitchTo(oldcontext);
	return modify->change;
}

void
store_modify_add(StoreModify *modify, TupleTableSlot *row, TupleTableSlot *plan_slot)
{
	RemoteChange *change = store_modify_change(modify);
	int			n = 0;

	for (; n < modify->nkeys; n++)
		modify->values[n] = ExecGetJunkAttribute(plan_slot, modify->keys[n], &modify->nulls[n]);
	for (; n < change->nvalues; n++)
		modify->values[n] = slot_getattr(row, modify->columns_at[n - modify->nkeys], &modify->nulls[n]);
	remote_change_add(change, modify->values, modify->nulls);
}

bool
store_modify_changed_before(StoreModify *modify)
{
	RemoteChange *change = modify->change;
	const char **key = &change->values[(change->n - 1) * change->nvalues];
	StringInfoData bytes;

	if (modify->changed == NULL)
		return false;
	initStringInfo(&bytes);
	for (int i = 0; i < modify->nkeys; i++)
		appendBinaryStringInfo(&bytes, key[i] ? key[i] : "", key[i] ? strlen(key[i]) + 1 : 1);
	if (key_set_add(modify->changed, bytes.data, bytes.len))
		return false;
	remote_change_forget_last(change);
	return true;
}

int
store_modify_send(StoreModify *modify, List *others)
{
	List	   *before = NIL;
	ListCell   *lc;

	begin_scans_before_write(modify->statement);
	foreach(lc, others)
		before = lappend(before, ((StoreModify *) lfirst(lc))->change);
	remote_change_send(modify->change, before);
	if (modify->change->written > 0)
		note_statement_write(modify->statement, modify->change->relid);
	foreach(lc, others)
	{
		StoreModify *other = lfirst(lc);

		note_statement_write(other->statement, other->change->relid);
	}
	return modify->change->written;
}

bool
store_modify_has_rows(StoreModify *modify)
{
	return modify->change != NULL && modify->change->n > 0;
}

void
store_modify_returned(StoreModify *modify, int row, TupleTableSlot *slot)
{
	RemoteChange *change = modify->change;
	MemoryContext oldcontext = MemoryContextSwitchTo(modify->row_context);

	ExecClearTuple(slot);
	(void) remote_row_values(change->result, row, modify->in, change->returned,
							 RelationGetRelationName(modify->target->ri_RelationDesc),
							 slot->tts_values, slot->tts_isnull);
	ExecStoreVirtualTuple(slot);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * write_frame.c
 *		A statement on the view of a routed table, while it is executed.
 *
 * The one idea: what the statement writes is collected, by store, and written
 * by few statements.  Inserted rows wait until the frame closes, and are
 * written by one INSERT for each store, so that postgres_fdw can send them in
 * batches.  A single row is written in the same way: reading it costs less
 * than setting up a parameter for each column.  Updates and deletions of
 * foreign rows are sent together as one statement for many keys.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/compat.h"
#include "stores/read_gate.h"
#include "wire/cross_store_writes.h"
#include "writes/write_frame.h"

/*
 * Foreign rows that one statement changes.  The store looks each key up in a
 * list of this length, so the work there grows with its square.
 */
#define MAX_CHANGES 50

/* Updates or deletions of rows of a foreign table, collected. */
typedef struct Changes
{
	MemoryContext context;		/* of all this */
	StoreAction action;			/* for one of them */
	Bitmapset  *columns;		/* that are set */
	int			nparams;		/* the key and these columns */
	AttrNumber *params;
	int			n;
	Size		size;
	MemoryContext values_context;
	Datum	   *values;			/* MAX_CHANGES for each parameter */
	bool	   *nulls;
} Changes;

WriteFrame *write_frames = NULL;

/* ----------------------------------------------------------------
 *		Frames
 * ----------------------------------------------------------------
 */

/* Is that the frame of a statement of the query that is being executed? */
static bool
is_frame_of(WriteFrame *frame, Oid relid, TriggerEvent operation)
{
	return frame->view->relid == relid && frame->operation == operation &&
		frame->query == GetActiveSnapshot();
}

void
push_write_frame(TriggerData *trigdata)
{
	Oid			relid = RelationGetRelid(trigdata->tg_relation);
	TriggerEvent operation = trigdata->tg_event & TRIGGER_EVENT_OPMASK;
	MemoryContext context;
	MemoryContext oldcontext;
	WriteFrame *frame;
	RoutedView *view;
	int			column = -1;

	if (write_frames && is_frame_of(write_frames, relid, operation))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("more than one BEFORE trigger of view \"%s\" calls run_ops.route_write()",
						RelationGetRelationName(trigdata->tg_relation))));
	context = AllocSetContextCreate(TopTransactionContext,
									"run_ops write frame",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	frame = palloc0(sizeof(WriteFrame));
	view = routed_view_pin(trigdata->tg_relation, trigdata->tg_trigger);
	frame->context = context;
	frame->view = view;
	frame->nest_level = GetCurrentTransactionNestLevel();
	/* whatever fails from here on: who drops the frame unpins the view */
	frame->outer = write_frames;
	write_frames = frame;

	GetUserIdAndSecContext(&frame->writer, &frame->writer_context);
	frame->operation = operation;
	frame->query = GetActiveSnapshot();
	frame->collected = palloc0(sizeof(Collected) * view->ntables);
	while ((column = bms_next_member(trigdata->tg_updatedcols, column)) >= 0)
		frame->columns =
			bms_add_member(frame->columns,
						   column + FirstLowInvalidHeapAttributeNumber);
	MemoryContextSwitchTo(oldcontext);

	/*
	 * A copy of the database must not write, not even its local rows.  No
	 * transaction takes a server for the original one and then for a copy.
	 */
	if (view->checked_in == compat_local_transaction_id())
		return;
	for (int i = 0; i < view->ntables; i++)
	{
		if (view->tables[i].foreign)
			split_require_active(GetForeignServerIdByRelId(view->tables[i].relid));
	}
	view->checked_in = compat_local_transaction_id();
}

/*
 * The frame of the statement that fires the trigger.  Several statements of
 * one query, view and operation share it: PostgreSQL fires their BEFORE
 * STATEMENT triggers once, for the first one.  A frame of another query is not
 * ours, even where ours has none: whoever owns the view may have changed its
 * triggers.
 */
WriteFrame **
find_write_frame(TriggerData *trigdata)
{
	TriggerEvent operation = trigdata->tg_event & TRIGGER_EVENT_OPMASK;
	Oid			relid = RelationGetRelid(trigdata->tg_relation);

	for (WriteFrame **frame = &write_frames; *frame; frame = &(*frame)->outer)
	{
		if (is_frame_of(*frame, relid, operation))
			return frame;
	}
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("no BEFORE trigger of view \"%s\" has called run_ops.route_write()",
					RelationGetRelationName(trigdata->tg_relation))));
}

void
drop_write_frame(WriteFrame **link)
{
	WriteFrame *frame = *link;

	*link = frame->outer;
	routed_view_unpin(frame->view);
	MemoryContextDelete(frame->context);
}

static void
end_frames_of_transaction(XactEvent event, void *arg)
{
	/* what is left was not written */
	if (event == XACT_EVENT_PRE_COMMIT && write_frames)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("no AFTER trigger of view \"%s\" has called run_ops.route_write()",
						get_rel_name(write_frames->view->relid))));
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	while (write_frames)
		drop_write_frame(&write_frames);
}

static void
end_frames_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
							 SubTransactionId parentSubid, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (write_frames && write_frames->nest_level >= GetCurrentTransactionNestLevel())
		drop_write_frame(&write_frames);
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

/*
 * Executes a statement of the frame.  What was collected may be written while
 * a function within the statement runs as somebody else.
 */
int
frame_execute(WriteFrame *frame, RightsStatement *statement, Datum *values,
			  const char *nulls, bool read_only, long count)
{
	Oid			userid;
	int			sec_context;
	int			result;

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(frame->writer, frame->writer_context);
	result = rights_execute(statement, values, nulls, read_only, count, NULL);
	SetUserIdAndSecContext(userid, sec_context);
	return result;
}

/*
 * Runs a statement; see StoreAction for its parameters.  Gives the number of
 * rows, and what is returned of the first one in the caller's memory.
 */
uint64
frame_run_statement(WriteFrame *frame, StoreTable *table, StoreAction action,
					Bitmapset *columns, Datum *values, char *nulls,
					HeapTuple *returned)
{
	RightsStatement *statement;
	uint64		processed;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	statement = routed_view_statement(frame->view, table, action, columns);
	if (frame_execute(frame, statement, values, nulls, false, 0) < 0)
		elog(ERROR, "could not write to store \"%s\"", table->store);
	processed = SPI_processed;
	if (table->foreign && action != ACTION_FIND && processed > 0)
		note_foreign_write(table->relid);
	if (returned)
		*returned = processed > 0 ? SPI_copytuple(SPI_tuptable->vals[0]) : NULL;
	SPI_finish();
	return processed;
}

/* Inserts one row.  Gives it as stored; NULL when skipped. */
HeapTuple
frame_insert_one(WriteFrame *frame, StoreTable *table, StoreAction action, HeapTuple row)
{
	RoutedView *view = frame->view;
	int			natts = view->desc->natts;
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *isnull = palloc(sizeof(bool) * natts);
	char	   *nulls = palloc(natts);
	HeapTuple	stored = NULL;
	int			n = 0;

	heap_deform_tuple(row, view->desc, values, isnull);
	for (int i = 0; i < natts; i++)
	{
		if (bms_is_member(i + 1, view->generated))
			continue;
		values[n] = values[i];
		nulls[n++] = isnull[i] ? 'n' : ' ';
	}
	frame_run_statement(frame, table, action, NULL, values, nulls, &stored);
	return stored;
}

static void
insert_rows(WriteFrame *frame, StoreTable *table, Tuplestorestate *rows)
{
	RoutedView *view = frame->view;
	EphemeralNamedRelation enr;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	enr = palloc0(sizeof(EphemeralNamedRelationData));
	enr->md.name = COLLECTED_ROWS;
	enr->md.reliddesc = view->relid;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = tuplestore_tuple_count(rows);
	enr->reldata = rows;
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows");
	if (frame_execute(frame, routed_view_statement(view, table, ACTION_INSERT, NULL),
					  NULL, NULL, false, 0) < 0)
		elog(ERROR, "could not write to store \"%s\"", table->store);
	if (table->foreign && SPI_processed > 0)
		note_foreign_write(table->relid);
	SPI_finish();
	tuplestore_end(rows);
}

/* ----------------------------------------------------------------
 *		Collected rows
 * ----------------------------------------------------------------
 */

void
frame_collect_row(WriteFrame *frame, int i, HeapTuple row)
{
	Collected  *collected = &frame->collected[i];
	MemoryContext oldcontext = MemoryContextSwitchTo(frame->context);

	if (collected->rows == NULL)
		collected->rows = tuplestore_begin_heap(false, false, work_mem);
	tuplestore_puttuple(collected->rows, row);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Sends what is collected.  What has been counted as changed must have been:
 * else the row count of the statement would be wrong.
 */
static void
send_changes(WriteFrame *frame, StoreTable *table, Changes *changes)
{
	RoutedView *view = frame->view;
	int			n = changes->n;
	Datum	   *values = palloc(sizeof(Datum) * changes->nparams);
	char	   *nulls = palloc(changes->nparams);
	StoreAction action = changes->action;
	uint64		processed;

	/* no longer collected, should a trigger come back to this frame */
	changes->n = 0;
	for (int i = 0; i < changes->nparams; i++)
	{
		Form_pg_attribute att = TupleDescAttr(view->desc, changes->params[i] - 1);
		Datum	   *column = &changes->values[i * MAX_CHANGES];
		bool	   *isnull = &changes->nulls[i * MAX_CHANGES];
		int			one = 1;

		nulls[i] = ' ';
		if (n > 1)
			values[i] = PointerGetDatum(construct_md_array(column, isnull, 1, &n, &one,
														   att->atttypid, att->attlen,
														   att->attbyval, att->attalign));
		else
		{
			values[i] = column[0];
			nulls[i] = isnull[0] ? 'n' : ' ';
		}
	}
	if (n > 1)
		action = action == ACTION_UPDATE ? ACTION_UPDATE_MANY : ACTION_DELETE_MANY;
	processed = frame_run_statement(frame, table, action, changes->columns,
									values, nulls, NULL);
	if (processed != n)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail("Rows of table \"%s\" in store \"%s\" that the statement on its view has counted: %d; changed there: " UINT64_FORMAT ".",
						   get_rel_name(table->relid), table->store, n, processed),
				 errhint("Try the transaction again. "
						 "If the table in the store has got a trigger that keeps rows, use run_ops.refresh_table().")));
	MemoryContextReset(changes->values_context);
	changes->size = 0;
}

/* Can changes of these columns be sent together?  Arrays have no array type. */
static bool
may_collect(RoutedView *view, StoreTable *table, Bitmapset *columns)
{
	int			column = -1;

	/* with routing "store" it has to be known whether the row was there */
	if (table->changes_rows || view->nkeys > 1 || view->routing == ROUTING_STORE)
		return false;
	while ((column = bms_next_member(columns, column)) >= 0)
	{
		if (!OidIsValid(get_array_type(TupleDescAttr(view->desc, column - 1)->atttypid)))
			return false;
	}
	return OidIsValid(get_array_type(TupleDescAttr(view->desc, view->keys[0] - 1)->atttypid));
}

static Changes *
begin_changes(WriteFrame *frame, StoreAction action, Bitmapset *columns)
{
	MemoryContext context = AllocSetContextCreate(frame->context,
												  "run_ops changes",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Changes    *changes = palloc0(sizeof(Changes));
	int			column = -1;

	changes->context = context;
	changes->values_context = AllocSetContextCreate(context, "run_ops changed values",
													ALLOCSET_DEFAULT_SIZES);
	changes->action = action;
	changes->columns = bms_copy(columns);
	changes->nparams = 1 + bms_num_members(columns);
	changes->params = palloc(sizeof(AttrNumber) * changes->nparams);
	changes->params[0] = frame->view->keys[0];
	for (int p = 1; p < changes->nparams; p++)
		changes->params[p] = column = bms_next_member(columns, column);
	changes->values = palloc(sizeof(Datum) * changes->nparams * MAX_CHANGES);
	changes->nulls = palloc(sizeof(bool) * changes->nparams * MAX_CHANGES);
	MemoryContextSwitchTo(oldcontext);
	return changes;
}

/* Collects a change that is not yet made.  False: it is to be made at once. */
bool
frame_collect_change(WriteFrame *frame, int i, StoreAction action, Bitmapset *columns,
					 Datum *values, char *nulls)
{
	RoutedView *view = frame->view;
	StoreTable *table = &view->tables[i];
	Changes    *changes = frame->collected[i].changes;
	MemoryContext oldcontext;

	if (changes == NULL || !bms_equal(changes->columns, columns))
	{
		if (changes && changes->n > 0)
			send_changes(frame, table, changes);
		if (!may_collect(view, table, columns))
			return false;
		if (changes)
			MemoryContextDelete(changes->context);
		frame->collected[i].changes = changes = begin_changes(frame, action, columns);
	}

	oldcontext = MemoryContextSwitchTo(changes->values_context);
	for (int p = 0; p < changes->nparams; p++)
	{
		Form_pg_attribute att = TupleDescAttr(view->desc, changes->params[p] - 1);
		int			at = p * MAX_CHANGES + changes->n;

		changes->nulls[at] = nulls[p] == 'n';
		if (changes->nulls[at])
			continue;
		changes->values[at] = datumCopy(values[p], att->attbyval, att->attlen);
		changes->size += datumGetSize(values[p], att->attbyval, att->attlen);
	}
	MemoryContextSwitchTo(oldcontext);
	changes->n++;
	if (changes->n == MAX_CHANGES || changes->size > work_mem * (Size) 1024)
		send_changes(frame, table, changes);
	return true;
}

/* The values of a key that a statement has changed, as bytes. */
typedef struct ChangedKey
{
	bytea	   *key;
} ChangedKey;

static uint32
changed_key_hash(const void *key, Size keysize)
{
	bytea	   *bytes = ((const ChangedKey *) key)->key;

	return DatumGetUInt32(hash_any((unsigned char *) VARDATA(bytes),
								   VARSIZE(bytes) - VARHDRSZ));
}

static int
changed_key_match(const void *a, const void *b, Size keysize)
{
	bytea	   *x = ((const ChangedKey *) a)->key;
	bytea	   *y = ((const ChangedKey *) b)->key;

	return VARSIZE(x) == VARSIZE(y) ? memcmp(x, y, VARSIZE(x)) : 1;
}

/*
 * Has the statement changed this row before?  As in PostgreSQL, of several
 * changes the first one counts.  The store cannot tell: to it they are
 * changes by several statements.
 */
bool
frame_changed_before(WriteFrame *frame, int i, Datum *keys)
{
	RoutedView *view = frame->view;
	Collected  *collected = &frame->collected[i];
	StringInfoData bytes;
	ChangedKey	changed;
	bool		found;
	ChangedKey *entry;

	if (collected->changed_keys == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(ChangedKey),
			.entrysize = sizeof(ChangedKey),
			.hash = changed_key_hash,
			.match = changed_key_match,
		.hcxt = frame->context};

		collected->changed_keys =
			hash_create("run_ops changed keys", 16, &ctl,
						HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	}
	initStringInfo(&bytes);
	appendStringInfoSpaces(&bytes, VARHDRSZ);
	for (int k = 0; k < view->nkeys; k++)
	{
		Form_pg_attribute att = TupleDescAttr(view->desc, view->keys[k] - 1);

		if (att->attbyval)
			appendBinaryStringInfo(&bytes, (char *) &keys[k], sizeof(Datum));
		else if (att->attlen == -1)
		{
			/* whatever header it has */
			struct varlena *value = PG_DETOAST_DATUM_PACKED(keys[k]);
			int32		len = VARSIZE_ANY_EXHDR(value);

			appendBinaryStringInfo(&bytes, (char *) &len, sizeof(len));
			appendBinaryStringInfo(&bytes, VARDATA_ANY(value), len);
		}
		else
			appendBinaryStringInfo(&bytes, DatumGetPointer(keys[k]),
								   datumGetSize(keys[k], false, att->attlen));
	}
	SET_VARSIZE(bytes.data, bytes.len);
	changed.key = (bytea *) bytes.data;
	entry = hash_search(collected->changed_keys, &changed, HASH_ENTER, &found);
	if (!found)
	{
		entry->key = MemoryContextAlloc(frame->context, bytes.len);
		memcpy(entry->key, bytes.data, bytes.len);
	}
	return found;
}

void
frame_write_collected(WriteFrame *frame)
{
	for (int i = 0; i < frame->view->ntables; i++)
	{
		StoreTable *table = &frame->view->tables[i];
		Collected  *collected = &frame->collected[i];
		Tuplestorestate *rows = collected->rows;

		/* no longer collected, should a trigger come back to this frame */
		collected->rows = NULL;
		if (rows)
			insert_rows(frame, table, rows);
		if (collected->changes && collected->changes->n > 0)
			send_changes(frame, table, collected->changes);
	}
}

/*
 * Writes what is collected by the statements from this one outwards, outer
 * ones first, but for one view and one query: a row that is written or placed
 * now may refer to it.
 */
void
frame_write_all_collected(WriteFrame *frame, RoutedView *but, Snapshot but_query)
{
	if (frame == NULL)
		return;
	check_stack_depth();
	frame_write_all_collected(frame->outer, but, but_query);
	if (frame->view != but && frame->query != but_query)
		frame_write_collected(frame);
}

void
write_frame_init(void)
{
	RegisterXactCallback(end_frames_of_transaction, NULL);
	RegisterSubXactCallback(end_frames_of_subtransaction, NULL);
}

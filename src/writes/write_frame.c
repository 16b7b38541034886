/*
 * write_frame.c
 *		The state of a statement on the view of a routed table while it runs.
 *
 * The one idea: a frame collects the rows that the statement writes, by store,
 * and writes them with few statements.  Inserted rows wait until the frame
 * closes.  Then one INSERT for each store writes them, so that postgres_fdw
 * can send them in batches.  A single row is written in the same way, because
 * reading it from the collected rows costs less than one parameter for each
 * column.  Updates and deletions of foreign rows are sent together, as one
 * statement for many keys (remote_change.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/compat.h"
#include "ground/key_set.h"
#include "stores/read_gate.h"
#include "stores/remote_change.h"
#include "wire/cross_store_writes.h"
#include "writes/write_frame.h"

/* Maximum number of foreign rows that one statement changes. */
#define MAX_CHANGES 1000

/* Collected updates or deletions of rows of a foreign table. */
typedef struct Changes
{
	MemoryContext context;		/* of all this */
	Bitmapset  *columns;		/* columns that are set */
	RemoteChange *remote;
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
	/* from here on, drop_write_frame() unpins the view after an error */
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
	 * A copy of the database must not write, not even local rows.  Whether it
	 * is a copy does not change within a transaction.
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
	/* the rows of such a frame were not written */
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
 * Executes a statement of the frame as the writer.  The current user may be
 * another one, because collected rows can be written while a function within
 * the statement runs.
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
 * Runs a statement; see StoreAction for its parameters.  Returns the number of
 * rows, and sets *returned to the first returned row, in the caller's memory
 * context.
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

/* Inserts one row.  Returns the row as stored, or NULL if it was skipped. */
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
 * Sends the collected changes.  The statement on the view has counted these
 * rows as changed, and has locked them there, so it is an error if the store has
 * not changed all of them.
 */
static void
send_changes(StoreTable *table, Changes *changes)
{
	RemoteChange *remote = changes->remote;
	int			n = remote->n;
	int			changed = atoi(PQcmdTuples(remote_change_send(remote)));

	if (changed > 0)
		note_foreign_write(table->relid);
	if (changed != n)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail("The statement on the view should change %d rows of table \"%s\" in store \"%s\", but changed %d.",
						   n, get_rel_name(table->relid), table->store, changed),
				 errhint("Try the transaction again. "
						 "If a trigger that skips rows has been added to the table in the store, use run_ops.refresh_table().")));
}

/* With routing "store" the caller must know at once whether a row was found. */
static bool
may_collect(RoutedView *view, StoreTable *table)
{
	return !table->changes_rows && view->routing != ROUTING_LOOKUP;
}

/*
 * The role whose access to the table is checked, as the executor would: the
 * statement is not run through the foreign table.
 */
static Oid
checked_role(WriteFrame *frame, Relation rel, StoreAction action, List *columns)
{
	RoutedView *view = frame->view;
	Oid			role = view->security_invoker ? frame->writer : view->owner;
	AclMode		mode = action == ACTION_UPDATE ? ACL_UPDATE : ACL_DELETE;
	AclResult	result = pg_class_aclcheck(RelationGetRelid(rel), role, mode);
	ListCell   *lc;

	if (result != ACLCHECK_OK && columns != NIL)
	{
		result = ACLCHECK_OK;
		foreach(lc, columns)
		{
			if (result == ACLCHECK_OK)
				result = pg_attribute_aclcheck(RelationGetRelid(rel), lfirst_int(lc), role, mode);
		}
	}
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_TABLE, RelationGetRelationName(rel));
	return role;
}

/* NULL if triggers of the foreign table have to see each row. */
static Changes *
begin_changes(WriteFrame *frame, StoreTable *table, StoreAction action, Bitmapset *columns)
{
	Relation	rel = table_open(table->relid, RowExclusiveLock);
	MemoryContext context;
	MemoryContext oldcontext;
	Changes    *changes;
	List	   *attnos = NIL;
	int			column = -1;

	if (rel->trigdesc)
	{
		table_close(rel, NoLock);
		return NULL;
	}
	context = AllocSetContextCreate(frame->context, "run_ops changes",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	while ((column = bms_next_member(columns, column)) >= 0)
		attnos = lappend_int(attnos, get_attnum(table->relid,
												NameStr(TupleDescAttr(frame->view->desc, column - 1)->attname)));
	changes = palloc0(sizeof(Changes));
	changes->context = context;
	changes->columns = bms_copy(columns);
	changes->remote = remote_change_begin(rel, action == ACTION_UPDATE ? CMD_UPDATE : CMD_DELETE,
										  attnos, false, false,
										  wire_get(GetForeignServerIdByRelId(table->relid),
												   checked_role(frame, rel, action, attnos)),
										  NULL);
	MemoryContextSwitchTo(oldcontext);
	table_close(rel, NoLock);
	return changes;
}

/* Collects a change.  False means that the caller must make it at once. */
bool
frame_collect_change(WriteFrame *frame, int i, StoreAction action, Bitmapset *columns,
					 Datum *values, char *nulls)
{
	StoreTable *table = &frame->view->tables[i];
	Changes    *changes = frame->collected[i].changes;
	bool	   *isnull;

	if (changes == NULL || !bms_equal(changes->columns, columns))
	{
		if (changes && changes->remote->n > 0)
			send_changes(table, changes);
		if (changes)
			MemoryContextDelete(changes->context);
		frame->collected[i].changes = NULL;
		if (!may_collect(frame->view, table))
			return false;
		changes = begin_changes(frame, table, action, columns);
		if (changes == NULL)
			return false;
		frame->collected[i].changes = changes;
	}

	isnull = palloc(sizeof(bool) * changes->remote->nvalues);
	for (int p = 0; p < changes->remote->nvalues; p++)
		isnull[p] = nulls[p] == 'n';
	remote_change_add(changes->remote, values, isnull);
	if (changes->remote->n == MAX_CHANGES ||
		MemoryContextMemAllocated(changes->remote->values_context, true) > work_mem * (Size) 1024)
		send_changes(table, changes);
	return true;
}

/*
 * Has the statement changed this row before?  As in PostgreSQL, only the first
 * of several changes counts.  The store cannot detect this, because it gets
 * the changes as several statements.
 */
bool
frame_changed_before(WriteFrame *frame, int i, Datum *keys)
{
	RoutedView *view = frame->view;
	Collected  *collected = &frame->collected[i];
	StringInfoData bytes;

	if (collected->changed_keys == NULL)
		collected->changed_keys = key_set_create(frame->context);
	initStringInfo(&bytes);
	for (int k = 0; k < view->nkeys; k++)
	{
		Form_pg_attribute att = TupleDescAttr(view->desc, view->keys[k] - 1);

		if (att->attbyval)
			appendBinaryStringInfo(&bytes, (char *) &keys[k], sizeof(Datum));
		else if (att->attlen == -1)
		{
			/* equal values can have different headers */
			struct varlena *value = PG_DETOAST_DATUM_PACKED(keys[k]);
			int32		len = VARSIZE_ANY_EXHDR(value);

			appendBinaryStringInfo(&bytes, (char *) &len, sizeof(len));
			appendBinaryStringInfo(&bytes, VARDATA_ANY(value), len);
		}
		else
			appendBinaryStringInfo(&bytes, DatumGetPointer(keys[k]),
								   datumGetSize(keys[k], false, att->attlen));
	}
	return !key_set_add(collected->changed_keys, bytes.data, bytes.len);
}

void
frame_write_collected(WriteFrame *frame)
{
	for (int i = 0; i < frame->view->ntables; i++)
	{
		StoreTable *table = &frame->view->tables[i];
		Collected  *collected = &frame->collected[i];
		Tuplestorestate *rows = collected->rows;

		/* first of all, because a trigger may use this frame again */
		collected->rows = NULL;
		if (rows)
			insert_rows(frame, table, rows);
		if (collected->changes && collected->changes->remote->n > 0)
			send_changes(table, collected->changes);
	}
}

/*
 * Writes the rows collected by this statement and all outer ones, the
 * outermost first, except those of one view and one query.  A row whose store
 * is looked up or which is written now may refer to them.
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

/*
 * write_routing.c
 *		INSERT, UPDATE and DELETE through the views of routed tables.
 *
 * The one idea: a statement on a view is a frame, opened by its BEFORE
 * STATEMENT trigger and closed by its AFTER STATEMENT trigger.  In between,
 * the INSTEAD OF trigger finds the store of each row.  Inserted rows are
 * collected in the frame, by store, and written by one INSERT for each store
 * when the frame closes, so that postgres_fdw can send them in batches.
 * Updates and deletions of foreign rows are collected as well, and sent as one
 * statement for many keys.
 *
 * RETURNING shows collected rows as they will be stored: the view has the
 * defaults of the table.  Where the table of a store changes rows on their way
 * in (BEFORE ROW triggers, generated columns), each row is written at once and
 * what came back is shown.
 *
 * The statements run with the rights of the view's owner, which is what
 * PostgreSQL does for a view that it updates by itself: who may write to the
 * view needs no rights on the tables behind it.  With security_invoker they
 * run with the rights of the writer.
 *
 * When a row has changed since the statement began, PostgreSQL looks again
 * whether the row still meets the conditions (READ COMMITTED).  A trigger
 * cannot, so a row that is not as the statement has seen it ends the statement
 * with a serialization failure.  A foreign store does the same by itself: its
 * transaction has one snapshot, in which the statement has seen the row.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "cross_store_writes.h"
#include "id_shape.h"
#include "routed_view.h"
#include "run_ops_split.h"
#include "split_mode.h"

PG_FUNCTION_INFO_V1(run_ops_route_write);
PG_FUNCTION_INFO_V1(run_ops_is_as_seen);
PG_FUNCTION_INFO_V1(run_ops_fire_on_replica);

/* The search_path of what runs with more rights than the writer has. */
#define PINNED_PATH "pg_catalog, pg_temp"

/*
 * Foreign rows that one statement changes.  The store looks each key up in a
 * list of this length, so the work there grows with its square.
 */
#define MAX_CHANGES 50

/* run_ops_split.insert_conflicts */
typedef enum InsertConflicts
{
	INSERT_CONFLICTS_ERROR,
	INSERT_CONFLICTS_SKIP
} InsertConflicts;

static const struct config_enum_entry insert_conflicts_options[] = {
	{"error", INSERT_CONFLICTS_ERROR, false},
	{"skip", INSERT_CONFLICTS_SKIP, false},
	{NULL, 0, false}
};

static int	insert_conflicts = INSERT_CONFLICTS_ERROR;

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

/* What a statement has collected for the table of one store. */
typedef struct Collected
{
	HeapTuple	row;			/* the only row inserted so far */
	Tuplestorestate *rows;		/* or all of them */
	Changes    *changes;
	HTAB	   *changed_keys;	/* of ChangedKey, of foreign rows */
} Collected;

/* A statement on a view that is being executed. */
typedef struct WriteFrame
{
	struct WriteFrame *outer;
	MemoryContext context;
	RoutedView *view;
	Oid			writer;			/* who runs it */
	int			writer_context;
	bool		as_writer;		/* with the rights of the writer */
	bool		pin_path;		/* else with rights that the writer has not */
	TriggerEvent operation;
	Snapshot	query;			/* tells one query from those around it */
	int			nest_level;		/* of the transaction it runs in */
	Bitmapset  *columns;		/* that UPDATE sets, as far as announced */
	Collected  *collected;		/* for each table */
} WriteFrame;

static WriteFrame *frames = NULL;	/* innermost first */

/* what the statement sees whose local row is being changed */
static Snapshot statement_snapshot = NULL;

/* ----------------------------------------------------------------
 *		Frames
 * ----------------------------------------------------------------
 */

static void
push_frame(TriggerData *trigdata, Oid writer, int writer_context)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext,
												  "run_ops write frame",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	WriteFrame *frame = palloc0(sizeof(WriteFrame));
	RoutedView *view = routed_view_pin(RelationGetRelid(trigdata->tg_relation),
									   trigdata->tg_trigger);
	int			column = -1;

	frame->context = context;
	frame->view = view;
	frame->nest_level = GetCurrentTransactionNestLevel();
	/* whatever fails from here on: who drops the frame unpins the view */
	frame->outer = frames;
	frames = frame;

	frame->writer = writer;
	frame->writer_context = writer_context;
	frame->as_writer = compat_has_security_invoker(trigdata->tg_relation);
	frame->pin_path = !frame->as_writer &&
		!has_privs_of_role(writer, trigdata->tg_relation->rd_rel->relowner);
	frame->operation = trigdata->tg_event & TRIGGER_EVENT_OPMASK;
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
 * The frame of the statement that fires the trigger.  Statements nest, and
 * each is through with its triggers before the one around it goes on, so it
 * is the innermost one of the same view and operation.  Several such
 * statements of one query share it: PostgreSQL fires their BEFORE STATEMENT
 * triggers once, for the first one.
 */
static WriteFrame **
find_frame(TriggerData *trigdata)
{
	TriggerEvent operation = trigdata->tg_event & TRIGGER_EVENT_OPMASK;
	Oid			relid = RelationGetRelid(trigdata->tg_relation);

	for (WriteFrame **frame = &frames; *frame; frame = &(*frame)->outer)
	{
		if ((*frame)->view->relid == relid && (*frame)->operation == operation)
			return frame;
	}
	elog(ERROR, "a statement on view \"%s\" was not announced",
		 RelationGetRelationName(trigdata->tg_relation));
}

static void
drop_frame(WriteFrame **link)
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
	if (event == XACT_EVENT_PRE_COMMIT && frames)
		elog(ERROR, "a statement on a view did not end");
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	while (frames)
		drop_frame(&frames);
}

static void
end_frames_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
							 SubTransactionId parentSubid, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (frames && frames->nest_level >= GetCurrentTransactionNestLevel())
		drop_frame(&frames);
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

static void
pinned_path_context(void *arg)
{
	errcontext("writing behind view \"%s\" as its owner, with search_path \"%s\"",
			   get_rel_name(((WriteFrame *) arg)->view->relid), PINNED_PATH);
}

/*
 * Executes a plan of the frame as the owner of the view, which is who we are,
 * or as the writer.  What the tables bring along (triggers, checks, defaults)
 * runs with the same rights, so a writer who lacks them must not choose, by
 * search_path, which functions and operators it gets.
 */
static int
execute_plan(WriteFrame *frame, SPIPlanPtr plan, Datum *values,
			 const char *nulls, bool read_only, long count)
{
	ErrorContextCallback errcallback;
	Oid			owner;
	int			owner_context;
	int			guc_level = 0;
	int			result;

	GetUserIdAndSecContext(&owner, &owner_context);
	if (frame->as_writer)
		SetUserIdAndSecContext(frame->writer, frame->writer_context);
	if (frame->pin_path)
	{
		errcallback.callback = pinned_path_context;
		errcallback.arg = frame;
		errcallback.previous = error_context_stack;
		error_context_stack = &errcallback;
		guc_level = NewGUCNestLevel();
		(void) set_config_option("search_path", PINNED_PATH,
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	}
	result = SPI_execute_plan(plan, values, nulls, read_only, count);
	if (frame->pin_path)
	{
		AtEOXact_GUC(false, guc_level);
		error_context_stack = errcallback.previous;
	}
	SetUserIdAndSecContext(owner, owner_context);
	return result;
}

/*
 * Runs a statement; see StoreAction for its parameters.  Gives the number of
 * rows, and what is returned of the first one in the caller's memory.
 */
static uint64
run_statement(WriteFrame *frame, StoreTable *table, StoreAction action,
			  Bitmapset *columns, Datum *values, char *nulls,
			  HeapTuple *returned)
{
	SPIPlanPtr	plan;
	uint64		processed;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = routed_view_statement(frame->view, table, action, columns);
	if (execute_plan(frame, plan, values, nulls, false, 0) < 0)
		elog(ERROR, "could not write to store \"%s\"", table->store);
	processed = SPI_processed;
	if (table->foreign && action != ACTION_FIND && processed > 0)
		note_foreign_write(table->relid);
	if (returned)
		*returned = processed > 0 ? SPI_copytuple(SPI_tuptable->vals[0]) : NULL;
	SPI_finish();
	return processed;
}

/* Inserts one row.  Gives it as stored, if asked for; NULL when skipped. */
static HeapTuple
insert_one(WriteFrame *frame, StoreTable *table, StoreAction action, HeapTuple row)
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
	run_statement(frame, table, action, NULL, values, nulls,
				  action == ACTION_INSERT_ONE ? NULL : &stored);
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
	if (execute_plan(frame, routed_view_statement(view, table, ACTION_INSERT, NULL),
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

static void
collect_row(WriteFrame *frame, Collected *collected, HeapTuple row)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(frame->context);

	if (collected->rows == NULL && collected->row == NULL)
		collected->row = heap_copytuple(row);
	else
	{
		if (collected->rows == NULL)
		{
			collected->rows = tuplestore_begin_heap(false, false, work_mem);
			tuplestore_puttuple(collected->rows, collected->row);
			heap_freetuple(collected->row);
			collected->row = NULL;
		}
		tuplestore_puttuple(collected->rows, row);
	}
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
	processed = run_statement(frame, table, action, changes->columns,
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
static bool
collect_change(WriteFrame *frame, int i, StoreAction action, Bitmapset *columns,
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
static bool
is_changed_before(WriteFrame *frame, int i, Datum *keys)
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

static void
write_collected(WriteFrame *frame)
{
	for (int i = 0; i < frame->view->ntables; i++)
	{
		StoreTable *table = &frame->view->tables[i];
		Collected  *collected = &frame->collected[i];
		HeapTuple	row = collected->row;
		Tuplestorestate *rows = collected->rows;

		/* no longer collected, should a trigger come back to this frame */
		collected->row = NULL;
		collected->rows = NULL;
		if (row)
			insert_one(frame, table, ACTION_INSERT_ONE, row);
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
static void
write_all_collected(WriteFrame *frame, RoutedView *but, Snapshot but_query)
{
	if (frame == NULL)
		return;
	check_stack_depth();
	write_all_collected(frame->outer, but, but_query);
	if (frame->view != but && frame->query != but_query)
		write_collected(frame);
}

/* ----------------------------------------------------------------
 *		The store of a row
 * ----------------------------------------------------------------
 */

/* The table of a store that is attached, by position. */
static int
table_of_shape(RoutedView *view, IdShape shape)
{
	for (int i = 0; i < view->ntables; i++)
	{
		StoreTable *table = &view->tables[i];

		if (id_resides(shape, table->store, strlen(table->store)))
			return i;
	}
	if (shape.shard)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no store \"%c\" is attached", shape.shard),
				 errdetail("The id names it as its shard."),
				 errhint("Use run_ops.attach_store().")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("no store \"%s\" is attached", STORE_NEW),
			 errhint("Use run_ops.attach_store().")));
}

/* The shape in the row's route column; of no kind for NULL. */
static IdShape
shape_in(RoutedView *view, HeapTuple row)
{
	IdShape		none = {ID_KIND_NONE, '\0'};
	bool		isnull;
	Datum		id = heap_getattr(row, view->route_column, view->desc, &isnull);

	return isnull ? none : id_shape_datum(id);
}

/* An id that decides about its own row must be classifiable. */
static void
refuse_unclassifiable(RoutedView *view, HeapTuple row, IdShape shape)
{
	bool		isnull;
	Datum		id = heap_getattr(row, view->route_column, view->desc, &isnull);

	/* NULL is left to the NOT NULL constraint of the key */
	if (view->routing == ROUTING_SHAPE && shape.kind == ID_KIND_NONE && !isnull)
		id_report_unclassifiable(DatumGetTextPP(id));
}

/* Is the row there that the column names? */
static bool
owner_is_there(WriteFrame *frame, OwnerRule *rule, Datum value)
{
	bool		result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (execute_plan(frame, rule->probe, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the row's owner");
	result = SPI_processed > 0;
	SPI_finish();
	return result;
}

static int
table_of_owner(WriteFrame *frame, HeapTuple row)
{
	RoutedView *view = frame->view;
	ListCell   *lc;

	foreach(lc, view->owners)
	{
		OwnerRule  *rule = lfirst(lc);
		bool		isnull;
		Datum		value = heap_getattr(row, rule->attno, view->desc, &isnull);

		if (isnull)
			continue;
		if (rule->store == NULL)
			return table_of_shape(view, id_shape_datum(value));
		if (rule->probe)
		{
			write_all_collected(frames, view, NULL);
			if (!owner_is_there(frame, rule, value))
				continue;
		}
		for (int i = 0; i < view->ntables; i++)
		{
			if (strcmp(view->tables[i].store, rule->store) == 0)
				return i;
		}
	}
	return table_of_shape(view, (IdShape) {ID_KIND_NONE, '\0'});
}

static int
table_of_new_row(WriteFrame *frame, HeapTuple row)
{
	RoutedView *view = frame->view;
	IdShape		shape = {ID_KIND_NONE, '\0'};

	if (view->route_column)
	{
		shape = shape_in(view, row);
		refuse_unclassifiable(view, row, shape);
	}
	/* a LEGACY-shaped key is what rows without residency have everywhere */
	if (view->routing == ROUTING_STORE &&
		(shape.kind == ID_KIND_NONE || shape.kind == ID_KIND_CUID))
		return table_of_owner(frame, row);
	return table_of_shape(view, shape);
}

/* With routing "store": the table that holds a row which the view has shown. */
static int
find_table(WriteFrame *frame, Datum *keys, char *nulls)
{
	RoutedView *view = frame->view;
	int			last = view->ntables - 1;

	for (int i = 0; i < last; i++)
	{
		if (run_statement(frame, &view->tables[i], ACTION_FIND, NULL, keys, nulls,
						  NULL) > 0)
			return i;
	}
	return last;
}

/* ----------------------------------------------------------------
 *		Rows
 * ----------------------------------------------------------------
 */

/*
 * is_as_seen(tableoid oid, ctid tid) returns boolean
 *
 * Last condition of the statements that change a local row: is this version
 * of the row the one that the statement on the view has seen?  False for one
 * that the transaction itself has made since: as in PostgreSQL, of several
 * changes the first one counts.  An error for one of another transaction.
 */
Datum
run_ops_is_as_seen(PG_FUNCTION_ARGS)
{
	ItemPointer tid = (ItemPointer) PG_GETARG_POINTER(1);
	Relation	rel;
	TupleTableSlot *slot;
	bool		seen;
	bool		own = false;

	if (statement_snapshot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run_ops.is_as_seen() is for statements of the views of routed tables")));
	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	slot = table_slot_create(rel, NULL);
	seen = table_tuple_fetch_row_version(rel, tid, statement_snapshot, slot);
	if (!seen && table_tuple_fetch_row_version(rel, tid, SnapshotAny, slot))
	{
		bool		isnull;
		Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber,
										   &isnull);

		own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
	}
	ExecDropSingleTupleTableSlot(slot);
	if (!seen && !own)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail("A row of table \"%s\" is not as the statement on its view has seen it.",
						   RelationGetRelationName(rel)),
				 errhint("Try the transaction again.")));
	table_close(rel, AccessShareLock);
	PG_RETURN_BOOL(seen);
}

static bool
change_local_row(WriteFrame *frame, StoreTable *table, StoreAction action,
				 Bitmapset *columns, Datum *values, char *nulls,
				 HeapTuple *stored)
{
	Snapshot	outer_snapshot = statement_snapshot;
	uint64		processed;

	PG_TRY();
	{
		statement_snapshot = GetActiveSnapshot();
		processed = run_statement(frame, table, action, columns, values, nulls,
								  stored);
	}
	PG_FINALLY();
	{
		statement_snapshot = outer_snapshot;
	}
	PG_END_TRY();
	return processed > 0;
}

/*
 * Updates or deletes a row in one table.  False when there is nothing to do.
 * "stored" is set where the table changes rows.
 */
static bool
change_in_table(WriteFrame *frame, int i, StoreAction action, Bitmapset *columns,
				Datum *values, char *nulls, HeapTuple *stored)
{
	RoutedView *view = frame->view;
	StoreTable *table = &view->tables[i];

	if (action != ACTION_UPDATE || !table->changes_rows)
		stored = NULL;
	if (!table->foreign)
		return change_local_row(frame, table, action, columns, values, nulls, stored);
	if (is_changed_before(frame, i, values))
		return false;
	return collect_change(frame, i, action, columns, values, nulls) ||
		run_statement(frame, table, action, columns, values, nulls, stored) > 0;
}

static void
refuse_generated(RoutedView *view, AttrNumber column)
{
	ereport(ERROR,
			(errcode(ERRCODE_GENERATED_ALWAYS),
			 errmsg("cannot write to column \"%s\" of view \"%s\"",
					NameStr(TupleDescAttr(view->desc, column - 1)->attname),
					get_rel_name(view->relid)),
			 errdetail("It is a generated column of the table.")));
}

/* INSTEAD OF INSERT: the row as stored, or NULL when it was skipped. */
static HeapTuple
insert_row(WriteFrame *frame, HeapTuple row)
{
	RoutedView *view = frame->view;
	int			i = table_of_new_row(frame, row);
	int			column = -1;
	bool		isnull;

	while ((column = bms_next_member(view->generated, column)) >= 0)
	{
		(void) heap_getattr(row, column, view->desc, &isnull);
		if (!isnull)
			refuse_generated(view, column);
	}

	if (insert_conflicts == INSERT_CONFLICTS_ERROR &&
		!view->tables[i].changes_rows)
	{
		collect_row(frame, &frame->collected[i], row);
		return row;
	}
	write_all_collected(frames, NULL, NULL);
	return insert_one(frame, &view->tables[i],
					  insert_conflicts == INSERT_CONFLICTS_SKIP ?
					  ACTION_INSERT_ONE_SKIP : ACTION_INSERT_ONE_RETURNING,
					  row);
}

/* An UPDATE of the column that tells the store must not move the row. */
static void
refuse_move(RoutedView *view, int i, HeapTuple old, HeapTuple row)
{
	IdShape		was = shape_in(view, old);
	IdShape		is = shape_in(view, row);
	int			to = table_of_shape(view, is);

	if (was.kind != ID_KIND_NONE)
		refuse_unclassifiable(view, row, is);
	/* with routing "store" a LEGACY-shaped key may be anywhere */
	if (to != i && to != table_of_shape(view, was))
		ereport(ERROR,
				(errcode(ERRCODE_RUN_OPS_CROSSES_SEAM),
				 errmsg("row of view \"%s\" would move from store \"%s\" to store \"%s\"",
						get_rel_name(view->relid), view->tables[i].store,
						view->tables[to].store),
				 errdetail("The new value of column \"%s\" belongs there.",
						   NameStr(TupleDescAttr(view->desc, view->route_column - 1)->attname)),
				 errhint("Insert a new row and delete the old one.")));
}

/*
 * The columns that an UPDATE sets: those that were announced, and others that
 * differ, as several UPDATEs of one view in a query share one announcement.
 */
static Bitmapset *
columns_to_set(WriteFrame *frame, Datum *old, bool *old_nulls,
			   Datum *values, bool *nulls)
{
	TupleDesc	desc = frame->view->desc;
	Bitmapset  *result = frame->columns;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (bms_is_member(i + 1, frame->columns) ||
			(old_nulls[i] && nulls[i]) ||
			(!old_nulls[i] && !nulls[i] &&
			 datum_image_eq(old[i], values[i], att->attbyval, att->attlen)))
			continue;
		result = bms_add_member(result == frame->columns ? bms_copy(result) : result,
								i + 1);
	}
	return result;
}

/*
 * INSTEAD OF UPDATE or DELETE: the new or the old row as stored, or NULL when
 * nothing was done.
 */
static HeapTuple
change_row(WriteFrame *frame, HeapTuple old, HeapTuple row)
{
	RoutedView *view = frame->view;
	int			natts = view->desc->natts;
	StoreAction action = row ? ACTION_UPDATE : ACTION_DELETE;
	Datum	   *old_values = palloc(sizeof(Datum) * natts);
	bool	   *old_nulls = palloc(sizeof(bool) * natts);
	Datum	   *params = palloc(sizeof(Datum) * (view->nkeys + natts));
	char	   *nulls = palloc(view->nkeys + natts);
	Bitmapset  *columns = NULL;
	HeapTuple	stored = NULL;
	int			first;
	int			last;

	heap_deform_tuple(old, view->desc, old_values, old_nulls);
	for (int k = 0; k < view->nkeys; k++)
	{
		params[k] = old_values[view->keys[k] - 1];
		nulls[k] = old_nulls[view->keys[k] - 1] ? 'n' : ' ';
	}
	if (row)
	{
		Datum	   *new_values = palloc(sizeof(Datum) * natts);
		bool	   *new_nulls = palloc(sizeof(bool) * natts);
		int			n = view->nkeys;
		int			column = -1;

		heap_deform_tuple(row, view->desc, new_values, new_nulls);
		columns = columns_to_set(frame, old_values, old_nulls, new_values, new_nulls);
		while ((column = bms_next_member(columns, column)) >= 0)
		{
			if (bms_is_member(column, view->generated))
				refuse_generated(view, column);
			params[n] = new_values[column - 1];
			nulls[n++] = new_nulls[column - 1] ? 'n' : ' ';
		}
	}

	/* with routing "store": the first one that has the row */
	first = 0;
	last = view->ntables - 1;
	if (view->routing != ROUTING_STORE)
		first = last = table_of_shape(view, shape_in(view, old));
	if (view->route_column && bms_is_member(view->route_column, columns))
	{
		if (view->routing == ROUTING_STORE)
			first = last = find_table(frame, params, nulls);
		refuse_move(view, first, old, row);
	}
	for (int i = first; i <= last; i++)
	{
		if (change_in_table(frame, i, action, columns, params, nulls, &stored))
			return stored ? stored : row ? row : old;
		/* it may be there, and kept as it is by a trigger */
		if (i < last && view->tables[i].changes_rows &&
			run_statement(frame, &view->tables[i], ACTION_FIND, NULL, params, nulls,
						  NULL) > 0)
			break;
	}
	return NULL;
}

/*
 * route_write() returns trigger
 *
 * All triggers of the view of a routed table.  Arguments: the stores whose
 * tables have BEFORE ROW triggers.
 */
Datum
run_ops_route_write(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	HeapTuple	result = NULL;
	WriteFrame *frame;
	Oid			userid;
	int			sec_context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		trigdata->tg_relation->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.route_write() is the trigger function of the views of routed tables")));

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(trigdata->tg_relation->rd_rel->relowner,
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		push_frame(trigdata, userid, sec_context);
	else
	{
		frame = *find_frame(trigdata);
		if (TRIGGER_FIRED_AFTER(trigdata->tg_event))
		{
			write_all_collected(frame->outer, NULL, frame->query);
			write_collected(frame);
			/* statements within have come and gone: look again */
			drop_frame(find_frame(trigdata));
		}
		else if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
			result = insert_row(frame, trigdata->tg_trigtuple);
		else
			result = change_row(frame, trigdata->tg_trigtuple,
								TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
								trigdata->tg_newtuple : NULL);
	}

	SetUserIdAndSecContext(userid, sec_context);
	PG_RETURN_POINTER(result);
}

/*
 * fire_on_replica(view regclass, trigger_name name) returns void
 *
 * Makes a trigger of a view fire with session_replication_role = replica, and
 * only then.  PostgreSQL can do that, but has no ALTER VIEW for it; so the
 * trigger is also marked as internal, or pg_dump would write an ALTER TABLE
 * that cannot be restored.
 */
Datum
run_ops_fire_on_replica(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Name		name = PG_GETARG_NAME(1);
	Relation	triggers;
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	Form_pg_trigger trigger;

	triggers = table_open(TriggerRelationId, RowExclusiveLock);
	ScanKeyInit(&key[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&key[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber,
				F_NAMEEQ, NameGetDatum(name));
	scan = systable_beginscan(triggers, TriggerRelidNameIndexId, true, NULL, 2, key);
	tuple = systable_getnext(scan);
	if (tuple == NULL || get_rel_relkind(relid) != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("trigger \"%s\" of view %u does not exist",
						NameStr(*name), relid)));
	tuple = heap_copytuple(tuple);
	trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	trigger->tgenabled = TRIGGER_FIRES_ON_REPLICA;
	trigger->tgisinternal = true;
	CatalogTupleUpdate(triggers, &tuple->t_self, tuple);
	systable_endscan(scan);
	table_close(triggers, RowExclusiveLock);
	CacheInvalidateRelcacheByRelid(relid);
	PG_RETURN_VOID();
}

void
write_routing_init(void)
{
	DefineCustomEnumVariable("run_ops_split.insert_conflicts",
							 "What INSERT through a view over several stores does with a row whose key exists.",
							 "With \"skip\" it is left out, as ON CONFLICT DO NOTHING would; each row is then sent by itself.",
							 &insert_conflicts,
							 INSERT_CONFLICTS_ERROR,
							 insert_conflicts_options,
							 PGC_USERSET,
							 0,
							 NULL, NULL, NULL);
	RegisterXactCallback(end_frames_of_transaction, NULL);
	RegisterSubXactCallback(end_frames_of_subtransaction, NULL);
}

/*
 * write_routing.c
 *		INSERT, UPDATE and DELETE through the views of routed tables.
 *
 * The one idea: each statement on a view has a frame.  Its BEFORE STATEMENT
 * trigger opens the frame, and its AFTER STATEMENT trigger closes it.  In
 * between, the INSTEAD OF trigger finds the store of each row and hands the
 * row to the frame (write_frame.c), which collects rows and writes them.
 *
 * RETURNING shows collected rows as they will be stored, because the view has
 * the defaults of the table.  If the table of a store changes rows when they
 * are stored (BEFORE ROW triggers, generated columns), each row is written at
 * once, and RETURNING shows the row that the store returned.
 *
 * A user who may write to the view needs no privileges on the tables behind
 * it: access is checked as the owner of the view.  Everything else runs as the
 * writer, in particular the triggers of the tables; see rights.c.  With
 * security_invoker, access is checked as the writer as well.
 *
 * If another transaction has changed a local row since the statement began, the
 * statement is evaluated again for its newest version (row_recheck.c), as
 * PostgreSQL does for a table.  At higher isolation levels the statement fails
 * with a serialization failure.  In a foreign store it always does: the
 * transaction there has one snapshot, in which the statement has seen the row.
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
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/compat.h"
#include "ground/errors.h"
#include "ids/id_shape.h"
#include "writes/routed_view.h"
#include "writes/row_recheck.h"
#include "writes/write_frame.h"
#include "writes/write_routing.h"

PG_FUNCTION_INFO_V1(run_ops_route_write);
PG_FUNCTION_INFO_V1(run_ops_is_as_seen);
PG_FUNCTION_INFO_V1(run_ops_fire_on_replica);

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

/* What is_as_seen() has found about a row. */
typedef enum FoundRow
{
	ROW_AS_SEEN,				/* or not found at all */
	ROW_CHANGED_HERE,			/* by this transaction */
	ROW_CHANGED_ELSEWHERE		/* by another transaction */
} FoundRow;

/* A statement on the view that is changing a local row. */
typedef struct LocalChange
{
	Snapshot	snapshot;		/* of the statement; NULL: there is none */
	Oid			relid;			/* the local table */
	LocalVersion *locked;		/* NULL: the version that the snapshot sees */
	FoundRow	found;
} LocalChange;

static LocalChange local_change = {NULL, InvalidOid, NULL, ROW_AS_SEEN};

/* The parameters of the statements that change a row. */
typedef struct RowChange
{
	StoreAction action;
	Bitmapset  *columns;		/* that are set */
	Datum	   *values;			/* of the key and these columns */
	char	   *nulls;
} RowChange;

/* ----------------------------------------------------------------
 *		The store of a row
 * ----------------------------------------------------------------
 */

/* The number of the table that holds rows of this shape. */
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

/* The shape of the id in the route column; ID_KIND_NONE for NULL. */
static IdShape
shape_in(RoutedView *view, HeapTuple row)
{
	IdShape		none = {ID_KIND_NONE, '\0'};
	bool		isnull;
	Datum		id = heap_getattr(row, view->route_column, view->desc, &isnull);

	return isnull ? none : id_shape_datum(id);
}

/* Raises an error if the row's own id decides and is unclassifiable. */
static void
refuse_unclassifiable(RoutedView *view, HeapTuple row, IdShape shape)
{
	bool		isnull;
	Datum		id = heap_getattr(row, view->route_column, view->desc, &isnull);

	/* for NULL, the NOT NULL constraint of the key raises the error */
	if (view->routing == ROUTING_SHAPE && shape.kind == ID_KIND_NONE && !isnull)
		id_report_unclassifiable(DatumGetTextPP(id));
}

/* Does the store have the row to which the column refers? */
static bool
owner_is_there(WriteFrame *frame, OwnerRule *rule, Datum value)
{
	bool		result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (frame_execute(frame, rule->probe, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up the owner of a row");
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
			frame_write_all_collected(write_frames, view, NULL);
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
	/* rows with a LEGACY key can be in any store */
	if (view->routing == ROUTING_LOOKUP &&
		(shape.kind == ID_KIND_NONE || shape.kind == ID_KIND_CUID))
		return table_of_owner(frame, row);
	return table_of_shape(view, shape);
}

/* With ROUTING_LOOKUP: finds the table that holds a row shown by the view. */
static int
find_table(WriteFrame *frame, Datum *keys, char *nulls)
{
	RoutedView *view = frame->view;
	int			last = view->ntables - 1;

	for (int i = 0; i < last; i++)
	{
		if (frame_run_statement(frame, &view->tables[i], ACTION_FIND, NULL, keys, nulls,
								NULL) > 0)
			return i;
	}
	return last;
}

/* ----------------------------------------------------------------
 *		Rows
 * ----------------------------------------------------------------
 */

/* Is the relation a partition of the table, or a child, at any depth? */
static bool
is_child_of(Oid relid, Oid table)
{
	Oid			type = get_rel_type_id(relid);

	return OidIsValid(type) && typeInheritsFrom(type, get_rel_type_id(table));
}

/*
 * The table that holds the row, open: the one that a local row is changed in,
 * or a partition or child of it.  The arguments are anybody's: triggers of the
 * table run in between.
 */
static Relation
open_changed_table(Oid relid, ItemPointer tid)
{
	Relation	rel;

	if (local_change.snapshot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run_ops.is_as_seen() is for statements of the views of routed tables")));
	if (relid != local_change.relid && !is_child_of(relid, local_change.relid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("relation %u is not the table whose row is changed", relid),
				 errdetail("That is table \"%s\".", get_rel_name(local_change.relid))));
	rel = table_open(relid, AccessShareLock);
	/* a partitioned table has no rows itself, a foreign one not here */
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table with rows of its own",
						RelationGetRelationName(rel))));
	if (!ItemPointerIsValid(tid) ||
		ItemPointerGetBlockNumber(tid) >= RelationGetNumberOfBlocks(rel))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tid (%u, %u) is not valid for relation \"%s\"",
						ItemPointerGetBlockNumberNoCheck(tid),
						ItemPointerGetOffsetNumberNoCheck(tid),
						RelationGetRelationName(rel))));
	return rel;
}

/*
 * is_as_seen(tableoid oid, ctid tid) returns boolean
 *
 * The last condition of the statements that change a local row: is this
 * version of the row the one that the statement on the view has seen, or that
 * it was evaluated again for?  False for a version that the transaction itself
 * has created since then: as in PostgreSQL, only the first of several changes
 * counts.  False as well for a version of another transaction; the caller then
 * evaluates the statement again.
 */
Datum
run_ops_is_as_seen(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	ItemPointer tid = (ItemPointer) PG_GETARG_POINTER(1);
	LocalVersion *locked = local_change.locked;
	Relation	rel;
	TupleTableSlot *slot;
	bool		seen;

	/*
	 * PostgreSQL has waited for another transaction, because of a BEFORE ROW
	 * trigger, and evaluates the condition again for the new version.  Then it
	 * does not know the table.
	 */
	if (relid == InvalidOid && local_change.snapshot != NULL)
	{
		local_change.found = ROW_CHANGED_ELSEWHERE;
		PG_RETURN_BOOL(false);
	}
	rel = open_changed_table(relid, tid);
	if (locked != NULL)
	{
		seen = RelationGetRelid(rel) == locked->relid &&
			ItemPointerEquals(tid, &locked->tid);
		table_close(rel, AccessShareLock);
		PG_RETURN_BOOL(seen);
	}
	slot = table_slot_create(rel, NULL);
	seen = table_tuple_fetch_row_version(rel, tid, local_change.snapshot, slot);
	local_change.found = seen ? ROW_AS_SEEN : ROW_CHANGED_ELSEWHERE;
	if (!seen && table_tuple_fetch_row_version(rel, tid, SnapshotAny, slot))
	{
		bool		isnull;
		Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber,
										   &isnull);

		if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin)))
			local_change.found = ROW_CHANGED_HERE;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	PG_RETURN_BOOL(seen);
}

/*
 * Changes this version of a local row, or with NULL the one that the statement
 * has seen.  Returns whether it was there, and sets *found.
 */
static bool
change_version(WriteFrame *frame, StoreTable *table, RowChange *change,
			   LocalVersion *version, FoundRow *found, HeapTuple *stored)
{
	LocalChange outer = local_change;
	uint64		processed;

	PG_TRY();
	{
		local_change.snapshot = GetActiveSnapshot();
		local_change.relid = table->relid;
		local_change.locked = version;
		local_change.found = ROW_AS_SEEN;
		processed = frame_run_statement(frame, table, change->action, change->columns,
										change->values, change->nulls, stored);
		*found = local_change.found;
	}
	PG_FINALLY();
	{
		local_change = outer;
	}
	PG_END_TRY();
	return processed > 0;
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

/* INSTEAD OF INSERT: returns the row as stored, or NULL if it was skipped. */
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
		frame_collect_row(frame, i, row);
		return row;
	}
	frame_write_all_collected(write_frames, NULL, NULL);
	return frame_insert_one(frame, &view->tables[i],
							insert_conflicts == INSERT_CONFLICTS_SKIP ?
							ACTION_INSERT_ONE_SKIP : ACTION_INSERT_ONE_RETURNING,
							row);
}

/* Raises an error if an UPDATE of the route column would move the row. */
static void
refuse_move(RoutedView *view, int i, HeapTuple old, HeapTuple row)
{
	IdShape		was = shape_in(view, old);
	IdShape		is = shape_in(view, row);
	int			to = table_of_shape(view, is);

	if (was.kind != ID_KIND_NONE)
		refuse_unclassifiable(view, row, is);
	/* with ROUTING_LOOKUP, rows with a LEGACY key can be in any store */
	if (to != i && to != table_of_shape(view, was))
		ereport(ERROR,
				(errcode(ERRCODE_RUN_OPS_CROSSES_SEAM),
				 errmsg("row of view \"%s\" would move from store \"%s\" to store \"%s\"",
						get_rel_name(view->relid), view->tables[i].store,
						view->tables[to].store),
				 errdetail("The new value of column \"%s\" belongs in store \"%s\".",
						   NameStr(TupleDescAttr(view->desc, view->route_column - 1)->attname),
						   view->tables[to].store),
				 errhint("Insert a new row and delete the old one.")));
}

/*
 * The columns that an UPDATE sets: those of the BEFORE STATEMENT trigger, and
 * all others that differ, because several UPDATEs of one view in a query fire
 * that trigger only once.
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

/* The change that the rows of the trigger ask for. */
static RowChange
describe_change(WriteFrame *frame, TriggerData *trigdata)
{
	RoutedView *view = frame->view;
	int			natts = view->desc->natts;
	Datum	   *old_values = palloc(sizeof(Datum) * natts);
	bool	   *old_nulls = palloc(sizeof(bool) * natts);
	RowChange	change = {ACTION_DELETE};

	change.values = palloc(sizeof(Datum) * (view->nkeys + natts));
	change.nulls = palloc(view->nkeys + natts);
	heap_deform_tuple(trigdata->tg_trigtuple, view->desc, old_values, old_nulls);
	for (int k = 0; k < view->nkeys; k++)
	{
		change.values[k] = old_values[view->keys[k] - 1];
		change.nulls[k] = old_nulls[view->keys[k] - 1] ? 'n' : ' ';
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		Datum	   *new_values = palloc(sizeof(Datum) * natts);
		bool	   *new_nulls = palloc(sizeof(bool) * natts);
		int			n = view->nkeys;
		int			column = -1;

		change.action = ACTION_UPDATE;
		heap_deform_tuple(trigdata->tg_newtuple, view->desc, new_values, new_nulls);
		change.columns = columns_to_set(frame, old_values, old_nulls, new_values, new_nulls);
		while ((column = bms_next_member(change.columns, column)) >= 0)
		{
			if (bms_is_member(column, view->generated))
				refuse_generated(view, column);
			change.values[n] = new_values[column - 1];
			change.nulls[n++] = new_nulls[column - 1] ? 'n' : ' ';
		}
	}
	return change;
}

static bool
sets_route_column(RoutedView *view, RowChange *change)
{
	return view->route_column &&
		bms_is_member(view->route_column, change->columns);
}

/*
 * Updates or deletes a row of the local table.  If the statement is evaluated
 * again for a newer version of the row, that changes the rows of the trigger.
 */
static bool
change_local_row(WriteFrame *frame, TriggerData *trigdata, int i,
				 RowChange *change, HeapTuple *stored)
{
	StoreTable *table = &frame->view->tables[i];
	LocalVersion version;
	RowChange	again;
	FoundRow	found;

	if (change_version(frame, table, change, NULL, &found, stored))
		return true;
	if (found == ROW_CHANGED_HERE)
		return false;
	if (IsolationUsesXactSnapshot())
	{
		if (found == ROW_CHANGED_ELSEWHERE)
			report_changed_row(table->relid);
		return false;
	}

	/*
	 * The row may also have another key now.  Or a BEFORE ROW trigger has
	 * skipped the change: then nobody else has changed the row.
	 */
	if (!row_recheck(frame, table, trigdata, change->values, change->nulls,
					 &version))
		return false;
	again = describe_change(frame, trigdata);
	if (sets_route_column(frame->view, &again))
		refuse_move(frame->view, i, trigdata->tg_trigtuple, trigdata->tg_newtuple);
	return change_version(frame, table, &again, &version, &found, stored);
}

/*
 * At READ COMMITTED, a row of a store is changed by its key because nobody else
 * can have changed it since it was read.  Higher levels find out themselves.
 */
static void
require_locked(WriteFrame *frame, TriggerData *trigdata, int i)
{
	Collected  *collected = &frame->collected[i];

	if (collected->locked || IsolationUsesXactSnapshot())
		return;
	if (!row_is_locked(trigdata, frame->view->tables[i].relid))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not lock rows of view \"%s\" in store \"%s\"",
						get_rel_name(frame->view->relid), frame->view->tables[i].store),
				 errdetail("The statement was planned while this session was loading run_ops_split."),
				 errhint("Try the transaction again, or load the library with session_preload_libraries.")));
	collected->locked = true;
}

/*
 * Updates or deletes a row in one table.  False if the table does not have the
 * row.  Sets *stored if the table changes rows.
 */
static bool
change_in_table(WriteFrame *frame, TriggerData *trigdata, int i,
				RowChange *change, HeapTuple *stored)
{
	StoreTable *table = &frame->view->tables[i];

	if (change->action != ACTION_UPDATE || !table->changes_rows)
		stored = NULL;
	if (!table->foreign)
		return change_local_row(frame, trigdata, i, change, stored);
	require_locked(frame, trigdata, i);
	if (frame_changed_before(frame, i, change->values))
		return false;
	return frame_collect_change(frame, i, change->action, change->columns,
								change->values, change->nulls) ||
		frame_run_statement(frame, table, change->action, change->columns,
							change->values, change->nulls, stored) > 0;
}

/*
 * INSTEAD OF UPDATE or DELETE: returns the new row as stored or the old row,
 * or NULL if nothing was changed.
 */
static HeapTuple
change_row(WriteFrame *frame, TriggerData *trigdata)
{
	RoutedView *view = frame->view;
	RowChange	change = describe_change(frame, trigdata);
	HeapTuple	stored = NULL;
	int			first = 0;
	int			last = view->ntables - 1;

	/* with ROUTING_LOOKUP: the first table that has the row */
	if (view->routing != ROUTING_LOOKUP)
		first = last = table_of_shape(view, shape_in(view, trigdata->tg_trigtuple));
	if (sets_route_column(view, &change))
	{
		if (view->routing == ROUTING_LOOKUP)
			first = last = find_table(frame, change.values, change.nulls);
		refuse_move(view, first, trigdata->tg_trigtuple, trigdata->tg_newtuple);
	}
	for (int i = first; i <= last; i++)
	{
		if (change_in_table(frame, trigdata, i, &change, &stored))
			return stored ? stored :
				change.action == ACTION_UPDATE ? trigdata->tg_newtuple :
				trigdata->tg_trigtuple;
		/* the row may be there, but a trigger has skipped the change */
		if (i < last && view->tables[i].changes_rows &&
			frame_run_statement(frame, &view->tables[i], ACTION_FIND, NULL,
								change.values, change.nulls, NULL) > 0)
			break;
	}
	return NULL;
}

/*
 * route_write() returns trigger
 *
 * The function of all triggers of the view of a routed table.  The arguments
 * are the stores whose tables have BEFORE ROW triggers.
 */
Datum
run_ops_route_write(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	HeapTuple	result = NULL;
	WriteFrame *frame;

	/*
	 * A trigger of a view fires before or after a statement, or instead of
	 * writing a row; a view has no TRUNCATE.
	 */
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		trigdata->tg_relation->rd_rel->relkind != RELKIND_VIEW ||
		TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event) ||
		TRIGGER_FIRED_INSTEAD(trigdata->tg_event) !=
		(bool) TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.route_write() must be called as a trigger of the view of a routed table")));

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		push_write_frame(trigdata);
	else
	{
		frame = *find_write_frame(trigdata);
		if (TRIGGER_FIRED_AFTER(trigdata->tg_event))
		{
			frame_write_all_collected(frame->outer, NULL, frame->query);
			frame_write_collected(frame);
			/* inner statements have changed the list of frames */
			drop_write_frame(find_write_frame(trigdata));
		}
		else if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
			result = insert_row(frame, trigdata->tg_trigtuple);
		else
			result = change_row(frame, trigdata);
	}
	PG_RETURN_POINTER(result);
}

/*
 * Is that the function of the triggers of views?  Told by the C function, so
 * that nothing depends on names in the catalog.
 */
static bool
is_route_write(Oid function)
{
	FmgrInfo	flinfo;

	fmgr_info(function, &flinfo);
	return flinfo.fn_addr == run_ops_route_write;
}

/*
 * fire_on_replica(view regclass, trigger_name name) returns void
 *
 * Makes our trigger of a view fire only with session_replication_role = replica.
 * PostgreSQL supports such triggers, but has no ALTER VIEW command for them.
 * The trigger is also marked as internal; otherwise pg_dump would write an
 * ALTER TABLE command that fails for a view.
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

	/* below the executor, which would say so itself */
	PreventCommandIfReadOnly("run_ops.fire_on_replica()");
	PreventCommandIfParallelMode("run_ops.fire_on_replica()");
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
	if (!is_route_write(trigger->tgfoid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("trigger \"%s\" of view \"%s\" is not one of run_ops.route_write()",
						NameStr(*name), get_rel_name(relid))));
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
							 "\"error\" raises an error. \"skip\" skips the row, as ON CONFLICT DO NOTHING does, and sends each row separately.",
							 &insert_conflicts,
							 INSERT_CONFLICTS_ERROR,
							 insert_conflicts_options,
							 PGC_USERSET,
							 0,
							 NULL, NULL, NULL);
}

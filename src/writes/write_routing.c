/*
 * write_routing.c
 *		INSERT, UPDATE and DELETE through the views of routed tables.
 *
 * The one idea: a statement on a view is a frame, opened by its BEFORE
 * STATEMENT trigger and closed by its AFTER STATEMENT trigger.  In between,
 * the INSTEAD OF trigger finds the store of each row, and hands the row to the
 * frame (write_frame.c), which writes what it has collected.
 *
 * RETURNING shows collected rows as they will be stored: the view has the
 * defaults of the table.  Where the table of a store changes rows on their way
 * in (BEFORE ROW triggers, generated columns), each row is written at once and
 * what came back is shown.
 *
 * Who may write to the view needs no rights on the tables behind it: access is
 * checked as the view's owner.  All else runs as the writer, above all the
 * triggers of the tables; see rights.c.  With security_invoker access is
 * checked as the writer as well.
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

/* what the statement sees whose local row is being changed, and its table */
static Snapshot statement_snapshot = NULL;
static Oid	statement_table = InvalidOid;

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
	if (frame_execute(frame, rule->probe, &value, NULL, false, 1) != SPI_OK_SELECT)
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

	if (statement_snapshot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run_ops.is_as_seen() is for statements of the views of routed tables")));
	if (relid != statement_table && !is_child_of(relid, statement_table))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("relation %u is not the table whose row is changed", relid),
				 errdetail("That is table \"%s\".", get_rel_name(statement_table))));
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
 * Last condition of the statements that change a local row: is this version
 * of the row the one that the statement on the view has seen?  False for one
 * that the transaction itself has made since: as in PostgreSQL, of several
 * changes the first one counts.  An error for one of another transaction.
 */
Datum
run_ops_is_as_seen(PG_FUNCTION_ARGS)
{
	ItemPointer tid = (ItemPointer) PG_GETARG_POINTER(1);
	Relation	rel = open_changed_table(PG_GETARG_OID(0), tid);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		seen;
	bool		own = false;

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
	Oid			outer_table = statement_table;
	uint64		processed;

	PG_TRY();
	{
		statement_snapshot = GetActiveSnapshot();
		statement_table = table->relid;
		processed = frame_run_statement(frame, table, action, columns, values, nulls,
										stored);
	}
	PG_FINALLY();
	{
		statement_snapshot = outer_snapshot;
		statement_table = outer_table;
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
	if (frame_changed_before(frame, i, values))
		return false;
	return frame_collect_change(frame, i, action, columns, values, nulls) ||
		frame_run_statement(frame, table, action, columns, values, nulls, stored) > 0;
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
		frame_collect_row(frame, i, row);
		return row;
	}
	frame_write_all_collected(write_frames, NULL, NULL);
	return frame_insert_one(frame, &view->tables[i],
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
		Assert(row != NULL);	/* DELETE sets no columns */
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
			frame_run_statement(frame, &view->tables[i], ACTION_FIND, NULL, params, nulls,
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
			/* statements within have come and gone: look again */
			drop_write_frame(find_write_frame(trigdata));
		}
		else if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
			result = insert_row(frame, trigdata->tg_trigtuple);
		else
			result = change_row(frame, trigdata->tg_trigtuple,
								TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
								trigdata->tg_newtuple : NULL);
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
 * Makes our trigger of a view fire with session_replication_role = replica, and
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
							 "With \"skip\" it is left out, as ON CONFLICT DO NOTHING would; each row is then sent by itself.",
							 &insert_conflicts,
							 INSERT_CONFLICTS_ERROR,
							 insert_conflicts_options,
							 PGC_USERSET,
							 0,
							 NULL, NULL, NULL);
}

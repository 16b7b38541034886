/*
 * collected_rows.c
 *		The triggers of the views of routed tables.
 *
 * PostgreSQL accepts a statement that writes to a view over several stores only
 * if the view has triggers, but leaf_statements.c plans it without them.  They
 * fire for what that file does not see: COPY, and the first statement of a session
 * that has not preloaded this library.
 *
 * The one idea: the triggers write nothing themselves.  They collect the rows of
 * the statement, and when it ends, one statement on the view writes them, which
 * leaf_statements.c plans.  Another session may have changed a row meanwhile: an
 * UPDATE or DELETE then fails with 40001, and may be tried again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "ground/key_set.h"
#include "ground/rights.h"
#include "writes/collected_rows.h"
#include "writes/routed_view.h"

PG_FUNCTION_INFO_V1(run_ops_route_write);
PG_FUNCTION_INFO_V1(run_ops_fire_on_replica);

/* The name of the relation that has them. */
#define COLLECTED_ROWS "run_ops_rows"

/* The rows of a statement on a view that is being executed. */
typedef struct CollectedRows
{
	struct CollectedRows *outer;
	MemoryContext context;
	Oid			view;
	TriggerEvent operation;
	Snapshot	query;			/* identifies the query it is part of */
	int			nest_level;		/* of its transaction or subtransaction */
	TupleDesc	desc;			/* the old row, the new row, as far as there are */
	Bitmapset  *columns;		/* that an UPDATE sets */
	Tuplestorestate *rows;
	HTAB	   *seen;			/* keys of the old rows */
	ArrayBuildState *routes;	/* what the old rows have in the columns by */
	ArrayBuildState *keys;		/* which a few of them are found, if there are */
	bool		writing;
} CollectedRows;

/* of the running statements, innermost first */
static CollectedRows *collected_rows = NULL;

/* ----------------------------------------------------------------
 *		Statements that are running
 * ----------------------------------------------------------------
 */

static bool
is_of_statement(CollectedRows *collected, TriggerData *trigdata)
{
	return collected->view == RelationGetRelid(trigdata->tg_relation) &&
		collected->operation == (trigdata->tg_event & TRIGGER_EVENT_OPMASK) &&
		collected->query == GetActiveSnapshot();
}

static void
drop_collected(CollectedRows **link)
{
	CollectedRows *collected = *link;

	*link = collected->outer;
	MemoryContextDelete(collected->context);
}

static void
begin_collecting(TriggerData *trigdata)
{
	Relation	view = trigdata->tg_relation;
	MemoryContext context;
	MemoryContext oldcontext;
	CollectedRows *collected;
	int			column = -1;

	require_active_stores(RelationGetRelid(view));
	if (collected_rows && is_of_statement(collected_rows, trigdata))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("more than one BEFORE trigger of view \"%s\" calls run_ops.route_write()",
						RelationGetRelationName(view))));
	/* what was collected has just not been planned as statements on the leaves */
	if (collected_rows && collected_rows->writing &&
		collected_rows->view == RelationGetRelid(view))
		elog(ERROR, "view \"%s\" is not as run_ops_split has created it",
			 RelationGetRelationName(view));

	context = AllocSetContextCreate(TopTransactionContext, "run_ops collected rows",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	collected = palloc0(sizeof(CollectedRows));
	collected->context = context;
	collected->view = RelationGetRelid(view);
	collected->operation = trigdata->tg_event & TRIGGER_EVENT_OPMASK;
	collected->query = GetActiveSnapshot();
	collected->nest_level = GetCurrentTransactionNestLevel();
	collected->rows = tuplestore_begin_heap(false, false, work_mem);
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		collected->desc = CreateTupleDescCopy(RelationGetDescr(view));
	else
	{
		int			natts = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? 2 : 1;

		collected->desc = CreateTemplateTupleDesc(natts);
		for (AttrNumber attno = 1; attno <= natts; attno++)
			TupleDescInitEntry(collected->desc, attno, attno == 1 ? "o" : "n",
							   view->rd_rel->reltype, -1, 0);
	}
	while ((column = bms_next_member(trigdata->tg_updatedcols, column)) >= 0)
		collected->columns = bms_add_member(collected->columns,
											column + FirstLowInvalidHeapAttributeNumber);
	collected->outer = collected_rows;
	collected_rows = collected;
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Those of the statement that fires the trigger.  Several statements of one
 * query, view and operation share them: PostgreSQL fires their BEFORE STATEMENT
 * triggers once, for the first one.  Rows of another query are not ours, even
 * where ours has none: whoever owns the view may have changed its triggers.
 */
static CollectedRows **
find_collected(TriggerData *trigdata)
{
	for (CollectedRows **link = &collected_rows; *link; link = &(*link)->outer)
	{
		if (is_of_statement(*link, trigdata))
			return link;
	}
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("no BEFORE trigger of view \"%s\" has called run_ops.route_write()",
					RelationGetRelationName(trigdata->tg_relation))));
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	/* such rows were not written */
	if (event == XACT_EVENT_PRE_COMMIT && collected_rows)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("no AFTER trigger of view \"%s\" has called run_ops.route_write()",
						get_rel_name(collected_rows->view))));
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	while (collected_rows)
		drop_collected(&collected_rows);
}

static void
end_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (collected_rows && collected_rows->nest_level >= GetCurrentTransactionNestLevel())
		drop_collected(&collected_rows);
}

/* ----------------------------------------------------------------
 *		Rows
 * ----------------------------------------------------------------
 */

static void
collect_inserted(CollectedRows *collected, TriggerData *trigdata)
{
	RoutedView *view = get_routed_view(collected->view);
	int			column = -1;
	bool		isnull;

	while ((column = bms_next_member(view->generated, column)) >= 0)
	{
		(void) heap_getattr(trigdata->tg_trigtuple, column, view->desc, &isnull);
		if (!isnull)
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("cannot write to column \"%s\" of view \"%s\"",
							get_attname(collected->view, column, false),
							RelationGetRelationName(trigdata->tg_relation)),
					 errdetail("It is a generated column of the table.")));
	}
	tuplestore_puttuple(collected->rows, trigdata->tg_trigtuple);
}

/*
 * The columns that an UPDATE sets: those of the BEFORE STATEMENT trigger, and
 * all others that differ, because several UPDATEs of one view in a query fire
 * that trigger only once.
 */
static void
add_changed_columns(CollectedRows *collected, TriggerData *trigdata)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);

	for (AttrNumber attno = 1; attno <= desc->natts; attno++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, attno - 1);
		bool		was_null;
		bool		is_null;
		Datum		was;
		Datum		is;

		if (bms_is_member(attno, collected->columns))
			continue;
		was = heap_getattr(trigdata->tg_trigtuple, attno, desc, &was_null);
		is = heap_getattr(trigdata->tg_newtuple, attno, desc, &is_null);
		if (was_null != is_null ||
			(!was_null && !datum_image_eq(was, is, att->attbyval, att->attlen)))
			collected->columns = bms_add_member(collected->columns, attno);
	}
}

/* Adds the value of a column to an array, unless that has ended at a NULL. */
static ArrayBuildState *
add_to_array(ArrayBuildState *array, TriggerData *trigdata, AttrNumber attno, bool first)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	Oid			type = TupleDescAttr(desc, attno - 1)->atttypid;
	bool		isnull;
	Datum		value = heap_getattr(trigdata->tg_trigtuple, attno, desc, &isnull);

	if (isnull || (array == NULL && !first) || !OidIsValid(get_array_type(type)))
		return NULL;
	return accumArrayResult(array, value, false, type, CurrentMemoryContext);
}

/* As in a table, a row that the statement meets several times is changed once. */
static bool
is_met_again(CollectedRows *collected, TriggerData *trigdata, RoutedView *view)
{
	StringInfoData key;

	initStringInfo(&key);
	for (int i = 0; i < view->nkeys; i++)
	{
		char	   *value = SPI_getvalue(trigdata->tg_trigtuple, view->desc, view->keys[i]);

		appendBinaryStringInfo(&key, value ? value : "", value ? strlen(value) + 1 : 1);
	}
	if (collected->seen == NULL)
		collected->seen = key_set_create(collected->context);
	return !key_set_add(collected->seen, key.data, key.len);
}

static bool
collect_changed(CollectedRows *collected, TriggerData *trigdata)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	RoutedView *view = get_routed_view(collected->view);
	bool		first = tuplestore_tuple_count(collected->rows) == 0;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (is_met_again(collected, trigdata, view))
		return false;
	values[0] = heap_copy_tuple_as_datum(trigdata->tg_trigtuple, desc);
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		add_changed_columns(collected, trigdata);
		values[1] = heap_copy_tuple_as_datum(trigdata->tg_newtuple, desc);
	}
	if (view->route_column)
		collected->routes = add_to_array(collected->routes, trigdata, view->route_column, first);
	if (view->nkeys == 1)
		collected->keys = add_to_array(collected->keys, trigdata, view->keys[0], first);
	tuplestore_putvalues(collected->rows, collected->desc, values, nulls);
	return true;
}

/*
 * Remembers the row.  Returns it as it will be written, or as it was; NULL if it
 * does not count.
 */
static HeapTuple
collect_row(CollectedRows *collected, TriggerData *trigdata)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(collected->context);
	bool		counts = true;

	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		collect_inserted(collected, trigdata);
	else
		counts = collect_changed(collected, trigdata);
	MemoryContextSwitchTo(oldcontext);
	return !counts ? NULL :
		TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple :
		trigdata->tg_trigtuple;
}

/* ----------------------------------------------------------------
 *		The statement that writes them
 * ----------------------------------------------------------------
 */

static const char *
column_name(RoutedView *view, AttrNumber attno)
{
	return quote_identifier(NameStr(TupleDescAttr(view->desc, attno - 1)->attname));
}

static char *
statement_text(CollectedRows *collected, RoutedView *view)
{
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(view->relid)),
												  get_rel_name(view->relid));
	StringInfoData sql;
	StringInfoData columns;
	int			column = -1;

	initStringInfo(&sql);
	initStringInfo(&columns);
	if (collected->operation == TRIGGER_EVENT_INSERT)
	{
		for (AttrNumber attno = 1; attno <= view->desc->natts; attno++)
		{
			if (!bms_is_member(attno, view->generated))
				appendStringInfo(&columns, "%s%s", columns.len ? ", " : "", column_name(view, attno));
		}
		appendStringInfo(&sql, "INSERT INTO %s (%s) SELECT %s FROM " COLLECTED_ROWS " AS r",
						 name, columns.data, columns.data);
		return sql.data;
	}
	while ((column = bms_next_member(collected->columns, column)) >= 0)
		appendStringInfo(&columns, "%s%s = (r.n).%s", columns.len ? ", " : "",
						 column_name(view, column), column_name(view, column));
	if (collected->operation == TRIGGER_EVENT_UPDATE)
		appendStringInfo(&sql, "UPDATE %s AS v SET %s FROM " COLLECTED_ROWS " AS r", name, columns.data);
	else
		appendStringInfo(&sql, "DELETE FROM %s AS v USING " COLLECTED_ROWS " AS r", name);
	for (int i = 0; i < view->nkeys; i++)
		appendStringInfo(&sql, "%s v.%s OPERATOR(pg_catalog.=) (r.o).%s", i ? " AND" : " WHERE",
						 column_name(view, view->keys[i]), column_name(view, view->keys[i]));
	/* so that only their stores are asked, and only for them */
	if (collected->routes)
		appendStringInfo(&sql, " AND v.%s OPERATOR(pg_catalog.=) ANY ($1)",
						 column_name(view, view->route_column));
	if (collected->keys)
		appendStringInfo(&sql, " AND v.%s OPERATOR(pg_catalog.=) ANY ($%d)",
						 column_name(view, view->keys[0]), collected->routes ? 2 : 1);
	/* as the statement has seen it */
	appendStringInfoString(&sql, " AND v OPERATOR(pg_catalog.*=) r.o");
	return sql.data;
}

static uint64
execute(RoutedView *view, const char *sql, ArrayBuildState **arrays, int narrays)
{
	Oid			types[2];
	Datum		values[2];
	RightsStatement *statement;
	int			n = 0;

	for (int i = 0; i < narrays; i++)
	{
		if (arrays[i] == NULL)
			continue;
		types[n] = get_array_type(arrays[i]->element_type);
		values[n++] = makeArrayResult(arrays[i], CurrentMemoryContext);
	}
	statement = rights_prepare(sql, view->owner,
							   view->security_invoker ? InvalidOid : view->owner,
							   n, types, CURSOR_OPT_CUSTOM_PLAN, CurrentMemoryContext);
	if (rights_execute(statement, values, NULL, false, 0, NULL) < 0)
		elog(ERROR, "could not write the rows of view \"%s\"", get_rel_name(view->relid));
	return SPI_processed;
}

static void
write_collected(CollectedRows *collected)
{
	RoutedView *view = get_routed_view(collected->view);
	EphemeralNamedRelation enr;
	uint64		written;

	if (tuplestore_tuple_count(collected->rows) == 0)
		return;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	enr = palloc0(sizeof(EphemeralNamedRelationData));
	enr->md.name = COLLECTED_ROWS;
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = collected->desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = tuplestore_tuple_count(collected->rows);
	enr->reldata = collected->rows;
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows");
	written = execute(view, statement_text(collected, view),
					  (ArrayBuildState *[]) {collected->routes, collected->keys}, 2);
	if (collected->operation != TRIGGER_EVENT_INSERT && written != tuplestore_tuple_count(collected->rows))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail("The statement on view \"%s\" was planned while this session was loading run_ops_split.",
						   get_rel_name(view->relid)),
				 errhint("Try the transaction again, or load the library with session_preload_libraries.")));
	SPI_finish();
}

/* ----------------------------------------------------------------
 *		The triggers
 * ----------------------------------------------------------------
 */

/*
 * route_write() returns trigger
 *
 * The function of all triggers of the view of a routed table.
 */
Datum
run_ops_route_write(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	HeapTuple	result = NULL;

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
		begin_collecting(trigdata);
	else if (TRIGGER_FIRED_AFTER(trigdata->tg_event))
	{
		CollectedRows *collected = *find_collected(trigdata);

		collected->writing = true;
		write_collected(collected);
		drop_collected(find_collected(trigdata));
	}
	else
		result = collect_row(*find_collected(trigdata), trigdata);
	PG_RETURN_POINTER(result);
}

static bool
is_route_write(Oid function)
{
	FmgrInfo	flinfo;

	fmgr_info(function, &flinfo);
	return flinfo.fn_addr == run_ops_route_write;
}

bool
is_routed_view(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		if (TRIGGER_FOR_INSTEAD(triggers->triggers[i].tgtype) &&
			is_route_write(triggers->triggers[i].tgfoid))
			return true;
	}
	return false;
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
collected_rows_init(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
}

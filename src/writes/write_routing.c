/*
 * write_routing.c
 *		Which table gets a new row of a view, and whether a changed row may stay
 *		where it is.
 *
 * The one idea: the shape of an id decides.  If the own id of a row does not,
 * with routing "store", the row goes where the rows are that it refers to, its
 * owners.  The functions are called by the statements of leaf_statements.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/plancache.h"
#include "utils/rel.h"

#include "ids/id_shape.h"
#include "ids/key_rule.h"
#include "ground/errors.h"
#include "ground/rights.h"
#include "writes/routed_view.h"
#include "writes/write_routing.h"

PG_FUNCTION_INFO_V1(run_ops_leaf_of_new_id);
PG_FUNCTION_INFO_V1(run_ops_leaf_of_new_row);
PG_FUNCTION_INFO_V1(run_ops_leaf_of_store);
PG_FUNCTION_INFO_V1(run_ops_row_stays);
PG_FUNCTION_INFO_V1(run_ops_id_that_stays);

/* run_ops_split.beside */
static char *beside = NULL;

/* The id in the route column of a row; NULL has the shape of no id. */
typedef struct RouteId
{
	Datum		value;
	bool		isnull;
	IdShape		shape;
} RouteId;

static const char *
store_of_table(RoutedView *view, Oid relid)
{
	for (int i = 0; i < view->ntables; i++)
	{
		if (view->tables[i].relid == relid)
			return view->tables[i].store;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("relation %u is not a table of view \"%s\"", relid,
					get_rel_name(view->relid))));
}

static RouteId
make_route_id(Datum value, bool isnull)
{
	RouteId		id = {value, isnull, {ID_KIND_NONE, '\0'}};

	if (!isnull)
		id.shape = id_shape_datum(value);
	return id;
}

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

/* Raises an error if the row's own id decides and is unclassifiable. */
static void
refuse_unclassifiable(RoutedView *view, RouteId id)
{
	/* for NULL, the NOT NULL constraint of the key raises the error */
	if (view->routing == ROUTING_SHAPE && id.shape.kind == ID_KIND_NONE && !id.isnull)
		id_report_unclassifiable(DatumGetTextPP(id.value));
}

/* Does the store have the row to which the column refers? */
static bool
owner_is_there(OwnerRule *rule, Datum value)
{
	bool		result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	/* not read-only: the statement itself may have written the owner */
	if (rights_execute(rule->probe, &value, NULL, false, 1, NULL) != SPI_OK_SELECT)
		elog(ERROR, "could not look up the owner of a row");
	result = SPI_processed > 0;
	SPI_finish();
	return result;
}

/* The number of the table in a store; -1 if the store has none. */
static int
table_in_store(RoutedView *view, const char *store)
{
	for (int i = 0; i < view->ntables; i++)
	{
		if (strcmp(view->tables[i].store, store) == 0)
			return i;
	}
	return -1;
}

/* The number of the table that run_ops_split.beside names. */
static int
table_beside(RoutedView *view)
{
	IdShape		shape = id_shape(beside, strlen(beside));
	int			i;

	if (shape.kind != ID_KIND_NONE)
		return table_of_shape(view, shape);
	i = table_in_store(view, beside);
	if (i < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no store \"%s\" is attached", beside),
				 errdetail("run_ops_split.beside is neither an id whose shape tells a store, nor the name of a store.")));
	return i;
}

static int
table_of_owner(RoutedView *view, HeapTuple row)
{
	ListCell   *lc;
	int			table;

	if (*beside)
		return table_beside(view);
	foreach(lc, view->owners)
	{
		OwnerRule  *rule = lfirst(lc);
		bool		isnull;
		Datum		value = heap_getattr(row, rule->attno, view->desc, &isnull);

		if (isnull)
			continue;
		if (rule->store == NULL)
			return table_of_shape(view, id_shape_datum(value));
		if (rule->probe && !owner_is_there(rule, value))
			continue;
		table = table_in_store(view, rule->store);
		if (table >= 0)
			return table;
	}
	return table_of_shape(view, (IdShape) {ID_KIND_NONE, '\0'});
}

/*
 * leaf_of_new_id(view oid, id text) returns oid
 *
 * The table to which a new row of the view goes.  NULL goes to the local table,
 * whose constraint refuses it.  Errors: RO001 if the id is unclassifiable; 42704
 * if the store is not attached.
 */
Datum
run_ops_leaf_of_new_id(PG_FUNCTION_ARGS)
{
	RouteId		id = make_route_id(PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	RoutedView *view;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	view = get_routed_view(PG_GETARG_OID(0));
	refuse_unclassifiable(view, id);
	PG_RETURN_OID(view->tables[table_of_shape(view, id.shape)].relid);
}

/*
 * leaf_of_new_row(view oid, new_row record) returns oid
 *
 * Strict.  The same for a row of the view.  With routing "store" it may query the
 * stores for rows to which the new row refers.  Errors: also 42804 for a row of
 * another type.
 */
Datum
run_ops_leaf_of_new_row(PG_FUNCTION_ARGS)
{
	RoutedView *view = get_routed_view(PG_GETARG_OID(0));
	HeapTupleHeader header = PG_GETARG_HEAPTUPLEHEADER(1);
	RouteId		id = {0, true, {ID_KIND_NONE, '\0'}};
	HeapTupleData row;
	int			table;

	if (HeapTupleHeaderGetTypeId(header) != get_rel_type_id(view->relid))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the row is not one of view \"%s\"", get_rel_name(view->relid))));
	row.t_data = header;
	row.t_len = HeapTupleHeaderGetDatumLength(header);
	if (view->route_column)
	{
		bool		isnull;
		Datum		value = heap_getattr(&row, view->route_column, view->desc, &isnull);

		id = make_route_id(value, isnull);
		refuse_unclassifiable(view, id);
	}
	/* rows with a LEGACY key can be in any store */
	if (view->routing == ROUTING_LOOKUP &&
		(id.shape.kind == ID_KIND_NONE || id.shape.kind == ID_KIND_CUID))
		table = table_of_owner(view, &row);
	else
		table = table_of_shape(view, id.shape);
	PG_RETURN_OID(view->tables[table].relid);
}

static void
refuse_move(RoutedView *view, const char *from, const char *to, AttrNumber attno)
{
	ereport(ERROR,
			(errcode(ERRCODE_RUN_OPS_CROSSES_SEAM),
			 errmsg("row of view \"%s\" would move from store \"%s\" to store \"%s\"",
					get_rel_name(view->relid), from, to),
			 errdetail("The new value of column \"%s\" belongs in store \"%s\".",
					   NameStr(TupleDescAttr(view->desc, attno - 1)->attname), to),
			 errhint("Insert a new row and delete the old one.")));
}

/* The table of the store that a key rule has named; NULL names "legacy". */
static StoreTable *
table_of_name(RoutedView *view, Datum named, bool isnull)
{
	for (int i = 0; i < view->ntables; i++)
	{
		if (names_store(named, isnull, view->tables[i].store, strlen(view->tables[i].store)))
			return &view->tables[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("no store \"%s\" is attached", TextDatumGetCString(named)),
			 errdetail("The key rule of view \"%s\" names it for a row.", get_rel_name(view->relid)),
			 errhint("Use run_ops.attach_store().")));
}

/*
 * leaf_of_store(view oid, named text) returns oid
 *
 * The table of the view in the store that its key rule has named.  Errors: 42704
 * if the store is not attached.
 */
Datum
run_ops_leaf_of_store(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_OID(table_of_name(get_routed_view(PG_GETARG_OID(0)),
								PG_GETARG_DATUM(1), PG_ARGISNULL(1))->relid);
}

/*
 * row_stays(view oid, was text, is text, has_id boolean) returns boolean
 *
 * True if the key rule names the same store for a row before and after a change.
 * Errors: RO010 if it does not; 42704 if a store is not attached.  False if the row
 * has no id any more, which its table refuses.
 */
Datum
run_ops_row_stays(PG_FUNCTION_ARGS)
{
	RoutedView *view;
	StoreTable *from;
	StoreTable *to;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(3) || !PG_GETARG_BOOL(3))
		PG_RETURN_BOOL(false);
	view = get_routed_view(PG_GETARG_OID(0));
	from = table_of_name(view, PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	to = table_of_name(view, PG_GETARG_DATUM(2), PG_ARGISNULL(2));
	if (from != to)
		refuse_move(view, from->store, to->store, view->route_column);
	PG_RETURN_BOOL(true);
}

/* Does the table itself refuse NULL there? */
static bool
is_never_null(Oid relid, const char *column)
{
	HeapTuple	tuple = SearchSysCacheAttName(relid, column);
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * id_that_stays(view oid, leaf oid, old_id text, new_id text) returns text
 *
 * The new id of a row of that table, unless the row would have to move.  Errors:
 * RO010 then; RO001 if the id is unclassifiable.
 */
Datum
run_ops_id_that_stays(PG_FUNCTION_ARGS)
{
	RouteId		was = make_route_id(PG_GETARG_DATUM(2), PG_ARGISNULL(2));
	RouteId		is = make_route_id(PG_GETARG_DATUM(3), PG_ARGISNULL(3));
	RoutedView *view;
	AttrNumber	attno;
	const char *column;
	Oid			leaf;
	int			to;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	view = get_routed_view(PG_GETARG_OID(0));
	leaf = PG_GETARG_OID(1);
	/* a key of several columns has no route column, and its first one counts */
	attno = view->route_column ? view->route_column : view->keys[0];
	column = NameStr(TupleDescAttr(view->desc, attno - 1)->attname);
	if (is.isnull && is_never_null(leaf, column))
		PG_RETURN_NULL();
	to = table_of_shape(view, is.shape);
	if (was.shape.kind != ID_KIND_NONE)
		refuse_unclassifiable(view, is);
	/* with ROUTING_LOOKUP, rows with a LEGACY key can be in any store */
	if (view->tables[to].relid != leaf && to != table_of_shape(view, was.shape))
		refuse_move(view, store_of_table(view, leaf), view->tables[to].store, attno);
	if (is.isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(is.value);
}

static bool
check_beside(char **value, void **extra, GucSource source)
{
	/* the name of a store has up to 30 of these characters */
	if (id_shape(*value, strlen(*value)).kind != ID_KIND_NONE ||
		(strlen(*value) <= 30 && strspn(*value, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(*value)))
		return true;
	GUC_check_errdetail("It is neither an id whose shape tells a store, nor the name of a store.");
	return false;
}

void
write_routing_init(void)
{
	DefineCustomStringVariable("run_ops_split.beside",
							   "The id beside whose row new rows go if their own id does not tell the store, or the name of the store.",
							   "It is for tables with routing \"store\", and is meant for SET LOCAL. If it is empty, the store is that of the rows to which a new row refers.",
							   &beside,
							   "",
							   PGC_USERSET,
							   0,
							   check_beside, NULL, NULL);
}

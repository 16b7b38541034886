/*
 * routed_view.c
 *		The facts about the view of a routed table that tell where a new row goes.
 *
 * The one idea: the registry is queried once for each view and session.  After
 * a change of the view or of a table behind it, the next use queries it again.
 * What was replaced stays until the transaction ends, for who still has it.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "ground/compat.h"
#include "stores/read_gate.h"
#include "writes/routed_view.h"

typedef struct RoutedViewEntry
{
	Oid			relid;
	RoutedView *view;
} RoutedViewEntry;

static HTAB *routed_views = NULL;
static uint64 invalidations = 0;

/* ----------------------------------------------------------------
 *		Lookup
 * ----------------------------------------------------------------
 */

/* Called when the memory of a view goes away. */
static void
free_probes(void *arg)
{
	ListCell   *lc;

	foreach(lc, ((RoutedView *) arg)->owners)
	{
		OwnerRule  *rule = lfirst(lc);

		if (rule->probe)
			SPI_freeplan(rule->probe->plan);
	}
}

/*
 * Relcache callback.  It only marks views as invalid, because it can be called
 * at any time.
 */
static void
invalidate_views(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	RoutedViewEntry *entry;

	invalidations++;
	hash_seq_init(&status, routed_views);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		RoutedView *view = entry->view;

		if (relid == InvalidOid || relid == view->relid)
			view->valid = false;
		for (int i = 0; i < view->ntables; i++)
		{
			if (relid == view->tables[i].relid)
				view->valid = false;
		}
	}
}

/* Executes a query on the registry; its only parameter is the OID of the view. */
static void
ask_registry(const char *query, Oid relid)
{
	Oid			argtype = REGCLASSOID;
	Datum		arg = ObjectIdGetDatum(relid);

	if (SPI_execute_with_args(query, 1, &argtype, &arg, NULL, true, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read the registry");
}

/* A field of the result as text, in the memory context; NULL for NULL. */
static char *
answer(int row, int field, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row],
									 SPI_tuptable->tupdesc, field);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/* A schema has changed, for example its name, which is in our statements. */
static void
invalidate_all_views(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate_views(arg, InvalidOid);
}

static void
refuse_stale(RoutedView *view, const char *detail)
{
	char	   *schema = get_namespace_name(get_rel_namespace(view->relid));
	char	   *name = quote_qualified_identifier(schema,
												  get_rel_name(view->relid));

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("view \"%s\" is out of date",
					get_rel_name(view->relid)),
			 errdetail_internal("%s", detail),
			 errhint("SELECT run_ops.refresh_table(%s);",
					 quote_literal_cstr(name))));
}

/* The number of a column that the registry names. */
static AttrNumber
column_number(RoutedView *view, const char *column)
{
	AttrNumber	attno = get_attnum(view->relid, column);

	if (attno == InvalidAttrNumber)
		refuse_stale(view, psprintf(_("The view has no column \"%s\"."), column));
	return attno;
}

/*
 * Raises an error if the table does not have the columns of the view, which keeps
 * the names from the time when it was created, as the foreign tables do.  The
 * local table has the columns of the view in the same order.  Comparing them in
 * order detects two columns that have swapped names.
 */
static void
refuse_renamed(RoutedView *view, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool		by_order = rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE;
	int			next = 0;

	for (int i = 0; i < view->desc->natts; i++)
	{
		char	   *column = NameStr(TupleDescAttr(view->desc, i)->attname);

		while (next < desc->natts && TupleDescAttr(desc, next)->attisdropped)
			next++;
		if (by_order ? next < desc->natts &&
			strcmp(NameStr(TupleDescAttr(desc, next)->attname), column) == 0 :
			get_attnum(RelationGetRelid(rel), column) > 0)
		{
			next++;
			continue;
		}
		refuse_stale(view, psprintf(_("Column \"%s\" of the view is no longer a column of that name in table \"%s\"."),
									column, RelationGetRelationName(rel)));
	}
}

/*
 * Adds the generated columns of a table, by their numbers in the view.  Raises an
 * error if it lacks a column of the view.
 */
static void
add_generated_columns(RoutedView *view, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	MemoryContext oldcontext;

	refuse_renamed(view, rel);
	oldcontext = MemoryContextSwitchTo(view->context);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AttrNumber	attno;

		if (att->attisdropped || att->attgenerated == '\0')
			continue;
		attno = get_attnum(view->relid, NameStr(att->attname));
		/* the view lacks columns that were added later */
		if (attno != InvalidAttrNumber)
			view->generated = bms_add_member(view->generated, attno);
	}
	MemoryContextSwitchTo(oldcontext);
	table_close(rel, AccessShareLock);
}

/* Prepares a statement with the privileges that the view gives; see rights.h. */
static RightsStatement *
prepare(RoutedView *view, const char *sql, int nargs, const Oid *argtypes,
		MemoryContext context)
{
	/* the plan depends on the table and the key only, not on the values */
	return rights_prepare(sql, view->owner,
						  view->security_invoker ? InvalidOid : view->owner,
						  nargs, argtypes, CURSOR_OPT_GENERIC_PLAN, context);
}

/*
 * Makes a RoutedView from the registry.  The caller must be connected to SPI,
 * and SPI_finish() frees the view unless keep_view() is called before.
 */
static RoutedView *
look_up_view(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "run_ops routed view",
												  ALLOCSET_SMALL_SIZES);
	RoutedView *view = MemoryContextAllocZero(context, sizeof(RoutedView));
	char	   *routing;
	char	   *route_column;
	MemoryContext oldcontext;

	view->relid = relid;
	view->context = context;
	view->owner = rel->rd_rel->relowner;
	view->security_invoker = compat_has_security_invoker(rel);
	oldcontext = MemoryContextSwitchTo(context);
	view->desc = CreateTupleDescCopy(RelationGetDescr(rel));
	MemoryContextSwitchTo(oldcontext);

	ask_registry("SELECT t.routing, t.route_column, k.name "
				 "FROM run_ops.routed_table AS t, pg_catalog.unnest(t.key_columns) AS k (name) "
				 "WHERE t.view OPERATOR(pg_catalog.=) $1", relid);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not the view of a routed table",
						get_rel_name(relid)),
				 errhint("Use run_ops.attach_table().")));
	routing = answer(0, 1, context);
	Assert(routing != NULL);	/* NOT NULL in the registry */
	route_column = answer(0, 2, context);
	view->routing = strcmp(routing, "shape") == 0 ? ROUTING_SHAPE :
		strcmp(routing, "anchor") == 0 ? ROUTING_ANCHOR : ROUTING_LOOKUP;
	view->nkeys = SPI_processed;
	view->keys = MemoryContextAlloc(context, sizeof(AttrNumber) * view->nkeys);
	for (int i = 0; i < view->nkeys; i++)
		view->keys[i] = column_number(view, answer(i, 3, context));
	if (route_column)
		view->route_column = column_number(view, route_column);
	else if (view->nkeys == 1 && get_atttype(relid, view->keys[0]) == TEXTOID)
		view->route_column = view->keys[0];

	ask_registry("SELECT c.store, c.relation::pg_catalog.oid "
				 "FROM run_ops.routed_table AS t, LATERAL run_ops.copies(t) AS c "
				 "WHERE t.view OPERATOR(pg_catalog.=) $1 ORDER BY c.precedence, c.store", relid);
	view->ntables = SPI_processed;
	view->tables = MemoryContextAllocZero(context, sizeof(StoreTable) * view->ntables);
	for (int i = 0; i < view->ntables; i++)
	{
		StoreTable *table = &view->tables[i];
		bool		isnull;

		table->store = answer(i, 1, context);
		table->relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
													  SPI_tuptable->tupdesc, 2,
													  &isnull));
		table->foreign = get_rel_relkind(table->relid) == RELKIND_FOREIGN_TABLE;
		add_generated_columns(view, table->relid);
	}

	if (view->routing == ROUTING_LOOKUP)
	{
		ask_registry("SELECT o.column_name, o.store, o.query "
					 "FROM run_ops.routed_table AS t, LATERAL run_ops.owner_columns(t) AS o "
					 "WHERE t.view OPERATOR(pg_catalog.=) $1 ORDER BY o.ord", relid);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			OwnerRule  *rule = MemoryContextAllocZero(context, sizeof(OwnerRule));
			char	   *query = answer(i, 3, context);

			rule->attno = column_number(view, answer(i, 1, context));
			rule->store = answer(i, 2, context);
			if (query)
			{
				Oid			type = get_atttype(relid, rule->attno);

				rule->probe = prepare(view, query, 1, &type, context);
			}
			/* SPI has changed the current context */
			oldcontext = MemoryContextSwitchTo(context);
			view->owners = lappend(view->owners, rule);
			MemoryContextSwitchTo(oldcontext);
		}
	}
	return view;
}

static void
keep_view(RoutedView *view)
{
	ListCell   *lc;

	foreach(lc, view->owners)
	{
		OwnerRule  *rule = lfirst(lc);

		if (rule->probe)
			SPI_keepplan(rule->probe->plan);
	}
	view->cleanup.func = free_probes;
	view->cleanup.arg = view;
	MemoryContextRegisterResetCallback(view->context, &view->cleanup);
	MemoryContextSetParent(view->context, CacheMemoryContext);
}

static void
begin_lookups(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid),
	.entrysize = sizeof(RoutedViewEntry)};

	routed_views = hash_create("run_ops routed views", 16, &ctl,
							   HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(invalidate_views, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_all_views, (Datum) 0);
}

RoutedView *
get_routed_view(Oid relid)
{
	RoutedViewEntry *entry;
	RoutedView *view;
	Relation	rel;
	bool		found;
	uint64		before;
	Oid			userid;
	int			sec_context;

	if (routed_views == NULL)
		begin_lookups();
	entry = hash_search(routed_views, &relid, HASH_FIND, NULL);
	if (entry != NULL && entry->view->valid)
		return entry->view;

	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL || rel->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relation %u is not the view of a routed table", relid)));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	before = invalidations;
	/*
	 * The definition of the view is the newest one, whatever the statement sees:
	 * it may have waited for who has changed it.
	 */
	PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	/* the writer needs no privileges on the registry */
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	view = look_up_view(rel);
	SetUserIdAndSecContext(userid, sec_context);
	PopActiveSnapshot();
	entry = hash_search(routed_views, &relid, HASH_ENTER, &found);
	/* from here on nothing fails, so the entry will refer to the view */
	if (found)
		MemoryContextSetParent(entry->view->context, TopTransactionContext);
	keep_view(view);
	/* an invalidation during the lookup may concern this view */
	view->valid = invalidations == before;
	entry->view = view;
	SPI_finish();
	relation_close(rel, NoLock);
	return view;
}

bool
is_known_routed_view(Oid relid)
{
	return routed_views != NULL && hash_search(routed_views, &relid, HASH_FIND, NULL) != NULL;
}

/*
 * A copy of the database must not write, not even local rows.  Whether it is a copy does not change within a
 * transaction.
 */
void
require_active_stores(Oid relid)
{
	RoutedView *view = get_routed_view(relid);

	if (view->checked_in == compat_local_transaction_id())
		return;
	for (int i = 0; i < view->ntables; i++)
	{
		if (view->tables[i].foreign)
			split_require_active(GetForeignServerIdByRelId(view->tables[i].relid));
	}
	view->checked_in = compat_local_transaction_id();
}

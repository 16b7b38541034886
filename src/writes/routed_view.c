/*
 * routed_view.c
 *		The facts about the view of a routed table that a write needs: how to
 *		find the store of a row, and the statements for the table of each
 *		store.
 *
 * The one idea: the registry is queried once for each view and session.  After
 * a change of the view or of a table behind it, the next statement queries it
 * again.  Statements that are running continue with the facts that they have
 * pinned.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "ground/compat.h"
#include "writes/routed_view.h"

/*
 * Number of statements that are kept for the table of a store.  UPDATE needs
 * one for each set of columns.  Further statements are prepared for one use.
 */
#define MAX_KEPT_STATEMENTS 64

typedef struct KeptStatement
{
	StoreAction action;
	Bitmapset  *columns;
	RightsStatement *statement;
} KeptStatement;

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

static void
free_view(RoutedView *view)
{
	ListCell   *lc;

	for (int i = 0; i < view->ntables; i++)
	{
		foreach(lc, view->tables[i].statements)
			SPI_freeplan(((KeptStatement *) lfirst(lc))->statement->plan);
	}
	foreach(lc, view->owners)
	{
		OwnerRule  *rule = lfirst(lc);

		if (rule->probe)
			SPI_freeplan(rule->probe->plan);
	}
	MemoryContextDelete(view->context);
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
 * Raises an error if the table does not have the columns of the view.  Our
 * statements use the column names of the view, which keeps the names from the
 * time when it was created.  The local table has the columns of the view in
 * the same order.  Comparing them in order detects two columns that have
 * swapped names.
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
 * Does the table, or the foreign table, show that rows are changed when they
 * are stored?  Also adds its generated columns to view->generated, by their
 * number in the view.  Raises an error if it lacks a column of the view.
 */
static bool
table_changes_rows(RoutedView *view, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		result;
	MemoryContext oldcontext;

	refuse_renamed(view, rel);
	oldcontext = MemoryContextSwitchTo(view->context);
	/* partitions may have triggers of their own */
	result = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		(rel->trigdesc && (rel->trigdesc->trig_insert_before_row ||
						   rel->trigdesc->trig_update_before_row));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AttrNumber	attno;

		if (att->attisdropped || att->attgenerated == '\0')
			continue;
		result = true;
		attno = get_attnum(view->relid, NameStr(att->attname));
		/* the view lacks columns that were added later */
		if (attno != InvalidAttrNumber)
			view->generated = bms_add_member(view->generated, attno);
	}
	MemoryContextSwitchTo(oldcontext);
	table_close(rel, AccessShareLock);
	return result;
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
look_up_view(Relation rel, Trigger *trigger)
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
		for (int j = 0; j < trigger->tgnargs; j++)
		{
			if (strcmp(trigger->tgargs[j], table->store) == 0)
				table->changes_rows = true;
		}
		if (table_changes_rows(view, table->relid))
			table->changes_rows = true;
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
	MemoryContextSetParent(view->context, CacheMemoryContext);
}

RoutedView *
routed_view_pin(Relation rel, Trigger *trigger)
{
	Oid			relid = RelationGetRelid(rel);
	RoutedViewEntry *entry;
	RoutedView *view;
	bool		found;
	uint64		before;
	Oid			userid;
	int			sec_context;

	if (routed_views == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid),
		.entrysize = sizeof(RoutedViewEntry)};

		routed_views = hash_create("run_ops routed views", 16, &ctl,
								   HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(invalidate_views, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_all_views,
									  (Datum) 0);
	}
	entry = hash_search(routed_views, &relid, HASH_FIND, NULL);
	if (entry == NULL || !entry->view->valid)
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		before = invalidations;
		/* the writer needs no privileges on the registry */
		GetUserIdAndSecContext(&userid, &sec_context);
		SetUserIdAndSecContext(rel->rd_rel->relowner,
							   sec_context | SECURITY_LOCAL_USERID_CHANGE);
		view = look_up_view(rel, trigger);
		SetUserIdAndSecContext(userid, sec_context);
		entry = hash_search(routed_views, &relid, HASH_ENTER, &found);
		/* from here on nothing fails, so the entry will refer to the view */
		if (found && entry->view->npins == 0)
			free_view(entry->view);
		/* if the old view is pinned, the last unpin frees it */
		keep_view(view);
		/* an invalidation during the lookup may concern this view */
		view->valid = invalidations == before;
		entry->view = view;
		SPI_finish();
	}
	entry->view->npins++;
	return entry->view;
}

void
routed_view_unpin(RoutedView *view)
{
	RoutedViewEntry *entry;

	if (--view->npins > 0)
		return;
	entry = hash_search(routed_views, &view->relid, HASH_FIND, NULL);
	if (entry->view != view)
		free_view(view);		/* it has been replaced */
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

static const char *
column_name(RoutedView *view, AttrNumber attno)
{
	return quote_identifier(NameStr(TupleDescAttr(view->desc, attno - 1)->attname));
}

/* The columns of the view except some, each with the prefix before it. */
static char *
column_list(RoutedView *view, const char *prefix, Bitmapset *but)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int attno = 1; attno <= view->desc->natts; attno++)
	{
		if (!bms_is_member(attno, but))
			appendStringInfo(&list, "%s%s%s", list.len ? ", " : "", prefix,
							 column_name(view, attno));
	}
	return list.data;
}

/* A statement under construction, with the types of its parameters. */
typedef struct StatementText
{
	StringInfoData sql;
	int			nargs;
	Oid		   *argtypes;
} StatementText;

/* Adds a parameter for a column. */
static int
new_parameter(StatementText *text, RoutedView *view, AttrNumber attno)
{
	text->argtypes[text->nargs++] = TupleDescAttr(view->desc, attno - 1)->atttypid;
	return text->nargs;
}

static void
write_insert(StatementText *text, RoutedView *view, const char *name,
			 StoreAction action)
{
	appendStringInfo(&text->sql, "INSERT INTO %s AS t (%s) ", name,
					 column_list(view, "", view->generated));
	if (action == ACTION_INSERT)
	{
		appendStringInfo(&text->sql, "SELECT %s FROM " COLLECTED_ROWS " AS r",
						 column_list(view, "r.", view->generated));
		return;
	}
	for (int attno = 1; attno <= view->desc->natts; attno++)
	{
		if (bms_is_member(attno, view->generated))
			continue;
		appendStringInfoString(&text->sql, text->nargs ? ", " : "VALUES (");
		appendStringInfo(&text->sql, "$%d", new_parameter(text, view, attno));
	}
	appendStringInfoChar(&text->sql, ')');
	if (action == ACTION_INSERT_ONE_SKIP)
		appendStringInfoString(&text->sql, " ON CONFLICT DO NOTHING");
	appendStringInfo(&text->sql, " RETURNING %s", column_list(view, "t.", NULL));
}

/* Appends SET, WHERE and RETURNING to a statement. */
static void
write_change(StatementText *text, RoutedView *view, StoreTable *table,
			 StoreAction action, Bitmapset *columns)
{
	StringInfoData condition;
	int			column = -1;

	initStringInfo(&condition);
	for (int i = 0; i < view->nkeys; i++)
		appendStringInfo(&condition, "%s t.%s OPERATOR(pg_catalog.=) $%d",
						 i ? " AND" : " WHERE",
						 column_name(view, view->keys[i]),
						 new_parameter(text, view, view->keys[i]));
	/* last, so that it is called only for the row with the key */
	if (!table->foreign && action != ACTION_FIND)
		appendStringInfoString(&condition,
							   " AND run_ops.is_as_seen(t.tableoid, t.ctid)");

	while ((column = bms_next_member(columns, column)) >= 0)
	{
		bool		first = text->nargs == view->nkeys;

		appendStringInfo(&text->sql, "%s %s = $%d", first ? " SET" : ",",
						 column_name(view, column), new_parameter(text, view, column));
	}
	appendStringInfoString(&text->sql, condition.data);
	if (action == ACTION_UPDATE && table->changes_rows)
		appendStringInfo(&text->sql, " RETURNING %s",
						 column_list(view, "t.", NULL));
}

static void
write_statement(StatementText *text, RoutedView *view, StoreTable *table,
				StoreAction action, Bitmapset *columns)
{
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table->relid)),
												  get_rel_name(table->relid));

	switch (action)
	{
		case ACTION_INSERT:
		case ACTION_INSERT_ONE_RETURNING:
		case ACTION_INSERT_ONE_SKIP:
			write_insert(text, view, name, action);
			return;
		case ACTION_FIND:
			appendStringInfo(&text->sql, "SELECT %sFROM %s AS t",
							 table->foreign ? "" : "t.tableoid, t.ctid ", name);
			break;
		case ACTION_DELETE:
			appendStringInfo(&text->sql, "DELETE FROM %s AS t", name);
			break;
		case ACTION_UPDATE:
			appendStringInfo(&text->sql, "UPDATE %s AS t", name);
			break;
	}
	write_change(text, view, table, action, columns);
}

RightsStatement *
routed_view_statement(RoutedView *view, StoreTable *table,
					  StoreAction action, Bitmapset *columns)
{
	ListCell   *lc;
	KeptStatement *kept;
	RightsStatement *statement;
	StatementText text;
	MemoryContext oldcontext;
	bool		keep = list_length(table->statements) < MAX_KEPT_STATEMENTS;

	foreach(lc, table->statements)
	{
		kept = lfirst(lc);
		if (kept->action == action && bms_equal(kept->columns, columns))
			return kept->statement;
	}

	initStringInfo(&text.sql);
	text.nargs = 0;
	text.argtypes = palloc(sizeof(Oid) * (view->desc->natts + view->nkeys));
	write_statement(&text, view, table, action, columns);
	statement = prepare(view, text.sql.data, text.nargs, text.argtypes,
						keep ? view->context : CurrentMemoryContext);
	if (!keep)
		return statement;		/* SPI_finish() frees it */
	oldcontext = MemoryContextSwitchTo(view->context);
	kept = palloc(sizeof(KeptStatement));
	kept->action = action;
	kept->columns = bms_copy(columns);
	kept->statement = statement;
	table->statements = lappend(table->statements, kept);
	MemoryContextSwitchTo(oldcontext);
	/* last: if something failed after it, nothing would free the kept plan */
	SPI_keepplan(statement->plan);
	return statement;
}

/*
 * write_routing.c
 *		INSERT, UPDATE and DELETE through the views of routed tables.
 *
 * The one idea: a statement on a view is a frame, opened by its BEFORE
 * STATEMENT trigger and closed by its AFTER STATEMENT trigger.  In between,
 * the INSTEAD OF trigger finds the store of each row.  Inserted rows are
 * collected in the frame, by store, and written by one INSERT ... SELECT for
 * each store when the frame closes, so that postgres_fdw can send them in
 * batches.
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
 * with a serialization failure.  A foreign store does the same by itself.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "cross_store_writes.h"
#include "id_shape.h"
#include "run_ops_split.h"
#include "split_mode.h"

PG_FUNCTION_INFO_V1(run_ops_route_write);
PG_FUNCTION_INFO_V1(run_ops_refuse_stray);
PG_FUNCTION_INFO_V1(run_ops_allow_strays);

/* The name by which an INSERT reads the rows that were collected for it. */
#define ROWS_NAME "run_ops_rows"

/* The search_path of what runs with more rights than the writer has. */
#define PINNED_PATH "pg_catalog, pg_temp"

/*
 * Statements kept for the table of a store: UPDATE has one for each set of
 * columns.  What comes beyond is prepared for one use.
 */
#define MAX_KEPT_STATEMENTS 64

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

/* What is done to the table of one store. */
typedef enum StoreAction
{
	ACTION_INSERT,				/* all collected rows */
	ACTION_INSERT_RETURNING,	/* the same, and give them back as stored */
	ACTION_INSERT_SKIP,			/* the same, but for rows that conflict */
	ACTION_UPDATE,				/* the row of a key */
	ACTION_DELETE,				/* the row of a key */
	ACTION_READ					/* the row of a key, and its version */
} StoreAction;

typedef struct KeptStatement
{
	StoreAction action;
	Bitmapset  *columns;		/* set by ACTION_UPDATE */
	SPIPlanPtr	plan;
} KeptStatement;

/* The table of one store. */
typedef struct StoreTable
{
	char	   *store;
	Oid			relid;
	bool		foreign;
	bool		changes_rows;	/* what is stored may differ from what was sent */
	List	   *statements;		/* of KeptStatement */
} StoreTable;

/*
 * One rule for the store of a new row that has no shape itself: a column that
 * names a row of another routed table, to whose store it belongs.  Rules are
 * tried in order; NULL in the column: the next one.
 */
typedef struct OwnerRule
{
	AttrNumber	attno;
	char	   *store;			/* NULL: the shape of the value tells */
	SPIPlanPtr	probe;			/* is the named row there?  NULL: sure */
} OwnerRule;

typedef enum Routing
{
	ROUTING_SHAPE,
	ROUTING_ANCHOR,
	ROUTING_STORE
} Routing;

/* What is known of a view, in a memory context of its own. */
typedef struct RoutedView
{
	Oid			relid;
	MemoryContext context;
	bool		valid;			/* false: to be looked up again */
	int			nframes;		/* statements that use it */
	Routing		routing;
	AttrNumber	route_column;	/* ROUTING_STORE: a key with a shape, or 0 */
	int			nkeys;
	AttrNumber *keys;
	Bitmapset  *generated;		/* columns that nobody writes */
	List	   *owners;			/* of OwnerRule */
	int			ntables;
	StoreTable *tables;			/* in the order in which they are asked */
} RoutedView;

typedef struct RoutedViewEntry
{
	Oid			relid;
	RoutedView *view;
} RoutedViewEntry;

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
	int			nest_level;		/* of the transaction it runs in */
	Bitmapset  *columns;		/* that UPDATE sets */
	Tuplestorestate **rows;		/* collected for each table, or NULL */
} WriteFrame;

static HTAB *routed_views = NULL;
static uint64 invalidations = 0;
static WriteFrame *frames = NULL;	/* innermost first */
static bool strays_allowed = false; /* until the transaction ends */

/* ----------------------------------------------------------------
 *		What is known of a view
 * ----------------------------------------------------------------
 */

static void
free_view(RoutedView *view)
{
	ListCell   *lc;

	for (int i = 0; i < view->ntables; i++)
	{
		foreach(lc, view->tables[i].statements)
			SPI_freeplan(((KeptStatement *) lfirst(lc))->plan);
	}
	foreach(lc, view->owners)
	{
		OwnerRule  *rule = lfirst(lc);

		if (rule->probe)
			SPI_freeplan(rule->probe);
	}
	MemoryContextDelete(view->context);
}

/* Relcache callback: only marks, as it may come at any time. */
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

/* Rows of a query about the view, whose Oid is its only parameter. */
static void
ask_registry(const char *query, Oid relid)
{
	Oid			argtype = REGCLASSOID;
	Datum		arg = ObjectIdGetDatum(relid);

	if (SPI_execute_with_args(query, 1, &argtype, &arg, NULL, true, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read the registry");
}

/* A field of the answer as text, in the memory context; NULL for NULL. */
static char *
answer(int row, int field, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row],
									 SPI_tuptable->tupdesc, field);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/*
 * Does the table change rows, as far as it can be seen from here?  Also
 * collects its generated columns, by their number in the view.
 */
static bool
local_table_changes_rows(RoutedView *view, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		result;
	MemoryContext oldcontext = MemoryContextSwitchTo(view->context);

	/* partitions may have triggers of their own */
	result = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		(rel->trigdesc && (rel->trigdesc->trig_insert_before_row ||
						   rel->trigdesc->trig_update_before_row));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || att->attgenerated == '\0')
			continue;
		result = true;
		view->generated = bms_add_member(view->generated,
										 get_attnum(view->relid,
													NameStr(att->attname)));
	}
	MemoryContextSwitchTo(oldcontext);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Fills a RoutedView from the registry.  The arguments of the trigger name
 * the stores whose tables have BEFORE ROW triggers.  Inside SPI.
 */
static RoutedView *
look_up_view(Oid relid, Trigger *trigger)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "run_ops routed view",
												  ALLOCSET_SMALL_SIZES);
	RoutedView *view = MemoryContextAllocZero(context, sizeof(RoutedView));
	char	   *routing;
	char	   *route_column;
	MemoryContext oldcontext;

	view->relid = relid;
	view->context = context;

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
	route_column = answer(0, 2, context);
	view->routing = strcmp(routing, "shape") == 0 ? ROUTING_SHAPE :
		strcmp(routing, "anchor") == 0 ? ROUTING_ANCHOR : ROUTING_STORE;
	view->nkeys = SPI_processed;
	view->keys = MemoryContextAlloc(context, sizeof(AttrNumber) * view->nkeys);
	for (int i = 0; i < view->nkeys; i++)
		view->keys[i] = get_attnum(relid, answer(i, 3, context));
	if (route_column)
		view->route_column = get_attnum(relid, route_column);
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

		table->store = answer(i, 1, context);
		table->relid = atooid(answer(i, 2, context));
		table->foreign = get_rel_relkind(table->relid) == RELKIND_FOREIGN_TABLE;
		for (int j = 0; j < trigger->tgnargs; j++)
		{
			if (strcmp(trigger->tgargs[j], table->store) == 0)
				table->changes_rows = true;
		}
		if (local_table_changes_rows(view, table->relid))
			table->changes_rows = true;
	}

	if (view->routing == ROUTING_STORE)
	{
		ask_registry("SELECT o.column_name, o.store, o.query "
					 "FROM run_ops.routed_table AS t, LATERAL run_ops.owner_columns(t) AS o "
					 "WHERE t.view OPERATOR(pg_catalog.=) $1 ORDER BY o.ord", relid);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			OwnerRule  *rule = MemoryContextAllocZero(context, sizeof(OwnerRule));
			char	   *query = answer(i, 3, context);

			rule->attno = get_attnum(relid, answer(i, 1, context));
			rule->store = answer(i, 2, context);
			if (query)
			{
				Oid			type = get_atttype(relid, rule->attno);

				rule->probe = SPI_prepare(query, 1, &type);
				if (rule->probe == NULL || SPI_keepplan(rule->probe) != 0)
					elog(ERROR, "could not prepare \"%s\"", query);
			}
			/* SPI has changed the current context */
			oldcontext = MemoryContextSwitchTo(context);
			view->owners = lappend(view->owners, rule);
			MemoryContextSwitchTo(oldcontext);
		}
	}
	return view;
}

/* The view, looked up if need be.  Inside SPI. */
static RoutedView *
get_view(Oid relid, Trigger *trigger)
{
	RoutedViewEntry *entry;
	RoutedView *view;
	bool		found;
	uint64		before;

	if (routed_views == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid),
		.entrysize = sizeof(RoutedViewEntry)};

		routed_views = hash_create("run_ops routed views", 16, &ctl,
								   HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(invalidate_views, (Datum) 0);
	}
	entry = hash_search(routed_views, &relid, HASH_FIND, NULL);
	if (entry && entry->view->valid)
		return entry->view;

	before = invalidations;
	view = look_up_view(relid, trigger);
	entry = hash_search(routed_views, &relid, HASH_ENTER, &found);
	if (found && entry->view->nframes == 0)
		free_view(entry->view);
	/* else the last of its frames frees it */
	MemoryContextSetParent(view->context, CacheMemoryContext);
	/* news that came during the look-up may be about it */
	view->valid = invalidations == before;
	entry->view = view;
	return view;
}

/* ----------------------------------------------------------------
 *		Frames
 * ----------------------------------------------------------------
 */

static void
push_frame(TriggerData *trigdata, RoutedView *view,
		   Oid writer, int writer_context)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext,
												  "run_ops write frame",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	WriteFrame *frame = palloc0(sizeof(WriteFrame));
	int			column = -1;

	/* a copy of the database must not write, not even its local rows */
	for (int i = 0; i < view->ntables; i++)
	{
		if (view->tables[i].foreign)
			split_require_active(GetForeignServerIdByRelId(view->tables[i].relid));
	}

	frame->context = context;
	frame->view = view;
	frame->writer = writer;
	frame->writer_context = writer_context;
	frame->as_writer = compat_has_security_invoker(trigdata->tg_relation);
	frame->pin_path = !frame->as_writer &&
		!has_privs_of_role(writer, trigdata->tg_relation->rd_rel->relowner);
	frame->operation = trigdata->tg_event & TRIGGER_EVENT_OPMASK;
	frame->nest_level = GetCurrentTransactionNestLevel();
	frame->rows = palloc0(sizeof(Tuplestorestate *) * view->ntables);
	while ((column = bms_next_member(trigdata->tg_updatedcols, column)) >= 0)
		frame->columns =
			bms_add_member(frame->columns,
						   column + FirstLowInvalidHeapAttributeNumber);
	MemoryContextSwitchTo(oldcontext);

	view->nframes++;
	frame->outer = frames;
	frames = frame;
}

/*
 * The frame of the statement that fires the trigger.  Statements nest, and
 * each is through with its triggers before the one around it goes on, so it
 * is the innermost one of the same view and operation.
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
	RoutedView *view = frame->view;
	RoutedViewEntry *entry;

	*link = frame->outer;
	MemoryContextDelete(frame->context);
	if (--view->nframes > 0)
		return;
	entry = hash_search(routed_views, &view->relid, HASH_FIND, NULL);
	if (entry->view != view)
		free_view(view);		/* was replaced in the meantime */
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
	strays_allowed = false;
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

static char *
column_name(RoutedView *view, AttrNumber attno)
{
	return pstrdup(quote_identifier(get_attname(view->relid, attno, false)));
}

/* The columns of the view but for some, each behind the prefix. */
static char *
column_list(TupleDesc desc, const char *prefix, Bitmapset *but)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!bms_is_member(i + 1, but))
			appendStringInfo(&list, "%s%s%s", list.len ? ", " : "", prefix,
							 quote_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
	}
	return list.data;
}

/*
 * Text and parameter types of a statement.  Parameters of ACTION_UPDATE are
 * the columns it sets; then come the key, and the version for a local table.
 */
static char *
statement_text(RoutedView *view, StoreTable *table, TupleDesc desc,
			   StoreAction action, Bitmapset *columns,
			   int *nargs, Oid *argtypes)
{
	StringInfoData sql;
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table->relid)),
												  get_rel_name(table->relid));
	char	   *returned = column_list(desc, "t.", NULL);
	int			column = -1;

	*nargs = 0;
	initStringInfo(&sql);
	switch (action)
	{
		case ACTION_INSERT:
		case ACTION_INSERT_RETURNING:
		case ACTION_INSERT_SKIP:
			appendStringInfo(&sql,
							 "INSERT INTO %s AS t (%s) SELECT %s FROM " ROWS_NAME " AS r",
							 name, column_list(desc, "", view->generated),
							 column_list(desc, "r.", view->generated));
			if (action == ACTION_INSERT_SKIP)
				appendStringInfoString(&sql, " ON CONFLICT DO NOTHING");
			if (action != ACTION_INSERT)
				appendStringInfo(&sql, " RETURNING %s", returned);
			return sql.data;
		case ACTION_READ:
			/* of a foreign table only whether the row is there */
			if (table->foreign)
				appendStringInfo(&sql, "SELECT FROM %s AS t", name);
			else
				appendStringInfo(&sql, "SELECT %s, t.xmin FROM %s AS t",
								 returned, name);
			break;
		case ACTION_DELETE:
			appendStringInfo(&sql, "DELETE FROM %s AS t", name);
			break;
		case ACTION_UPDATE:
			appendStringInfo(&sql, "UPDATE %s AS t", name);
			while ((column = bms_next_member(columns, column)) >= 0)
			{
				appendStringInfo(&sql, "%s %s = $%d", *nargs ? "," : " SET",
								 column_name(view, column), *nargs + 1);
				argtypes[(*nargs)++] = TupleDescAttr(desc, column - 1)->atttypid;
			}
			break;
	}
	for (int i = 0; i < view->nkeys; i++)
	{
		appendStringInfo(&sql, " %s t.%s OPERATOR(pg_catalog.=) $%d",
						 i ? "AND" : "WHERE",
						 column_name(view, view->keys[i]), *nargs + 1);
		argtypes[(*nargs)++] = TupleDescAttr(desc, view->keys[i] - 1)->atttypid;
	}
	if (action != ACTION_READ && !table->foreign)
	{
		appendStringInfo(&sql, " AND t.xmin OPERATOR(pg_catalog.=) $%d", *nargs + 1);
		argtypes[(*nargs)++] = XIDOID;
	}
	if (action == ACTION_UPDATE && table->changes_rows)
		appendStringInfo(&sql, " RETURNING %s", returned);
	return sql.data;
}

/* A statement on the table of a store, prepared.  Inside SPI. */
static SPIPlanPtr
get_statement(RoutedView *view, StoreTable *table, TupleDesc desc,
			  StoreAction action, Bitmapset *columns)
{
	ListCell   *lc;
	KeptStatement *kept;
	SPIPlanPtr	plan;
	char	   *text;
	int			nargs;
	Oid		   *argtypes;
	MemoryContext oldcontext;

	foreach(lc, table->statements)
	{
		kept = lfirst(lc);
		if (kept->action == action && bms_equal(kept->columns, columns))
			return kept->plan;
	}

	argtypes = palloc(sizeof(Oid) * (desc->natts + view->nkeys + 1));
	text = statement_text(view, table, desc, action, columns, &nargs, argtypes);
	/* the table and the key are all that matters: no need to plan anew */
	plan = SPI_prepare_cursor(text, nargs, argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\"", text);
	if (list_length(table->statements) >= MAX_KEPT_STATEMENTS)
		return plan;			/* freed with the SPI connection */
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep \"%s\"", text);
	oldcontext = MemoryContextSwitchTo(view->context);
	kept = palloc(sizeof(KeptStatement));
	kept->action = action;
	kept->columns = bms_copy(columns);
	kept->plan = plan;
	table->statements = lappend(table->statements, kept);
	MemoryContextSwitchTo(oldcontext);
	return plan;
}

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
 * Runs a statement for the row of a key.  "row" has the columns to set; "key"
 * the values of the key; "version" is the xmin of ACTION_READ.  What it
 * returned is in SPI_tuptable.
 */
static uint64
run_statement(WriteFrame *frame, StoreTable *table, TupleDesc desc,
			  StoreAction action, Bitmapset *columns,
			  HeapTuple row, HeapTuple key, Datum version)
{
	RoutedView *view = frame->view;
	SPIPlanPtr	plan = get_statement(view, table, desc, action, columns);
	Datum	   *values = palloc(sizeof(Datum) * (desc->natts + view->nkeys + 1));
	char	   *nulls = palloc(desc->natts + view->nkeys + 1);
	int			n = 0;
	int			column = -1;
	bool		isnull;

	while ((column = bms_next_member(columns, column)) >= 0)
	{
		values[n] = heap_getattr(row, column, desc, &isnull);
		nulls[n++] = isnull ? 'n' : ' ';
	}
	for (int i = 0; i < view->nkeys; i++)
	{
		values[n] = heap_getattr(key, view->keys[i], desc, &isnull);
		nulls[n++] = isnull ? 'n' : ' ';
	}
	values[n] = version;
	nulls[n] = ' ';
	if (execute_plan(frame, plan, values, nulls, false, 0) < 0)
		elog(ERROR, "could not write to store \"%s\"", table->store);
	if (table->foreign && action != ACTION_READ && SPI_processed > 0)
		note_foreign_write(table->relid);
	return SPI_processed;
}

/* The row that a statement returned, in the caller's memory. */
static HeapTuple
returned_row(void)
{
	return SPI_copytuple(SPI_tuptable->vals[0]);
}

/*
 * Writes the rows that were collected for a table.  Returns the only one as
 * stored, if asked for; NULL when it was skipped.
 */
static HeapTuple
write_rows(WriteFrame *frame, int i, TupleDesc desc, StoreAction action)
{
	StoreTable *table = &frame->view->tables[i];
	Tuplestorestate *rows = frame->rows[i];
	EphemeralNamedRelation enr;
	HeapTuple	result = NULL;

	/* no longer collected, should a trigger come back to this frame */
	frame->rows[i] = NULL;

	enr = palloc0(sizeof(EphemeralNamedRelationData));
	enr->md.name = ROWS_NAME;
	enr->md.reliddesc = frame->view->relid;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = tuplestore_tuple_count(rows);
	enr->reldata = rows;
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows");
	if (execute_plan(frame, get_statement(frame->view, table, desc, action, NULL),
					 NULL, NULL, false, 0) < 0)
		elog(ERROR, "could not write to store \"%s\"", table->store);
	if (table->foreign && SPI_processed > 0)
		note_foreign_write(table->relid);
	if (action != ACTION_INSERT && SPI_processed > 0)
		result = returned_row();
	SPI_unregister_relation(ROWS_NAME);
	tuplestore_end(rows);
	return result;
}

static void
write_collected_rows(WriteFrame *frame, TupleDesc desc)
{
	for (int i = 0; i < frame->view->ntables; i++)
	{
		if (frame->rows[i])
			write_rows(frame, i, desc, ACTION_INSERT);
	}
}

/*
 * Writes what is collected for all views but one, outer statements first: a
 * row that is written or placed now may refer to it.
 */
static void
write_all_collected_rows(WriteFrame *frame, RoutedView *but)
{
	Relation	rel;

	if (frame == NULL)
		return;
	check_stack_depth();
	write_all_collected_rows(frame->outer, but);
	if (frame->view == but)
		return;
	rel = table_open(frame->view->relid, NoLock);
	write_collected_rows(frame, RelationGetDescr(rel));
	table_close(rel, NoLock);
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

/* The shape in a text column of the row; of no kind for NULL. */
static IdShape
shape_in(HeapTuple row, AttrNumber attno, TupleDesc desc)
{
	IdShape		none = {ID_KIND_NONE, '\0'};
	bool		isnull;
	Datum		id = heap_getattr(row, attno, desc, &isnull);

	return isnull ? none : id_shape_datum(id);
}

/* An id that decides about its own row must be classifiable. */
static void
refuse_unclassifiable(RoutedView *view, HeapTuple row, TupleDesc desc,
					  IdShape shape)
{
	bool		isnull;
	Datum		id = heap_getattr(row, view->route_column, desc, &isnull);

	/* NULL is left to the NOT NULL constraint of the key */
	if (view->routing == ROUTING_SHAPE && shape.kind == ID_KIND_NONE && !isnull)
		id_report_unclassifiable(DatumGetTextPP(id));
}

static int
table_of_owner(WriteFrame *frame, HeapTuple row, TupleDesc desc)
{
	RoutedView *view = frame->view;
	ListCell   *lc;

	foreach(lc, view->owners)
	{
		OwnerRule  *rule = lfirst(lc);
		bool		isnull;
		Datum		value = heap_getattr(row, rule->attno, desc, &isnull);

		if (isnull)
			continue;
		if (rule->store == NULL)
			return table_of_shape(view, id_shape_datum(value));
		if (rule->probe)
		{
			write_all_collected_rows(frames, view);
			if (execute_plan(frame, rule->probe, &value, NULL, false, 1) != SPI_OK_SELECT)
				elog(ERROR, "could not look for the row's owner");
			if (SPI_processed == 0)
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
table_of_new_row(WriteFrame *frame, HeapTuple row, TupleDesc desc)
{
	RoutedView *view = frame->view;
	IdShape		shape = {ID_KIND_NONE, '\0'};

	if (view->route_column)
	{
		shape = shape_in(row, view->route_column, desc);
		refuse_unclassifiable(view, row, desc, shape);
	}
	/* a LEGACY-shaped key is what rows without residency have everywhere */
	if (view->routing == ROUTING_STORE &&
		(shape.kind == ID_KIND_NONE || shape.kind == ID_KIND_CUID))
		return table_of_owner(frame, row, desc);
	return table_of_shape(view, shape);
}

/* The table that holds a row which the view has shown. */
static int
table_of_old_row(WriteFrame *frame, HeapTuple row, TupleDesc desc)
{
	RoutedView *view = frame->view;
	int			last = view->ntables - 1;

	if (view->routing != ROUTING_STORE)
		return table_of_shape(view, shape_in(row, view->route_column, desc));
	for (int i = 0; i < last; i++)
	{
		if (run_statement(frame, &view->tables[i], desc, ACTION_READ, NULL,
						  NULL, row, (Datum) 0) > 0)
			return i;
	}
	return last;
}

/* ----------------------------------------------------------------
 *		Rows
 * ----------------------------------------------------------------
 */

static bool
same_value(Form_pg_attribute att, Datum a, Datum b)
{
	/* a value that is stored out of line never changes in its place */
	if (att->attlen == -1 &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(a)) &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(b)))
	{
		Size		size = VARSIZE_EXTERNAL(DatumGetPointer(a));

		if (memcmp(DatumGetPointer(a), DatumGetPointer(b), size) == 0)
			return true;
	}
	return datum_image_eq(a, b, att->attbyval, att->attlen);
}

static bool
same_row(TupleDesc desc, HeapTuple a, HeapTuple b, TupleDesc b_desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		bool		a_null;
		bool		b_null;
		Datum		a_value = heap_getattr(a, i + 1, desc, &a_null);
		Datum		b_value = heap_getattr(b, i + 1, b_desc, &b_null);

		if (a_null != b_null ||
			(!a_null && !same_value(TupleDescAttr(desc, i), a_value, b_value)))
			return false;
	}
	return true;
}

/*
 * Updates or deletes the row that the statement has seen as "old".  False
 * when there is no such row any more.
 */
static bool
change_row(WriteFrame *frame, StoreTable *table, TupleDesc desc,
		   StoreAction action, Bitmapset *columns,
		   HeapTuple row, HeapTuple old)
{
	TransactionId tried = InvalidTransactionId;

	/* the remote transaction sees what the statement saw, or fails */
	if (table->foreign)
		return run_statement(frame, table, desc, action, columns, row, old,
							 (Datum) 0) > 0;

	for (;;)
	{
		HeapTuple	now;
		Datum		version;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (run_statement(frame, table, desc, ACTION_READ, NULL, NULL, old,
						  (Datum) 0) == 0)
			return false;
		now = SPI_tuptable->vals[0];
		version = heap_getattr(now, desc->natts + 1, SPI_tuptable->tupdesc,
							   &isnull);
		if (!same_row(desc, old, now, SPI_tuptable->tupdesc))
		{
			/* as PostgreSQL does: of several changes the first one counts */
			if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(version)))
				return false;
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent update"),
					 errdetail("A row of table \"%s\" is not as the statement on its view has seen it.",
							   get_rel_name(table->relid)),
					 errhint("Try the transaction again.")));
		}
		/* still the same version: a trigger or rule of the table keeps it */
		if (tried == DatumGetTransactionId(version))
			return false;
		tried = DatumGetTransactionId(version);
		if (run_statement(frame, table, desc, action, columns, row, old,
						  version) > 0)
			return true;
	}
}

static void
refuse_generated(RoutedView *view, TupleDesc desc, AttrNumber column)
{
	ereport(ERROR,
			(errcode(ERRCODE_GENERATED_ALWAYS),
			 errmsg("cannot write to column \"%s\" of view \"%s\"",
					NameStr(TupleDescAttr(desc, column - 1)->attname),
					get_rel_name(view->relid)),
			 errdetail("It is a generated column of the table.")));
}

/* INSTEAD OF INSERT: the row as stored, or NULL when it was skipped. */
static HeapTuple
insert_row(WriteFrame *frame, HeapTuple row, TupleDesc desc)
{
	RoutedView *view = frame->view;
	int			i = table_of_new_row(frame, row, desc);
	int			column = -1;
	bool		isnull;
	MemoryContext oldcontext;

	while ((column = bms_next_member(view->generated, column)) >= 0)
	{
		(void) heap_getattr(row, column, desc, &isnull);
		if (!isnull)
			refuse_generated(view, desc, column);
	}

	if (insert_conflicts == INSERT_CONFLICTS_SKIP ||
		view->tables[i].changes_rows)
		write_all_collected_rows(frames, NULL);
	if (frame->rows[i] == NULL)
	{
		oldcontext = MemoryContextSwitchTo(frame->context);
		frame->rows[i] = tuplestore_begin_heap(false, false, work_mem);
		MemoryContextSwitchTo(oldcontext);
	}
	tuplestore_puttuple(frame->rows[i], row);
	if (insert_conflicts == INSERT_CONFLICTS_SKIP)
		return write_rows(frame, i, desc, ACTION_INSERT_SKIP);
	if (view->tables[i].changes_rows)
		return write_rows(frame, i, desc, ACTION_INSERT_RETURNING);
	return row;
}

/* INSTEAD OF UPDATE: the row as stored, or NULL when it is gone. */
static HeapTuple
update_row(WriteFrame *frame, HeapTuple old, HeapTuple row, TupleDesc desc)
{
	RoutedView *view = frame->view;
	int			i = table_of_old_row(frame, old, desc);
	StoreTable *table = &view->tables[i];
	Bitmapset  *generated = bms_intersect(frame->columns, view->generated);

	if (!bms_is_empty(generated))
		refuse_generated(view, desc, bms_next_member(generated, -1));
	if (view->route_column &&
		bms_is_member(view->route_column, frame->columns))
	{
		IdShape		was = shape_in(old, view->route_column, desc);
		IdShape		is = shape_in(row, view->route_column, desc);
		int			to = table_of_shape(view, is);

		if (was.kind != ID_KIND_NONE)
			refuse_unclassifiable(view, row, desc, is);
		/* with routing "store" a LEGACY-shaped key may be anywhere */
		if (to != i && to != table_of_shape(view, was))
			ereport(ERROR,
					(errcode(ERRCODE_RUN_OPS_CROSSES_SEAM),
					 errmsg("row of view \"%s\" would move from store \"%s\" to store \"%s\"",
							get_rel_name(view->relid), table->store,
							view->tables[to].store),
					 errdetail("The new value of column \"%s\" belongs there.",
							   NameStr(TupleDescAttr(desc, view->route_column - 1)->attname)),
					 errhint("Insert a new row and delete the old one.")));
	}
	if (!change_row(frame, table, desc, ACTION_UPDATE, frame->columns, row, old))
		return NULL;
	return table->changes_rows ? returned_row() : row;
}

/* INSTEAD OF DELETE: the row, or NULL when it was gone. */
static HeapTuple
delete_row(WriteFrame *frame, HeapTuple old, TupleDesc desc)
{
	StoreTable *table = &frame->view->tables[table_of_old_row(frame, old, desc)];

	return change_row(frame, table, desc, ACTION_DELETE, NULL, NULL, old) ?
		old : NULL;
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
	TupleDesc	desc;
	HeapTuple	result = NULL;
	WriteFrame **frame;
	Oid			userid;
	int			sec_context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		trigdata->tg_relation->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.route_write() is the trigger function of the views of routed tables")));
	desc = RelationGetDescr(trigdata->tg_relation);

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(trigdata->tg_relation->rd_rel->relowner,
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		push_frame(trigdata,
				   get_view(RelationGetRelid(trigdata->tg_relation),
							trigdata->tg_trigger),
				   userid, sec_context);
	else
	{
		frame = find_frame(trigdata);
		if (TRIGGER_FIRED_AFTER(trigdata->tg_event))
		{
			write_collected_rows(*frame, desc);
			/* statements within have come and gone: look again */
			drop_frame(find_frame(trigdata));
		}
		else if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
			result = insert_row(*frame, trigdata->tg_trigtuple, desc);
		else if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
			result = update_row(*frame, trigdata->tg_trigtuple,
								trigdata->tg_newtuple, desc);
		else
			result = delete_row(*frame, trigdata->tg_trigtuple, desc);
	}

	SPI_finish();
	SetUserIdAndSecContext(userid, sec_context);
	PG_RETURN_POINTER(result);
}

/* ----------------------------------------------------------------
 *		The write lock of local tables
 * ----------------------------------------------------------------
 */

/*
 * refuse_stray() returns trigger
 *
 * Fires only for a row that does not belong into this database.  Argument:
 * the column whose shape says so.
 */
Datum
run_ops_refuse_stray(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	const char *column;
	HeapTuple	row;
	char	   *id;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigdata->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.refuse_stray() is the write-lock trigger of routed tables")));
	if (strays_allowed)
		PG_RETURN_POINTER(NULL);
	column = trigdata->tg_trigger->tgargs[0];
	row = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
		trigdata->tg_newtuple : trigdata->tg_trigtuple;
	id = SPI_getvalue(row, RelationGetDescr(trigdata->tg_relation),
					  SPI_fnumber(RelationGetDescr(trigdata->tg_relation), column));
	ereport(ERROR,
			(errcode(ERRCODE_RUN_OPS_STRAY),
			 errmsg("row does not belong into table \"%s\" while split is on",
					RelationGetRelationName(trigdata->tg_relation)),
			 errdetail("The shape of \"%s\" = \"%.64s\" says that the row lives in another store.",
					   column, id ? id : ""),
			 errhint("Write through the view of the table."),
			 errtable(trigdata->tg_relation)));
}

/*
 * allow_strays() returns void
 *
 * Lifts the write lock until the current transaction ends.
 */
Datum
run_ops_allow_strays(PG_FUNCTION_ARGS)
{
	strays_allowed = true;
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

/*
 * store_anti_join.c
 *		Rows whose keys are not in the table of a store.
 *
 * A view of routing "store" shows rows of the local table only if no store has
 * their keys (NOT EXISTS).  PostgreSQL has two plans for that: a lookup in the
 * stores for each row, or fetching all keys of the stores.  The one idea is a
 * third plan: read the rows, send their keys as sets to all stores at the same
 * time, and let each answer which of them it has.  Then the number of round trips
 * hardly depends on the number of rows and stores.  The rows keep their order, and
 * sets begin small, so a page of ordered rows needs one set.
 *
 * This is for the anti joins of the views.  Only keys of a few types are sent,
 * whose equality is the same in every database.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "reads/foreign_plan.h"
#include "reads/lookup_condition.h"
#include "reads/store_anti_join.h"
#include "stores/foreign_scan.h"
#include "stores/read_gate.h"
#include "stores/read_replica.h"
#include "stores/remote_rows.h"
#include "wire/wire.h"

/* Keys in the first set and in the largest, and how they grow. */
#define MIN_SET 100
#define MAX_SET 10000
#define SET_GROWTH 4

static set_join_pathlist_hook_type next_set_join_pathlist = NULL;

/* The table of a store whose keys are excluded. */
typedef struct KeyTable
{
	RelOptInfo *rel;
	Oid			relid;
	List	   *columns;		/* numbers, in the order of the lookups */
} KeyTable;

/* A store while the plan is executed. */
typedef struct AskedStore
{
	Wire	   *wire;
	WireStatement *statement;
	Oid			serverid;
	const char *sql;
	bool		shared;			/* it is asked for keys of several tables */
} AskedStore;

typedef struct AntiJoinState
{
	CustomScanState css;		/* must be first */
	AskedStore *stores;			/* none in EXPLAIN */
	int			nstores;
	List	   *keys;			/* ExprStates */
	FmgrInfo   *output;			/* of each key */

	MemoryContext context;		/* of the set */
	int			size;			/* of the next set */
	MinimalTuple *rows;
	bool	   *exists;			/* the store has the key */
	int			n;
	int			next;
	bool		ended;			/* there are no more rows */
} AntiJoinState;

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* Is the equality the same in every database, and NULL equal to nothing? */
static bool
is_plain_equality(const LookupCondition *lookup)
{
	switch (get_opcode(lookup->opno))
	{
		case F_TEXTEQ:
			return is_bytewise_equality(lookup);
		case F_INT4EQ:
		case F_INT8EQ:
		case F_UUID_EQ:
			return true;
		default:
			return false;
	}
}

static bool
is_column_of_rel(Node *expr, void *arg)
{
	return is_column_of(expr, ((RelOptInfo *) arg)->relid);
}

/* Adds the lookups that clauses consist of.  False if there is another clause. */
static bool
add_lookups(PlannerInfo *root, RelOptInfo *outerrel, RelOptInfo *innerrel,
			List *clauses, List **lookups)
{
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Node	   *clause = (Node *) lfirst_node(RestrictInfo, lc)->clause;
		LookupCondition *lookup;

		/* what PostgreSQL 16 leaves of a condition that it tests on each side */
		if (IsA(clause, Const) && !((Const *) clause)->constisnull &&
			DatumGetBool(((Const *) clause)->constvalue))
			continue;
		lookup = palloc(sizeof(LookupCondition));
		if (!match_lookup_condition(clause, is_column_of_rel, innerrel, lookup) ||
			lookup->is_array || lookup->null_equals ||
			!is_plain_equality(lookup) ||
			contain_volatile_functions(lookup->values) ||
			!bms_is_subset(pull_varnos(root, lookup->values), outerrel->relids))
			return false;
		*lookups = lappend(*lookups, lookup);
	}
	return true;
}

/*
 * The relation as a table of which a store can look up the rows.  "columns" are
 * the Vars that its parent in a UNION ALL consists of, or NIL.
 */
static KeyTable *
key_table(PlannerInfo *root, RelOptInfo *rel, List *columns, List *lookups)
{
	KeyTable   *table = palloc0(sizeof(KeyTable));
	bool		indexed = false;
	ListCell   *lc;

	if (rel->fdwroutine == NULL || !is_store_table(rel->fdwroutine))
		return NULL;
	table->rel = rel;
	table->relid = planner_rt_fetch(rel->relid, root)->relid;
	foreach(lc, lookups)
	{
		Var		   *column = (Var *) ((LookupCondition *) lfirst(lc))->column;

		if (columns != NIL)
			column = list_nth(columns, column->varattno - 1);
		if (column == NULL || !is_column_of((Node *) column, rel->relid))
			return NULL;
		table->columns = lappend_int(table->columns, column->varattno);
		indexed |= remote_column_is_indexed(table->relid, column->varattno);
	}
	return indexed ? table : NULL;
}

/*
 * The tables that the inner relation consists of: it is one, or a UNION ALL of
 * some.  NIL if it is something else, or if a store cannot find the rows through
 * an index.
 */
static List *
key_tables(PlannerInfo *root, RelOptInfo *innerrel, List *lookups)
{
	List	   *tables = NIL;
	KeyTable   *table;
	ListCell   *lc;

	if (innerrel->rtekind != RTE_SUBQUERY)
	{
		table = key_table(root, innerrel, NIL, lookups);
		return table ? list_make1(table) : NIL;
	}
	if (!planner_rt_fetch(innerrel->relid, root)->inh)
		return NIL;
	foreach(lc, root->append_rel_list)
	{
		AppendRelInfo *child = lfirst_node(AppendRelInfo, lc);

		if (child->parent_relid != innerrel->relid)
			continue;
		table = key_table(root, root->simple_rel_array[child->child_relid],
						  child->translated_vars, lookups);
		if (table == NULL)
			return NIL;
		tables = lappend(tables, table);
	}
	return tables;
}

/* The numbers of the keys that the table has. */
static char *
remote_query(KeyTable *table, List *lookups)
{
	StringInfoData sql;
	StringInfoData names;
	StringInfoData condition;
	ListCell   *lc;

	initStringInfo(&sql);
	initStringInfo(&names);
	initStringInfo(&condition);
	foreach(lc, lookups)
	{
		LookupCondition *lookup = lfirst(lc);
		int			i = foreach_current_index(lc) + 1;

		appendStringInfo(&sql, "%spg_catalog.unnest($%d::%s[])", i > 1 ? ", " : "", i,
						 format_type_be_qualified(exprType(lookup->values)));
		appendStringInfo(&names, "k%d, ", i);
		appendStringInfo(&condition, "%st.%s OPERATOR(pg_catalog.=) k.k%d", i > 1 ? " AND " : "",
						 remote_column_name(table->relid, list_nth_int(table->columns, i - 1)), i);
	}
	return psprintf("SELECT k.n FROM ROWS FROM (%s) WITH ORDINALITY AS k (%sn) "
					"WHERE EXISTS (SELECT FROM %s AS t WHERE %s)",
					sql.data, names.data, remote_table_name(table->relid), condition.data);
}

/*
 * The columns of the excluded tables that the join shows, although they are NULL:
 * whole rows in UPDATE and DELETE, for EvalPlanQual, and any of LEFT JOIN ...
 * WHERE ... IS NULL.  Sets *others if there is another expression of them.
 */
static List *
shown_columns(PlannerInfo *root, RelOptInfo *joinrel, RelOptInfo *innerrel,
			  bool *others)
{
	List	   *columns = NIL;
	ListCell   *lc;

	*others = false;
	foreach(lc, joinrel->reltarget->exprs)
	{
		Node	   *expr = lfirst(lc);

		if (!bms_overlap(pull_varnos(root, expr), innerrel->relids))
			continue;
		*others |= !IsA(expr, Var);
		columns = lappend(columns, expr);
	}
	return columns;
}

static Node *create_state(CustomScan *scan);
static Plan *plan_anti_join(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
							List *tlist, List *clauses, List *custom_plans);

static const CustomScanMethods scan_methods = {
	.CustomName = "Keys Not In Store",
	.CreateCustomScanState = create_state
};

static const CustomPathMethods path_methods = {
	.CustomName = "Keys Not In Store",
	.PlanCustomPath = plan_anti_join
};

static Plan *
plan_anti_join(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
			   List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	Plan	   *outer = linitial(custom_plans);
	List	   *lookups = linitial(path->custom_private);
	List	   *tables = lsecond(path->custom_private);
	List	   *columns = lthird(path->custom_private);
	List	   *queries = NIL;
	List	   *oids = NIL;
	ListCell   *lc;

	scan->methods = &scan_methods;
	scan->flags = path->flags;
	scan->scan.plan.targetlist = tlist;
	scan->custom_plans = custom_plans;
	/* the rows are those of the outer plan, and NULL for what is excluded */
	scan->custom_scan_tlist = copyObject(outer->targetlist);
	foreach(lc, columns)
		scan->custom_scan_tlist =
			lappend(scan->custom_scan_tlist,
					makeTargetEntry(copyObject(lfirst(lc)), list_length(scan->custom_scan_tlist) + 1,
									NULL, false));
	foreach(lc, lookups)
		scan->custom_exprs = lappend(scan->custom_exprs,
									 copyObject(((LookupCondition *) lfirst(lc))->values));
	foreach(lc, tables)
	{
		KeyTable   *table = lfirst(lc);

		queries = lappend(queries, makeString(remote_query(table, lookups)));
		oids = lappend_oid(lappend_oid(oids, table->rel->serverid), table->rel->userid);
	}
	scan->custom_private = list_make2(queries, oids);
	return &scan->scan.plan;
}

/*
 * A set costs as much as two rescans of a foreign table, so that a single key is
 * looked up, and a key in it about as much as a row that is fetched.  Several stores
 * answer at the same time.
 */
static void
add_anti_join_path(PlannerInfo *root, RelOptInfo *joinrel, Path *outer,
				   List *lookups, List *tables, List *columns)
{
	CustomPath *path = makeNode(CustomPath);
	CostOptions options = foreign_cost_options(((KeyTable *) linitial(tables))->relid);
	Cost		set = 2 * options.startup_cost * RESCAN_STARTUP_SHARE;
	Cost		run = outer->rows * (cpu_tuple_cost + 2 * options.tuple_cost * list_length(tables));
	double		first = Min(MIN_SET / Max(outer->rows, 1), 1);

	path->path.pathtype = T_CustomScan;
	path->path.parent = joinrel;
	path->path.pathtarget = joinrel->reltarget;
	path->path.rows = joinrel->rows;
	path->path.startup_cost = outer->startup_cost + set +
		first * (outer->total_cost - outer->startup_cost + run);
	path->path.total_cost = outer->total_cost + run +
		set * (1 + outer->rows / MAX_SET);
	path->path.pathkeys = outer->pathkeys;
	path->flags = COMPAT_CUSTOMPATH_SUPPORT_PROJECTION;
	path->custom_paths = list_make1(outer);
	path->custom_private = list_make3(lookups, tables, columns);
	path->methods = &path_methods;
	add_path(joinrel, &path->path);
}

/*
 * If rows are looked up by their whole key, corrects the estimate of the join.
 * The planner expects that a large table has each key of a smaller one, but
 * hardly a key is in two stores.
 */
static void
expect_all_rows(RelOptInfo *joinrel, RelOptInfo *outerrel, KeyTable *table)
{
	List	   *key = remote_key(table->relid);
	ListCell   *lc;

	if (key == NIL || list_difference_int(key, table->columns) != NIL)
		return;
	joinrel->rows = Max(joinrel->rows, outerrel->rows);
	foreach(lc, joinrel->pathlist)
	{
		Path	   *path = lfirst(lc);

		if (path->param_info == NULL)
			path->rows = joinrel->rows;
	}
}

static void
add_anti_join_paths(PlannerInfo *root, RelOptInfo *joinrel, RelOptInfo *outerrel,
					RelOptInfo *innerrel, JoinType jointype,
					JoinPathExtraData *extra)
{
	List	   *lookups = NIL;
	List	   *tables;
	List	   *columns;
	bool		others;
	ListCell   *lc;

	if (next_set_join_pathlist)
		next_set_join_pathlist(root, joinrel, outerrel, innerrel, jointype, extra);
	if (jointype != JOIN_ANTI || innerrel->reloptkind != RELOPT_BASEREL ||
		!bms_is_empty(innerrel->lateral_relids) ||
		!add_lookups(root, outerrel, innerrel, extra->restrictlist, &lookups) ||
		/* with "id = X" in the query, both sides are compared with X */
		!GUARD(46, add_lookups(root, outerrel, innerrel, innerrel->baserestrictinfo, &lookups)))
		return;
	tables = lookups ? key_tables(root, innerrel, lookups) : NIL;
	columns = shown_columns(root, joinrel, innerrel, &others);
	if (tables == NIL || others)
		return;
	expect_all_rows(joinrel, outerrel, linitial(tables));
	foreach(lc, outerrel->pathlist)
	{
		Path	   *outer = lfirst(lc);

		if (outer->param_info == NULL)
			add_anti_join_path(root, joinrel, outer, lookups, tables, columns);
	}
}

/* ----------------------------------------------------------------
 *		Execution
 * ----------------------------------------------------------------
 */

static void
begin_anti_join(CustomScanState *node, EState *estate, int eflags)
{
	AntiJoinState *state = (AntiJoinState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	List	   *queries = linitial(scan->custom_private);
	List	   *oids = lsecond(scan->custom_private);
	ListCell   *lc;

	node->custom_ps = list_make1(ExecInitNode(linitial(scan->custom_plans), estate,
											  eflags & ~(EXEC_FLAG_REWIND | EXEC_FLAG_BACKWARD | EXEC_FLAG_MARK)));
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state->stores = palloc0(sizeof(AskedStore) * list_length(queries));
	foreach(lc, queries)
	{
		AskedStore *store = &state->stores[state->nstores];

		store->sql = strVal(lfirst(lc));
		store->serverid = list_nth_oid(oids, 2 * state->nstores);
		store->statement = join_to_read(store->serverid,
										compat_checked_user(list_nth_oid(oids, 2 * state->nstores + 1)),
										estate, WIRE_READ_MANY);
		store->wire = store->statement->wire;
		for (int i = 0; i < state->nstores; i++)
		{
			if (state->stores[i].wire == store->wire)
				state->stores[i].shared = store->shared = true;
		}
		state->nstores++;
	}
	state->keys = ExecInitExprList(scan->custom_exprs, &node->ss.ps);
	state->output = palloc(sizeof(FmgrInfo) * list_length(state->keys));
	foreach(lc, scan->custom_exprs)
	{
		Oid			function;
		bool		varlena;

		getTypeOutputInfo(exprType(lfirst(lc)), &function, &varlena);
		fmgr_info(function, &state->output[foreach_current_index(lc)]);
	}
	state->context = AllocSetContextCreate(estate->es_query_cxt, "run_ops keys",
										   ALLOCSET_DEFAULT_SIZES);
	state->size = MIN_SET;
}

static void
forget_set(AntiJoinState *state)
{
	/* it may show a row of the set */
	ExecClearTuple(state->css.ss.ss_ScanTupleSlot);
	MemoryContextReset(state->context);
	state->n = state->next = 0;
}

/*
 * Keeps a row of the outer plan, and adds its keys to the arrays, as text.  The
 * slot is that of a scan, which the expressions are made for.
 */
static void
add_to_set(AntiJoinState *state, TupleTableSlot *row, ArrayBuildState **arrays)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	ListCell   *lc;

	slot_getallattrs(row);
	ExecStoreAllNullTuple(slot);
	for (int i = 0; i < row->tts_tupleDescriptor->natts; i++)
	{
		slot->tts_values[i] = row->tts_values[i];
		slot->tts_isnull[i] = row->tts_isnull[i];
	}
	state->rows[state->n++] = ExecCopySlotMinimalTuple(slot);
	ResetExprContext(econtext);
	econtext->ecxt_scantuple = slot;
	MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	foreach(lc, state->keys)
	{
		int			i = foreach_current_index(lc);
		bool		isnull;
		Datum		key = ExecEvalExpr((ExprState *) lfirst(lc), econtext, &isnull);

		if (!isnull)
			key = CStringGetTextDatum(OutputFunctionCall(&state->output[i], key));
		arrays[i] = accumArrayResult(arrays[i], key, isnull, TEXTOID, state->context);
	}
	MemoryContextSwitchTo(state->context);
}

/* Marks the keys that the store has. */
static void
receive_keys(AntiJoinState *state, AskedStore *store)
{
	PGresult   *found = wire_receive_whole(store->wire);

	for (int i = 0; i < PQntuples(found); i++)
	{
		int			number = atoi(PQgetvalue(found, i, 0));

		if (number < 1 || number > state->n)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("store \"%s\" returned a key that it was not asked for",
							wire_store(store->wire))));
		state->exists[number - 1] = true;
	}
}

/* All stores look for the keys at the same time. */
static void
ask_for_set(AntiJoinState *state, ArrayBuildState **arrays)
{
	int			nkeys = list_length(state->keys);
	const char **values = palloc(sizeof(char *) * nkeys);
	bool	   *answered = palloc0(sizeof(bool) * state->nstores);

	for (int i = 0; i < nkeys; i++)
		values[i] = OidOutputFunctionCall(F_ARRAY_OUT,
										  makeArrayResult(arrays[i], CurrentMemoryContext));
	for (int i = 0; i < state->nstores; i++)
	{
		AskedStore *store = &state->stores[i];

		split_require_active(store->serverid);
		store->wire = wire_to_read(store->statement);
		answered[i] = store->shared || wire_must_be_awaited(store->wire);
		wire_begin(store->wire, store->statement->need, store->statement);
		wire_send(store->wire, store->sql, nkeys, values, false);
		if (answered[i])
			receive_keys(state, store);
	}
	for (int i = 0; i < state->nstores; i++)
	{
		if (!answered[i])
			receive_keys(state, &state->stores[i]);
	}
}

static void
next_set(AntiJoinState *state)
{
	PlanState  *outer = linitial(state->css.custom_ps);
	ArrayBuildState **arrays;
	Size		bytes = 0;
	MemoryContext oldcontext;

	forget_set(state);
	oldcontext = MemoryContextSwitchTo(state->context);
	arrays = palloc0(sizeof(ArrayBuildState *) * list_length(state->keys));
	state->rows = palloc(sizeof(MinimalTuple) * state->size);
	state->exists = palloc0(sizeof(bool) * state->size);
	while (!state->ended && state->n < state->size &&
		   bytes < work_mem * (Size) 1024)
	{
		TupleTableSlot *row;

		/* what the outer plan allocates outlives the set */
		MemoryContextSwitchTo(oldcontext);
		row = ExecProcNode(outer);
		MemoryContextSwitchTo(state->context);
		if (TupIsNull(row))
			state->ended = true;
		else
		{
			add_to_set(state, row, arrays);
			bytes += state->rows[state->n - 1]->t_len;
		}
	}
	if (state->n > 0)
		ask_for_set(state, arrays);
	state->size = Min(state->size * SET_GROWTH, MAX_SET);
	MemoryContextSwitchTo(oldcontext);
}

static TupleTableSlot *
next_row(ScanState *node)
{
	AntiJoinState *state = (AntiJoinState *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;

	for (;;)
	{
		while (state->next < state->n)
		{
			int			row = state->next++;

			if (state->exists[row])
				continue;
			ExecForceStoreMinimalTuple(state->rows[row], slot, false);
			return slot;
		}
		if (state->ended)
			return ExecClearTuple(slot);
		next_set(state);
	}
}

/*
 * Called only if a row is evaluated again (EvalPlanQual), and then in place of
 * next_row().  The outer plan has the new version of the row.
 */
static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	/* the macro evaluates its argument twice */
	TupleTableSlot *row = next_row(node);

	return !TupIsNull(row);
}

static TupleTableSlot *
execute_anti_join(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

static void
rescan_anti_join(CustomScanState *node)
{
	AntiJoinState *state = (AntiJoinState *) node;
	PlanState  *outer = linitial(node->custom_ps);

	forget_set(state);
	state->size = MIN_SET;
	state->ended = false;
	if (node->ss.ps.chgParam != NULL)
		UpdateChangedParamSet(outer, node->ss.ps.chgParam);
	if (outer->chgParam == NULL)
		ExecReScan(outer);
	ExecScanReScan(&node->ss);
}

static void
end_anti_join(CustomScanState *node)
{
	AntiJoinState *state = (AntiJoinState *) node;

	ExecEndNode(linitial(node->custom_ps));
	for (int i = 0; i < state->nstores; i++)
		wire_leave(state->stores[i].statement);
}

static void
explain_anti_join(CustomScanState *node, List *ancestors, ExplainState *es)
{
	List	   *private = ((CustomScan *) node->ss.ps.plan)->custom_private;
	List	   *queries = NIL;
	List	   *servers = NIL;
	ListCell   *lc;

	if (!es->verbose)
		return;
	foreach(lc, (List *) linitial(private))
	{
		Oid			serverid = list_nth_oid(lsecond(private), 2 * foreach_current_index(lc));

		queries = list_append_unique(queries, lfirst(lc));
		servers = lappend(servers, GetForeignServer(serverid)->servername);
	}
	if (list_length(servers) > 1)
		ExplainPropertyList("Servers", servers, es);
	foreach(lc, queries)
		ExplainPropertyText("Remote SQL", strVal(lfirst(lc)), es);
}

static const CustomExecMethods exec_methods = {
	.CustomName = "Keys Not In Store",
	.BeginCustomScan = begin_anti_join,
	.ExecCustomScan = execute_anti_join,
	.EndCustomScan = end_anti_join,
	.ReScanCustomScan = rescan_anti_join,
	.ExplainCustomScan = explain_anti_join
};

static Node *
create_state(CustomScan *scan)
{
	AntiJoinState *state = palloc0(sizeof(AntiJoinState));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &exec_methods;
	return (Node *) state;
}

void
store_anti_join_init(void)
{
	RegisterCustomScanMethods(&scan_methods);
	next_set_join_pathlist = set_join_pathlist_hook;
	set_join_pathlist_hook = add_anti_join_paths;
}

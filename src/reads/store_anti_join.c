/*
 * store_anti_join.c
 *		Rows whose keys are not in the table of a store.
 *
 * A view of routing "store" shows rows of a table only if the tables before it
 * do not have their keys (NOT EXISTS).  PostgreSQL has two plans for that: a
 * lookup in the store for each row, or fetching all keys of the store.  The one
 * idea is a third plan: read the rows, send their keys as sets, and let the store
 * answer which of them it has.  Then the number of round trips hardly depends on
 * the number of rows.  The rows keep their order, and sets begin small, so a page
 * of ordered rows needs one set.
 *
 * This is for the anti joins of the views.  Only keys of a few types are sent,
 * whose equality is the same in every database.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
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
#include "stores/remote_rows.h"
#include "wire/wire.h"

/* Keys in the first set and in the largest, and how they grow. */
#define MIN_SET 100
#define MAX_SET 10000
#define SET_GROWTH 4

static set_join_pathlist_hook_type next_set_join_pathlist = NULL;

typedef struct AntiJoinState
{
	CustomScanState css;		/* must be first */
	Wire	   *wire;
	WireStatement *statement;
	Oid			serverid;
	const char *sql;
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

/*
 * The lookups that the join clauses consist of.  NIL if there is another
 * clause, or if the store cannot find the rows through an index.
 */
static List *
key_lookups(PlannerInfo *root, RelOptInfo *outerrel, RelOptInfo *innerrel,
			Oid relid, List *clauses)
{
	List	   *result = NIL;
	bool		indexed = false;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Node	   *clause = (Node *) lfirst_node(RestrictInfo, lc)->clause;
		LookupCondition *lookup = palloc(sizeof(LookupCondition));

		if (!match_lookup_condition(clause, is_column_of_rel, innerrel, lookup) ||
			lookup->is_array || lookup->null_equals ||
			!is_plain_equality(lookup) ||
			contain_volatile_functions(lookup->values) ||
			!bms_is_subset(pull_varnos(root, lookup->values), outerrel->relids))
			return NIL;
		indexed |= remote_column_is_indexed(relid, ((Var *) lookup->column)->varattno);
		result = lappend(result, lookup);
	}
	return indexed ? result : NIL;
}

/* The numbers of the keys that the table has. */
static char *
remote_query(Oid relid, List *lookups)
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
						 remote_column_name(relid, ((Var *) lookup->column)->varattno), i);
	}
	return psprintf("SELECT k.n FROM ROWS FROM (%s) WITH ORDINALITY AS k (%sn) "
					"WHERE EXISTS (SELECT FROM %s AS t WHERE %s)",
					sql.data, names.data, remote_table_name(relid), condition.data);
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
	RelOptInfo *innerrel = linitial(path->custom_private);
	List	   *lookups = lsecond(path->custom_private);
	Oid			relid = planner_rt_fetch(innerrel->relid, root)->relid;
	ListCell   *lc;

	scan->methods = &scan_methods;
	scan->flags = path->flags;
	scan->scan.plan.targetlist = tlist;
	scan->custom_plans = custom_plans;
	/* the rows are those of the outer plan */
	scan->custom_scan_tlist = copyObject(outer->targetlist);
	foreach(lc, lookups)
		scan->custom_exprs = lappend(scan->custom_exprs,
									 copyObject(((LookupCondition *) lfirst(lc))->values));
	scan->custom_private = list_make2(makeString(remote_query(relid, lookups)),
									  list_make2_oid(innerrel->serverid, innerrel->userid));
	return &scan->scan.plan;
}

/*
 * A set costs as much as two rescans of a foreign table, so that a single key is
 * looked up, and a key in it about as much as a row that is fetched.
 */
static void
add_anti_join_path(PlannerInfo *root, RelOptInfo *joinrel, Path *outer,
				   RelOptInfo *innerrel, Oid relid, List *lookups)
{
	CustomPath *path = makeNode(CustomPath);
	CostOptions options = foreign_cost_options(relid);
	Cost		set = 2 * options.startup_cost * RESCAN_STARTUP_SHARE;
	Cost		run = outer->rows * (cpu_tuple_cost + 2 * options.tuple_cost);
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
	path->custom_private = list_make2(innerrel, lookups);
	path->methods = &path_methods;
	add_path(joinrel, &path->path);
}

/*
 * If rows are looked up by their whole key, corrects the estimate of the join.
 * The planner expects that a large table has each key of a smaller one, but
 * hardly a key is in two stores.
 */
static void
expect_all_rows(RelOptInfo *joinrel, RelOptInfo *outerrel, Oid relid,
				List *lookups)
{
	List	   *key = remote_key(relid);
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, lookups)
		columns = lappend_int(columns, ((Var *) ((LookupCondition *) lfirst(lc))->column)->varattno);
	if (key == NIL || list_difference_int(key, columns) != NIL)
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
	List	   *lookups;
	Oid			relid;
	ListCell   *lc;

	if (next_set_join_pathlist)
		next_set_join_pathlist(root, joinrel, outerrel, innerrel, jointype, extra);
	if (jointype != JOIN_ANTI || innerrel->reloptkind != RELOPT_BASEREL ||
		innerrel->fdwroutine == NULL || !is_store_table(innerrel->fdwroutine) ||
		!GUARD(46, innerrel->baserestrictinfo == NIL) ||
		!bms_is_empty(innerrel->lateral_relids) ||
		/* LEFT JOIN ... WHERE ... IS NULL, and a column of the table is shown */
		bms_overlap(pull_varnos(root, (Node *) joinrel->reltarget->exprs), innerrel->relids))
		return;
	relid = planner_rt_fetch(innerrel->relid, root)->relid;
	lookups = key_lookups(root, outerrel, innerrel, relid, extra->restrictlist);
	if (lookups == NIL)
		return;
	expect_all_rows(joinrel, outerrel, relid, lookups);
	foreach(lc, outerrel->pathlist)
	{
		Path	   *outer = lfirst(lc);

		if (outer->param_info == NULL)
			add_anti_join_path(root, joinrel, outer, innerrel, relid, lookups);
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
	List	   *oids = lsecond(scan->custom_private);
	Oid			userid = lsecond_oid(oids);
	ListCell   *lc;

	node->custom_ps = list_make1(ExecInitNode(linitial(scan->custom_plans), estate,
											  eflags & ~(EXEC_FLAG_REWIND | EXEC_FLAG_BACKWARD | EXEC_FLAG_MARK)));
	state->sql = strVal(linitial(scan->custom_private));
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state->serverid = linitial_oid(oids);
	state->wire = wire_get(state->serverid, compat_checked_user(userid));
	state->statement = wire_join(state->wire, estate, WIRE_READ_MANY, estate->es_query_cxt);
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

	ExecCopySlot(slot, row);
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

static void
ask_for_set(AntiJoinState *state, ArrayBuildState **arrays)
{
	int			nkeys = list_length(state->keys);
	const char **values = palloc(sizeof(char *) * nkeys);
	PGresult   *found;

	for (int i = 0; i < nkeys; i++)
		values[i] = OidOutputFunctionCall(F_ARRAY_OUT,
										  makeArrayResult(arrays[i], CurrentMemoryContext));
	split_require_active(state->serverid);
	wire_begin(state->wire, state->statement->need, state->statement);
	wire_send(state->wire, state->sql, nkeys, values, false);
	found = wire_receive_whole(state->wire);
	for (int i = 0; i < PQntuples(found); i++)
	{
		int			number = atoi(PQgetvalue(found, i, 0));

		if (number < 1 || number > state->n)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("store \"%s\" returned a key that it was not asked for",
							wire_store(state->wire))));
		state->exists[number - 1] = true;
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
	return !TupIsNull(next_row(node));
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
	if (state->statement)
		wire_leave(state->statement);
}

static void
explain_anti_join(CustomScanState *node, List *ancestors, ExplainState *es)
{
	if (es->verbose)
		ExplainPropertyText("Remote SQL", ((AntiJoinState *) node)->sql, es);
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

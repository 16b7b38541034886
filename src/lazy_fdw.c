/*
 * lazy_fdw.c
 *		run_ops_fdw: postgres_fdw that connects only when a row is needed.
 *
 * The one idea: postgres_fdw connects and opens a remote transaction as soon
 * as a plan starts, even for a branch of a union view that its One-Time
 * Filter will skip, so a lookup of a LEGACY id depends on the NEW store being
 * up.  Here a scan begins with the first row asked for.  Until then the node
 * carries our callbacks, from then on postgres_fdw's own.
 *
 * All the rest is postgres_fdw's code, reached through a copy of its
 * FdwRoutine: connections, deparsing, pushdown, writes, batching, async
 * execution, import, analyze.  What this file adds beside laziness:
 *
 * - paths parameterised by a join on a column declared as "indexed"; without
 *	 use_remote_estimate postgres_fdw offers none, and fetches the whole
 *	 remote table for the join;
 * - cheap costs for scans below a gate, so that a generic plan is not
 *	 rejected for a branch that will mostly not run;
 * - a gate of its own: where the row's id has to equal X and to reside in
 *	 this store, nothing is asked for while X does not reside here.
 *
 * Non-goals: no connections of its own, no remote SQL of its own, and nothing
 * known of postgres_fdw's private structs.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "cross_store_writes.h"
#include "id_shape.h"
#include "lazy_fdw.h"
#include "split_mode.h"

PG_FUNCTION_INFO_V1(run_ops_fdw_handler);
PG_FUNCTION_INFO_V1(run_ops_fdw_validator);

/* postgres_fdw's defaults, which it keeps to itself */
#define DEFAULT_FDW_STARTUP_COST 100.0
#define DEFAULT_FDW_TUPLE_COST COMPAT_DEFAULT_FDW_TUPLE_COST

/*
 * What a rescan costs, as a share of fdw_startup_cost: the connection and the
 * remote transaction are there already, what remains is a cursor closed,
 * opened and fetched from.
 */
#define RESCAN_STARTUP_SHARE 0.1

/* Rows of a remote table of which nothing is known. */
#define NEVER_ANALYZED_TUPLES 1000000

/* postgres_fdw's callbacks; filled once by stock_routine() */
static FdwRoutine stock;

/*
 * A scan that has not been handed over to postgres_fdw, as fdw_state of its
 * node; in the executor's per-query memory.
 */
typedef struct LazyScan
{
	int			eflags;			/* of the postponed begin */
	Oid			userid;			/* the user the scan has to begin as */
	SubTransactionId subid;		/* where postgres_fdw would have begun */
	ExprState  *gate;			/* NULL: no gate */
	bool		gate_checked;	/* since the last rescan */
	bool		gate_open;
	bool		begun;			/* by postgres_fdw */
	void	   *stock_state;	/* postgres_fdw's fdw_state when begun */
	Tuplestorestate *rows;		/* all rows, when they had to be read at once */
	TupleTableSlot *rows_slot;
} LazyScan;

/*
 * Fills "stock".  postgres_fdw's functions are reached by library, not by
 * name in the catalog: it may be installed in any schema.
 */
static void
stock_routine(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	PGFunction	handler;

	if (stock.type == T_FdwRoutine)
		return;
	handler = load_external_function("$libdir/postgres_fdw",
									 "postgres_fdw_handler", true, NULL);
	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	stock = *(FdwRoutine *) DatumGetPointer(handler(fcinfo));
}

/* ----------------------------------------------------------------
 *		Options
 * ----------------------------------------------------------------
 */

/*
 * run_ops_fdw_validator(options text[], catalog oid)
 *
 * Accepts what postgres_fdw accepts, plus the column option "indexed" and the
 * table option "key".
 */
Datum
run_ops_fdw_validator(PG_FUNCTION_ARGS)
{
	Oid			catalog = PG_GETARG_OID(1);
	ArrayBuildState *others = initArrayResult(TEXTOID, CurrentMemoryContext,
											  false);
	PGFunction	validator;
	ListCell   *lc;

	foreach(lc, untransformRelOptions(PG_GETARG_DATUM(0)))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (catalog == AttributeRelationId &&
			strcmp(def->defname, RUN_OPS_FDW_OPTION_INDEXED) == 0)
			(void) defGetBoolean(def);
		else if (catalog != ForeignTableRelationId ||
				 strcmp(def->defname, RUN_OPS_FDW_OPTION_KEY) != 0)
			accumArrayResult(others,
							 CStringGetTextDatum(psprintf("%s=%s", def->defname,
														  defGetString(def))),
							 false, TEXTOID, CurrentMemoryContext);
	}

	validator = load_external_function("$libdir/postgres_fdw",
									   "postgres_fdw_validator", true, NULL);
	DirectFunctionCall2(validator,
						makeArrayResult(others, CurrentMemoryContext),
						ObjectIdGetDatum(catalog));
	PG_RETURN_VOID();
}

/* The options of a foreign table that decide about its costs. */
typedef struct CostOptions
{
	double		startup_cost;
	double		tuple_cost;
	bool		use_remote_estimate;
} CostOptions;

static CostOptions
cost_options(Oid relid)
{
	CostOptions result = {DEFAULT_FDW_STARTUP_COST, DEFAULT_FDW_TUPLE_COST, false};
	ForeignTable *table = GetForeignTable(relid);
	ForeignServer *server = GetForeignServer(table->serverid);
	ListCell   *lc;

	/* the table's come last, because they win */
	foreach(lc, list_concat_copy(server->options, table->options))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "fdw_startup_cost") == 0)
			(void) parse_real(defGetString(def), &result.startup_cost, 0, NULL);
		else if (strcmp(def->defname, "fdw_tuple_cost") == 0)
			(void) parse_real(defGetString(def), &result.tuple_cost, 0, NULL);
		else if (strcmp(def->defname, "use_remote_estimate") == 0)
			result.use_remote_estimate = defGetBoolean(def);
	}
	return result;
}

static bool
column_is_indexed(Oid relid, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, GetForeignColumnOptions(relid, attno))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, RUN_OPS_FDW_OPTION_INDEXED) == 0)
			return defGetBoolean(def);
	}
	return false;
}

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* The column of the relation that the expression is, or NULL. */
static Var *
column_of(Node *expr, Index varno)
{
	while (expr && IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (expr && IsA(expr, Var) && ((Var *) expr)->varno == varno &&
		((Var *) expr)->varattno > 0 && ((Var *) expr)->varlevelsup == 0)
		return (Var *) expr;
	return NULL;
}

/*
 * Is the clause "column = X" or "column = ANY (X)", X free of this relation?
 * Then *column and *other are its two sides.
 */
static bool
is_lookup(PlannerInfo *root, Node *clause, Index varno,
		  Var **column, Node **other)
{
	Oid			opno;
	List	   *args;
	int			nsides = 2;

	if (IsA(clause, OpExpr))
	{
		opno = ((OpExpr *) clause)->opno;
		args = ((OpExpr *) clause)->args;
	}
	else if (IsA(clause, ScalarArrayOpExpr) &&
			 ((ScalarArrayOpExpr *) clause)->useOr)
	{
		opno = ((ScalarArrayOpExpr *) clause)->opno;
		args = ((ScalarArrayOpExpr *) clause)->args;
		nsides = 1;
	}
	else
		return false;
	if (list_length(args) != 2)
		return false;

	for (int side = 0; side < nsides; side++)
	{
		*column = column_of(list_nth(args, side), varno);
		*other = list_nth(args, 1 - side);
		if (*column && op_mergejoinable(opno, exprType(list_nth(args, side))) &&
			!bms_is_member(varno, pull_varnos(root, *other)))
			return true;
	}
	return false;
}

/*
 * Would the remote side look up rows of this path through an index?  Only
 * postgres_fdw knows which clauses it ships, so it is asked for the plan; the
 * clauses it would ship come back as the recheck quals.
 */
static bool
is_indexed_lookup(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				  ForeignPath *path, List *clauses)
{
	ForeignScan *plan = stock.GetForeignPlan(root, rel, relid, path, NIL,
											 clauses, NULL);
	ListCell   *lc;

	foreach(lc, plan->fdw_recheck_quals)
	{
		Var		   *column;
		Node	   *other;

		if (is_lookup(root, lfirst(lc), rel->relid, &column, &other) &&
			column_is_indexed(relid, column->varattno))
			return true;
	}
	return false;
}

/* What it costs to find and fetch these rows through a remote index. */
static Cost
lookup_run_cost(CostOptions *options, double rows)
{
	return rows * (random_page_cost + cpu_index_tuple_cost + cpu_tuple_cost +
				   options->tuple_cost);
}

/* State of a walk over the equivalence classes, column by column. */
typedef struct ColumnWalk
{
	Oid			relid;
	AttrNumber	current;
	Bitmapset  *done;
} ColumnWalk;

/* ec_matches_callback_type: members that are an indexed column not yet seen */
static bool
matches_indexed_column(PlannerInfo *root, RelOptInfo *rel,
					   EquivalenceClass *ec, EquivalenceMember *em, void *arg)
{
	ColumnWalk *walk = arg;
	Var		   *column = column_of((Node *) em->em_expr, rel->relid);

	if (column == NULL || bms_is_member(column->varattno, walk->done))
		return false;
	if (walk->current == 0 && column_is_indexed(walk->relid, column->varattno))
		walk->current = column->varattno;
	return walk->current == column->varattno;
}

/* Join clauses, of either origin, that look up an indexed column. */
static List *
indexed_join_clauses(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rel->joininfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Var		   *column;
		Node	   *other;

		if (join_clause_is_movable_to(rinfo, rel) &&
			is_lookup(root, (Node *) rinfo->clause, rel->relid,
					  &column, &other) &&
			column_is_indexed(relid, column->varattno))
			result = lappend(result, rinfo);
	}
	if (rel->has_eclass_joins)
	{
		ColumnWalk	walk = {relid, 0, NULL};

		for (;;)
		{
			List	   *clauses;

			walk.current = 0;
			clauses = generate_implied_equalities_for_column(root, rel,
															 matches_indexed_column,
															 &walk,
															 rel->lateral_referencers);
			if (walk.current == 0)
				break;
			foreach(lc, clauses)
			{
				if (join_clause_is_movable_to(lfirst(lc), rel))
					result = lappend(result, lfirst(lc));
			}
			walk.done = bms_add_member(walk.done, walk.current);
		}
	}
	return result;
}

/*
 * Is the clause resides(X, store)?  Told by the C function, so that nothing
 * depends on names in the catalog.
 */
static bool
is_resides(Node *clause)
{
	FuncExpr   *func = (FuncExpr *) clause;
	FmgrInfo	flinfo;

	if (!IsA(clause, FuncExpr) || list_length(func->args) != 2 ||
		!IsA(lsecond(func->args), Const) ||
		get_func_rettype(func->funcid) != BOOLOID)
		return false;
	fmgr_info(func->funcid, &flinfo);
	return flinfo.fn_addr == run_ops_resides;
}

/*
 * From "resides(id, store)" and "id = X" follows "resides(X, store)", which
 * can be tested before anything is asked of the remote side.  Only where
 * equal means the same bytes, which is all that resides() looks at.
 */
static List *
derive_gates(PlannerInfo *root, RelOptInfo *rel, List *scan_clauses)
{
	List	   *gates = NIL;
	ListCell   *lc;

	foreach(lc, scan_clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		FuncExpr   *resides = (FuncExpr *) rinfo->clause;
		Var		   *id;
		ListCell   *lc2;

		if (rinfo->pseudoconstant || !is_resides((Node *) resides))
			continue;
		id = column_of(linitial(resides->args), rel->relid);
		if (id == NULL)
			continue;
		foreach(lc2, scan_clauses)
		{
			OpExpr	   *op = (OpExpr *) lfirst_node(RestrictInfo, lc2)->clause;
			Var		   *column;
			Node	   *other;
			FuncExpr   *gate;

			if (!IsA(op, OpExpr) || op->opfuncid != F_TEXTEQ ||
				!get_collation_isdeterministic(op->inputcollid) ||
				!is_lookup(root, (Node *) op, rel->relid, &column, &other) ||
				column->varattno != id->varattno ||
				contain_volatile_functions(other) || contain_subplans(other))
				continue;
			gate = copyObject(resides);
			linitial(gate->args) = copyObject(other);
			gates = lappend(gates, gate);
		}
	}
	return gates;
}

/*
 * Offers a path for each set of other relations that can give the value of an
 * indexed column: one lookup for each of their rows.  With a gate the start is
 * free, for the reason given at discount_gated_paths().
 */
static void
add_lookup_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				 CostOptions *options)
{
	List	   *seen = NIL;
	ListCell   *lc;

	foreach(lc, indexed_join_clauses(root, rel, relid))
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Relids		outer;
		ParamPathInfo *param;
		ForeignPath *path;
		Cost		startup;

		outer = bms_del_member(bms_union(rinfo->clause_relids,
										 rel->lateral_relids), rel->relid);
		if (bms_is_empty(outer))
			continue;
		param = get_baserel_parampathinfo(root, rel, outer);
		if (list_member_ptr(seen, param))
			continue;
		seen = lappend(seen, param);

		if (derive_gates(root, rel, list_concat_copy(rel->baserestrictinfo,
													 param->ppi_clauses)))
			startup = 0;
		else
			startup = options->startup_cost * RESCAN_STARTUP_SHARE;
		path = compat_create_foreignscan_path(root, rel, param->ppi_rows,
											  startup,
											  startup + lookup_run_cost(options, param->ppi_rows),
											  outer);
		if (is_indexed_lookup(root, rel, relid, path, param->ppi_clauses))
			add_path(rel, (Path *) path);
	}
}

/*
 * A scan below a gate costs what it does when it runs, but not the start:
 * mostly it will not run, and when it does, the branch of the other store is
 * the one that does not.  Charging fdw_startup_cost would make every generic
 * plan look worse than planning anew each time.
 *
 * Without remote estimates postgres_fdw charges a scan of the whole table for
 * a lookup as well; the same comparison needs the lookup's true cost.
 */
static void
discount_gated_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid,
					 CostOptions *options)
{
	List	   *paths = rel->pathlist;
	bool		lookup = false;
	ListCell   *lc;

	if (!options->use_remote_estimate)
		lookup = is_indexed_lookup(root, rel, relid, linitial(paths),
								   rel->baserestrictinfo);
	/* costs decide about a path's place in the list */
	rel->pathlist = NIL;
	foreach(lc, paths)
	{
		Path	   *path = lfirst(lc);

		if (lookup)
		{
			path->startup_cost = options->startup_cost;
			path->total_cost = path->startup_cost +
				lookup_run_cost(options, path->rows);
		}
		path->startup_cost = Max(path->startup_cost - options->startup_cost, 0);
		path->total_cost = Max(path->total_cost - options->startup_cost,
							   path->startup_cost);
		add_path(rel, path);
	}
}

static bool
is_gated(RelOptInfo *rel)
{
	ListCell   *lc;

	foreach(lc, rel->baserestrictinfo)
	{
		if (lfirst_node(RestrictInfo, lc)->pseudoconstant)
			return true;
	}
	return false;
}

/*
 * What the planner should know of a remote table before postgres_fdw estimates
 * its size.
 *
 * A lookup by the key finds one row, whatever the statistics say.  The planner
 * takes that from a unique index, so it is shown one; not "immediate", so that
 * it serves estimates only and proves nothing.
 *
 * A table that was never analyzed is taken for a large one: to fetch all of a
 * large table for a few rows is the dearer mistake.
 */
static void
lazyGetForeignRelSize(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	ListCell   *lc;

	foreach(lc, GetForeignTable(relid)->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		AttrNumber	attno;

		if (strcmp(def->defname, RUN_OPS_FDW_OPTION_KEY) == 0 &&
			(attno = get_attnum(relid, defGetString(def))) > 0)
		{
			IndexOptInfo *index = makeNode(IndexOptInfo);

			index->rel = rel;
			index->ncolumns = index->nkeycolumns = 1;
			index->indexkeys = palloc(sizeof(int));
			index->indexkeys[0] = attno;
			index->unique = true;
			rel->indexlist = lappend(rel->indexlist, index);
		}
	}
	if (rel->tuples < 0)
	{
		rel->tuples = NEVER_ANALYZED_TUPLES;
		rel->pages = NEVER_ANALYZED_TUPLES / 10;
	}
	stock.GetForeignRelSize(root, rel, relid);
}

static void
lazyGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	CostOptions options = cost_options(relid);

	stock.GetForeignPaths(root, rel, relid);

	if (is_gated(rel))
		discount_gated_paths(root, rel, relid, &options);
	/* with remote estimates postgres_fdw has offered them itself */
	if (!options.use_remote_estimate)
		add_lookup_paths(root, rel, relid, &options);
}

/*
 * Gates of our own travel among the recheck quals: those get their parameters
 * replaced like every other expression of the plan, and follow from the
 * others there.
 */
static ForeignScan *
lazyGetForeignPlan(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				   ForeignPath *best_path, List *tlist, List *scan_clauses,
				   Plan *outer_plan)
{
	ForeignScan *plan = stock.GetForeignPlan(root, rel, relid, best_path,
											 tlist, scan_clauses, outer_plan);

	if (IS_SIMPLE_REL(rel))
		plan->fdw_recheck_quals =
			list_concat_copy(plan->fdw_recheck_quals,
							 derive_gates(root, rel, scan_clauses));
	return plan;
}

/* ----------------------------------------------------------------
 *		Execution
 * ----------------------------------------------------------------
 */

/* The plan's own gates, compiled; NULL when it has none. */
static ExprState *
init_gate(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	List	   *gates = NIL;
	ListCell   *lc;

	foreach(lc, plan->fdw_recheck_quals)
	{
		Node	   *clause = lfirst(lc);

		if (is_resides(clause) && !contain_var_clause(clause))
			gates = lappend(gates, clause);
	}
	return ExecInitQual(gates, (PlanState *) node);
}

/*
 * postgres_fdw's callbacks find their own state in the node, ours find ours.
 * An error in between ends the query: nothing looks at the node again.
 */
static void
lend_to_stock(ForeignScanState *node, LazyScan *scan)
{
	node->fdw_state = scan->stock_state;
}

static void
take_back(ForeignScanState *node, LazyScan *scan)
{
	scan->stock_state = node->fdw_state;
	node->fdw_state = scan;
}

static void
lazyBeginForeignScan(ForeignScanState *node, int eflags)
{
	LazyScan   *scan;

	/*
	 * Async execution reaches for postgres_fdw's state before the first row.
	 * That is never below a gate: the planner takes no async-capable scan
	 * there.  System columns would not survive read_all_rows(); they are
	 * asked for by writes, which need the connection anyway.
	 */
	if (node->ss.ps.async_capable ||
		((ForeignScan *) node->ss.ps.plan)->fsSystemCol)
	{
		if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
			split_require_active(((ForeignScan *) node->ss.ps.plan)->fs_server);
		node->fdwroutine = &stock;
		stock.BeginForeignScan(node, eflags);
		return;
	}
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	scan = palloc0(sizeof(LazyScan));
	scan->eflags = eflags;
	scan->userid = GetUserId();
	scan->subid = GetCurrentSubTransactionId();
	scan->gate = init_gate(node);
	node->fdw_state = scan;
}

/* The postponed begin: as it would have been, though we are elsewhere now. */
static void
begin_scan(ForeignScanState *node, LazyScan *scan)
{
	MemoryContext oldcontext;
	Oid			userid;
	int			sec_context;

	split_require_active(((ForeignScan *) node->ss.ps.plan)->fs_server);

	/* rows are asked for in memory that lives for one row */
	oldcontext = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);

	/* a cursor may be handed to another user before its first row is fetched */
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(scan->userid,
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	node->fdw_state = NULL;
	stock.BeginForeignScan(node, scan->eflags);
	SetUserIdAndSecContext(userid, sec_context);

	MemoryContextSwitchTo(oldcontext);
	scan->begun = true;
	take_back(node, scan);
}

static void
end_scan(ForeignScanState *node, LazyScan *scan)
{
	lend_to_stock(node, scan);
	stock.EndForeignScan(node);
	take_back(node, scan);
	scan->begun = false;
}

/*
 * The remote cursor lives in the remote subtransaction it was opened in.  When
 * that is younger than the scan, as it can be with a cursor first fetched from
 * after a SAVEPOINT, a rollback would take the remote cursor away from a local
 * one that stays.  So read all there is while it is there.
 */
static void
read_all_rows(ForeignScanState *node, LazyScan *scan)
{
	MemoryContext oldcontext;
	TupleTableSlot *slot;

	oldcontext = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);
	scan->rows = tuplestore_begin_heap(true, false, work_mem);
	if (scan->rows_slot == NULL)
		scan->rows_slot =
			ExecInitExtraTupleSlot(node->ss.ps.state,
								   node->ss.ss_ScanTupleSlot->tts_tupleDescriptor,
								   &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(oldcontext);

	lend_to_stock(node, scan);
	while (slot = stock.IterateForeignScan(node), !TupIsNull(slot))
	{
		CHECK_FOR_INTERRUPTS();
		tuplestore_puttupleslot(scan->rows, slot);
		MemoryContextReset(node->ss.ps.ps_ExprContext->ecxt_per_tuple_memory);
	}
	take_back(node, scan);
	end_scan(node, scan);
}

static bool
in_younger_subtransaction(LazyScan *scan)
{
	return GetCurrentTransactionNestLevel() > 1 &&
		GetCurrentSubTransactionId() != scan->subid;
}

static TupleTableSlot *
lazyIterateForeignScan(ForeignScanState *node)
{
	LazyScan   *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	if (!scan->gate_checked)
	{
		scan->gate_open = ExecQual(scan->gate, node->ss.ps.ps_ExprContext);
		scan->gate_checked = true;
	}
	if (!scan->gate_open)
		return ExecClearTuple(slot);

	if (!scan->begun && scan->rows == NULL)
	{
		begin_scan(node, scan);
		if (in_younger_subtransaction(scan))
			read_all_rows(node, scan);
		else if (scan->gate == NULL)
		{
			lend_to_stock(node, scan);
			node->fdwroutine = &stock;
			return stock.IterateForeignScan(node);
		}
	}

	if (scan->rows)
	{
		if (!tuplestore_gettupleslot(scan->rows, true, false, scan->rows_slot))
			return ExecClearTuple(slot);
		return ExecCopySlot(slot, scan->rows_slot);
	}
	lend_to_stock(node, scan);
	slot = stock.IterateForeignScan(node);
	take_back(node, scan);
	return slot;
}

static void
lazyReScanForeignScan(ForeignScanState *node)
{
	LazyScan   *scan = node->fdw_state;

	if (scan == NULL)
		return;
	scan->gate_checked = false;
	if (scan->rows && node->ss.ps.chgParam != NULL)
	{
		tuplestore_end(scan->rows);
		scan->rows = NULL;
	}
	else if (scan->rows)
		tuplestore_rescan(scan->rows);
	if (scan->begun)
	{
		lend_to_stock(node, scan);
		stock.ReScanForeignScan(node);
		take_back(node, scan);
	}
}

static void
lazyEndForeignScan(ForeignScanState *node)
{
	LazyScan   *scan = node->fdw_state;

	if (scan == NULL)
		return;
	if (scan->rows)
		tuplestore_end(scan->rows);
	if (scan->begun)
		end_scan(node, scan);
}

/* Writes connect at once; what is checked is only that they may. */

static void
require_active(Relation rel)
{
	split_require_active(GetForeignTable(RelationGetRelid(rel))->serverid);
}

static void
lazyBeginForeignModify(ModifyTableState *mtstate, ResultRelInfo *target,
					   List *fdw_private, int subplan_index, int eflags)
{
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		require_active(target->ri_RelationDesc);
	stock.BeginForeignModify(mtstate, target, fdw_private, subplan_index,
							 eflags);
}

static void
lazyBeginForeignInsert(ModifyTableState *mtstate, ResultRelInfo *target)
{
	require_active(target->ri_RelationDesc);
	stock.BeginForeignInsert(mtstate, target);
}

static void
lazyBeginDirectModify(ForeignScanState *node, int eflags)
{
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		split_require_active(((ForeignScan *) node->ss.ps.plan)->fs_server);
	stock.BeginDirectModify(node, eflags);
}

/*
 * run_ops_fdw_handler() returns fdw_handler
 */
Datum
run_ops_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	stock_routine();
	*routine = stock;
	routine->GetForeignRelSize = lazyGetForeignRelSize;
	routine->GetForeignPaths = lazyGetForeignPaths;
	routine->GetForeignPlan = lazyGetForeignPlan;
	routine->BeginForeignScan = lazyBeginForeignScan;
	routine->IterateForeignScan = lazyIterateForeignScan;
	routine->ReScanForeignScan = lazyReScanForeignScan;
	routine->EndForeignScan = lazyEndForeignScan;
	routine->BeginForeignModify = lazyBeginForeignModify;
	routine->BeginForeignInsert = lazyBeginForeignInsert;
	routine->BeginDirectModify = lazyBeginDirectModify;
	watch_foreign_writes(routine);
	PG_RETURN_POINTER(routine);
}

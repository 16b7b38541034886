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
 * execution, import, analyze.  What the planner is told is in
 * lazy_fdw_plan.c.
 *
 * Non-goals: no connections of its own, no remote SQL of its own, and nothing
 * known of postgres_fdw's private structs.
 */
#include "postgres.h"

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
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "reads/lazy_fdw.h"
#include "reads/seam_pruning.h"
#include "stores/read_gate.h"
#include "wire/connect_limit.h"
#include "wire/cross_store_writes.h"

PG_FUNCTION_INFO_V1(run_ops_fdw_handler);
PG_FUNCTION_INFO_V1(run_ops_fdw_validator);

/* filled once by stock_routine() */
FdwRoutine lazy_fdw_stock;

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
 * Fills lazy_fdw_stock.  postgres_fdw's functions are reached by library, not by
 * name in the catalog: it may be installed in any schema.
 */
static void
stock_routine(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	PGFunction	handler;

	if (lazy_fdw_stock.type == T_FdwRoutine)
		return;
	handler = load_external_function("$libdir/postgres_fdw",
									 "postgres_fdw_handler", true, NULL);
	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	lazy_fdw_stock = *(FdwRoutine *) DatumGetPointer(handler(fcinfo));
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
begin_stock_scan(ForeignScanState *node, int eflags)
{
	CONNECT_LIMIT_BEGIN(((ForeignScan *) node->ss.ps.plan)->fs_server);
	lazy_fdw_stock.BeginForeignScan(node, eflags);
	CONNECT_LIMIT_END();
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
		node->fdwroutine = &lazy_fdw_stock;
		begin_stock_scan(node, eflags);
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
	begin_stock_scan(node, scan->eflags);
	SetUserIdAndSecContext(userid, sec_context);

	MemoryContextSwitchTo(oldcontext);
	scan->begun = true;
	take_back(node, scan);
}

static void
end_scan(ForeignScanState *node, LazyScan *scan)
{
	lend_to_stock(node, scan);
	lazy_fdw_stock.EndForeignScan(node);
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
	while (slot = lazy_fdw_stock.IterateForeignScan(node), !TupIsNull(slot))
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
			node->fdwroutine = &lazy_fdw_stock;
			return lazy_fdw_stock.IterateForeignScan(node);
		}
	}

	if (scan->rows)
	{
		if (!tuplestore_gettupleslot(scan->rows, true, false, scan->rows_slot))
			return ExecClearTuple(slot);
		return ExecCopySlot(slot, scan->rows_slot);
	}
	lend_to_stock(node, scan);
	slot = lazy_fdw_stock.IterateForeignScan(node);
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
		lazy_fdw_stock.ReScanForeignScan(node);
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

/* Writes and ANALYZE connect at once; what is checked is that they may. */

static Oid
server_of(Relation rel)
{
	return GetForeignTable(RelationGetRelid(rel))->serverid;
}

static void
lazyBeginForeignModify(ModifyTableState *mtstate, ResultRelInfo *target,
					   List *fdw_private, int subplan_index, int eflags)
{
	Oid			serverid = server_of(target->ri_RelationDesc);

	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	lazy_fdw_stock.BeginForeignModify(mtstate, target, fdw_private, subplan_index,
									  eflags);
	CONNECT_LIMIT_END();
}

static void
lazyBeginForeignInsert(ModifyTableState *mtstate, ResultRelInfo *target)
{
	Oid			serverid = server_of(target->ri_RelationDesc);

	split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	lazy_fdw_stock.BeginForeignInsert(mtstate, target);
	CONNECT_LIMIT_END();
}

static void
lazyBeginDirectModify(ForeignScanState *node, int eflags)
{
	Oid			serverid = ((ForeignScan *) node->ss.ps.plan)->fs_server;

	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	lazy_fdw_stock.BeginDirectModify(node, eflags);
	CONNECT_LIMIT_END();
}

static void
lazyExecForeignTruncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	ListCell   *lc;

	foreach(lc, rels)
		split_require_active(server_of(lfirst(lc)));
	CONNECT_LIMIT_BEGIN(InvalidOid);
	lazy_fdw_stock.ExecForeignTruncate(rels, behavior, restart_seqs);
	CONNECT_LIMIT_END();
}

static List *
lazyImportForeignSchema(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	List	   *result = NIL;

	CONNECT_LIMIT_BEGIN(InvalidOid);
	result = lazy_fdw_stock.ImportForeignSchema(stmt, serverid);
	CONNECT_LIMIT_END();
	return result;
}

static bool
lazyAnalyzeForeignTable(Relation rel, AcquireSampleRowsFunc *func,
						BlockNumber *totalpages)
{
	Oid			serverid = server_of(rel);
	bool		result = false;

	split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	result = lazy_fdw_stock.AnalyzeForeignTable(rel, func, totalpages);
	CONNECT_LIMIT_END();
	return result;
}

/*
 * run_ops_fdw_handler() returns fdw_handler
 */
Datum
run_ops_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	stock_routine();
	*routine = lazy_fdw_stock;
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
	routine->ExecForeignTruncate = lazyExecForeignTruncate;
	routine->AnalyzeForeignTable = lazyAnalyzeForeignTable;
	routine->ImportForeignSchema = lazyImportForeignSchema;
	watch_foreign_writes(routine);
	PG_RETURN_POINTER(routine);
}

/*
 * row_recheck.c
 *		Evaluates an UPDATE or DELETE of a view again for the new version of a
 *		local row.
 *
 * If another transaction has changed a row since the statement began,
 * PostgreSQL does this at READ COMMITTED for a table: it waits for the other
 * transaction, locks the newest version of the row, evaluates the plan of the
 * statement for that version and the same rows of all other tables, and
 * changes the row, or leaves it out if it does not meet the conditions any
 * more.
 *
 * The one idea: the executor has all that is needed for it (EvalPlanQual), also
 * in a statement that fires INSTEAD OF triggers.  PostgreSQL does not use it
 * there, because it does not know which row of which table a row of the view
 * is.  This file knows it: the row is found by its key, and the scan that has
 * read it is marked (target_leaves.c).  The other scans of the target return
 * nothing meanwhile, so the store is not queried.
 *
 * Non-goals: rows of a store, and higher isolation levels.  There, a row that
 * another transaction has changed is an error.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/execdesc.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "nodes/nodeFuncs.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/compat.h"
#include "writes/row_recheck.h"

/* A query that the executor is running, and that may fire triggers. */
typedef struct RunningQuery
{
	QueryDesc  *query;
	struct RunningQuery *outer;
} RunningQuery;

static RunningQuery *running_queries = NULL;

static ExecutorRun_hook_type next_executor_run = NULL;
static ExecutorFinish_hook_type next_executor_finish = NULL;

/* ----------------------------------------------------------------
 *		The statement that fires a trigger
 * ----------------------------------------------------------------
 */

static bool
may_fire_triggers(QueryDesc *query)
{
	return query->operation != CMD_SELECT ||
		query->plannedstmt->hasModifyingCTE;
}

static void
note_executor_run(COMPAT_EXECUTOR_RUN_PARAMETERS)
{
	RunningQuery running = {query, running_queries};

	if (!may_fire_triggers(query))
	{
		next_executor_run(COMPAT_EXECUTOR_RUN_ARGUMENTS);
		return;
	}
	PG_TRY();
	{
		running_queries = &running;
		next_executor_run(COMPAT_EXECUTOR_RUN_ARGUMENTS);
	}
	PG_FINALLY();
	{
		running_queries = running.outer;
	}
	PG_END_TRY();
}

/* Statements below WITH may run to their end only here. */
static void
note_executor_finish(QueryDesc *query)
{
	RunningQuery running = {query, running_queries};

	PG_TRY();
	{
		running_queries = &running;
		next_executor_finish(query);
	}
	PG_FINALLY();
	{
		running_queries = running.outer;
	}
	PG_END_TRY();
}

/* The result relation to which the trigger belongs; NULL if it is not one. */
static ResultRelInfo *
target_of_trigger(ModifyTableState *statement, Trigger *trigger)
{
	for (int i = 0; i < statement->mt_nrels; i++)
	{
		TriggerDesc *triggers = statement->resultRelInfo[i].ri_TrigDesc;

		if (triggers != NULL && trigger >= triggers->triggers &&
			trigger < triggers->triggers + triggers->numtriggers)
			return &statement->resultRelInfo[i];
	}
	return NULL;
}

/*
 * The statement that fires the trigger.  It is part of the innermost running
 * query: the top of its plan, or below WITH.
 */
static ModifyTableState *
find_statement(TriggerData *trigdata)
{
	Trigger    *trigger = trigdata->tg_trigger;
	QueryDesc  *query;
	ListCell   *lc;

	if (running_queries == NULL)
		return NULL;
	query = running_queries->query;
	if (IsA(query->planstate, ModifyTableState) &&
		target_of_trigger((ModifyTableState *) query->planstate, trigger))
		return (ModifyTableState *) query->planstate;
	foreach(lc, query->estate->es_auxmodifytables)
	{
		if (target_of_trigger(lfirst_node(ModifyTableState, lc), trigger))
			return lfirst_node(ModifyTableState, lc);
	}
	return NULL;
}

/* ----------------------------------------------------------------
 *		The scans of its target
 * ----------------------------------------------------------------
 */

/*
 * Is the range table entry part of a target?  See target_leaves.c.  The entry
 * of a table that a subquery locks by FOR UPDATE looks the same, but has a row
 * mark as well.
 */
static bool
is_target(EState *estate, Index rti)
{
	ExecRowMark *mark = estate->es_rowmarks ? estate->es_rowmarks[rti - 1] : NULL;

	return exec_rt_fetch(rti, estate)->rellockmode == RowShareLock &&
		(mark == NULL || !RowMarkRequiresRowShareLock(mark->markType));
}

/* The scan of the target that reads a table. */
typedef struct TargetScan
{
	Oid			relid;
	Index		rti;			/* 0: not found */
} TargetScan;

static bool
find_scan(PlanState *node, TargetScan *scan)
{
	if (IsA(node->plan, SeqScan) || IsA(node->plan, IndexScan) ||
		IsA(node->plan, BitmapHeapScan))
	{
		Index		rti = ((Scan *) node->plan)->scanrelid;

		if (exec_rt_fetch(rti, node->state)->relid == scan->relid &&
			is_target(node->state, rti))
		{
			scan->rti = rti;
			return true;
		}
	}
	return planstate_tree_walker(node, find_scan, scan);
}

/* ----------------------------------------------------------------
 *		The row
 * ----------------------------------------------------------------
 */

void
report_changed_row(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update"),
			 errdetail("Another transaction has changed a row of table \"%s\" since the statement on its view began.",
					   get_rel_name(relid)),
			 errhint("Try the transaction again.")));
}

/*
 * The version that the statement has seen: by the key, and by the snapshot of
 * the statement, which is the active one.
 */
static bool
find_seen_version(WriteFrame *frame, StoreTable *table, Datum *keys,
				  char *nulls, LocalVersion *version)
{
	RightsStatement *statement;
	bool		found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	statement = routed_view_statement(frame->view, table, ACTION_FIND, NULL);
	if (frame_execute(frame, statement, keys, nulls, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a row that was seen");
	found = SPI_processed > 0;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		version->relid =
			DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));
		version->tid =
			*(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, desc, 2, &isnull));
	}
	SPI_finish();
	return found;
}

/*
 * Waits for other transactions, locks the newest version of the row, and puts
 * it into the slot.  False if there is none, if this transaction has changed it
 * since the statement began, or if it is the version that the statement has
 * seen.
 */
static bool
lock_newest_version(TriggerData *trigdata, Relation rel, ItemPointer tid,
					TupleTableSlot *slot)
{
	Snapshot	snapshot = GetActiveSnapshot();
	TM_FailureData failure;

	switch (table_tuple_lock(rel, tid, snapshot, slot, snapshot->curcid,
							 TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
							 LockTupleNoKeyExclusive : LockTupleExclusive,
							 LockWaitBlock, TUPLE_LOCK_FLAG_FIND_LAST_VERSION,
							 &failure))
	{
		case TM_Ok:
			return failure.traversed;
		case TM_Deleted:
		case TM_SelfModified:
			return false;
		default:
			report_changed_row(RelationGetRelid(rel));
			return false;
	}
}

/*
 * Does the result of the new evaluation come from the same rows of all other
 * tables?  For a table and most others the executor sees to that.  But it scans
 * the leaves of a UNION ALL again, such as another view over several stores,
 * and may find other rows there first.
 */
static bool
has_same_other_rows(EPQState *epqstate, EState *estate, TupleTableSlot *seen,
					TupleTableSlot *slot)
{
	ListCell   *lc;

	foreach(lc, epqstate->arowMarks)
	{
		ExecAuxRowMark *mark = lfirst(lc);
		Datum		was;
		Datum		is;
		bool		was_null;
		bool		is_null;

		if (mark->rowmark->markType != ROW_MARK_COPY ||
			is_target(estate, mark->rowmark->rti))
			continue;
		was = ExecGetJunkAttribute(seen, mark->wholeAttNo, &was_null);
		is = ExecGetJunkAttribute(slot, mark->wholeAttNo, &is_null);
		if (was_null != is_null ||
			(!is_null && !datum_image_eq(was, is, false, -1)))
			return false;
	}
	return true;
}

/* Makes the rows of the trigger those of the new evaluation. */
static void
replace_rows(TriggerData *trigdata, ResultRelInfo *target,
			 TupleTableSlot *slot)
{
	HeapTuple	old = trigdata->tg_trigtuple;
	bool		isnull;
	Datum		row = ExecGetJunkAttribute(slot, target->ri_RowIdAttNo, &isnull);

	/* it is the executor's own, which also reads it for RETURNING */
	old->t_data = DatumGetHeapTupleHeaderCopy(row);
	old->t_len = HeapTupleHeaderGetDatumLength(old->t_data);
	ExecForceStoreHeapTuple(old, trigdata->tg_trigslot, false);
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		ExecForceStoreHeapTuple(old, target->ri_oldTupleSlot, false);
		slot = ExecGetUpdateNewTuple(target, slot, target->ri_oldTupleSlot);
		trigdata->tg_newtuple = ExecCopySlotHeapTuple(slot);
	}
}

/*
 * Evaluates the statement that fires the trigger again, with this version of
 * the row.  False if the row does not meet the conditions any more.
 */
static bool
evaluate_again(TriggerData *trigdata, Relation rel, TupleTableSlot *version)
{
	ModifyTableState *statement = find_statement(trigdata);
	TargetScan	scan = {RelationGetRelid(rel), 0};
	EPQState   *epqstate;
	EState	   *estate;
	TupleTableSlot *seen;
	TupleTableSlot *slot;

	if (statement != NULL && (statement->operation == CMD_UPDATE ||
							  statement->operation == CMD_DELETE))
		(void) find_scan(outerPlanState(statement), &scan);
	/* not marked: see target_leaves.c */
	if (scan.rti == 0)
		report_changed_row(scan.relid);

	epqstate = &statement->mt_epqstate;
	estate = statement->ps.state;
	seen = epqstate->origslot;
	slot = EvalPlanQualSlot(epqstate, rel, scan.rti);
	ExecCopySlot(slot, version);
	slot->tts_tableOid = scan.relid;	/* which is not copied */
	EvalPlanQualBegin(epqstate);
	for (Index rti = 1; rti <= estate->es_range_table_size; rti++)
	{
		if (!is_target(estate, rti))
			continue;
		/* otherwise the scan would return the row as it was seen */
		epqstate->relsubs_rowmark[rti - 1] = NULL;
		if (rti != scan.rti &&
			exec_rt_fetch(rti, estate)->rtekind == RTE_RELATION)
			epqstate->relsubs_done[rti - 1] =
				compat_relsubs_blocked(epqstate)[rti - 1] = true;
	}
	do
		slot = EvalPlanQualNext(epqstate);
	while (!TupIsNull(slot) &&
		   !has_same_other_rows(epqstate, estate, seen, slot));
	if (!TupIsNull(slot))
		replace_rows(trigdata,
					 target_of_trigger(statement, trigdata->tg_trigger), slot);
	else
		slot = NULL;

	/*
	 * The next row begins anew, because subqueries below UNION ALL would keep
	 * the results of this one.
	 */
	EvalPlanQualEnd(epqstate);
	EvalPlanQualSetSlot(epqstate, seen);
	return slot != NULL;
}

bool
row_recheck(WriteFrame *frame, StoreTable *table, TriggerData *trigdata,
			Datum *keys, char *nulls, LocalVersion *version)
{
	Relation	rel;
	TupleTableSlot *slot;
	bool		found;

	Assert(!IsolationUsesXactSnapshot());
	if (!find_seen_version(frame, table, keys, nulls, version))
		return false;
	rel = table_open(version->relid, RowShareLock);
	slot = table_slot_create(rel, NULL);
	found = lock_newest_version(trigdata, rel, &version->tid, slot) &&
		evaluate_again(trigdata, rel, slot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return found;
}

bool
row_is_locked(TriggerData *trigdata, Oid relid)
{
	ModifyTableState *statement = find_statement(trigdata);

	if (statement == NULL)
		return false;
	for (Index rti = 1; rti <= statement->ps.state->es_range_table_size; rti++)
	{
		if (exec_rt_fetch(rti, statement->ps.state)->relid == relid &&
			is_target(statement->ps.state, rti))
			return true;
	}
	return false;
}

void
row_recheck_init(void)
{
	next_executor_run = ExecutorRun_hook ? ExecutorRun_hook :
		standard_ExecutorRun;
	ExecutorRun_hook = note_executor_run;
	next_executor_finish = ExecutorFinish_hook ? ExecutorFinish_hook :
		standard_ExecutorFinish;
	ExecutorFinish_hook = note_executor_finish;
}

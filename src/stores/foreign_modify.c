/*
 * foreign_modify.c
 *		INSERT, UPDATE, DELETE and TRUNCATE of foreign tables.
 *
 * An UPDATE or DELETE that the store cannot execute by itself reads the rows,
 * which locks them there, and then changes each by its key.  The one idea: the
 * key is in the plan, as the row identity that the planner asks for.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "optimizer/inherit.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ground/compat.h"
#include "ground/key_set.h"
#include "stores/foreign_modify.h"
#include "stores/read_gate.h"
#include "stores/remote_change.h"
#include "stores/remote_rows.h"
#include "wire/cross_store_writes.h"

/* the protocol counts the parameters of a statement in 16 bits */
#define MAX_VALUES 65535

/* the private list of a plan; EXPLAIN of postgres_fdw shows the first item */
enum
{
	MODIFY_SQL,
	MODIFY_COLUMNS,
	MODIFY_HOW					/* skip_conflicts and returning */
};

typedef struct StoreModify
{
	RemoteChange *change;
	AttInMetadata *in;
	const char *relation;
	int			nkeys;
	AttrNumber *keys;			/* where the plan has them */
	HTAB	   *changed;		/* keys, if a row may be met several times */
	MemoryContext row_context;
	Datum	   *values;			/* of one row */
	bool	   *nulls;
} StoreModify;

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* The name by which the plan carries a column of the key. */
static char *
key_name(int i)
{
	return psprintf("run_ops_key%d", i);
}

static void
storeAddForeignUpdateTargets(PlannerInfo *root, Index rtindex,
							 RangeTblEntry *target_rte, Relation target_relation)
{
	ListCell   *lc;

	foreach(lc, remote_key(RelationGetRelid(target_relation)))
	{
		AttrNumber	attno = lfirst_int(lc);
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target_relation), attno - 1);

		add_row_identity_var(root, makeVar(rtindex, attno, att->atttypid, att->atttypmod,
										   att->attcollation, 0),
							 rtindex, key_name(foreach_current_index(lc)));
	}
}

/* The columns that an UPDATE sends: triggers here may set any of them. */
static List *
columns_to_update(PlannerInfo *root, Index target, Relation rel)
{
	Bitmapset  *updated = compat_all_updated_columns(root, target);
	List	   *all = remote_columns(rel);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, all)
	{
		AttrNumber	attno = lfirst_int(lc);

		if (TupleDescAttr(RelationGetDescr(rel), attno - 1)->attgenerated)
			continue;
		if ((rel->trigdesc && rel->trigdesc->trig_update_before_row) ||
			bms_is_member(attno - FirstLowInvalidHeapAttributeNumber, updated))
			result = lappend_int(result, attno);
	}
	return result;
}

/* Must the store return the rows, for RETURNING, WITH CHECK OPTION or triggers? */
static bool
wants_rows(Relation rel, CmdType operation, List *returning, List *check_options)
{
	TriggerDesc *triggers = rel->trigdesc;

	return returning != NIL || check_options != NIL ||
		(triggers && operation == CMD_INSERT && triggers->trig_insert_after_row) ||
		(triggers && operation == CMD_UPDATE && triggers->trig_update_after_row) ||
		(triggers && operation == CMD_DELETE && triggers->trig_delete_after_row);
}

static void *
nth_or_null(List *list, int n)
{
	return list == NIL ? NULL : list_nth(list, n);
}

static List *
storePlanForeignModify(PlannerInfo *root, ModifyTable *plan, Index target,
					   int subplan_index)
{
	Relation	rel = table_open(planner_rt_fetch(target, root)->relid, NoLock);
	CmdType		operation = plan->operation;
	bool		skip = plan->onConflictAction == ONCONFLICT_NOTHING;
	bool		returning = wants_rows(rel, operation,
									   nth_or_null(plan->returningLists, subplan_index),
									   nth_or_null(plan->withCheckOptionLists, subplan_index));
	List	   *columns = operation == CMD_INSERT ? remote_columns(rel) :
		operation == CMD_UPDATE ? columns_to_update(root, target, rel) : NIL;
	List	   *result;

	if (plan->onConflictAction == ONCONFLICT_UPDATE)
		elog(ERROR, "unexpected ON CONFLICT specification: %d",
			 (int) plan->onConflictAction);
	result = list_make3(makeString(remote_change_text(rel, operation, columns, skip, returning)),
						columns, list_make2_int(skip, returning));
	table_close(rel, NoLock);
	return result;
}

/* ----------------------------------------------------------------
 *		Execution
 * ----------------------------------------------------------------
 */

static void
begin_modify(EState *estate, ResultRelInfo *target, CmdType operation,
			 List *columns, bool skip, bool returning, Plan *subplan)
{
	Relation	rel = target->ri_RelationDesc;
	Oid			serverid = GetForeignServerIdByRelId(RelationGetRelid(rel));
	Wire	   *wire = wire_get(serverid, compat_modify_user(target, estate));
	StoreModify *modify = palloc0(sizeof(StoreModify));

	split_require_active(serverid);
	modify->change = remote_change_begin(rel, operation, columns, skip, returning, wire,
										 wire_join(wire, estate, WIRE_WRITE, estate->es_query_cxt));
	modify->in = TupleDescGetAttInMetadata(RelationGetDescr(rel));
	modify->relation = RelationGetRelationName(rel);
	modify->nkeys = list_length(modify->change->keys);
	modify->keys = palloc(sizeof(AttrNumber) * modify->nkeys);
	modify->row_context = AllocSetContextCreate(CurrentMemoryContext, "run_ops row",
												ALLOCSET_DEFAULT_SIZES);
	modify->values = palloc(sizeof(Datum) * Max(modify->change->nvalues, 1));
	modify->nulls = palloc(sizeof(bool) * Max(modify->change->nvalues, 1));
	for (int i = 0; i < modify->nkeys; i++)
	{
		modify->keys[i] = ExecFindJunkAttributeInTlist(subplan->targetlist, key_name(i));
		if (!AttributeNumberIsValid(modify->keys[i]))
			elog(ERROR, "could not find junk column \"%s\"", key_name(i));
	}
	/* a scan meets each row once, a join does not */
	if (operation == CMD_UPDATE &&
		!(IsA(subplan, ForeignScan) && ((ForeignScan *) subplan)->scan.scanrelid > 0))
		modify->changed = key_set_create(CurrentMemoryContext);
	target->ri_FdwState = modify;
}

static void
storeBeginForeignModify(ModifyTableState *mtstate, ResultRelInfo *target,
						List *fdw_private, int subplan_index, int eflags)
{
	List	   *how;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	how = (List *) list_nth(fdw_private, MODIFY_HOW);
	begin_modify(mtstate->ps.state, target, mtstate->operation,
				 list_nth(fdw_private, MODIFY_COLUMNS), linitial_int(how), lsecond_int(how),
				 outerPlanState(mtstate)->plan);
}

/* COPY, and rows of a partitioned table. */
static void
storeBeginForeignInsert(ModifyTableState *mtstate, ResultRelInfo *target)
{
	ModifyTable *plan = (ModifyTable *) mtstate->ps.plan;
	Relation	rel = target->ri_RelationDesc;

	if (target->ri_FdwState || target->ri_usesFdwDirectModify)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot route tuples into foreign table to be updated \"%s\"",
						RelationGetRelationName(rel))));
	if (plan && plan->onConflictAction == ONCONFLICT_UPDATE)
		elog(ERROR, "unexpected ON CONFLICT specification: %d",
			 (int) plan->onConflictAction);
	begin_modify(mtstate->ps.state, target, CMD_INSERT, remote_columns(rel),
				 plan && plan->onConflictAction == ONCONFLICT_NOTHING,
				 wants_rows(rel, CMD_INSERT, target->ri_returningList,
							target->ri_WithCheckOptions),
				 NULL);
}

/* The values of one row: the key from the plan, and those that are written. */
static void
add_row(StoreModify *modify, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	RemoteChange *change = modify->change;
	TupleDesc	desc = modify->in->tupdesc;
	int			n = 0;
	ListCell   *lc;

	for (; n < modify->nkeys; n++)
		modify->values[n] = ExecGetJunkAttribute(plan_slot, modify->keys[n], &modify->nulls[n]);
	foreach(lc, change->columns)
	{
		AttrNumber	attno = lfirst_int(lc);

		if (TupleDescAttr(desc, attno - 1)->attgenerated)
			continue;
		modify->values[n] = slot_getattr(slot, attno, &modify->nulls[n]);
		n++;
	}
	remote_change_add(change, modify->values, modify->nulls);
}

/* Sends what was added.  The returned rows are stored in the slots. */
static int
send_rows(StoreModify *modify, TupleTableSlot **slots)
{
	RemoteChange *change = modify->change;
	PGresult   *result = remote_change_send(change);
	int			written = atoi(PQcmdTuples(result));

	if (written > 0)
		note_foreign_write(change->relid);
	if (change->returning)
	{
		MemoryContext oldcontext;

		MemoryContextReset(modify->row_context);
		oldcontext = MemoryContextSwitchTo(modify->row_context);
		for (int i = 0; i < written; i++)
		{
			ExecClearTuple(slots[i]);
			(void) remote_row_values(result, i, modify->in, change->returned, modify->relation,
									 slots[i]->tts_values, slots[i]->tts_isnull);
			ExecStoreVirtualTuple(slots[i]);
		}
		MemoryContextSwitchTo(oldcontext);
	}
	return written;
}

static TupleTableSlot **
storeExecForeignBatchInsert(EState *estate, ResultRelInfo *target,
							TupleTableSlot **slots, TupleTableSlot **plan_slots,
							int *n)
{
	for (int i = 0; i < *n; i++)
		add_row(target->ri_FdwState, slots[i], plan_slots[i]);
	*n = send_rows(target->ri_FdwState, slots);
	return *n > 0 ? slots : NULL;
}

/*
 * Was the row that was added last changed before?  As in PostgreSQL, only the
 * first of several changes counts.  The store cannot tell, because it gets them
 * as several statements.
 */
static bool
changed_before(StoreModify *modify)
{
	RemoteChange *change = modify->change;
	const char **key = &change->values[(change->n - 1) * change->nvalues];
	StringInfoData bytes;

	if (modify->changed == NULL)
		return false;
	initStringInfo(&bytes);
	for (int i = 0; i < modify->nkeys; i++)
		appendBinaryStringInfo(&bytes, key[i] ? key[i] : "", key[i] ? strlen(key[i]) + 1 : 1);
	return !key_set_add(modify->changed, bytes.data, bytes.len);
}

static TupleTableSlot *
storeExecForeignOne(EState *estate, ResultRelInfo *target,
					TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	StoreModify *modify = target->ri_FdwState;

	add_row(modify, slot, plan_slot);
	if (changed_before(modify))
	{
		remote_change_forget(modify->change);
		return NULL;
	}
	return send_rows(modify, &slot) > 0 ? slot : NULL;
}

static void
storeEndForeignModify(EState *estate, ResultRelInfo *target)
{
	StoreModify *modify = target->ri_FdwState;

	if (modify)
		wire_leave(modify->change->statement);
}

static int
batch_size_option(Oid relid)
{
	ForeignTable *table = GetForeignTable(relid);
	int			result = 1;
	ListCell   *lc;

	/* options of the table override those of the server */
	foreach(lc, list_concat_copy(GetForeignServer(table->serverid)->options, table->options))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "batch_size") == 0)
			(void) parse_int(defGetString(def), &result, 0, NULL);
	}
	return result;
}

/*
 * Rows are sent one by one where each has to come back, and where a trigger may
 * look at those before it.
 */
static int
storeGetForeignModifyBatchSize(ResultRelInfo *target)
{
	StoreModify *modify = target->ri_FdwState;
	int			size = batch_size_option(RelationGetRelid(target->ri_RelationDesc));

	if (target->ri_projectReturning != NULL || target->ri_WithCheckOptions != NIL ||
		(target->ri_TrigDesc &&
		 (target->ri_TrigDesc->trig_insert_before_row ||
		  target->ri_TrigDesc->trig_insert_after_row)))
		return 1;
	if (modify)
		size = modify->change->nvalues > 0 ? Min(size, MAX_VALUES / modify->change->nvalues) : 1;
	return size;
}

/* All tables are of one server. */
static void
storeExecForeignTruncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	StringInfoData sql;
	Oid			serverid = GetForeignServerIdByRelId(RelationGetRelid((Relation) linitial(rels)));
	ListCell   *lc;

	split_require_active(serverid);
	initStringInfo(&sql);
	foreach(lc, rels)
	{
		Oid			relid = RelationGetRelid((Relation) lfirst(lc));
		ListCell   *option;

		foreach(option, list_concat_copy(GetForeignTable(relid)->options,
										 GetForeignServer(serverid)->options))
		{
			DefElem    *def = lfirst_node(DefElem, option);

			if (strcmp(def->defname, "truncatable") != 0)
				continue;
			if (!defGetBoolean(def))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("foreign table \"%s\" does not allow truncates",
								RelationGetRelationName((Relation) lfirst(lc)))));
			break;
		}
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) ? ", " : "TRUNCATE ",
						 remote_table_name(relid));
	}
	appendStringInfo(&sql, " %s IDENTITY %s", restart_seqs ? "RESTART" : "CONTINUE",
					 behavior == DROP_CASCADE ? "CASCADE" : "RESTRICT");
	(void) wire_exec(wire_get(serverid, GetUserId()), WIRE_WRITE, sql.data, 0, NULL);
	foreach(lc, rels)
		note_foreign_write(RelationGetRelid((Relation) lfirst(lc)));
}

void
foreign_modify_routine(FdwRoutine *routine)
{
	routine->AddForeignUpdateTargets = storeAddForeignUpdateTargets;
	routine->PlanForeignModify = storePlanForeignModify;
	routine->BeginForeignModify = storeBeginForeignModify;
	routine->ExecForeignInsert = storeExecForeignOne;
	routine->ExecForeignBatchInsert = storeExecForeignBatchInsert;
	routine->GetForeignModifyBatchSize = storeGetForeignModifyBatchSize;
	routine->ExecForeignUpdate = storeExecForeignOne;
	routine->ExecForeignDelete = storeExecForeignOne;
	routine->EndForeignModify = storeEndForeignModify;
	routine->BeginForeignInsert = storeBeginForeignInsert;
	routine->EndForeignInsert = storeEndForeignModify;
	routine->ExecForeignTruncate = storeExecForeignTruncate;
}

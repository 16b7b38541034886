/*
 * foreign_modify.c
 *		INSERT, UPDATE, DELETE and TRUNCATE of foreign tables.
 *
 * An UPDATE or DELETE that the store cannot execute by itself reads the rows,
 * which locks them there, and then changes each by its key.  The key is in the
 * plan, as the row identity that the planner asks for.
 *
 * Mostly the rows are sent as one set (gathered_changes.c).  Only where the executor
 * has to see each row before the next is read, they are written one by one: triggers of
 * the foreign table, WITH CHECK OPTION, COPY, partitions.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
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
#include "stores/gathered_changes.h"
#include "stores/read_gate.h"
#include "stores/remote_rows.h"
#include "wire/cross_store_writes.h"

/* the private list of a plan; EXPLAIN of postgres_fdw shows the first item */
enum
{
	MODIFY_SQL,
	MODIFY_COLUMNS,
	MODIFY_RETURNING,
	MODIFY_CONFLICT,			/* text of ON CONFLICT; NULL: none */
	MODIFY_EARLY				/* one of EarlyRows */
};

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* The names by which the plan carries the ctid, and a column of the key. */
#define CTID_NAME "run_ops_ctid"

static char *
key_name(int i)
{
	return psprintf("run_ops_key%d", i);
}

/* May what the statement calls change rows that it changes itself? */
static bool
calls_volatile_functions(PlannerInfo *root)
{
	for (; root; root = root->parent_root)
	{
		if (contain_volatile_functions((Node *) root->parse))
			return true;
	}
	return false;
}

static bool
reads_cte(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		if (lfirst_node(RangeTblEntry, lc)->rtekind == RTE_CTE)
			return true;
	}
	return false;
}

typedef struct TableOfChange
{
	PlannerGlobal *glob;
	Oid			relid;
} TableOfChange;

/*
 * May a query read the table after it was changed?  A change does so only below
 * RETURNING, unless it reads what another one returns.
 */
static bool
reads_table_later(Node *node, void *context)
{
	TableOfChange *table = context;
	Query	   *query = (Query *) node;
	ListCell   *lc;

	if (node == NULL)
		return false;
	/* of the query that is being planned */
	if (IsA(node, SubPlan) &&
		reads_table_later((Node *) list_nth_node(PlannerInfo, table->glob->subroots,
												 ((SubPlan *) node)->plan_id - 1)->parse, context))
		return true;
	if (!IsA(node, Query))
		return expression_tree_walker(node, reads_table_later, context);
	if (query->commandType != CMD_SELECT && !reads_cte(query))
		return reads_table_later((Node *) query->returningList, context) ||
			reads_table_later((Node *) query->cteList, context);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && rte->relid == table->relid &&
			foreach_current_index(lc) + 1 != query->resultRelation)
			return true;
	}
	return query_tree_walker(query, reads_table_later, context, 0);
}

static EarlyRows
early_rows(PlannerInfo *root, Relation target)
{
	TupleConstr *constr = RelationGetDescr(target)->constr;
	TableOfChange table = {root->glob, RelationGetRelid(target)};
	PlannerInfo *top = root;

	/* what a volatile function reads and changes depends on what was written before */
	if (calls_volatile_functions(root))
		return EARLY_NEVER;
	if (root->parse->returningList == NIL)
		return EARLY_FOR_CHANGES;
	/* generated columns are the store's */
	if (root->parse->commandType != CMD_DELETE && constr && constr->has_generated_stored)
		return EARLY_NEVER;
	while (top->parent_root)
		top = top->parent_root;
	return reads_table_later((Node *) top->parse, &table) ? EARLY_ALWAYS : EARLY_FOR_CHANGES;
}

bool
reads_rows_again(PlannerInfo *root, Oid relid)
{
	Relation	target = table_open(relid, NoLock);
	bool		result = early_rows(root, target) == EARLY_ALWAYS;

	table_close(target, NoLock);
	return result;
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
	if (calls_volatile_functions(root))
		add_row_identity_var(root, makeVar(rtindex, SelfItemPointerAttributeNumber, TIDOID, -1,
										   InvalidOid, 0),
							 rtindex, CTID_NAME);
	/* PostgreSQL adds it for UPDATE */
	if (root->parse->commandType == CMD_DELETE && root->parse->returningList &&
		early_rows(root, target_relation) != EARLY_NEVER)
		add_row_identity_var(root, makeWholeRowVar(target_rte, rtindex, 0, false),
							 rtindex, WHOLE_ROW_NAME);
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

/*
 * What follows ON CONFLICT.  Of an INSERT into a view it is in the place of SET,
 * before its values; see conflict_clause.c.
 */
static const char *
conflict_text(ModifyTable *plan)
{
	if (plan == NULL || plan->onConflictAction != ONCONFLICT_NOTHING)
		return NULL;
	if (plan->onConflictSet == NIL)
		return " DO NOTHING";
	return TextDatumGetCString(castNode(Const, linitial_node(TargetEntry, plan->onConflictSet)->expr)->constvalue);
}

static List *
storePlanForeignModify(PlannerInfo *root, ModifyTable *plan, Index target,
					   int subplan_index)
{
	Relation	rel = table_open(planner_rt_fetch(target, root)->relid, NoLock);
	CmdType		operation = plan->operation;
	const char *conflict = conflict_text(plan);
	bool		returning = wants_rows(rel, operation,
									   nth_or_null(plan->returningLists, subplan_index),
									   nth_or_null(plan->withCheckOptionLists, subplan_index));
	List	   *columns = operation == CMD_INSERT ? remote_columns(rel) :
		operation == CMD_UPDATE ? columns_to_update(root, target, rel) : NIL;
	List	   *result;

	if (plan->onConflictAction == ONCONFLICT_UPDATE)
		elog(ERROR, "unexpected ON CONFLICT specification: %d",
			 (int) plan->onConflictAction);
	result = list_make5(makeString(remote_change_text(rel, operation, columns, conflict, returning)),
						columns, makeInteger(returning),
						conflict ? makeString(pstrdup(conflict)) : NULL,
						makeInteger(conflict ? EARLY_NEVER : early_rows(root, rel)));
	table_close(rel, NoLock);
	return result;
}

/* ----------------------------------------------------------------
 *		Execution
 * ----------------------------------------------------------------
 */

static void
begin_modify(EState *estate, ResultRelInfo *target, CmdType operation,
			 List *columns, const char *conflict, bool returning)
{
	Relation	rel = target->ri_RelationDesc;
	Oid			serverid = GetForeignServerIdByRelId(RelationGetRelid(rel));
	StoreModify *modify = palloc0(sizeof(StoreModify));

	split_require_active(serverid);
	modify->estate = estate;
	modify->target = target;
	modify->operation = operation;
	modify->columns = columns;
	modify->conflict = conflict;
	modify->returning = returning;
	modify->wire = wire_get(serverid, compat_modify_user(target, estate));
	modify->statement = wire_join(modify->wire, estate, WIRE_WRITE, estate->es_query_cxt);
	target->ri_FdwState = modify;
}

/*
 * Finds the key in the rows of the plan.  If they are gathered, a function may
 * change a row of the store before the statement does.
 */
static void
find_keys(StoreModify *modify, Plan *plan, bool gathered)
{
	AttrNumber	ctid = gathered ? ExecFindJunkAttributeInTlist(plan->targetlist, CTID_NAME) : 0;

	modify->nkeys = list_length(remote_key(RelationGetRelid(modify->target->ri_RelationDesc)));
	modify->keys = palloc(sizeof(AttrNumber) * (modify->nkeys + 1));
	for (int i = 0; i < modify->nkeys; i++)
	{
		modify->keys[i] = ExecFindJunkAttributeInTlist(plan->targetlist, key_name(i));
		if (!AttributeNumberIsValid(modify->keys[i]))
			elog(ERROR, "could not find junk column \"%s\"", key_name(i));
	}
	modify->version = AttributeNumberIsValid(ctid);
	if (modify->version)
		modify->keys[modify->nkeys++] = ctid;
	/* a scan meets each row once, a join does not */
	if (!(IsA(plan, ForeignScan) && ((ForeignScan *) plan)->scan.scanrelid > 0))
		modify->changed = key_set_create(CurrentMemoryContext);
}

static TupleTableSlot **
storeExecForeignBatchInsert(EState *estate, ResultRelInfo *target,
							TupleTableSlot **slots, TupleTableSlot **plan_slots,
							int *n)
{
	StoreModify *modify = target->ri_FdwState;

	for (int i = 0; i < *n; i++)
		store_modify_add(modify, slots[i], plan_slots[i]);
	*n = store_modify_send(modify, NIL);
	MemoryContextReset(modify->row_context);
	for (int i = 0; modify->returning && i < *n; i++)
		store_modify_returned(modify, i, slots[i]);
	return *n > 0 ? slots : NULL;
}

static TupleTableSlot *
storeExecForeignOne(EState *estate, ResultRelInfo *target,
					TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	StoreModify *modify = target->ri_FdwState;

	if (modify->gathered)
		return gathered_row(modify, slot, plan_slot) ? slot : NULL;
	store_modify_add(modify, slot, plan_slot);
	if (store_modify_changed_before(modify) || store_modify_send(modify, NIL) == 0)
		return NULL;
	if (modify->returning)
	{
		MemoryContextReset(modify->row_context);
		store_modify_returned(modify, 0, slot);
	}
	return slot;
}

static void
storeBeginForeignModify(ModifyTableState *statement, ResultRelInfo *target,
						List *fdw_private, int subplan_index, int eflags)
{
	ModifyTable *plan = (ModifyTable *) statement->ps.plan;
	Node	   *conflict;
	StoreModify *modify;
	bool		gathered = statement->mt_nrels == 1 && target->ri_TrigDesc == NULL &&
		plan->withCheckOptionLists == NIL;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	conflict = list_nth(fdw_private, MODIFY_CONFLICT);
	begin_modify(statement->ps.state, target, statement->operation,
				 list_nth(fdw_private, MODIFY_COLUMNS), conflict ? strVal(conflict) : NULL,
				 intVal(list_nth(fdw_private, MODIFY_RETURNING)) != 0);
	modify = target->ri_FdwState;
	for (int i = 1; i < list_length(plan->onConflictSet); i++)
		modify->conflict_values =
			lappend(modify->conflict_values,
					ExecInitExpr(list_nth_node(TargetEntry, plan->onConflictSet, i)->expr,
								 &statement->ps));
	if (modify->operation != CMD_INSERT)
		find_keys(modify, outerPlan(plan), gathered);
	if (gathered)
		gather_changes(modify, statement, intVal(list_nth(fdw_private, MODIFY_EARLY)));
}

/* COPY, and rows of a partitioned table. */
static void
storeBeginForeignInsert(ModifyTableState *statement, ResultRelInfo *target)
{
	ModifyTable *plan = (ModifyTable *) statement->ps.plan;
	Relation	rel = target->ri_RelationDesc;

	if (target->ri_FdwState || target->ri_usesFdwDirectModify)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot route tuples into foreign table to be updated \"%s\"",
						RelationGetRelationName(rel))));
	if (plan && plan->onConflictAction == ONCONFLICT_UPDATE)
		elog(ERROR, "unexpected ON CONFLICT specification: %d",
			 (int) plan->onConflictAction);
	begin_modify(statement->ps.state, target, CMD_INSERT, remote_columns(rel),
				 conflict_text(plan),
				 wants_rows(rel, CMD_INSERT, target->ri_returningList,
							target->ri_WithCheckOptions));
}

static void
storeEndForeignModify(EState *estate, ResultRelInfo *target)
{
	StoreModify *modify = target->ri_FdwState;

	if (modify == NULL)
		return;
	if (modify->gathered)
		gathered_end(modify);
	wire_leave(modify->statement);
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
	/* give_row() counts on being asked for one */
	return modify && modify->gathered ? 1 : size;
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

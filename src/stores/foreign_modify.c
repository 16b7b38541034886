/*
 * foreign_modify.c
 *		INSERT, UPDATE, DELETE and TRUNCATE of foreign tables.
 *
 * An UPDATE or DELETE that the store cannot execute by itself reads the rows,
 * which locks them there, and then changes each by its key.  The key is in the
 * plan, as the row identity that the planner asks for.
 *
 * The one idea: a statement here is one statement there.  So before anything is
 * written, all rows of the plan are read, into a tuplestore, and then they are
 * sent as one set.  What the plan reads in the store is never changed by the
 * statement itself, and constraints are checked there for all rows together.
 * The same holds for several changes of one statement, below WITH or of the tables
 * of several stores: first all rows are read, and what a store is sent is one
 * statement, below WITH as well.  If the statement needs what a change returns before
 * that, it is computed here, and compared with what the store returns afterwards.
 * The executor does not know of this: it still gets row after row from the plan.
 * Only where it has to see each row before the next is read, they are written
 * one by one: triggers of the foreign table, WITH CHECK OPTION, COPY, partitions.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
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
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "ground/key_set.h"
#include "stores/foreign_modify.h"
#include "stores/foreign_scan.h"
#include "stores/read_gate.h"
#include "stores/remote_change.h"
#include "stores/remote_rows.h"
#include "wire/cross_store_writes.h"

/* A set that is larger than this is sent in several statements. */
#define MAX_SET_BYTES (64 * 1024 * 1024)

/* the private list of a plan; EXPLAIN of postgres_fdw shows the first item */
enum
{
	MODIFY_SQL,
	MODIFY_COLUMNS,
	MODIFY_RETURNING,
	MODIFY_CONFLICT,			/* text of ON CONFLICT; NULL: none */
	MODIFY_EARLY				/* one of EarlyRows */
};

/*
 * Is it computed here what the statement needs of a change, before the store is told?
 * Its number of rows, and those of RETURNING.
 */
typedef enum EarlyRows
{
	EARLY_NEVER,
	EARLY_FOR_CHANGES,			/* if another change reads what one returns */
	EARLY_ALWAYS				/* the statement reads the table in another place */
} EarlyRows;

typedef struct StoreModify
{
	dlist_node	node;			/* in "gathering" */
	EState	   *estate;
	ResultRelInfo *target;
	CmdType		operation;
	List	   *columns;		/* as the plan has them */
	const char *conflict;
	List	   *conflict_values;	/* its values, as expressions */
	bool		returning;
	Wire	   *wire;
	WireStatement *statement;
	RemoteChange *change;		/* NULL until there is a row */
	AttInMetadata *in;
	int			nkeys;
	AttrNumber *keys;			/* where the plan has them */
	bool		version;		/* with the ctid */
	AttrNumber *columns_at;		/* and where a row has the columns */
	HTAB	   *changed;		/* keys, if a row may be met several times */
	bool		asked;			/* is it known whether */
	bool		skips_rows;		/* the store may write other rows than it is sent? */
	MemoryContext row_context;
	Datum	   *values;			/* of one row */
	bool	   *nulls;

	/* if the rows of the plan are gathered */
	PlanState  *plan;
	ExecProcNodeMtd read_plan;
	List	   *new_columns;	/* of UPDATE, in the order of the plan */
	bool		counts;			/* for the number of rows of the query */
	bool		waits;			/* its rows depend on those of another change */
	EarlyRows	early;
	AttrNumber	whole_row;		/* where the plan of a DELETE has the row */
	bool		promised;		/* its rows are given before they are sent */
	Tuplestorestate *promises;	/* those of INSERT and UPDATE that were given */
	RemoteText	promised_text;	/* of their columns */
	bool		filled;			/* the next set is in "change" */
	bool		ready;			/* its rows can be given */
	bool		whole;			/* and it is all there is */
	bool		begun;			/* a set was sent */
	bool		sent;			/* it was sent with that of another change */
	int			written;		/* rows that are to be counted then */
	Tuplestorestate *rows;
	TupleTableSlot *stored;		/* a row of "rows" */
	TupleTableSlot *given;		/* the same, of the kind that the plan returns */
	int		   *answers;		/* for each row of the set: the number of its
								 * row in the result; -1: it was not changed */
	int			max_rows;		/* room in "answers" */
	int			nrows;			/* of the set */
	int			row;			/* the next one to give */
} StoreModify;

/* The statements whose rows come from give_row(). */
static dlist_head gathering = DLIST_STATIC_INIT(gathering);

static ExecutorFinish_hook_type next_executor_finish = NULL;

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* The names by which the plan carries the ctid, the row, and a column of the key. */
#define CTID_NAME "run_ops_ctid"
#define WHOLE_ROW_NAME "wholerow"

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
 * Where a row has the columns that are written: by their numbers in a row of the
 * table.  The plan of an UPDATE gives new values only, in an order of its own.
 */
static AttrNumber *
columns_in_row(StoreModify *modify)
{
	AttrNumber *result = palloc(sizeof(AttrNumber) * Max(modify->change->nvalues, 1));
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, modify->change->columns)
	{
		AttrNumber *at = &result[foreach_current_index(lc)];

		*at = lfirst_int(lc);
		if (modify->plan == NULL || modify->operation != CMD_UPDATE)
			continue;
		*at = InvalidAttrNumber;
		foreach(lc2, modify->new_columns)
		{
			if (lfirst_int(lc2) == lfirst_int(lc))
				*at = foreach_current_index(lc2) + 1;
		}
		if (*at == InvalidAttrNumber)
			elog(ERROR, "could not find column %d in the plan", lfirst_int(lc));
	}
	return result;
}

/* The values of ON CONFLICT are the same for all rows. */
static void
set_conflict_values(StoreModify *modify)
{
	int			n = list_length(modify->conflict_values);
	const char **texts = palloc0(sizeof(char *) * n);
	RemoteText	text = {0};
	ExprContext *econtext = CreateExprContext(modify->estate);
	ListCell   *lc;
	int			nest_level;

	text.output = palloc0(sizeof(FmgrInfo) * n);
	foreach(lc, modify->conflict_values)
		remote_text_add(&text, exprType((Node *) ((ExprState *) lfirst(lc))->expr));
	nest_level = remote_text_begin(&text);
	foreach(lc, modify->conflict_values)
	{
		int			i = foreach_current_index(lc);
		bool		isnull;
		Datum		value = ExecEvalExprSwitchContext(lfirst(lc), econtext, &isnull);

		if (!isnull)
			texts[i] = OutputFunctionCall(&text.output[i], value);
	}
	remote_text_end(nest_level);
	remote_change_set_extra(modify->change, n, texts);
}

/* A leaf of a generic plan mostly has no row, so this is left until there is one. */
static RemoteChange *
get_change(StoreModify *modify)
{
	Relation	rel = modify->target->ri_RelationDesc;
	MemoryContext oldcontext;

	if (modify->change)
		return modify->change;
	oldcontext = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	modify->in = TupleDescGetAttInMetadata(RelationGetDescr(rel));
	modify->row_context = AllocSetContextCreate(CurrentMemoryContext, "run_ops row",
												ALLOCSET_DEFAULT_SIZES);
	modify->change = remote_change_begin(rel, modify->operation, modify->columns, modify->conflict,
										 modify->returning, modify->version, modify->wire,
										 modify->statement);
	modify->values = palloc(sizeof(Datum) * Max(modify->change->nvalues, 1));
	modify->nulls = palloc(sizeof(bool) * Max(modify->change->nvalues, 1));
	modify->columns_at = columns_in_row(modify);
	if (modify->conflict_values)
		set_conflict_values(modify);
	MemoryContextSwitchTo(oldcontext);
	return modify->change;
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

/* Adds one row: the key from the plan, and the values that are written. */
static void
add_row(StoreModify *modify, TupleTableSlot *row, TupleTableSlot *plan_slot)
{
	RemoteChange *change = get_change(modify);
	int			n = 0;

	for (; n < modify->nkeys; n++)
		modify->values[n] = ExecGetJunkAttribute(plan_slot, modify->keys[n], &modify->nulls[n]);
	for (; n < change->nvalues; n++)
		modify->values[n] = slot_getattr(row, modify->columns_at[n - modify->nkeys], &modify->nulls[n]);
	remote_change_add(change, modify->values, modify->nulls);
}

/*
 * Was the row that was added last changed before?  As in PostgreSQL, only the
 * first of several changes counts.
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
	if (key_set_add(modify->changed, bytes.data, bytes.len))
		return false;
	remote_change_forget_last(change);
	return true;
}

/*
 * Sends what was added, and before it the whole of other changes.  Returns how many
 * rows the store has written of the last one.
 */
static int
send_rows(StoreModify *modify, List *others)
{
	List	   *before = NIL;
	ListCell   *lc;

	begin_scans_before_write(modify->statement);
	foreach(lc, others)
		before = lappend(before, ((StoreModify *) lfirst(lc))->change);
	remote_change_send(modify->change, before);
	if (modify->change->written > 0)
		note_statement_write(modify->statement, modify->change->relid);
	foreach(lc, others)
	{
		StoreModify *other = lfirst(lc);

		note_statement_write(other->statement, other->change->relid);
	}
	return modify->change->written;
}

/* May the store write other rows of these tables than it is sent? */
#define SKIPS_ROWS \
	"SELECT c.relkind NOT IN ('r', 'p') OR c.relkind = 'r' AND c.relhassubclass OR c.relhasrules " \
	"OR EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE NOT g.tgisinternal AND g.tgtype & 3 = 3 " \
	"AND (g.tgrelid = c.oid OR g.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)))) " \
	"FROM pg_catalog.unnest($1::pg_catalog.regclass[]) WITH ORDINALITY AS t (oid, ord) " \
	"LEFT JOIN pg_catalog.pg_class AS c USING (oid) ORDER BY t.ord"

/* The store is asked once a statement, for all tables that it changes there. */
static bool
skips_rows(StoreModify *modify)
{
	List	   *all = list_make1(modify);
	const char **names;
	const char *array;
	PGresult   *answer;
	dlist_iter	iter;
	ListCell   *lc;

	if (modify->asked)
		return modify->skips_rows;
	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other->statement == modify->statement && !other->asked && other != modify)
			all = lappend(all, other);
	}
	names = palloc(sizeof(char *) * list_length(all));
	foreach(lc, all)
		names[foreach_current_index(lc)] =
			remote_table_name(RelationGetRelid(((StoreModify *) lfirst(lc))->target->ri_RelationDesc));
	array = remote_array(names, list_length(all), 1);
	answer = wire_exec(modify->wire, WIRE_WRITE, SKIPS_ROWS, 1, &array);
	remote_result_check(answer, list_length(all), 1);
	foreach(lc, all)
	{
		StoreModify *other = lfirst(lc);

		other->asked = true;
		other->skips_rows = strcmp(PQgetvalue(answer, foreach_current_index(lc), 0), "f") != 0;
	}
	return modify->skips_rows;
}

/*
 * The rows were locked in the store when they were read.  If it has not changed
 * all of them, then a trigger there has left them out, or something that this
 * statement has called has changed them meanwhile, which is an error in any table.
 */
static void
check_all_changed(StoreModify *modify, int sent)
{
	int			written = modify->change->written;

	if (written >= sent || modify->operation == CMD_INSERT)
		return;
	if (modify->version ? written + modify->change->left_out < sent : !skips_rows(modify))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("row of table %s in store \"%s\" was already changed by an operation triggered by the current command",
						remote_table_name(modify->change->relid), wire_store(modify->wire)),
				 errhint("Consider using an AFTER trigger instead of a BEFORE trigger to propagate changes to other rows.")));
}

/* Are there rows that were not sent yet? */
static bool
has_set(StoreModify *modify)
{
	return modify->change != NULL && modify->change->n > 0;
}

/*
 * The row that RETURNING shows, as it is sent.  The slot has it already, but for
 * DELETE.
 */
static void
promise_row(StoreModify *modify, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	HeapTupleData tuple;
	bool		isnull;

	if (modify->operation != CMD_DELETE)
	{
		tuplestore_puttupleslot(modify->promises, slot);
		return;
	}
	tuple.t_data = DatumGetHeapTupleHeader(ExecGetJunkAttribute(plan_slot, modify->whole_row, &isnull));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	ExecForceStoreHeapTuple(heap_copytuple(&tuple), slot, true);
}

static void
report_broken_promise(StoreModify *modify, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("store \"%s\" has written other rows of table %s than it was sent",
					wire_store(modify->wire), remote_table_name(modify->change->relid)),
			 errdetail_internal("%s", detail),
			 errhint("The statement needs what RETURNING shows before the store has written it. Use two statements.")));
}

/* Compares a row of the result with what was promised. */
static void
check_promise(StoreModify *modify, int row, TupleTableSlot *promise)
{
	RemoteChange *change = modify->change;
	int			nest_level = remote_text_begin(&modify->promised_text);
	ListCell   *lc;

	foreach(lc, change->returned)
	{
		Form_pg_attribute att = TupleDescAttr(promise->tts_tupleDescriptor, lfirst_int(lc) - 1);
		int			i = foreach_current_index(lc);
		bool		isnull;
		Datum		value = slot_getattr(promise, att->attnum, &isnull);

		if (PQgetisnull(change->result, row, i) != isnull ||
			(!isnull && strcmp(PQgetvalue(change->result, row, i),
							   OutputFunctionCall(&modify->promised_text.output[i], value)) != 0))
			report_broken_promise(modify, psprintf(_("Column \"%s\" has another value."), NameStr(att->attname)));
	}
	remote_text_end(nest_level);
}

/*
 * The statement has used rows that the store had not written yet.  They are compared
 * with what it has written now.
 */
static void
check_promises(StoreModify *modify, int sent)
{
	TupleTableSlot *promise;

	if (modify->change->written != sent)
		report_broken_promise(modify, psprintf(_("It has written %d rows of %d."), modify->change->written, sent));
	if (modify->promises == NULL)
		return;
	promise = MakeSingleTupleTableSlot(RelationGetDescr(modify->target->ri_RelationDesc),
									   &TTSOpsMinimalTuple);
	for (int i = 0; i < modify->row; i++)
	{
		if (modify->answers[i] < 0)
			continue;
		if (!tuplestore_gettupleslot(modify->promises, true, false, promise))
			break;
		check_promise(modify, modify->answers[i], promise);
		MemoryContextReset(modify->row_context);
	}
	ExecDropSingleTupleTableSlot(promise);
	tuplestore_end(modify->promises);
	modify->promises = NULL;
}

/* Stores a row of the result in the slot. */
static void
store_returned(StoreModify *modify, int row, TupleTableSlot *slot)
{
	RemoteChange *change = modify->change;
	MemoryContext oldcontext = MemoryContextSwitchTo(modify->row_context);

	ExecClearTuple(slot);
	(void) remote_row_values(change->result, row, modify->in, change->returned,
							 RelationGetRelationName(modify->target->ri_RelationDesc),
							 slot->tts_values, slot->tts_isnull);
	ExecStoreVirtualTuple(slot);
	MemoryContextSwitchTo(oldcontext);
}

static TupleTableSlot **
storeExecForeignBatchInsert(EState *estate, ResultRelInfo *target,
							TupleTableSlot **slots, TupleTableSlot **plan_slots,
							int *n)
{
	StoreModify *modify = target->ri_FdwState;

	for (int i = 0; i < *n; i++)
		add_row(modify, slots[i], plan_slots[i]);
	*n = send_rows(modify, NIL);
	MemoryContextReset(modify->row_context);
	for (int i = 0; modify->returning && i < *n; i++)
		store_returned(modify, i, slots[i]);
	return *n > 0 ? slots : NULL;
}

static TupleTableSlot *
storeExecForeignOne(EState *estate, ResultRelInfo *target,
					TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	StoreModify *modify = target->ri_FdwState;
	int			answer = 0;

	if (modify->plan)
		/* it was sent already, or is promised */
		answer = modify->answers[modify->row - 1];
	else
	{
		add_row(modify, slot, plan_slot);
		if (changed_before(modify) || send_rows(modify, NIL) == 0)
			return NULL;
	}
	if (answer < 0)
		return NULL;
	if (modify->promised && has_set(modify))
		promise_row(modify, slot, plan_slot);
	else if (modify->returning)
	{
		MemoryContextReset(modify->row_context);
		store_returned(modify, answer, slot);
	}
	return slot;
}

/* ----------------------------------------------------------------
 *		All rows of the plan, as one set
 * ----------------------------------------------------------------
 */

static TupleTableSlot *give_row(PlanState *plan);

/*
 * Reads all rows of the plan.  Meanwhile the change has none: what the plan reads of
 * other changes is sent without it.
 */
static void
gather(StoreModify *modify)
{
	PlanState  *plan = modify->plan;
	MemoryContext oldcontext = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);

	tuplestore_set_eflags(rows, 0);
	(void) tuplestore_alloc_read_pointer(rows, 0);
	modify->stored = ExecInitExtraTupleSlot(modify->estate, ExecGetResultType(plan),
											&TTSOpsMinimalTuple);
	modify->given = ExecInitExtraTupleSlot(modify->estate, ExecGetResultType(plan),
										   ExecGetResultSlotOps(plan, NULL));
	MemoryContextSwitchTo(oldcontext);

	plan->ExecProcNode = modify->read_plan;
	for (;;)
	{
		TupleTableSlot *slot = ExecProcNode(plan);

		if (TupIsNull(slot))
			break;
		tuplestore_puttupleslot(rows, slot);
		ResetPerTupleExprContext(modify->estate);
		CHECK_FOR_INTERRUPTS();
	}
	plan->ExecProcNode = give_row;
	modify->rows = rows;
}

static bool reads_returned_rows(PlanState *plan);

static bool
is_change_or_reads_it(PlanState *node, void *context)
{
	if (IsA(node, ModifyTableState) ||
		(IsA(node, CteScanState) && reads_returned_rows(((CteScanState *) node)->cteplanstate)))
		return true;
	return planstate_tree_walker(node, is_change_or_reads_it, context);
}

/* Does the plan read what a change below WITH returns?  Subqueries may do so for it. */
static bool
reads_returned_rows(PlanState *plan)
{
	int			param = -1;

	check_stack_depth();
	while ((param = bms_next_member(plan->plan->allParam, param)) >= 0)
	{
		SubPlanState *subplan = plan->state->es_param_exec_vals[param].execPlan;

		if (subplan && reads_returned_rows(subplan->planstate))
			return true;
	}
	return is_change_or_reads_it(plan, NULL);
}

/*
 * Reads the rows of the changes of a statement, but of those that read what another
 * one returns.  If there is one, all are sent at the end, together with it.
 */
static void
gather_all(EState *estate)
{
	dlist_iter	iter;
	bool		any_waits = false;

	dlist_foreach(iter, &gathering)
	{
		StoreModify *modify = dlist_container(StoreModify, node, iter.cur);

		if (modify->estate != estate || modify->rows != NULL || modify->waits)
			continue;
		modify->waits = reads_returned_rows(modify->plan);
		any_waits |= modify->waits;
		if (!modify->waits)
			gather(modify);
	}
	dlist_foreach(iter, &gathering)
	{
		StoreModify *modify = dlist_container(StoreModify, node, iter.cur);

		if (any_waits && modify->estate == estate && modify->early == EARLY_FOR_CHANGES)
			modify->early = EARLY_ALWAYS;
	}
}

/* Appends what is known of a row of the set. */
static void
note_answer(StoreModify *modify, int answer)
{
	if (modify->nrows == modify->max_rows)
	{
		modify->max_rows = Max(modify->max_rows * 2, 64);
		if (modify->answers == NULL)
			modify->answers = MemoryContextAllocHuge(modify->estate->es_query_cxt,
													 sizeof(int) * modify->max_rows);
		else
			modify->answers = repalloc_huge(modify->answers, sizeof(int) * modify->max_rows);
	}
	modify->answers[modify->nrows++] = answer;
}

/* Replaces the numbers of the rows in the set by the numbers of their answers. */
static void
match_answers(StoreModify *modify, int sent)
{
	PGresult   *result = modify->change->result;
	int		   *answer_of = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int) * (sent + 1));

	for (int i = 0; i <= sent; i++)
		answer_of[i] = -1;
	for (int i = 0; i < PQntuples(result); i++)
	{
		int			n = sent == 1 ? 1 : atoi(PQgetvalue(result, i, PQnfields(result) - 1));

		if (n > 0 && n <= sent)
			answer_of[n] = i;
	}
	for (int i = 0; i < modify->nrows; i++)
	{
		if (modify->answers[i] > 0)
			modify->answers[i] = answer_of[modify->answers[i]];
	}
	pfree(answer_of);
}

/* Puts the next rows into the set.  A leaf mostly has none, and writes no SQL then. */
static void
fill_set(StoreModify *modify)
{
	if (modify->filled)
		return;
	modify->filled = true;
	modify->ready = false;
	modify->nrows = modify->row = 0;
	tuplestore_select_read_pointer(modify->rows, 0);
	while (modify->change == NULL ||
		   MemoryContextMemAllocated(modify->change->values_context, true) < MAX_SET_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		modify->whole = !tuplestore_gettupleslot(modify->rows, true, false, modify->stored);
		if (modify->whole)
			break;
		add_row(modify, modify->stored, modify->stored);
		note_answer(modify, changed_before(modify) ? -1 : modify->change->n);
	}
}

/* May its set be sent at the end of the statement? */
static bool
may_promise(StoreModify *modify)
{
	if (modify->early != EARLY_ALWAYS || !modify->whole || !has_set(modify))
		return false;
	/* the question begins the transaction in the store */
	begin_scans_before_write(modify->statement);
	return !skips_rows(modify);
}

/* Can what the change writes be a part of the statement that another one sends? */
static bool
can_be_part(StoreModify *modify)
{
	if (modify->counts || modify->rows == NULL)
		return false;
	fill_set(modify);
	return modify->whole && has_set(modify) && !may_promise(modify);
}

/* Notes what the store has done with a set; last: of the statement there. */
static void
take_answers(StoreModify *modify, int sent, bool last)
{
	RemoteChange *change = modify->change;

	modify->filled = false;
	modify->ready = true;
	modify->begun = true;
	modify->written = 0;
	if (modify->returning || last)
		check_all_changed(modify, sent);
	if (!modify->returning)
	{
		modify->written = modify->counts ? change->written : 0;
		modify->nrows = modify->row = 0;
	}
	else if (modify->operation == CMD_INSERT)
	{
		remote_result_check(change->result, Min(change->written, sent), 0);
		modify->nrows = change->written;
		for (int i = 0; i < change->written; i++)
			modify->answers[i] = i;
	}
	else
		match_answers(modify, sent);
	if (modify->promised && (modify->returning || last))
		check_promises(modify, sent);
}

/* Sends the set, and with it those of other changes. */
static void
send_set(StoreModify *modify, List *others)
{
	List	   *all = lappend(list_copy(others), modify);
	int		   *sent = palloc(sizeof(int) * list_length(all));
	ListCell   *lc;

	foreach(lc, all)
		sent[foreach_current_index(lc)] = ((StoreModify *) lfirst(lc))->change->n;
	(void) send_rows(modify, others);
	foreach(lc, all)
		take_answers(lfirst(lc), sent[foreach_current_index(lc)], lnext(all, lc) == NULL);
	pfree(sent);
}

static void
promise(StoreModify *modify)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	ListCell   *lc;

	modify->promised = modify->ready = true;
	modify->change->waits = modify->waits;
	/* they are sent in this order */
	dlist_delete(&modify->node);
	dlist_push_tail(&gathering, &modify->node);
	if (!modify->returning)
	{
		modify->nrows = 0;
		if (modify->counts)
			modify->estate->es_processed += modify->change->n;
	}
	else if (modify->operation != CMD_DELETE)
	{
		modify->promises = tuplestore_begin_heap(false, false, work_mem);
		modify->promised_text.output = palloc0(sizeof(FmgrInfo) * list_length(modify->change->returned));
		foreach(lc, modify->change->returned)
			remote_text_add(&modify->promised_text,
							TupleDescAttr(RelationGetDescr(modify->target->ri_RelationDesc), lfirst_int(lc) - 1)->atttypid);
	}
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Sends what the statement has promised in the store of a change, in that order, but
 * the one whose rows are counted is the last.
 */
static void
keep_promises(StoreModify *modify)
{
	StoreModify *last = NULL;
	List	   *all = NIL;
	dlist_iter	iter;

	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other->statement != modify->statement || !has_set(other))
			continue;
		if (other->counts)
			last = other;
		else
			all = lappend(all, other);
	}
	if (last == NULL)
	{
		last = llast(all);
		all = list_delete_last(all);
	}
	send_set(last, all);
}

/* At the end, after the changes that nobody has read, before triggers. */
static void
finish_executor(QueryDesc *query)
{
	EState	   *estate = query->estate;
	MemoryContext oldcontext = MemoryContextSwitchTo(estate->es_query_cxt);
	bool		any = false;
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, &gathering)
		any |= dlist_container(StoreModify, node, iter.cur)->estate == estate;
	if (any)
		estate->es_direction = ForwardScanDirection;
	foreach(lc, any ? estate->es_auxmodifytables : NIL)
	{
		TupleTableSlot *slot;

		do
		{
			ResetPerTupleExprContext(estate);
			slot = ExecProcNode(lfirst(lc));
		} while (!TupIsNull(slot));
	}
	dlist_foreach(iter, &gathering)
	{
		StoreModify *modify = dlist_container(StoreModify, node, iter.cur);

		if (modify->estate == estate && has_set(modify))
			keep_promises(modify);
	}
	MemoryContextSwitchTo(oldcontext);
	next_executor_finish(query);
}

/*
 * Sends the next set.  False if there is no row left.  modify->nrows is how many
 * rows are to be given to the executor: none if nothing is returned, and what
 * INSERT returns does not depend on the row that was given.
 *
 * With it go the sets of other changes in the same store.  The one whose rows are
 * counted, which is the last in the statement, comes last there as well.
 */
static bool
next_set(StoreModify *modify)
{
	StoreModify *last = modify;
	List	   *others = NIL;
	dlist_iter	iter;
	ListCell   *lc;

	if (modify->sent)
	{
		modify->sent = false;
		modify->estate->es_processed += modify->written;
		return true;
	}
	if (modify->promised)
		return false;
	fill_set(modify);
	if (modify->nrows == 0)
		return false;
	if (may_promise(modify))
	{
		promise(modify);
		return true;
	}
	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other == modify || other->statement != modify->statement || other->sent ||
			(other->returning && other->begun))
			continue;
		if (other->counts && other->rows != NULL && !may_promise(other) && can_be_part(modify))
		{
			fill_set(other);
			if (has_set(other))
				last = other;
		}
		else if (can_be_part(other))
			others = lappend(others, other);
	}
	if (last != modify)
		others = lappend(others, modify);
	if (has_set(last))
		send_set(last, others);
	else
	{
		/* each of its rows was changed before */
		last->change->written = 0;
		take_answers(last, 0, true);
	}
	foreach(lc, others)
	{
		StoreModify *other = lfirst(lc);

		other->sent = other != modify && other->returning && other->begun;
	}
	if (last == modify)
		modify->estate->es_processed += modify->written;
	else
		last->sent = true;
	return true;
}

/* What the executor calls for the next row of the plan. */
static TupleTableSlot *
give_row(PlanState *plan)
{
	StoreModify *modify = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &gathering)
	{
		modify = dlist_container(StoreModify, node, iter.cur);
		if (modify->plan == plan)
			break;
	}
	Assert(modify != NULL && modify->plan == plan);
	if (modify->rows == NULL)
	{
		gather_all(modify->estate);
		if (modify->rows == NULL)
			gather(modify);
	}
	while (!modify->ready || modify->row == modify->nrows)
	{
		if (!next_set(modify))
			return NULL;
	}
	modify->row++;
	tuplestore_select_read_pointer(modify->rows, 1);
	if (!tuplestore_gettupleslot(modify->rows, true, false, modify->stored))
		elog(ERROR, "could not read a row that was sent");
	return ExecCopySlot(modify->given, modify->stored);
}

static void
forget_gathering(void *arg)
{
	dlist_delete(&((StoreModify *) arg)->node);
}

/* A row that another change of the statement changes is not changed again. */
static void
share_changed(StoreModify *modify)
{
	dlist_iter	iter;

	if (modify->operation == CMD_INSERT)
		return;
	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other->estate != modify->estate || other->operation == CMD_INSERT ||
			RelationGetRelid(other->target->ri_RelationDesc) != RelationGetRelid(modify->target->ri_RelationDesc))
			continue;
		if (other->changed == NULL)
			other->changed = key_set_create(modify->estate->es_query_cxt);
		modify->changed = other->changed;
		return;
	}
}

/*
 * From now on give_row() stands between the plan and the executor, until the
 * memory of the query goes away.
 */
static void
begin_gathering(StoreModify *modify, ModifyTableState *statement)
{
	MemoryContextCallback *forget = palloc0(sizeof(MemoryContextCallback));

	modify->plan = outerPlanState(statement);
	modify->read_plan = modify->plan->ExecProcNode;
	modify->counts = statement->canSetTag;
	if (modify->operation == CMD_UPDATE)
		modify->new_columns = linitial(((ModifyTable *) statement->ps.plan)->updateColnosLists);
	share_changed(modify);
	dlist_push_head(&gathering, &modify->node);
	forget->func = forget_gathering;
	forget->arg = modify;
	MemoryContextRegisterResetCallback(modify->estate->es_query_cxt, forget);
	modify->plan->ExecProcNode = give_row;
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
	modify->early = intVal(list_nth(fdw_private, MODIFY_EARLY));
	if (modify->operation == CMD_DELETE && modify->returning && modify->early != EARLY_NEVER)
	{
		modify->whole_row = ExecFindJunkAttributeInTlist(outerPlan(plan)->targetlist, WHOLE_ROW_NAME);
		if (!AttributeNumberIsValid(modify->whole_row))
			elog(ERROR, "could not find junk column \"%s\"", WHOLE_ROW_NAME);
	}
	if (gathered)
		begin_gathering(modify, statement);
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
	if (modify->promised && has_set(modify))
		elog(ERROR, "rows of foreign table \"%s\" were not sent",
			 RelationGetRelationName(target->ri_RelationDesc));
	wire_leave(modify->statement);
	/* its temporary files belong to the statement */
	if (modify->rows)
		tuplestore_end(modify->rows);
	modify->rows = NULL;
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
	return modify && modify->plan ? 1 : size;
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

void
foreign_modify_init(void)
{
	next_executor_finish = ExecutorFinish_hook ? ExecutorFinish_hook : standard_ExecutorFinish;
	ExecutorFinish_hook = finish_executor;
}

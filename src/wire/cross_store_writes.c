/*
 * cross_store_writes.c
 *		Transactions that write to more than one database.
 *
 * The stores commit one after the other in XACT_EVENT_PRE_COMMIT, before the
 * local transaction.  What fails after that leaves rows there without their
 * local counterpart.  The one idea: note which databases a transaction writes
 * to, and look at the notes just before the first of them commits.
 *
 * Writes to a store are noted where they are made, writes to tables of this
 * database where a statement ends: the executor, COPY, TRUNCATE, and CREATE
 * TABLE AS.  A row count of zero is no write.  Where the count of a table is
 * not known, as below WITH, the table counts as written.
 *
 * What remains possible with "allow" and "warn": a crash, or the loss of a
 * connection, between two commits.  A serialization failure is not among it:
 * the check is made here, before the remote commits.  With "atomic", the
 * commits are those of atomic_commit.c.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "storage/predicate.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ground/errors.h"
#include "wire/cross_store_writes.h"

/* run_ops_split.cross_store_writes */
typedef enum CrossStoreWrites
{
	CROSS_STORE_WRITES_ALLOW,
	CROSS_STORE_WRITES_WARN,
	CROSS_STORE_WRITES_ERROR,
	CROSS_STORE_WRITES_ATOMIC
} CrossStoreWrites;

static const struct config_enum_entry cross_store_writes_options[] = {
	{"allow", CROSS_STORE_WRITES_ALLOW, false},
	{"warn", CROSS_STORE_WRITES_WARN, false},
	{"error", CROSS_STORE_WRITES_ERROR, false},
	{"atomic", CROSS_STORE_WRITES_ATOMIC, false},
	{NULL, 0, false}
};

static int	cross_store_writes = CROSS_STORE_WRITES_WARN;

/* A table that was written to: the first of a server, each of this database. */
typedef struct TableWrite
{
	Oid			serverid;		/* InvalidOid: this database */
	Oid			relid;
	int			nest_level;		/* of the transaction that wrote */
} TableWrite;

/* of the current transaction, in its memory */
static List *writes = NIL;

/* Did the transaction begin before this library was loaded? */
static bool unwatched = false;

static ExecutorFinish_hook_type next_executor_finish = NULL;
static ProcessUtility_hook_type next_process_utility = NULL;

/* ----------------------------------------------------------------
 *		What was written
 * ----------------------------------------------------------------
 */

static TableWrite *
first_write(bool foreign)
{
	ListCell   *lc;

	foreach(lc, writes)
	{
		TableWrite *write = lfirst(lc);

		if (OidIsValid(write->serverid) == foreign)
			return write;
	}
	return NULL;
}

static void
note_write(Oid serverid, Oid relid)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	TableWrite *write;
	MemoryContext oldcontext;
	ListCell   *lc;

	foreach(lc, writes)
	{
		write = lfirst(lc);
		if (write->serverid == serverid && write->nest_level <= nest_level &&
			(OidIsValid(serverid) || write->relid == relid))
			return;
	}
	oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	write = palloc(sizeof(TableWrite));
	write->serverid = serverid;
	write->relid = relid;
	write->nest_level = nest_level;
	writes = lappend(writes, write);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Temporary tables are nobody else's concern, and catalog changes say nothing
 * about rows.
 */
static void
note_local_write(Oid relid, char relkind, char persistence)
{
	if ((relkind == RELKIND_RELATION ||
		 relkind == RELKIND_PARTITIONED_TABLE) &&
		persistence != RELPERSISTENCE_TEMP &&
		relid >= FirstNormalObjectId)
		note_write(InvalidOid, relid);
}

/*
 * What was written unseen: before this library was loaded in the middle of a
 * transaction, or by an apply worker, which has no statements.  Who writes to a
 * table holds a lock on it until the transaction ends.  A lock does not tell
 * whether a row was found, so this may note too much, but never too little.
 * Only a new table without a page has no rows for sure.
 */
static void
note_locked_tables(void)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];
		Oid			relid = lock->locktag.locktag_field2;
		Relation	rel;

		if (lock->pid == MyProcPid &&
			lock->locktag.locktag_type == LOCKTAG_RELATION &&
			lock->locktag.locktag_field1 == MyDatabaseId &&
			(lock->holdMask & (LOCKBIT_ON(RowExclusiveLock) |
							   LOCKBIT_ON(AccessExclusiveLock))) != 0 &&
			get_rel_relkind(relid) == RELKIND_RELATION)
		{
			rel = table_open(relid, NoLock);
			if (rel->rd_createSubid == InvalidSubTransactionId ||
				RelationGetNumberOfBlocks(rel) > 0)
				note_local_write(relid, RELKIND_RELATION,
								 rel->rd_rel->relpersistence);
			table_close(rel, NoLock);
		}
	}
}

void
note_foreign_write(Oid relid)
{
	if (first_write(true) == NULL && (unwatched || IsLogicalWorker()))
		note_locked_tables();
	note_write(GetForeignServerIdByRelId(relid), relid);
}

static void
at_end_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
						 SubTransactionId parentSubid, void *arg)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	ListCell   *lc;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	foreach(lc, writes)
	{
		TableWrite *write = lfirst(lc);

		if (write->nest_level < nest_level)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			write->nest_level = nest_level - 1;
		else
			writes = foreach_delete_current(writes, lc);
	}
}

/* ----------------------------------------------------------------
 *		Writes to tables of this database
 * ----------------------------------------------------------------
 */

static void
note_result_relations(List *result_relations)
{
	ListCell   *lc;

	foreach(lc, result_relations)
	{
		Relation	rel = ((ResultRelInfo *) lfirst(lc))->ri_RelationDesc;

		/* the rows of a partitioned table are in its partitions */
		if (rel->rd_rel->relkind == RELKIND_RELATION)
			note_local_write(RelationGetRelid(rel), RELKIND_RELATION,
							 rel->rd_rel->relpersistence);
	}
}

static void
watch_executor_finish(QueryDesc *query)
{
	PlannedStmt *plan = query->plannedstmt;
	EState	   *estate = query->estate;

	next_executor_finish(query);

	if ((query->operation == CMD_SELECT && !plan->hasModifyingCTE) ||
		(estate->es_processed == 0 && plan->canSetTag &&
		 !plan->hasModifyingCTE))
		return;
	note_result_relations(estate->es_opened_result_relations);
	note_result_relations(estate->es_tuple_routing_result_relations);
}

static void
note_named_table(RangeVar *name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);

	if (OidIsValid(relid))
		note_local_write(relid, get_rel_relkind(relid),
						 get_rel_persistence(relid));
}

static void
watch_process_utility(PlannedStmt *pstmt, const char *query_string,
					  bool read_only_tree, ProcessUtilityContext context,
					  ParamListInfo params, QueryEnvironment *query_env,
					  DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	NodeTag		tag = nodeTag(stmt);
	QueryCompletion completion;
	ListCell   *lc;

	if (qc == NULL)
	{
		InitializeQueryCompletion(&completion);
		qc = &completion;
	}
	next_process_utility(pstmt, query_string, read_only_tree, context, params,
						 query_env, dest, qc);

	/* other statements may be gone by now, as with COMMIT */
	if (tag == T_CopyStmt)
	{
		if (((CopyStmt *) stmt)->is_from && qc->nprocessed > 0)
			note_named_table(((CopyStmt *) stmt)->relation);
	}
	else if (tag == T_TruncateStmt)
	{
		foreach(lc, ((TruncateStmt *) stmt)->relations)
			note_named_table(lfirst_node(RangeVar, lc));
	}
	else if (tag == T_CreateTableAsStmt)
	{
		if (qc->nprocessed > 0)
			note_named_table(((CreateTableAsStmt *) stmt)->into->rel);
	}
	else if (tag == T_ExplainStmt)
	{
		/* which says nothing of the rows that it has made */
		Node	   *explained = castNode(Query, ((ExplainStmt *) stmt)->query)->utilityStmt;

		if (explained != NULL && IsA(explained, CreateTableAsStmt))
			note_named_table(((CreateTableAsStmt *) explained)->into->rel);
	}
}

/* ----------------------------------------------------------------
 *		The decision
 * ----------------------------------------------------------------
 */

/* Tables and servers may have been dropped since. */
static const char *
describe_table(Oid relid)
{
	const char *name = get_rel_name(relid);

	return name ? psprintf("table \"%s.%s\"",
						   get_namespace_name(get_rel_namespace(relid)), name) :
		"a table that was dropped since";
}

static const char *
describe_server(Oid serverid)
{
	ForeignServer *server = GetForeignServerExtended(serverid, FSV_MISSING_OK);

	return server ? psprintf("server \"%s\"", server->servername) :
		"a server that was dropped since";
}

static void
report_cross_store_writes(TableWrite *one, TableWrite *other)
{
	ereport(cross_store_writes == CROSS_STORE_WRITES_ERROR ? ERROR : WARNING,
			(errcode(ERRCODE_RUN_OPS_CROSS_STORE_WRITES),
			 errmsg("transaction writes to more than one database"),
			 errdetail("It has written to %s of %s, and to %s of %s.",
					   describe_table(one->relid), describe_server(one->serverid),
					   describe_table(other->relid),
					   OidIsValid(other->serverid) ?
					   describe_server(other->serverid) : "this database"),
			 errhint("The databases commit one after the other: a crash in between keeps one part only. "
					 "Write to one database in a transaction, or set run_ops_split.cross_store_writes.")));
}

/*
 * A write to another database than that one; NULL when there is none.  What
 * was written here is gone with its table, and without a transaction ID nothing
 * was.
 */
static TableWrite *
other_write(TableWrite *one)
{
	TableWrite *local = NULL;
	ListCell   *lc;

	foreach(lc, writes)
	{
		TableWrite *write = lfirst(lc);

		if (OidIsValid(write->serverid))
		{
			if (write != one)
				return write;
		}
		else if (local == NULL && get_rel_name(write->relid) != NULL)
			local = write;
	}
	return TransactionIdIsValid(GetTopTransactionIdIfAny()) ? local : NULL;
}

bool
refuse_cross_store_writes(void)
{
	TableWrite *one = first_write(true);
	TableWrite *other;

	if (one == NULL)
		return false;

	/*
	 * A serializable transaction that is to lose must do so now.  PostgreSQL
	 * checks again after this, which then succeeds: once a transaction has
	 * passed, others have to give way.
	 */
	PreCommit_CheckForSerializationFailure();

	if (cross_store_writes == CROSS_STORE_WRITES_ALLOW ||
		(other = other_write(one)) == NULL)
		return false;
	if (cross_store_writes == CROSS_STORE_WRITES_ATOMIC)
		return true;
	report_cross_store_writes(one, other);
	return false;
}

bool
cross_store_writes_are_atomic(void)
{
	return cross_store_writes == CROSS_STORE_WRITES_ATOMIC;
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		writes = NIL;
		unwatched = false;
	}
}

void
cross_store_writes_init(void)
{
	DefineCustomEnumVariable("run_ops_split.cross_store_writes",
							 "What is done about a transaction that writes to more than one database.",
							 "With atomic it commits in all of them or in none. Otherwise it is not atomic: allow it, warn, or raise an error before anything is committed.",
							 &cross_store_writes,
							 CROSS_STORE_WRITES_WARN,
							 cross_store_writes_options,
							 PGC_USERSET,
							 0,
							 NULL, NULL, NULL);
	RegisterXactCallback(at_end_of_transaction, NULL);
	RegisterSubXactCallback(at_end_of_subtransaction, NULL);
	unwatched = IsTransactionState();
	next_executor_finish = ExecutorFinish_hook ? ExecutorFinish_hook :
		standard_ExecutorFinish;
	ExecutorFinish_hook = watch_executor_finish;
	next_process_utility = ProcessUtility_hook ? ProcessUtility_hook :
		standard_ProcessUtility;
	ProcessUtility_hook = watch_process_utility;
}

/*
 * cross_store_writes.c
 *		Transactions that write to more than one database.
 *
 * postgres_fdw commits the remote transactions in XACT_EVENT_PRE_COMMIT, one
 * after the other, before the local one.  What fails after that leaves remote
 * rows without their local counterpart.  The one idea: look at what a
 * transaction has written just before postgres_fdw commits anything.
 *
 * Callbacks of transactions are called in the reverse order of their
 * registration, and postgres_fdw registers its own with the first connection
 * of the session.  So this one registers anew at the first foreign write of a
 * transaction, when there is a connection for sure.
 *
 * What remains possible with "allow" and "warn": a crash, or the loss of a
 * connection, between two commits.  A serialization failure is not among it:
 * the check is made here, before the remote commits.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "foreign/foreign.h"
#include "pgstat.h"
#include "storage/predicate.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "cross_store_writes.h"
#include "run_ops_split.h"

/* run_ops_split.cross_store_writes */
typedef enum CrossStoreWrites
{
	CROSS_STORE_WRITES_ALLOW,
	CROSS_STORE_WRITES_WARN,
	CROSS_STORE_WRITES_ERROR
} CrossStoreWrites;

static const struct config_enum_entry cross_store_writes_options[] = {
	{"allow", CROSS_STORE_WRITES_ALLOW, false},
	{"warn", CROSS_STORE_WRITES_WARN, false},
	{"error", CROSS_STORE_WRITES_ERROR, false},
	{NULL, 0, false}
};

static int	cross_store_writes = CROSS_STORE_WRITES_WARN;

/* The first foreign table written to on a server. */
typedef struct ForeignWrite
{
	Oid			serverid;
	Oid			relid;
	int			nest_level;		/* of the transaction that wrote */
} ForeignWrite;

/* of the current transaction, in its memory */
static List *foreign_writes = NIL;

/* postgres_fdw's own callbacks */
static FdwRoutine stock;

static void at_end_of_transaction(XactEvent event, void *arg);

/* ----------------------------------------------------------------
 *		What was written
 * ----------------------------------------------------------------
 */

void
note_foreign_write(Oid relid)
{
	Oid			serverid = GetForeignServerIdByRelId(relid);
	int			nest_level = GetCurrentTransactionNestLevel();
	ForeignWrite *write;
	MemoryContext oldcontext;
	ListCell   *lc;

	foreach(lc, foreign_writes)
	{
		write = lfirst(lc);
		if (write->serverid == serverid && write->nest_level <= nest_level)
			return;
	}
	if (foreign_writes == NIL)
	{
		UnregisterXactCallback(at_end_of_transaction, NULL);
		RegisterXactCallback(at_end_of_transaction, NULL);
	}
	oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	write = palloc(sizeof(ForeignWrite));
	write->serverid = serverid;
	write->relid = relid;
	write->nest_level = nest_level;
	foreign_writes = lappend(foreign_writes, write);
	MemoryContextSwitchTo(oldcontext);
}

static void
at_end_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
						 SubTransactionId parentSubid, void *arg)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	ListCell   *lc;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	foreach(lc, foreign_writes)
	{
		ForeignWrite *write = lfirst(lc);

		if (write->nest_level < nest_level)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			write->nest_level = nest_level - 1;
		else
			foreign_writes = foreach_delete_current(foreign_writes, lc);
	}
}

/*
 * Has the transaction written to the table?  PostgreSQL counts rows as they
 * are written, in "trans" for what is neither committed nor rolled back.
 */
static bool
is_written(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		result = false;

	if (compat_counts_writes(rel))
	{
		for (PgStat_TableXactStatus *trans = rel->pgstat_info->trans; trans;
			 trans = trans->upper)
			result |= trans->tuples_inserted > 0 ||
				trans->tuples_updated > 0 || trans->tuples_deleted > 0;
	}
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * A table of this database that the transaction has written to; InvalidOid
 * when there is none.  Temporary tables are nobody else's concern, and catalog
 * changes say nothing about rows.
 */
static Oid
local_write(void)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			result = InvalidOid;

	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return InvalidOid;
	rel = table_open(RelationRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (!OidIsValid(result) && (tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);
		Datum		relid = ObjectIdGetDatum(class->oid);

		/* the counts may still have earlier transactions in them */
		if (class->relkind == RELKIND_RELATION &&
			class->relpersistence != RELPERSISTENCE_TEMP &&
			class->oid >= FirstNormalObjectId &&
			(DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_inserted, relid)) > 0 ||
			 DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_updated, relid)) > 0 ||
			 DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_deleted, relid)) > 0) &&
			is_written(class->oid))
			result = class->oid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* ----------------------------------------------------------------
 *		The decision
 * ----------------------------------------------------------------
 */

static void
report_cross_store_writes(Oid relid, Oid serverid, Oid other, Oid other_serverid)
{
	ereport(cross_store_writes == CROSS_STORE_WRITES_ERROR ? ERROR : WARNING,
			(errcode(ERRCODE_RUN_OPS_CROSS_STORE_WRITES),
			 errmsg("transaction writes to more than one database"),
			 errdetail("It has written to table \"%s.%s\" of server \"%s\", and to table \"%s.%s\" of %s%s%s.",
					   get_namespace_name(get_rel_namespace(relid)),
					   get_rel_name(relid),
					   GetForeignServer(serverid)->servername,
					   get_namespace_name(get_rel_namespace(other)),
					   get_rel_name(other),
					   OidIsValid(other_serverid) ? "server \"" : "this database",
					   OidIsValid(other_serverid) ? GetForeignServer(other_serverid)->servername : "",
					   OidIsValid(other_serverid) ? "\"" : ""),
			 errhint("The databases commit one after the other: a crash in between keeps one part only. "
					 "Write to one database in a transaction, or set run_ops_split.cross_store_writes.")));
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	ForeignWrite *first;
	ForeignWrite *second;
	Oid			local;

	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		foreign_writes = NIL;
	if (event != XACT_EVENT_PRE_COMMIT || foreign_writes == NIL)
		return;

	/*
	 * A serializable transaction that is to lose must do so now.  PostgreSQL
	 * checks again after this, which then succeeds: once a transaction has
	 * passed, others have to give way.
	 */
	PreCommit_CheckForSerializationFailure();

	if (cross_store_writes == CROSS_STORE_WRITES_ALLOW)
		return;
	first = linitial(foreign_writes);
	if (list_length(foreign_writes) > 1)
	{
		second = lsecond(foreign_writes);
		report_cross_store_writes(first->relid, first->serverid,
								  second->relid, second->serverid);
	}
	else if (OidIsValid(local = local_write()))
		report_cross_store_writes(first->relid, first->serverid,
								  local, InvalidOid);
}

/* ----------------------------------------------------------------
 *		Writes through run_ops_fdw
 * ----------------------------------------------------------------
 */

static TupleTableSlot *
watchExecForeignInsert(EState *estate, ResultRelInfo *resultRelInfo,
					   TupleTableSlot *slot, TupleTableSlot *planSlot)
{
	TupleTableSlot *result = stock.ExecForeignInsert(estate, resultRelInfo,
													 slot, planSlot);

	note_foreign_write(RelationGetRelid(resultRelInfo->ri_RelationDesc));
	return result;
}

static TupleTableSlot **
watchExecForeignBatchInsert(EState *estate, ResultRelInfo *resultRelInfo,
							TupleTableSlot **slots, TupleTableSlot **planSlots,
							int *numSlots)
{
	TupleTableSlot **result = stock.ExecForeignBatchInsert(estate, resultRelInfo,
														   slots, planSlots, numSlots);

	note_foreign_write(RelationGetRelid(resultRelInfo->ri_RelationDesc));
	return result;
}

static TupleTableSlot *
watchExecForeignUpdate(EState *estate, ResultRelInfo *resultRelInfo,
					   TupleTableSlot *slot, TupleTableSlot *planSlot)
{
	TupleTableSlot *result = stock.ExecForeignUpdate(estate, resultRelInfo,
													 slot, planSlot);

	note_foreign_write(RelationGetRelid(resultRelInfo->ri_RelationDesc));
	return result;
}

static TupleTableSlot *
watchExecForeignDelete(EState *estate, ResultRelInfo *resultRelInfo,
					   TupleTableSlot *slot, TupleTableSlot *planSlot)
{
	TupleTableSlot *result = stock.ExecForeignDelete(estate, resultRelInfo,
													 slot, planSlot);

	note_foreign_write(RelationGetRelid(resultRelInfo->ri_RelationDesc));
	return result;
}

/*
 * An UPDATE or DELETE that the store executes by itself.  Whether it has found
 * any row is told by its count, where it is the one that the statement counts.
 */
static TupleTableSlot *
watchIterateDirectModify(ForeignScanState *node)
{
	EState	   *estate = node->ss.ps.state;
	uint64		before = estate->es_processed;
	TupleTableSlot *result = stock.IterateDirectModify(node);

	if (!TupIsNull(result) || estate->es_processed > before ||
		!estate->es_plannedstmt->canSetTag ||
		estate->es_plannedstmt->hasModifyingCTE)
		note_foreign_write(RelationGetRelid(node->resultRelInfo->ri_RelationDesc));
	return result;
}

static void
watchExecForeignTruncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	ListCell   *lc;

	stock.ExecForeignTruncate(rels, behavior, restart_seqs);
	foreach(lc, rels)
		note_foreign_write(RelationGetRelid((Relation) lfirst(lc)));
}

void
watch_foreign_writes(FdwRoutine *routine)
{
	stock = *routine;
	routine->ExecForeignInsert = watchExecForeignInsert;
	routine->ExecForeignBatchInsert = watchExecForeignBatchInsert;
	routine->ExecForeignUpdate = watchExecForeignUpdate;
	routine->ExecForeignDelete = watchExecForeignDelete;
	routine->IterateDirectModify = watchIterateDirectModify;
	routine->ExecForeignTruncate = watchExecForeignTruncate;
}

void
cross_store_writes_init(void)
{
	DefineCustomEnumVariable("run_ops_split.cross_store_writes",
							 "What is done about a transaction that writes to more than one database.",
							 "Such a transaction is not atomic. It is decided before anything is committed.",
							 &cross_store_writes,
							 CROSS_STORE_WRITES_WARN,
							 cross_store_writes_options,
							 PGC_USERSET,
							 0,
							 NULL, NULL, NULL);
	RegisterXactCallback(at_end_of_transaction, NULL);
	RegisterSubXactCallback(at_end_of_subtransaction, NULL);
}

/*
 * inject_faults.h
 *		Every call of the extension that may fail, made to fail: included in
 *		front of each file when built with INJECT_FAULTS=1, which is for
 *		test/inject_faults/inject_faults.pl alone.
 *
 * The one idea: a call is counted before it is made, and the one with the
 * number that the test has chosen raises an error instead, or comes when the
 * connection to the store has just been lost.  The files themselves know
 * nothing of it.
 */
#ifndef INJECT_FAULTS_H
#define INJECT_FAULTS_H

/* whatever declares one of the functions, before their names are macros */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "commands/async.h"
#include "commands/dbcommands.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "storage/predicate.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

extern void inject_fault(const char *function, const char *called);
extern void inject_loss(const char *function, const char *called, PGconn *conn);

#define FAULT(called) inject_fault(__func__, #called)
#define MAY_FAIL(called, ...) (FAULT(called), called(__VA_ARGS__))

/* the connection to a store is lost when the call comes */
#define MAY_LOSE(called, conn, ...) (inject_loss(__func__, #called, conn), called(conn, __VA_ARGS__))
#define PQsendQueryParams(conn, ...) MAY_LOSE(PQsendQueryParams, conn, __VA_ARGS__)
#define PQsendQuery(conn, ...) MAY_LOSE(PQsendQuery, conn, __VA_ARGS__)
#define PQpipelineSync(conn) (inject_loss(__func__, "PQpipelineSync", conn), PQpipelineSync(conn))
#define PQflush(conn) (inject_loss(__func__, "PQflush", conn), PQflush(conn))
#define PQgetResult(conn) (inject_loss(__func__, "PQgetResult", conn), PQgetResult(conn))

/* memory */
#define palloc(...) MAY_FAIL(palloc, __VA_ARGS__)
#define palloc0(...) MAY_FAIL(palloc0, __VA_ARGS__)
#define pstrdup(...) MAY_FAIL(pstrdup, __VA_ARGS__)
#define pnstrdup(...) MAY_FAIL(pnstrdup, __VA_ARGS__)
#define psprintf(...) MAY_FAIL(psprintf, __VA_ARGS__)
#define MemoryContextAlloc(...) MAY_FAIL(MemoryContextAlloc, __VA_ARGS__)
#define MemoryContextAllocZero(...) MAY_FAIL(MemoryContextAllocZero, __VA_ARGS__)
#define MemoryContextStrdup(...) MAY_FAIL(MemoryContextStrdup, __VA_ARGS__)
#define AllocSetContextCreateInternal(...) MAY_FAIL(AllocSetContextCreateInternal, __VA_ARGS__)
#define hash_create(...) MAY_FAIL(hash_create, __VA_ARGS__)
#define initStringInfo(...) MAY_FAIL(initStringInfo, __VA_ARGS__)
#define appendStringInfo(...) MAY_FAIL(appendStringInfo, __VA_ARGS__)
#define appendStringInfoString(...) MAY_FAIL(appendStringInfoString, __VA_ARGS__)
#define enlargeStringInfo(...) MAY_FAIL(enlargeStringInfo, __VA_ARGS__)
#define lappend(...) MAY_FAIL(lappend, __VA_ARGS__)
#define list_concat_copy(...) MAY_FAIL(list_concat_copy, __VA_ARGS__)
#define bms_add_member(...) MAY_FAIL(bms_add_member, __VA_ARGS__)
#define datumCopy(...) MAY_FAIL(datumCopy, __VA_ARGS__)
#define cstring_to_text(...) MAY_FAIL(cstring_to_text, __VA_ARGS__)
#define cstring_to_text_with_len(...) MAY_FAIL(cstring_to_text_with_len, __VA_ARGS__)
#define text_to_cstring(...) MAY_FAIL(text_to_cstring, __VA_ARGS__)
#define CreateTupleDescCopy(...) MAY_FAIL(CreateTupleDescCopy, __VA_ARGS__)
#define BlessTupleDesc(...) MAY_FAIL(BlessTupleDesc, __VA_ARGS__)
#define MakeSingleTupleTableSlot(...) MAY_FAIL(MakeSingleTupleTableSlot, __VA_ARGS__)
#define ExecInitExtraTupleSlot(...) MAY_FAIL(ExecInitExtraTupleSlot, __VA_ARGS__)
#define heap_copytuple(...) MAY_FAIL(heap_copytuple, __VA_ARGS__)
#define heap_form_tuple(...) MAY_FAIL(heap_form_tuple, __VA_ARGS__)
#define construct_array(...) MAY_FAIL(construct_array, __VA_ARGS__)
#define deconstruct_array(...) MAY_FAIL(deconstruct_array, __VA_ARGS__)
#define initArrayResult(...) MAY_FAIL(initArrayResult, __VA_ARGS__)
#define accumArrayResult(...) MAY_FAIL(accumArrayResult, __VA_ARGS__)
#define makeArrayResult(...) MAY_FAIL(makeArrayResult, __VA_ARGS__)
#define JsonbValueToJsonb(...) MAY_FAIL(JsonbValueToJsonb, __VA_ARGS__)
#define tuplestore_begin_heap(...) MAY_FAIL(tuplestore_begin_heap, __VA_ARGS__)
#define tuplestore_puttuple(...) MAY_FAIL(tuplestore_puttuple, __VA_ARGS__)
#define tuplestore_puttupleslot(...) MAY_FAIL(tuplestore_puttupleslot, __VA_ARGS__)
#define tuplestore_putvalues(...) MAY_FAIL(tuplestore_putvalues, __VA_ARGS__)
#define CreateWaitEventSet(...) MAY_FAIL(CreateWaitEventSet, __VA_ARGS__)
#define AddWaitEventToSet(...) MAY_FAIL(AddWaitEventToSet, __VA_ARGS__)
#define RegisterXactCallback(...) MAY_FAIL(RegisterXactCallback, __VA_ARGS__)
#define CacheRegisterRelcacheCallback(...) MAY_FAIL(CacheRegisterRelcacheCallback, __VA_ARGS__)

/* SPI; SPI_finish() stands for a failure after the command */
#define SPI_connect(...) MAY_FAIL(SPI_connect, __VA_ARGS__)
#define SPI_prepare(...) MAY_FAIL(SPI_prepare, __VA_ARGS__)
#define SPI_prepare_cursor(...) MAY_FAIL(SPI_prepare_cursor, __VA_ARGS__)
#define SPI_keepplan(...) MAY_FAIL(SPI_keepplan, __VA_ARGS__)
#define SPI_execute(...) MAY_FAIL(SPI_execute, __VA_ARGS__)
#define SPI_execute_plan(...) MAY_FAIL(SPI_execute_plan, __VA_ARGS__)
#define SPI_execute_with_args(...) MAY_FAIL(SPI_execute_with_args, __VA_ARGS__)
#define SPI_register_relation(...) MAY_FAIL(SPI_register_relation, __VA_ARGS__)
#define SPI_getvalue(...) MAY_FAIL(SPI_getvalue, __VA_ARGS__)
#define SPI_finish(...) MAY_FAIL(SPI_finish, __VA_ARGS__)

/* snapshots, tables, the catalog */
#define set_config_option(...) MAY_FAIL(set_config_option, __VA_ARGS__)
#define BeginInternalSubTransaction(...) MAY_FAIL(BeginInternalSubTransaction, __VA_ARGS__)
#define GetLatestSnapshot(...) MAY_FAIL(GetLatestSnapshot, __VA_ARGS__)
#define PushActiveSnapshot(...) MAY_FAIL(PushActiveSnapshot, __VA_ARGS__)
#define relation_open(...) MAY_FAIL(relation_open, __VA_ARGS__)
#define try_relation_open(...) MAY_FAIL(try_relation_open, __VA_ARGS__)
#define table_open(...) MAY_FAIL(table_open, __VA_ARGS__)
#define index_open(...) MAY_FAIL(index_open, __VA_ARGS__)
#define index_insert(...) MAY_FAIL(index_insert, __VA_ARGS__)
#define systable_beginscan(...) MAY_FAIL(systable_beginscan, __VA_ARGS__)
#define systable_getnext(...) MAY_FAIL(systable_getnext, __VA_ARGS__)
#define table_tuple_update(...) MAY_FAIL(table_tuple_update, __VA_ARGS__)
#define table_tuple_fetch_row_version(...) MAY_FAIL(table_tuple_fetch_row_version, __VA_ARGS__)
#define nextval_internal(...) MAY_FAIL(nextval_internal, __VA_ARGS__)
#define Async_Notify(...) MAY_FAIL(Async_Notify, __VA_ARGS__)
#define GetForeignServer(...) MAY_FAIL(GetForeignServer, __VA_ARGS__)
#define GetForeignServerByName(...) MAY_FAIL(GetForeignServerByName, __VA_ARGS__)
#define GetForeignServerExtended(...) MAY_FAIL(GetForeignServerExtended, __VA_ARGS__)
#define GetUserMapping(...) MAY_FAIL(GetUserMapping, __VA_ARGS__)
#define GetUserNameFromId(...) MAY_FAIL(GetUserNameFromId, __VA_ARGS__)
#define GetForeignTable(...) MAY_FAIL(GetForeignTable, __VA_ARGS__)
#define GetForeignServerIdByRelId(...) MAY_FAIL(GetForeignServerIdByRelId, __VA_ARGS__)
#define load_external_function(...) MAY_FAIL(load_external_function, __VA_ARGS__)
#define get_namespace_oid(...) MAY_FAIL(get_namespace_oid, __VA_ARGS__)
#define get_relname_relid(...) MAY_FAIL(get_relname_relid, __VA_ARGS__)
#define GetTopFullTransactionId(...) (FAULT(GetTopFullTransactionId), GetTopFullTransactionId())
#define LogLogicalMessage(...) MAY_FAIL(LogLogicalMessage, __VA_ARGS__)
#define XLogFlush(...) MAY_FAIL(XLogFlush, __VA_ARGS__)
#define PreCommit_CheckForSerializationFailure(...) MAY_FAIL(PreCommit_CheckForSerializationFailure, __VA_ARGS__)

/* finds without failing, but for what it enters */
#define hash_search(table, key, action, ...) \
	((action) == HASH_ENTER ? FAULT(hash_search) : (void) 0, \
	 hash_search(table, key, action, __VA_ARGS__))

/* postgres_fdw's callbacks, members of a struct: counted with an argument */
#define REMOTE(called, first) (FAULT(called), (first))
#define GetForeignRelSize(first, ...) GetForeignRelSize(REMOTE(GetForeignRelSize, first), __VA_ARGS__)
#define GetForeignPaths(first, ...) GetForeignPaths(REMOTE(GetForeignPaths, first), __VA_ARGS__)
#define GetForeignPlan(first, ...) GetForeignPlan(REMOTE(GetForeignPlan, first), __VA_ARGS__)
#define BeginForeignScan(first, ...) BeginForeignScan(REMOTE(BeginForeignScan, first), __VA_ARGS__)
#define BeginForeignModify(first, ...) BeginForeignModify(REMOTE(BeginForeignModify, first), __VA_ARGS__)
#define BeginForeignInsert(first, ...) BeginForeignInsert(REMOTE(BeginForeignInsert, first), __VA_ARGS__)
#define BeginDirectModify(first, ...) BeginDirectModify(REMOTE(BeginDirectModify, first), __VA_ARGS__)
#define ExecForeignInsert(first, ...) ExecForeignInsert(REMOTE(ExecForeignInsert, first), __VA_ARGS__)
#define ExecForeignBatchInsert(first, ...) ExecForeignBatchInsert(REMOTE(ExecForeignBatchInsert, first), __VA_ARGS__)
#define ExecForeignUpdate(first, ...) ExecForeignUpdate(REMOTE(ExecForeignUpdate, first), __VA_ARGS__)
#define ExecForeignDelete(first, ...) ExecForeignDelete(REMOTE(ExecForeignDelete, first), __VA_ARGS__)
#define ExecForeignTruncate(first, ...) ExecForeignTruncate(REMOTE(ExecForeignTruncate, first), __VA_ARGS__)
#define AnalyzeForeignTable(first, ...) AnalyzeForeignTable(REMOTE(AnalyzeForeignTable, first), __VA_ARGS__)
#define IterateForeignScan(first) IterateForeignScan(REMOTE(IterateForeignScan, first))
#define ReScanForeignScan(first) ReScanForeignScan(REMOTE(ReScanForeignScan, first))
#define EndForeignScan(first) EndForeignScan(REMOTE(EndForeignScan, first))
#define IterateDirectModify(first) IterateDirectModify(REMOTE(IterateDirectModify, first))

#endif							/* INJECT_FAULTS_H */

/*
 * compat.h
 *		All differences between PostgreSQL versions; no other file tests the
 *		version.
 */
#ifndef RUN_OPS_COMPAT_H
#define RUN_OPS_COMPAT_H

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* before a declaration, as from 18 on */
#if PG_VERSION_NUM < 180000
#define pg_noreturn __attribute__((noreturn))
#endif

/* DEFAULT_FDW_TUPLE_COST of postgres_fdw */
#if PG_VERSION_NUM < 170000
#define COMPAT_DEFAULT_FDW_TUPLE_COST 0.01
#else
#define COMPAT_DEFAULT_FDW_TUPLE_COST 0.2
#endif

/*
 * Does postgres_fdw write a comparison of a column with a constant without the
 * type of the constant?
 */
#define COMPAT_COMPARES_WITHOUT_TYPE (PG_VERSION_NUM >= 150000)

/* create_foreignscan_path() with only rows, costs and outer relations */
#if PG_VERSION_NUM < 170000
#define compat_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, \
							NIL, outer, NULL, NIL)
#elif PG_VERSION_NUM < 180000
#define compat_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, \
							NIL, outer, NULL, NIL, NIL)
#else
#define compat_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, 0, startup, total, \
							NIL, outer, NULL, NIL, NIL)
#endif

#if PG_VERSION_NUM < 150000
#define compat_is_merge(query) false
#else
#define compat_is_merge(query) ((query)->commandType == CMD_MERGE)
#endif

/* a custom scan that can project; before 15 all could */
#if PG_VERSION_NUM < 150000
#define COMPAT_CUSTOMPATH_SUPPORT_PROJECTION 0
#else
#define COMPAT_CUSTOMPATH_SUPPORT_PROJECTION CUSTOMPATH_SUPPORT_PROJECTION
#endif

/* ExplainPropertyText() has a header of its own from 18 on */
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#endif

/*
 * Appends the range table of one query to that of another, with the privileges
 * to check; needs rewrite/rewriteManip.h.
 */
#if PG_VERSION_NUM < 160000
#define compat_append_rtable(dst, src) \
	((dst)->rtable = list_concat((dst)->rtable, (src)->rtable))
#else
#define compat_append_rtable(dst, src) \
	CombineRangeTables(&(dst)->rtable, &(dst)->rteperminfos, \
					   (src)->rtable, (src)->rteperminfos)
#endif

/*
 * Adds privileges that a query needs on one of its tables; needs
 * parser/parse_relation.h.
 */
#if PG_VERSION_NUM < 160000
#define compat_require_privileges(query, rte, mode) \
	((rte)->requiredPerms |= (mode))
#else
#define compat_require_privileges(query, rte, mode) \
	(getRTEPermissionInfo((query)->rteperminfos, rte)->requiredPerms |= (mode))
#endif

/*
 * Replaces the columns of a range table entry by what a target list has for
 * them; needs rewrite/rewriteManip.h.  RETURNING may show OLD and NEW of the target
 * of a statement, which is at "target" afterwards.
 */
#if PG_VERSION_NUM < 180000
#define compat_replace_target(node, rti, rte, targetlist, target) \
	ReplaceVarsFromTargetList(node, rti, 0, rte, targetlist, \
							  REPLACEVARS_REPORT_ERROR, 0, NULL)
#else
#define compat_replace_target(node, rti, rte, targetlist, target) \
	ReplaceVarsFromTargetList(node, rti, 0, rte, targetlist, target, \
							  REPLACEVARS_REPORT_ERROR, 0, NULL)
#endif
#define compat_replace_columns(node, rti, rte, targetlist) \
	compat_replace_target(node, rti, rte, targetlist, 0)

/* The names and columns of a range table entry; needs parser/parse_relation.h. */
#if PG_VERSION_NUM < 180000
#define compat_expand_entry(rte, rti, names, vars) \
	expandRTE(rte, rti, 0, -1, true, names, vars)
#else
#define compat_expand_entry(rte, rti, names, vars) \
	expandRTE(rte, rti, 0, VAR_RETURNING_DEFAULT, -1, true, names, vars)
#endif

/* Does RETURNING show OLD or NEW by name?  Needs optimizer/optimizer.h. */
#if PG_VERSION_NUM < 180000
#define compat_returns_old_or_new(returning) false
#else
#define compat_returns_old_or_new(returning) contain_vars_returning_old_or_new((Node *) (returning))
#endif

/* Replaces the columns of joins; needs optimizer/optimizer.h. */
#if PG_VERSION_NUM < 160000
#define compat_flatten_join_aliases(query, node) flatten_join_alias_vars(query, (Node *) (node))
#else
#define compat_flatten_join_aliases(query, node) flatten_join_alias_vars(NULL, query, (Node *) (node))
#endif

/*
 * Lets the columns of a query without grouping sets refer to its groups by their
 * expressions, as before 18, and not through an entry of the range table.
 */
#if PG_VERSION_NUM < 180000
#define compat_flatten_groups(query) ((void) 0)
#else
#include "optimizer/optimizer.h"

static inline void
compat_flatten_groups(Query *query)
{
	ListCell   *lc;

	if (!query->hasGroupRTE)
		return;
	query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
	query->havingQual = flatten_group_exprs(NULL, query, query->havingQual);
	query->hasGroupRTE = false;
	/* the entry stays, because others are counted; nothing reads it */
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_GROUP)
		{
			rte->rtekind = RTE_RESULT;
			rte->groupexprs = NIL;
		}
	}
}
#endif

/* Marks the tables of a query: privileges are checked for the role. */
#if PG_VERSION_NUM < 160000
#define compat_check_access_as(query, role) \
	do { \
		ListCell   *entry_; \
\
		foreach(entry_, (query)->rtable) \
		{ \
			RangeTblEntry *rte_ = lfirst_node(RangeTblEntry, entry_); \
\
			if (rte_->rtekind == RTE_RELATION) \
				rte_->checkAsUser = (role); \
		} \
	} while (0)
#else
#define compat_check_access_as(query, role) \
	do { \
		ListCell   *entry_; \
\
		foreach(entry_, (query)->rteperminfos) \
			lfirst_node(RTEPermissionInfo, entry_)->checkAsUser = (role); \
	} while (0)
#endif

/*
 * What is checked for a relation of a query: of its own, as a new entry, and a copy
 * for the first relation of another query.  Needs parser/parse_relation.h.
 */
#if PG_VERSION_NUM < 160000
typedef struct RangeTblEntry CompatPermissions;
#define compat_permissions(query, rte) (rte)
#define compat_add_permissions(query, rte) (rte)
#define compat_copy_permissions(to, from, rte) ((void) 0)
#define compat_check_nothing(rte) ((rte)->requiredPerms = 0)
#else
typedef struct RTEPermissionInfo CompatPermissions;
#define compat_permissions(query, rte) getRTEPermissionInfo((query)->rteperminfos, rte)
#define compat_add_permissions(query, rte) \
	((rte)->perminfoindex = 0, addRTEPermissionInfo(&(query)->rteperminfos, rte))
#define compat_copy_permissions(to, from, rte) \
	((to)->rteperminfos = list_make1(copyObject(getRTEPermissionInfo((from)->rteperminfos, rte))), \
	 (rte)->perminfoindex = 1)
#define compat_check_nothing(rte) ((rte)->perminfoindex = 0)
#endif

/* how a RowCompareExpr compares, as a strategy number of a btree */
#if PG_VERSION_NUM < 180000
#define compat_row_strategy(row) ((row)->rctype)
#else
#define compat_row_strategy(row) ((row)->cmptype)
#endif

/* an Append that executes all its children */
#if PG_VERSION_NUM < 180000
#define compat_no_pruning(append) ((append)->part_prune_info = NULL)
#else
#define compat_no_pruning(append) ((append)->part_prune_index = -1)
#endif

/* what table_tuple_update() returns about indexes */
#if PG_VERSION_NUM < 160000
typedef bool TU_UpdateIndexes;
#define TU_None false
#endif

/* the parameters of ExecutorRun() and its hook, and their names */
#if PG_VERSION_NUM < 180000
#define COMPAT_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *query, ScanDirection direction, uint64 count, bool execute_once
#define COMPAT_EXECUTOR_RUN_ARGUMENTS query, direction, count, execute_once
#else
#define COMPAT_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *query, ScanDirection direction, uint64 count
#define COMPAT_EXECUTOR_RUN_ARGUMENTS query, direction, count
#endif

/* the scans that return nothing during EvalPlanQual */
#if PG_VERSION_NUM < 160000
#define compat_relsubs_blocked(epqstate) ((epqstate)->epqExtra->relsubs_blocked)
#else
#define compat_relsubs_blocked(epqstate) ((epqstate)->relsubs_blocked)
#endif

/* Does the view read its tables with the privileges of the caller? */
#if PG_VERSION_NUM < 150000
#define compat_has_security_invoker(rel) false
#else
#define compat_has_security_invoker(rel) RelationHasSecurityInvoker(rel)
#endif

/*
 * As whom a foreign table is scanned or written: the role that its privileges
 * were checked for; needs executor/executor.h and miscadmin.h.
 */
#define compat_checked_user(user) (OidIsValid(user) ? (user) : GetUserId())
#if PG_VERSION_NUM < 160000
#define compat_scan_user(node) \
	compat_checked_user(exec_rt_fetch((node)->resultRelInfo ? (node)->resultRelInfo->ri_RangeTableIndex : \
									  ((ForeignScan *) (node)->ss.ps.plan)->scan.scanrelid > 0 ? \
									  ((ForeignScan *) (node)->ss.ps.plan)->scan.scanrelid : \
									  (Index) bms_next_member(((ForeignScan *) (node)->ss.ps.plan)->fs_relids, -1), \
									  (node)->ss.ps.state)->checkAsUser)
#define compat_modify_user(target, estate) \
	compat_checked_user(exec_rt_fetch((target)->ri_RangeTableIndex > 0 ? (target)->ri_RangeTableIndex : \
									  (target)->ri_RootResultRelInfo->ri_RangeTableIndex, \
									  estate)->checkAsUser)
#else
#define compat_scan_user(node) \
	compat_checked_user(((ForeignScan *) (node)->ss.ps.plan)->checkAsUser)
#define compat_modify_user(target, estate) \
	compat_checked_user(ExecGetResultRelCheckAsUser(target, estate))
#endif

/* a boolean in a private list of postgres_fdw */
#if PG_VERSION_NUM < 150000
#define COMPAT_BOOLEAN_TAG T_Integer
#define compat_bool_value(node) (intVal(node) != 0)
#define compat_make_boolean(value) makeInteger(value)
#else
#define COMPAT_BOOLEAN_TAG T_Boolean
#define compat_bool_value(node) boolVal(node)
#define compat_make_boolean(value) makeBoolean(value)
#endif

/*
 * The columns that an UPDATE of a relation sets; needs optimizer/inherit.h and
 * parser/parsetree.h.
 */
#if PG_VERSION_NUM < 150000
#define compat_all_updated_columns(root, target) \
	bms_union(planner_rt_fetch(target, root)->updatedCols, \
			  planner_rt_fetch(target, root)->extraUpdatedCols)
#else
#define compat_all_updated_columns(root, target) \
	get_rel_all_updated_cols(root, find_base_rel(root, target))
#endif

/* needs commands/vacuum.h */
#if PG_VERSION_NUM < 180000
#define compat_vacuum_delay_point() vacuum_delay_point()
#else
#define compat_vacuum_delay_point() vacuum_delay_point(true)
#endif

/* Building a jsonb value; needs utils/jsonb.h. */
#if PG_VERSION_NUM < 190000
typedef struct CompatJsonb
{
	struct JsonbParseState *state;
	struct JsonbValue *result;
} CompatJsonb;
#define compat_push_jsonb(jsonb, token, value) \
	((jsonb)->result = pushJsonbValue(&(jsonb)->state, token, value))
#else
#define CompatJsonb JsonbInState
#define compat_push_jsonb(jsonb, token, value) pushJsonbValue(jsonb, token, value)
#endif

/* the local id of the current transaction; needs storage/proc.h */
#if PG_VERSION_NUM < 170000
#define compat_local_transaction_id() (MyProc->lxid)
#else
#define compat_local_transaction_id() (MyProc->vxid.lxid)
#endif

/*
 * A set of events that lasts until it is freed; needs storage/latch.h and
 * utils/memutils.h.
 */
#if PG_VERSION_NUM < 170000
#define compat_create_wait_set(n) CreateWaitEventSet(TopMemoryContext, n)
#else
#define compat_create_wait_set(n) CreateWaitEventSet(NULL, n)
#endif

/* Begins a set-returning function that collects its rows; needs funcapi.h. */
#if PG_VERSION_NUM < 150000
#define compat_init_materialized_srf(fcinfo) \
	do { \
		ReturnSetInfo *rsinfo_ = (ReturnSetInfo *) (fcinfo)->resultinfo; \
		MemoryContext old_; \
\
		if (rsinfo_ == NULL || !IsA(rsinfo_, ReturnSetInfo) || \
			!(rsinfo_->allowedModes & SFRM_Materialize) || \
			rsinfo_->expectedDesc == NULL) \
			ereport(ERROR, \
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), \
					 errmsg("set-valued function called in context that cannot accept a set"))); \
		old_ = MemoryContextSwitchTo(rsinfo_->econtext->ecxt_per_query_memory); \
		rsinfo_->setDesc = CreateTupleDescCopy(rsinfo_->expectedDesc); \
		rsinfo_->setResult = \
			tuplestore_begin_heap((rsinfo_->allowedModes & SFRM_Materialize_Random) != 0, \
								  false, work_mem); \
		rsinfo_->returnMode = SFRM_Materialize; \
		MemoryContextSwitchTo(old_); \
	} while (0)
#else
#define compat_init_materialized_srf(fcinfo) \
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC)
#endif

/*
 * Cancels what a connection of libpq does, and stops trying at a time.  There
 * is no such function before 17.
 */
#if PG_VERSION_NUM < 170000
#define COMPAT_CANCEL_HAS_LIMIT false
#define compat_cancel(conn, endtime) NULL
#else
#include "libpq/libpq-be-fe-helpers.h"
#define COMPAT_CANCEL_HAS_LIMIT true
#define compat_cancel(conn, endtime) libpqsrv_cancel(conn, endtime)
#endif

/*
 * What a session can pass on to a store in place of a password: credentials that
 * its client has delegated, and the keys of its own SCRAM authentication, which
 * are added as options of libpq.  Needs miscadmin.h and libpq-fe.h.  A background
 * worker has no client.
 */
#if PG_VERSION_NUM >= 160000 && defined(ENABLE_GSS)
struct Port;
bool		be_gssapi_get_delegation(struct Port *port);
#define compat_has_delegated_gss() (MyProcPort != NULL && be_gssapi_get_delegation(MyProcPort))
#define compat_used_gss(conn) PQconnectionUsedGSSAPI(conn)
#else
#define compat_has_delegated_gss() false
#define compat_used_gss(conn) false
#endif

#define COMPAT_SCRAM_OPTIONS 3
#if PG_VERSION_NUM < 180000
#define compat_has_scram_keys() false
#define compat_add_scram_keys(keywords, values, n) (n)
#else
/* Port is the same without GSSAPI, whose headers may not be installed */
#undef ENABLE_GSS
#include "common/base64.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"

#define compat_has_scram_keys() (MyProcPort != NULL && MyProcPort->has_scram_keys)

static inline char *
compat_base64(const uint8 *key, int len)
{
	int			size = pg_b64_enc_len(len);
	char	   *result = palloc0(size + 1);

	if (pg_b64_encode(key, len, result, size) < 0)
		elog(ERROR, "could not encode a SCRAM key");
	return result;
}

static inline int
compat_add_scram_keys(const char **keywords, const char **values, int n)
{
	keywords[n] = "scram_client_key";
	values[n++] = compat_base64(MyProcPort->scram_ClientKey, sizeof(MyProcPort->scram_ClientKey));
	keywords[n] = "scram_server_key";
	values[n++] = compat_base64(MyProcPort->scram_ServerKey, sizeof(MyProcPort->scram_ServerKey));
	/* no other method is to be used with them */
	keywords[n] = "require_auth";
	values[n++] = "scram-sha-256";
	return n;
}
#endif

/* Logs a message of this transaction; needs replication/message.h. */
#if PG_VERSION_NUM < 170000
#define compat_log_message(prefix, message, size) \
	LogLogicalMessage(prefix, message, size, true)
#else
#define compat_log_message(prefix, message, size) \
	LogLogicalMessage(prefix, message, size, true, false)
#endif

/* Is the operator a comparison of an ordered type?  Needs utils/lsyscache.h. */
#if PG_VERSION_NUM < 180000
#define compat_is_comparison(opno) (get_op_btree_interpretation(opno) != NIL)
#else
#define compat_is_comparison(opno) (get_op_index_interpretation(opno) != NIL)
#endif

/* Analyzes a query whose parameters have these types; needs parser/analyze.h. */
#if PG_VERSION_NUM < 150000
#define compat_parse_analyze(raw, source, types, n) parse_analyze(raw, source, types, n, NULL)
#else
#define compat_parse_analyze(raw, source, types, n) \
	parse_analyze_fixedparams(raw, source, types, n, NULL)
#endif

/* Where WAL goes, and up to where it is on disk; needs access/xlog.h. */
#if PG_VERSION_NUM < 150000
#define compat_wal_timeline() (RecoveryInProgress() ? 0 : ThisTimeLineID)
#define compat_flushed_lsn() GetFlushRecPtr()
#else
#define compat_wal_timeline() GetWALInsertionTimeLine()
#define compat_flushed_lsn() GetFlushRecPtr(NULL)
#endif

#endif							/* RUN_OPS_COMPAT_H */


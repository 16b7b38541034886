/*
 * assumed_statistics.c
 *		What the planner assumes of a foreign table that was never analyzed, and
 *		of the union of such a table with others.
 *
 * Autovacuum does not analyze foreign tables, so most of them never are.  Without
 * statistics the planner assumes 200 values in each column: one id has thousands
 * of rows then, and a join fetches the whole table from the store.  The one idea:
 * the local table of the same routed table is analyzed, and one value has about
 * as many rows in a store as it has here.  Nothing else of its statistics says
 * anything about the store: other values are frequent there, and newer ones.
 *
 * PostgreSQL has no statistics for a UNION ALL either.  Its columns have as many
 * values as those of its leaves together.
 *
 * Of many stores, what is assumed adds up.  So a plan that reads such a table has
 * no JIT: it would compile for seconds what then reads a few rows.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_statistic.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"

#include "ground/own_table.h"
#include "reads/assumed_statistics.h"
#include "stores/foreign_scan.h"
#include "stores/remote_rows.h"

/* The least size; a plan for large tables is less wrong for small ones. */
#define ASSUMED_ROWS 100000

/* Rows for one value of an indexed column, if the local table does not know. */
#define ASSUMED_ROWS_PER_VALUE 100

static get_relation_stats_hook_type next_get_relation_stats = NULL;
static planner_hook_type next_planner = NULL;

/*
 * The local tables of foreign tables, looked up once per session.  An answer
 * that is out of date makes an estimate worse, and nothing else.
 */
typedef struct LocalTable
{
	Oid			foreign_table;	/* the key */
	Oid			local;
} LocalTable;

static HTAB *local_tables = NULL;

static Oid
local_table(Oid foreign_table)
{
	LocalTable *found;
	Oid			view;
	Oid			local;

	if (local_tables != NULL)
	{
		found = hash_search(local_tables, &foreign_table, HASH_FIND, NULL);
		if (found != NULL)
			return found->local;
	}
	view = own_table_oid("routed_store", "foreign_table", foreign_table, "view");
	local = OidIsValid(view) ?
		own_table_oid("routed_table", "view", view, "legacy") : InvalidOid;
	if (OidIsValid(local))
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(LocalTable)};

		if (local_tables == NULL)
			local_tables = hash_create("run_ops_split local tables", 64, &ctl,
									   HASH_ELEM | HASH_BLOBS);
		found = hash_search(local_tables, &foreign_table, HASH_ENTER, NULL);
		found->local = local;
	}
	return local;
}

/* The number of rows in a table when it was last vacuumed or analyzed, or -1. */
static double
known_rows(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	double		rows = -1;

	if (HeapTupleIsValid(tuple))
	{
		rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
		ReleaseSysCache(tuple);
	}
	return rows;
}

double
assumed_rows(Oid relid)
{
	return Max(known_rows(local_table(relid)), ASSUMED_ROWS);
}

/*
 * The number of different values of a column as pg_statistic has it for the
 * local table, but always as a share of the rows, negative.  0: unknown.
 */
static float4
local_distinct(Oid local, AttrNumber attno, float4 *null_fraction, int32 *width)
{
	HeapTuple	tuple = SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(local),
										Int16GetDatum(attno),
										BoolGetDatum(get_rel_relkind(local) == RELKIND_PARTITIONED_TABLE));
	Form_pg_statistic stats;
	float4		distinct;

	if (!HeapTupleIsValid(tuple))
		return 0;
	stats = (Form_pg_statistic) GETSTRUCT(tuple);
	*null_fraction = stats->stanullfrac;
	*width = stats->stawidth;
	distinct = stats->stadistinct;
	if (distinct > 0)
		distinct = -Min(distinct / Max(known_rows(local), 1), 1);
	ReleaseSysCache(tuple);
	return distinct;
}

/* A row of pg_statistic that says no more than that. */
static HeapTuple
make_statistics(float4 distinct, float4 null_fraction, int32 width)
{
	Relation	catalog = table_open(StatisticRelationId, AccessShareLock);
	Datum		values[Natts_pg_statistic] = {0};
	bool		nulls[Natts_pg_statistic] = {false};
	HeapTuple	tuple;

	for (int i = 0; i < STATISTIC_NUM_SLOTS; i++)
		nulls[Anum_pg_statistic_stanumbers1 + i - 1] =
			nulls[Anum_pg_statistic_stavalues1 + i - 1] = true;
	values[Anum_pg_statistic_stanullfrac - 1] = Float4GetDatum(null_fraction);
	values[Anum_pg_statistic_stawidth - 1] = Int32GetDatum(width);
	values[Anum_pg_statistic_stadistinct - 1] = Float4GetDatum(distinct);
	tuple = heap_form_tuple(RelationGetDescr(catalog), values, nulls);
	table_close(catalog, AccessShareLock);
	return tuple;
}

static HeapTuple
statistics_of_foreign_table(Oid relid, AttrNumber attno)
{
	Oid			local = local_table(relid);
	AttrNumber	local_attno = OidIsValid(local) ?
		get_attnum(local, get_attname(relid, attno, false)) : InvalidAttrNumber;
	float4		null_fraction = 0;
	int32		width = 0;
	float4		distinct = 0;

	if (local_attno != InvalidAttrNumber)
		distinct = local_distinct(local, local_attno, &null_fraction, &width);
	if (distinct == 0 && remote_column_is_indexed(relid, attno))
		distinct = -1.0 / ASSUMED_ROWS_PER_VALUE;
	return distinct == 0 ? NULL : make_statistics(distinct, null_fraction, width);
}

/*
 * The number of different values of a column of a UNION ALL with a table of a
 * store, unless that of one of its leaves is unknown.
 */
static HeapTuple
statistics_of_union(PlannerInfo *root, RelOptInfo *rel, AttrNumber attno)
{
	double		distinct = 0;
	double		rows = 0;
	bool		has_store = false;
	ListCell   *lc;

	foreach(lc, root->append_rel_list)
	{
		AppendRelInfo *leaf = lfirst_node(AppendRelInfo, lc);
		Node	   *column;
		VariableStatData stats;
		bool		is_default = true;

		if (leaf->parent_relid != rel->relid ||
			attno > list_length(leaf->translated_vars))
			continue;
		column = list_nth(leaf->translated_vars, attno - 1);
		if (column == NULL || !IsA(column, Var) ||
			root->simple_rel_array[leaf->child_relid] == NULL)
			return NULL;
		if (IS_DUMMY_REL(root->simple_rel_array[leaf->child_relid]))
			continue;
		examine_variable(root, column, 0, &stats);
		distinct += get_variable_numdistinct(&stats, &is_default);
		rows += stats.rel->tuples;
		has_store |= stats.rel->fdwroutine != NULL &&
			is_store_table(stats.rel->fdwroutine);
		ReleaseVariableStats(stats);
		if (is_default)
			return NULL;
	}
	if (!has_store || rows <= 0)
		return NULL;
	/* as ANALYZE does: a large number grows with the number of rows */
	return make_statistics(distinct > 0.1 * rows ? -Min(distinct / rows, 1) : distinct, 0, 0);
}

static Index
index_of_entry(PlannerInfo *root, RangeTblEntry *rte)
{
	for (Index rti = 1; rti < root->simple_rel_array_size; rti++)
	{
		if (root->simple_rte_array[rti] == rte)
			return rti;
	}
	return 0;
}

static bool
assume_statistics(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attno,
				  VariableStatData *vardata)
{
	RelOptInfo *rel;

	if (next_get_relation_stats &&
		next_get_relation_stats(root, rte, attno, vardata))
		return true;
	if (attno <= 0 ||
		!(rte->rtekind == RTE_SUBQUERY ? rte->inh :
		  rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_FOREIGN_TABLE))
		return false;
	rel = root->simple_rel_array[index_of_entry(root, rte)];
	if (rel == NULL)
		return false;
	if (rte->rtekind == RTE_SUBQUERY)
		vardata->statsTuple = statistics_of_union(root, rel, attno);
	else if (!SearchSysCacheExists3(STATRELATTINH, ObjectIdGetDatum(rte->relid),
									 Int16GetDatum(attno), BoolGetDatum(rte->inh)))
		vardata->statsTuple = statistics_of_foreign_table(rte->relid, attno);
	vardata->freefunc = heap_freetuple;
	return vardata->statsTuple != NULL;
}

/* ----------------------------------------------------------------
 *		No JIT for assumed costs
 * ----------------------------------------------------------------
 */

static bool reads_assumed(Plan *plan, PlannedStmt *stmt);

static bool
any_reads_assumed(List *plans, PlannedStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, plans)
	{
		if (reads_assumed(lfirst(lc), stmt))
			return true;
	}
	return false;
}

static bool
is_assumed(ForeignScan *scan, PlannedStmt *stmt)
{
	int			rti = -1;

	while ((rti = bms_next_member(scan->fs_relids, rti)) >= 0)
	{
		RangeTblEntry *rte = rt_fetch(rti, stmt->rtable);

		if (rte->rtekind == RTE_RELATION && OidIsValid(local_table(rte->relid)) &&
			known_rows(rte->relid) < 0)
			return true;
	}
	return false;
}

/* Does the plan read a table of a store that was never analyzed? */
static bool
reads_assumed(Plan *plan, PlannedStmt *stmt)
{
	if (plan == NULL)
		return false;
	check_stack_depth();
	switch (nodeTag(plan))
	{
		case T_ForeignScan:
			return is_assumed((ForeignScan *) plan, stmt);
		case T_Append:
			return any_reads_assumed(((Append *) plan)->appendplans, stmt);
		case T_MergeAppend:
			return any_reads_assumed(((MergeAppend *) plan)->mergeplans, stmt);
		case T_CustomScan:
			return any_reads_assumed(((CustomScan *) plan)->custom_plans, stmt);
		case T_SubqueryScan:
			return reads_assumed(((SubqueryScan *) plan)->subplan, stmt);
		default:
			return reads_assumed(outerPlan(plan), stmt) || reads_assumed(innerPlan(plan), stmt);
	}
}

static PlannedStmt *
assuming_planner(Query *query, const char *query_string, int cursor_options,
				 ParamListInfo params)
{
	PlannedStmt *stmt = next_planner(query, query_string, cursor_options, params);

	if (stmt->jitFlags != PGJIT_NONE &&
		(reads_assumed(stmt->planTree, stmt) || any_reads_assumed(stmt->subplans, stmt)))
		stmt->jitFlags = PGJIT_NONE;
	return stmt;
}

void
assumed_statistics_init(void)
{
	next_planner = planner_hook ? planner_hook : standard_planner;
	planner_hook = assuming_planner;
	next_get_relation_stats = get_relation_stats_hook;
	get_relation_stats_hook = assume_statistics;
}

/*
 * seam_statistics.c
 *		What the planner knows of a column of a routed table's view.
 *
 * PostgreSQL keeps statistics of tables, and of a union it knows nothing: it
 * takes any column to have 200 values, so a join of 100 ids with a view of
 * 10^9 rows is expected to give half of them.  The one idea: the leaves hold
 * rows of one kind, so the statistics of the first leaf that has any, which is
 * the local table unless it is empty, speak for the view.  How many rows there
 * are is another matter; the planner adds up the leaves for that.
 *
 * Estimates only: nothing depends on this for right answers.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"

#include "lazy_fdw.h"
#include "seam_pruning.h"

static get_relation_stats_hook_type next_hook = NULL;

/* The pg_statistic row of a leaf's column, to be released; or NULL. */
static HeapTuple
leaf_statistics(PlannerInfo *root, Node *expr)
{
	Var		   *column = (Var *) expr;
	RangeTblEntry *rte;
	RelOptInfo *rel;

	if (!IsA(expr, Var) || column->varlevelsup != 0 || column->varattno <= 0)
		return NULL;
	rte = planner_rt_fetch(column->varno, root);
	if (rte->rtekind == RTE_RELATION)
		return SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(rte->relid),
							   Int16GetDatum(column->varattno),
							   BoolGetDatum(rte->inh));

	/* the local leaf of a "store" table, which has a condition of its own */
	rel = root->simple_rel_array[column->varno];
	if (rte->rtekind == RTE_SUBQUERY && !rte->inh &&
		rel != NULL && rel->subroot != NULL)
	{
		TargetEntry *source = get_tle_by_resno(rel->subroot->parse->targetList,
											   column->varattno);

		if (source != NULL && IsA(source->expr, Var) &&
			planner_rt_fetch(((Var *) source->expr)->varno,
							 rel->subroot)->rtekind == RTE_RELATION)
			return leaf_statistics(rel->subroot, (Node *) source->expr);
	}
	return NULL;
}

static bool
is_store_table(PlannerInfo *root, Index rti)
{
	RelOptInfo *rel = root->simple_rel_array[rti];

	return rel != NULL && rel->fdwroutine != NULL &&
		rel->fdwroutine->GetForeignRelSize == lazyGetForeignRelSize;
}

static bool
view_statistics(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attnum,
				VariableStatData *vardata)
{
	HeapTuple	found = NULL;
	bool		split = false;
	ListCell   *lc;

	if (next_hook && next_hook(root, rte, attnum, vardata))
		return true;
	if (rte->rtekind != RTE_SUBQUERY || !rte->inh || attnum <= 0 ||
		vardata->rel == NULL)
		return false;

	foreach(lc, root->append_rel_list)
	{
		AppendRelInfo *leaf = lfirst_node(AppendRelInfo, lc);
		Node	   *expr;

		if (leaf->parent_relid != vardata->rel->relid)
			continue;
		split |= is_store_table(root, leaf->child_relid);
		expr = list_nth(leaf->translated_vars, attnum - 1);
		if (found == NULL && expr != NULL && exprType(expr) == vardata->atttype)
			found = leaf_statistics(root, expr);
		if (split && found != NULL)
			break;
	}
	if (found != NULL && !split)
	{
		ReleaseSysCache(found);
		found = NULL;
	}
	vardata->statsTuple = found;
	vardata->freefunc = ReleaseSysCache;
	/* the caller may not be allowed to see the values: leakproof operators only */
	vardata->acl_ok = false;
	return found != NULL;
}

void
seam_statistics_init(void)
{
	next_hook = get_relation_stats_hook;
	get_relation_stats_hook = view_statistics;
}

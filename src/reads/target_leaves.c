/*
 * target_leaves.c
 *		Marks the tables from which an UPDATE or DELETE of a view over several
 *		stores reads the rows that it changes.
 *
 * The one idea: as for SELECT ... FOR UPDATE, the range table entry of such a
 * table, a target leaf, gets rellockmode = RowShareLock.  This mark is copied
 * to partitions and into finished plans, and the plan cache takes that lock
 * before it runs a plan again.  A query may read the same table elsewhere as
 * well, for example in a join of the view with itself; entries of that kind are
 * not marked.
 *
 * Two places depend on it.  The scan of a foreign table locks rows in the store
 * if its entry is marked.  And when another session has changed a row of the
 * local table, the marks say which scan shall find the new version of the row
 * (row_recheck.c).
 *
 * The subqueries between the view and its leaves are marked as well.  Their
 * mark takes no lock; it only says that they show rows of the target.
 *
 * Normally a query is marked before it is planned.  In a session that loads
 * this library because it plans its first query on a view, planning has begun
 * by then.  So marks are also made when the planner is at the filter of the
 * view.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/plancat.h"
#include "parser/parsetree.h"
#include "storage/lmgr.h"

#include "reads/lookup_condition.h"
#include "reads/target_leaves.h"

static get_relation_info_hook_type next_get_relation_info = NULL;

/* Is the clause the filter of a view over several stores? */
static bool
is_view_filter(Node *clause)
{
	return clause != NULL && (is_resides(clause) || is_refuse_locks(clause));
}

/*
 * Marks a range table entry and those of its subquery.  What is read in
 * conditions only, as by NOT EXISTS, is not part of the target.
 */
static void
mark_entry(RangeTblEntry *rte)
{
	ListCell   *lc;

	if (rte->rtekind == RTE_SUBQUERY)
	{
		rte->rellockmode = RowShareLock;
		foreach(lc, rte->subquery->rtable)
			mark_entry(lfirst_node(RangeTblEntry, lc));
	}
	else if (rte->rtekind == RTE_RELATION &&
			 (rte->relkind == RELKIND_RELATION ||
			  rte->relkind == RELKIND_PARTITIONED_TABLE ||
			  rte->relkind == RELKIND_FOREIGN_TABLE))
	{
		LockRelationOid(rte->relid, RowShareLock);
		rte->rellockmode = RowShareLock;
	}
}

/*
 * The rows of the view that an UPDATE or DELETE is to change, as the rewriter
 * has added them to the query; NULL for any other query.
 */
static Expr *
target_rows(Query *query)
{
	ListCell   *lc;

	if ((query->commandType != CMD_UPDATE &&
		 query->commandType != CMD_DELETE) ||
		rt_fetch(query->resultRelation, query->rtable)->relkind != RELKIND_VIEW)
		return NULL;
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (tle->resjunk && tle->resname != NULL &&
			strcmp(tle->resname, "wholerow") == 0)
			return tle->expr;
	}
	return NULL;
}

void
mark_target_leaves(Query *query)
{
	Var		   *rows = (Var *) target_rows(query);
	ListCell   *lc;

	if (rows != NULL && IsA(rows, Var))
	{
		RangeTblEntry *rte = rt_fetch(rows->varno, query->rtable);

		if (rte->rtekind == RTE_SUBQUERY && rte->subquery->jointree != NULL &&
			is_view_filter(rte->subquery->jointree->quals))
			mark_entry(rte);
	}
	foreach(lc, query->cteList)
	{
		Node	   *cte = lfirst_node(CommonTableExpr, lc)->ctequery;

		if (IsA(cte, Query))
			mark_target_leaves((Query *) cte);
	}
}

/*
 * By now the view has been merged into the query: the column belongs to its
 * UNION ALL, and the rows of the target consist of such columns.  If that is
 * not so, for example for a view with security_barrier, nothing is marked.
 */
void
mark_target_leaves_late(PlannerInfo *root, Node *column)
{
	Query	   *query = root->parse;
	Expr	   *rows;
	Index		rti;
	RangeTblEntry *rte;
	ListCell   *lc;

	column = without_relabeling(column);
	if (!IsA(column, Var) || ((Var *) column)->varlevelsup != 0)
		return;
	rti = ((Var *) column)->varno;
	rte = rt_fetch(rti, query->rtable);
	if (rte->rtekind != RTE_SUBQUERY || rte->rellockmode == RowShareLock ||
		(rows = target_rows(query)) == NULL ||
		!bms_is_member(rti, pull_varnos(root, (Node *) rows)))
		return;
	rte->rellockmode = RowShareLock;
	foreach(lc, root->append_rel_list)
	{
		AppendRelInfo *leaf = lfirst_node(AppendRelInfo, lc);

		if (leaf->parent_relid == rti)
			mark_entry(rt_fetch(leaf->child_relid, query->rtable));
	}
}

/*
 * When a row is evaluated again, an index has no entry for it to read.  So a
 * target leaf gets no index-only scan, as any table whose rows are locked.
 */
static void
refuse_index_only(PlannerInfo *root, Oid relid, bool inhparent,
				  RelOptInfo *rel)
{
	ListCell   *lc;

	if (next_get_relation_info)
		next_get_relation_info(root, relid, inhparent, rel);
	if (planner_rt_fetch(rel->relid, root)->rellockmode != RowShareLock)
		return;
	foreach(lc, rel->indexlist)
	{
		IndexOptInfo *index = lfirst_node(IndexOptInfo, lc);

		for (int i = 0; index->canreturn != NULL && i < index->ncolumns; i++)
			index->canreturn[i] = false;
	}
}

void
target_leaves_init(void)
{
	next_get_relation_info = get_relation_info_hook;
	get_relation_info_hook = refuse_index_only;
}

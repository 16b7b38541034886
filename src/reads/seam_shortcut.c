/*
 * seam_shortcut.c
 *		A query for ids of one store is planned as a query on the table of that
 *		store.
 *
 * Seam pruning removes leaves from a union that the planner has already built.
 * For a lookup by id, building the union costs several times as much as the
 * lookup itself.  The one idea: before planning starts, the query tree
 * contains "the view of a routed table, filtered by id = X".  If the value of
 * X is known at that time, one leaf can replace the view.
 *
 * This gives the same rows.  The condition id = X is in the WHERE of the
 * query, so the query does not return rows of other stores, nor rows that an
 * outer join has extended with NULL.  The condition stays in the query.
 * Privileges on the view and the other leaves are still checked, and their
 * locks are still taken, because their range table entries stay, although they
 * are not read.
 *
 * If the query locks rows of the view, they are locked in that leaf, or else in
 * each leaf (leaf_locks.c).
 *
 * This file handles only the plain case.  In all other cases, and in a session
 * that has not loaded this library yet, seam_pruning.c does the work.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/plancache.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "reads/leaf_aggregates.h"
#include "reads/leaf_locks.h"
#include "reads/seam_pruning.h"
#include "reads/seam_shortcut.h"
#include "reads/startup_pruning.h"
#include "reads/union_view.h"

static planner_hook_type next_planner = NULL;

/* A search for uses of the whole row of a range table entry. */
typedef struct WholeRow
{
	Index		rti;
	Index		level;
} WholeRow;

static bool
uses_whole_row(Node *node, WholeRow *row)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varno == row->rti &&
			((Var *) node)->varlevelsup == row->level &&
			((Var *) node)->varattno == InvalidAttrNumber;
	if (IsA(node, Query))
	{
		bool		found;

		row->level++;
		found = query_tree_walker((Query *) node, uses_whole_row, row, 0);
		row->level--;
		return found;
	}
	return expression_tree_walker(node, uses_whole_row, row);
}

/* A subquery that nothing refers to. */
static Query *
make_unread_query(void)
{
	Query	   *query = makeNode(Query);

	query->commandType = CMD_SELECT;
	query->jointree = makeFromExpr(NIL, NULL);
	return query;
}

/*
 * Replaces the view, which is this range table entry, by a leaf if possible.
 * "mark" is the lock of its rows, if there is one.
 */
static bool
take_shortcut(Query *query, Index rti, UnionView *view, RowMarkClause *mark,
			  ParamListInfo params)
{
	RangeTblEntry *rte = rt_fetch(rti, query->rtable);
	List	   *leaves;
	Query	   *chosen = NULL;
	bool		in_place;
	IdColumn	id = id_column(view, rti);
	WholeRow	row = {rti, 0};
	ListCell   *lc;

	/*
	 * The condition of a MERGE is a join condition: MERGE also handles rows
	 * that do not meet it.
	 */
	if (compat_is_merge(query) || view->store == NULL)
		return false;
	leaves = union_leaves(view);
	foreach(lc, leaves)
	{
		UnionLeaf  *leaf = lfirst(lc);

		if (!quals_select_leaf(query->jointree->quals, &id, params, leaf->store) &&
			!range_selects_leaf(query->jointree->quals, &id, leaf->store))
			continue;
		if (chosen != NULL)
			return false;
		chosen = leaf->query;
	}
	if (chosen == NULL || !has_same_columns(view, chosen, &in_place))
		return false;

	if (mark != NULL)
		lock_leaf(chosen, mark);
	chosen->targetList = list_truncate(chosen->targetList,
									   list_length(view->query->targetList));
	chosen->hasRowSecurity |= view->query->hasRowSecurity;
	foreach(lc, leaves)
	{
		UnionLeaf  *leaf = lfirst(lc);

		Assert(leaf->query != NULL);
		if (leaf->query != chosen)
			compat_append_rtable(chosen, leaf->query);
	}
	view->query->rtable = list_delete_nth_cell(view->query->rtable,
											   view->leaves_rti - 1);
	compat_append_rtable(chosen, view->query);
	rte->subquery = chosen;

	/*
	 * Now the planner would have to pull up the leaf.  To save that, swap two
	 * range table entries: the table gets the entry of the view, the view gets
	 * the entry of the table.
	 */
	if (!in_place || rte->security_barrier)
		return true;
	rte->subquery = make_unread_query();
	if (!GUARD(31, !query_tree_walker(query, uses_whole_row, &row, 0)))
		rte->subquery = chosen;
	else
	{
		int			moved = list_length(query->rtable);

		query->hasRowSecurity |= chosen->hasRowSecurity;
		compat_append_rtable(query, chosen);
		lfirst(list_nth_cell(query->rtable, rti - 1)) =
			list_nth(query->rtable, moved);
		lfirst(list_nth_cell(query->rtable, moved)) = rte;
	}
	return true;
}

/* Locks rows of the view in its leaves. */
static void
lock_rows(Query *query, Index rti, UnionView *view, ParamListInfo params)
{
	RowMarkClause *mark = get_parse_rowmark(query, rti);

	if (mark == NULL)
		return;
	refuse_unlockable(query, rti, view, mark);
	if (!seam_pruning || !take_shortcut(query, rti, view, mark, params))
		lock_each_leaf(query, rti, view, mark);
}

/* --- finding the views ---------------------------------------------------------- */

typedef struct Shortcuts
{
	ParamListInfo params;
	bool		joins;			/* there are aggregates over a join with a view */
} Shortcuts;

static void plan_shortcuts(Query *query, Shortcuts *shortcuts);

static bool
plan_shortcuts_walker(Node *node, void *shortcuts)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		plan_shortcuts((Query *) node, shortcuts);
		return false;
	}
	return expression_tree_walker(node, plan_shortcuts_walker, shortcuts);
}

/*
 * This function is called for every query that is planned.  For a query that
 * reads only tables, it costs one test for each range table entry.
 */
static void
plan_shortcuts(Query *query, Shortcuts *shortcuts)
{
	Index		rti = 0;
	bool		has_view = false;
	ListCell   *lc;

	check_stack_depth();
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
		UnionView	view;

		rti++;
		if (rte->rtekind != RTE_SUBQUERY)
			continue;
		if (is_union_view(rte->subquery, &view))
		{
			has_view = true;
			if (seam_pruning)
				(void) take_shortcut(query, rti, &view, NULL, shortcuts->params);
		}
		else if (is_locked_union_view(rte->subquery, &view))
		{
			if (leaf_locks)
				lock_rows(query, rti, &view, shortcuts->params);
		}
		else
			plan_shortcuts(rte->subquery, shortcuts);
	}
	foreach(lc, query->cteList)
		plan_shortcuts_walker(lfirst_node(CommonTableExpr, lc)->ctequery,
							  shortcuts);
	if (query->hasSubLinks)
		(void) query_tree_walker(query, plan_shortcuts_walker, shortcuts,
								 QTW_IGNORE_RC_SUBQUERIES);

	/* after the shortcut, which may have taken the view out of the query */
	if (!leaf_aggregates)
		return;
	aggregate_in_leaves(query, shortcuts->params);
	shortcuts->joins |= has_view && (query->hasAggs || query->groupClause != NIL) &&
		query->jointree->fromlist != NIL &&
		(list_length(query->jointree->fromlist) > 1 ||
		 IsA(linitial(query->jointree->fromlist), JoinExpr));
}

static PlannedStmt *
seam_planner(Query *parse, const char *query_string, int cursor_options,
			 ParamListInfo params)
{
	Shortcuts	shortcuts = {params, false};
	Query	   *below;
	PlannedStmt *plan;
	PlannedStmt *plan_below;

	if (seam_pruning || leaf_aggregates || leaf_locks)
		plan_shortcuts(parse, &shortcuts);
	below = shortcuts.joins ? copyObject(parse) : NULL;
	plan = next_planner(parse, query_string, cursor_options, params);
	if (below != NULL && aggregate_below_joins(below))
	{
		plan_below = next_planner(below, query_string, cursor_options, params);
		if (plan_below->planTree->total_cost < plan->planTree->total_cost)
			plan = plan_below;
	}
	name_leaf_columns(plan->planTree);
	return plan;
}

void
seam_shortcut_init(void)
{
	next_planner = planner_hook ? planner_hook : standard_planner;
	planner_hook = seam_planner;
	/* also the plan that is being made, if that is why this library is loaded */
	ResetPlanCache();
}

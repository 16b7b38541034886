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
 * This file handles only the plain case.  In all other cases, and in a session
 * that has not loaded this library yet, seam_pruning.c does the work.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/params.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/array.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "ids/id_shape.h"
#include "reads/lookup_condition.h"
#include "reads/seam_pruning.h"
#include "reads/seam_shortcut.h"
#include "reads/target_leaves.h"

static planner_hook_type next_planner = NULL;

/* The view of a routed table while split is on, as a subquery of a query. */
typedef struct UnionView
{
	Query	   *query;
	Query	   *leaves;			/* the UNION ALL in that query */
	Index		leaves_rti;
	Var		   *id;				/* columns of the UNION ALL */
	Var		   *store;
} UnionView;

/*
 * Does the query consist of columns, one table or subquery, and a WHERE only?
 * If the query locks rows of the view, the rewriter has added the lock to this
 * query too.  Then seam_pruning.c refuses it.
 */
static bool
is_plain_select(Query *query)
{
	return query->commandType == CMD_SELECT &&
		query->setOperations == NULL && query->jointree != NULL &&
		list_length(query->jointree->fromlist) == 1 &&
		IsA(linitial(query->jointree->fromlist), RangeTblRef) &&
		!query->hasAggs && !query->hasWindowFuncs &&
		!query->hasTargetSRFs && !query->hasSubLinks &&
		query->cteList == NIL && query->rowMarks == NIL &&
		query->groupClause == NIL && query->groupingSets == NIL &&
		query->havingQual == NULL && query->distinctClause == NIL &&
		query->sortClause == NIL && query->limitOffset == NULL &&
		query->limitCount == NULL;
}

static bool
is_union_view(Query *query, UnionView *view)
{
	FuncExpr   *filter;
	RangeTblEntry *rte;

	if (!is_plain_select(query) || query->jointree->quals == NULL)
		return false;
	view->query = query;
	view->leaves_rti =
		linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex;
	rte = rt_fetch(view->leaves_rti, query->rtable);
	if (rte->rtekind != RTE_SUBQUERY || rte->subquery->setOperations == NULL)
		return false;
	view->leaves = rte->subquery;
	if (view->leaves->sortClause != NIL || view->leaves->limitCount != NULL ||
		view->leaves->limitOffset != NULL || view->leaves->cteList != NIL ||
		view->leaves->rowMarks != NIL)
		return false;

	filter = (FuncExpr *) query->jointree->quals;
	if (!IsA(filter, FuncExpr) || list_length(filter->args) != 2)
		return false;
	view->id = linitial(filter->args);
	view->store = lsecond(filter->args);
	return is_column_of((Node *) view->id, view->leaves_rti) &&
		is_column_of((Node *) view->store, view->leaves_rti) &&
		is_resides((Node *) filter);
}

/* --- which ids ------------------------------------------------------------------ */

/*
 * Is the value of the expression known already?  Only constants and parameters
 * are considered: evaluating anything else could fail.
 */
static bool
has_value(Node *node, ParamListInfo params, Datum *value, bool *isnull)
{
	node = without_relabeling(node);
	if (IsA(node, Const))
	{
		*value = ((Const *) node)->constvalue;
		*isnull = ((Const *) node)->constisnull;
		return true;
	}
	if (IsA(node, Param) && params != NULL)
	{
		Param	   *param = (Param *) node;
		ParamExternData *found;
		ParamExternData workspace;

		if (param->paramkind != PARAM_EXTERN || param->paramid <= 0 ||
			param->paramid > params->numParams)
			return false;
		found = params->paramFetch == NULL ?
			&params->params[param->paramid - 1] :
			params->paramFetch(params, param->paramid, true, &workspace);
		*value = found->value;
		*isnull = found->isnull;
		return found->ptype == param->paramtype &&
			(found->pflags & PARAM_FLAG_CONST) != 0;
	}
	return false;
}

/*
 * Are the ids of X known, and do all of them reside in the store?  Sets *any
 * if there is an id.  NULL equals nothing, so it does not count.
 */
static bool
all_reside(Node *ids, bool is_array, ParamListInfo params, text *store,
		   bool *any)
{
	const char *store_name = VARDATA_ANY(store);
	int			store_len = VARSIZE_ANY_EXHDR(store);
	Datum		value;
	bool		isnull;
	bool		some;
	bool		all;

	if (is_array && IsA(ids, ArrayExpr))
	{
		ListCell   *lc;

		if (((ArrayExpr *) ids)->multidims)
			return false;
		foreach(lc, ((ArrayExpr *) ids)->elements)
		{
			if (!all_reside(lfirst(lc), false, params, store, any))
				return false;
		}
		return true;
	}
	if (!has_value(ids, params, &value, &isnull))
		return false;
	if (isnull)
		return true;
	if (is_array)
		array_residency(DatumGetArrayTypeP(value), store_name, store_len,
						&some, &all);
	else
		some = all = id_resides(id_shape_datum(value), store_name, store_len);
	*any |= some;
	return GUARD(29, all);
}

/* The id column of a view, which is a range table entry of a query. */
typedef struct IdColumn
{
	Index		rti;
	AttrNumber	attno;
} IdColumn;

static bool
is_id_column(Node *node, void *arg)
{
	IdColumn   *id = arg;

	return is_column_of(node, id->rti) &&
		GUARD(30, ((Var *) node)->varattno == id->attno);
}

/*
 * Is the clause "id = X" or "id = ANY (X)", and do all rows that meet it
 * belong in the store?
 */
static bool
clause_selects_leaf(Node *clause, IdColumn *id, ParamListInfo params,
					text *store)
{
	LookupCondition condition;
	bool		any = false;

	return match_lookup_condition(clause, is_id_column, id, &condition) &&
		is_bytewise_equality(&condition) &&
		all_reside(condition.values, condition.is_array, params, store,
				   &any) && any;
}

static bool
quals_select_leaf(Node *quals, IdColumn *id, ParamListInfo params,
				  text *store)
{
	ListCell   *lc;

	if (quals == NULL)
		return false;
	if (!is_andclause(quals))
		return clause_selects_leaf(quals, id, params, store);
	foreach(lc, ((BoolExpr *) quals)->args)
	{
		if (quals_select_leaf(lfirst(lc), id, params, store))
			return true;
	}
	return false;
}

/* --- which leaf ----------------------------------------------------------------- */

/*
 * Adds the leaves to the list.  False if the set operation is not a UNION ALL
 * of plain SELECTs from one relation each.
 */
static bool
add_leaves(Query *query, Node *setop, List **leaves)
{
	if (IsA(setop, SetOperationStmt))
	{
		SetOperationStmt *stmt = (SetOperationStmt *) setop;

		return stmt->op == SETOP_UNION && stmt->all &&
			add_leaves(query, stmt->larg, leaves) &&
			add_leaves(query, stmt->rarg, leaves);
	}
	else
	{
		Query	   *leaf = rt_fetch(((RangeTblRef *) setop)->rtindex,
									query->rtable)->subquery;

		if (!is_plain_select(leaf) || list_length(leaf->rtable) != 1 ||
			linitial_node(RangeTblEntry, leaf->rtable)->rtekind != RTE_RELATION)
			return false;
		*leaves = lappend(*leaves, leaf);
		return true;
	}
}

/*
 * Are the columns of the view the first columns of the leaf, with the same
 * types and collations?  Sets *in_place if they also have the same numbers in
 * the relation of the leaf.
 */
static bool
has_same_columns(UnionView *view, Query *leaf, bool *in_place)
{
	Index		rti =
		linitial_node(RangeTblRef, leaf->jointree->fromlist)->rtindex;
	ListCell   *lc;
	ListCell   *lc2;

	*in_place = leaf->jointree->quals == NULL;
	if (list_length(leaf->targetList) < list_length(view->query->targetList))
		return false;
	forboth(lc, view->query->targetList, lc2, leaf->targetList)
	{
		TargetEntry *shown = lfirst_node(TargetEntry, lc);
		TargetEntry *stored = lfirst_node(TargetEntry, lc2);
		Node	   *column = (Node *) shown->expr;
		Node	   *source = (Node *) stored->expr;

		if (shown->resjunk || stored->resjunk ||
			!is_column_of(column, view->leaves_rti) ||
			((Var *) column)->varattno != stored->resno ||
			exprType(column) != exprType(source) ||
			exprTypmod(column) != exprTypmod(source) ||
			exprCollation(column) != exprCollation(source))
			return false;
		*in_place &= is_column_of(source, rti) &&
			((Var *) source)->varattno == shown->resno;
	}
	return true;
}

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

/* Replaces the view, which is this range table entry, by a leaf if possible. */
static void
take_shortcut(Query *query, Index rti, UnionView *view, ParamListInfo params)
{
	RangeTblEntry *rte = rt_fetch(rti, query->rtable);
	List	   *leaves = NIL;
	Query	   *chosen = NULL;
	bool		in_place;
	IdColumn	id = {rti, view->id->varattno};
	WholeRow	row = {rti, 0};
	ListCell   *lc;

	/*
	 * The condition of a MERGE is a join condition: MERGE also handles rows
	 * that do not meet it.
	 */
	if (compat_is_merge(query) ||
		!add_leaves(view->leaves, view->leaves->setOperations, &leaves))
		return;

	foreach(lc, leaves)
	{
		Query	   *leaf = lfirst_node(Query, lc);
		TargetEntry *tle = get_tle_by_resno(leaf->targetList,
											view->store->varattno);
		Const	   *store = tle ? (Const *) tle->expr : NULL;

		/* the query may also need rows of a leaf that does not name its store */
		if (store == NULL || !IsA(store, Const) ||
			store->consttype != TEXTOID || store->constisnull)
			return;
		if (!quals_select_leaf(query->jointree->quals, &id, params,
							   DatumGetTextPP(store->constvalue)))
			continue;
		if (chosen != NULL)
			return;
		chosen = leaf;
	}
	if (chosen == NULL || !has_same_columns(view, chosen, &in_place))
		return;

	chosen->targetList = list_truncate(chosen->targetList,
									   list_length(view->query->targetList));
	chosen->hasRowSecurity |= view->query->hasRowSecurity;
	foreach(lc, leaves)
	{
		if (lfirst(lc) != chosen)
			compat_append_rtable(chosen, lfirst_node(Query, lc));
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
		return;
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
}

/* --- finding the views ---------------------------------------------------------- */

static void plan_shortcuts(Query *query, ParamListInfo params);

static bool
plan_shortcuts_walker(Node *node, void *params)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		plan_shortcuts((Query *) node, params);
		return false;
	}
	return expression_tree_walker(node, plan_shortcuts_walker, params);
}

/*
 * This function is called for every query that is planned.  For a query that
 * reads only tables, it costs one test for each range table entry.
 */
static void
plan_shortcuts(Query *query, ParamListInfo params)
{
	Index		rti = 0;
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
			take_shortcut(query, rti, &view, params);
		else
			plan_shortcuts(rte->subquery, params);
	}
	foreach(lc, query->cteList)
		plan_shortcuts_walker(lfirst_node(CommonTableExpr, lc)->ctequery,
							  params);
	if (query->hasSubLinks)
		(void) query_tree_walker(query, plan_shortcuts_walker, params,
								 QTW_IGNORE_RC_SUBQUERIES);
}

static PlannedStmt *
seam_planner(Query *parse, const char *query_string, int cursor_options,
			 ParamListInfo params)
{
	/* first, because a shortcut takes the view out of the query */
	mark_target_leaves(parse);
	if (seam_pruning)
		plan_shortcuts(parse, params);
	return next_planner(parse, query_string, cursor_options, params);
}

void
seam_shortcut_init(void)
{
	next_planner = planner_hook ? planner_hook : standard_planner;
	planner_hook = seam_planner;
}

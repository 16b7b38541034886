/*
 * leaf_aggregates.c
 *		A query that groups or counts the rows of a view over several stores does
 *		so in each store, and puts the results together.
 *
 * PostgreSQL does not aggregate below a union: to count the rows of a view, it
 * would fetch all of them.  The one idea: before planning, the query
 *
 *		SELECT g, count(*) FROM view WHERE c GROUP BY g
 *
 * becomes
 *
 *		SELECT g, sum(n) FROM (SELECT g, count(*) AS n FROM leaf_1 WHERE f_1 AND c GROUP BY g
 *							   UNION ALL ...) GROUP BY g
 *
 * where f is the filter of the view for this leaf.  A leaf in a store is then a
 * query of one foreign table, which postgres_fdw can ship as a whole.  The store
 * cannot evaluate resides(), so its leaf has the same condition made of built-in
 * functions, or none if a CHECK constraint of the foreign table proves it.
 *
 * The results are the same, so only aggregates are taken for which that is
 * certain: not those that depend on the order of the rows or, as sums of
 * floating-point numbers, on the order of additions.  What is not understood is
 * left alone.  So is a query for ids, because pruning leaves one store for it,
 * and one that has a group for each id, because it would be grouped twice.
 *
 * In a join of the view with local tables, the rows of the view that have the
 * same values in all columns which the query uses outside of aggregates meet the
 * same rows of the other tables.  So each leaf groups by these columns, and the
 * groups are joined.  That pays if there are few groups; so such a query is
 * planned in both ways, and the cheaper plan is taken (seam_shortcut.c).
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "reads/leaf_aggregates.h"
#include "reads/lookup_condition.h"
#include "reads/seam_pruning.h"
#include "reads/union_view.h"

/* run_ops_split.leaf_aggregates */
bool		leaf_aggregates = true;

/* A query that aggregates over a view, while it is taken apart. */
typedef struct Split
{
	Index		rti;			/* of the view in the query */
	IdColumn	id;				/* what tells the store of a row of the view */
	List	   *columns;		/* target list of each leaf: groups, then parts */
	int			ngroups;
	List	   *groups;			/* GROUP BY of each leaf */
	Node	   *quals;			/* conditions that each leaf tests */
	bool		joined;			/* the query reads other tables, too */
	bool		may_be_empty;	/* the query aggregates, perhaps over no row */
	bool		failed;
} Split;

void
leaf_aggregates_init(void)
{
	DefineCustomBoolVariable("run_ops_split.leaf_aggregates",
							 "Groups and counts the rows of a view over several stores inside each store.",
							 "Results are the same either way. The setting does not change plans that are already cached.",
							 &leaf_aggregates,
							 true,
							 PGC_USERSET,
							 GUC_EXPLAIN,
							 NULL, NULL, NULL);
}

/* --- taking the query apart ------------------------------------------------------- */

/* Adds a column to the leaves.  The result is this column in the query. */
static Expr *
add_column(Split *split, Expr *expr, Index group)
{
	TargetEntry *column;
	ListCell   *lc;

	foreach(lc, split->columns)
	{
		column = lfirst_node(TargetEntry, lc);
		if (group == 0 && column->ressortgroupref == 0 && equal(column->expr, expr))
			return (Expr *) makeVarFromTargetEntry(split->rti, column);
	}
	column = makeTargetEntry(expr, list_length(split->columns) + 1,
							 psprintf("%s%d", group ? "group" : "part",
									  list_length(split->columns) + 1), false);
	column->ressortgroupref = group;
	split->columns = lappend(split->columns, column);
	return (Expr *) makeVarFromTargetEntry(split->rti, column);
}

static Aggref *
make_aggregate(Oid function, Oid type, Aggref *like, List *args)
{
	Aggref	   *aggregate = copyObject(like);

	aggregate->aggfnoid = function;
	aggregate->aggtype = type;
	aggregate->args = args;
	return aggregate;
}

/* An aggregate in the query that puts together the parts which "part" makes. */
static Expr *
combine(Split *split, Oid function, Oid type, Aggref *part)
{
	Expr	   *column = add_column(split, (Expr *) part, 0);
	Aggref	   *whole = make_aggregate(function, type, part,
									   list_make1(makeTargetEntry(column, 1, NULL, false)));

	whole->aggstar = false;
	whole->aggfilter = NULL;
	whole->aggargtypes = list_make1_oid(part->aggtype);
	return (Expr *) whole;
}

/* The sum of parts that are bigint, which is numeric. */
static Expr *
sum_of_bigint(Split *split, Aggref *part)
{
	part->aggtype = INT8OID;
	return combine(split, F_SUM_INT8, NUMERICOID, part);
}

static Expr *
to_bigint(Expr *expr)
{
	return (Expr *) makeFuncExpr(F_INT8_NUMERIC, INT8OID, list_make1(expr), InvalidOid,
								 InvalidOid, COERCE_EXPLICIT_CAST);
}

/* Without a join, each leaf of a query without groups returns a row. */
static Expr *
count(Split *split, Aggref *part)
{
	Expr	   *sum = to_bigint(sum_of_bigint(split, part));
	CoalesceExpr *coalesce;

	if (!split->may_be_empty)
		return sum;
	coalesce = makeNode(CoalesceExpr);
	coalesce->coalescetype = INT8OID;
	coalesce->args = list_make2(sum, makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
											   Int64GetDatum(0), false, FLOAT8PASSBYVAL));
	coalesce->location = -1;
	return (Expr *) coalesce;
}

/* PostgreSQL divides the same two numbers. */
static Expr *
average(Split *split, Oid sum_function, Aggref *original)
{
	Aggref	   *rows = make_aggregate(F_COUNT_ANY, INT8OID, original, original->args);
	Expr	   *sum;

	if (sum_function == F_SUM_INT2 || sum_function == F_SUM_INT4)
		sum = sum_of_bigint(split, make_aggregate(sum_function, INT8OID, original, original->args));
	else
		sum = combine(split, F_SUM_NUMERIC, NUMERICOID,
					  make_aggregate(sum_function, NUMERICOID, original, original->args));
	return (Expr *) makeFuncExpr(F_NUMERIC_DIV, NUMERICOID,
								 list_make2(sum, sum_of_bigint(split, rows)),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

/* Does the expression use no column of another table? */
static bool
is_of_view(Node *node, Split *split)
{
	return bms_is_subset(pull_varnos(NULL, node), bms_make_singleton(split->rti));
}

/* Is it min() or max() of PostgreSQL, for whatever type? */
static bool
is_extreme(Aggref *aggregate)
{
	char	   *name;

	if (aggregate->aggfnoid >= FirstUnpinnedObjectId ||
		list_length(aggregate->aggargtypes) != 1 ||
		aggregate->aggtype != linitial_oid(aggregate->aggargtypes))
		return false;
	name = get_func_name(aggregate->aggfnoid);
	return name != NULL && (strcmp(name, "min") == 0 || strcmp(name, "max") == 0);
}

/* What the query computes in place of the aggregate; NULL: not understood. */
static Expr *
split_aggregate(Split *split, Aggref *original)
{
	Aggref	   *aggregate = copyObject(original);

	if (aggregate->agglevelsup != 0 || aggregate->aggkind != AGGKIND_NORMAL ||
		!GUARD(50, aggregate->aggdistinct == NIL) || aggregate->aggorder != NIL ||
		aggregate->aggvariadic || aggregate->aggsplit != AGGSPLIT_SIMPLE ||
		!GUARD(53, is_of_view((Node *) aggregate, split)))
		return NULL;
	switch (aggregate->aggfnoid)
	{
		case F_COUNT_:
		case F_COUNT_ANY:
			return count(split, aggregate);
		case F_SUM_INT2:
		case F_SUM_INT4:
			return to_bigint(sum_of_bigint(split, aggregate));
		case F_SUM_INT8:
		case F_SUM_NUMERIC:
			return combine(split, F_SUM_NUMERIC, NUMERICOID, aggregate);
		case F_AVG_INT2:
			return average(split, F_SUM_INT2, aggregate);
		case F_AVG_INT4:
			return average(split, F_SUM_INT4, aggregate);
		case F_AVG_INT8:
			return average(split, F_SUM_INT8, aggregate);
		case F_AVG_NUMERIC:
			return average(split, F_SUM_NUMERIC, aggregate);
		case F_BOOL_AND:
		case F_BOOL_OR:
		case F_EVERY:
		case F_BIT_AND_INT2:
		case F_BIT_AND_INT4:
		case F_BIT_AND_INT8:
		case F_BIT_AND_BIT:
		case F_BIT_OR_INT2:
		case F_BIT_OR_INT4:
		case F_BIT_OR_INT8:
		case F_BIT_OR_BIT:
			break;
		default:
			if (!is_extreme(aggregate))
				return NULL;
	}
	return combine(split, aggregate->aggfnoid, aggregate->aggtype, aggregate);
}

/* Replaces groups and aggregates by what is computed from the leaves. */
static Node *
split_mutator(Node *node, void *arg)
{
	Split	   *split = arg;

	if (node == NULL)
		return NULL;
	for (int i = 0; i < split->ngroups; i++)
	{
		TargetEntry *group = list_nth_node(TargetEntry, split->columns, i);

		if (equal(group->expr, node))
			return (Node *) makeVarFromTargetEntry(split->rti, group);
	}
	if (IsA(node, Aggref))
	{
		Expr	   *whole = split_aggregate(split, (Aggref *) node);

		split->failed |= whole == NULL;
		return (Node *) whole;
	}
	/* what is no group can only be a column of something else than the view */
	if (IsA(node, GroupingFunc) ||
		(IsA(node, Var) && ((Var *) node)->varlevelsup == 0 &&
		 (!split->joined || ((Var *) node)->varno == split->rti)))
	{
		split->failed = true;
		return node;
	}
	return expression_tree_mutator(node, split_mutator, split);
}

/* Is there something that a leaf has no equivalent of? */
static bool
is_not_for_leaves(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varattno <= 0)
		return true;
	if (IsA(node, Aggref) && ((Aggref *) node)->agglevelsup > 0)
		return true;
	return expression_tree_walker(node, is_not_for_leaves, arg);
}

/* --- the leaves ------------------------------------------------------------------- */

/*
 * An expression over the columns of the view, for a leaf, which is two levels
 * further down.
 */
static Node *
at_leaf(Node *expr, Split *split, UnionView *view, UnionLeaf *leaf)
{
	expr = copyObject(expr);
	IncrementVarSublevelsUp(expr, 2, 1);
	expr = compat_replace_columns(expr, split->rti, NULL, view->query->targetList);
	return compat_replace_columns(expr, view->leaves_rti, NULL, leaf->query->targetList);
}

/* Lets the leaf aggregate. */
static void
aggregate_leaf(UnionLeaf *leaf, Split *split, UnionView *view)
{
	Query	   *target = leaf->query;
	List	   *columns = (List *) at_leaf((Node *) split->columns, split, view, leaf);
	Node	   *quals = at_leaf(split->quals, split, view, leaf);
	TargetEntry *id = get_tle_by_resno(target->targetList, view->id->varattno);

	target->jointree->quals = make_and_qual(leaf_filter(view, leaf, id->expr, true),
											make_and_qual(target->jointree->quals, quals));
	target->targetList = columns;
	target->hasAggs = list_length(columns) > split->ngroups;
	target->groupClause = copyObject(split->groups);
}

/* Gives a union the columns of its leaves. */
static void
set_union_columns(Node *setop, List *columns)
{
	SetOperationStmt *stmt = (SetOperationStmt *) setop;
	ListCell   *lc;

	check_stack_depth();
	if (!IsA(setop, SetOperationStmt))
		return;
	stmt->colTypes = stmt->colTypmods = stmt->colCollations = NIL;
	foreach(lc, columns)
	{
		Node	   *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

		stmt->colTypes = lappend_oid(stmt->colTypes, exprType(expr));
		stmt->colTypmods = lappend_int(stmt->colTypmods, exprTypmod(expr));
		stmt->colCollations = lappend_oid(stmt->colCollations, exprCollation(expr));
	}
	set_union_columns(stmt->larg, columns);
	set_union_columns(stmt->rarg, columns);
}

static void
set_columns(RangeTblEntry *rte, List *columns)
{
	ListCell   *lc;

	/* the columns of the view had names of their own perhaps */
	rte->alias = NULL;
	rte->eref = makeAlias(rte->eref->aliasname, NIL);
	foreach(lc, columns)
		rte->eref->colnames = lappend(rte->eref->colnames,
									  makeString(lfirst_node(TargetEntry, lc)->resname));
}

/* Puts the union of the leaves that aggregate in the place of the view. */
static void
replace_view(Query *query, Split *split, UnionView *view, List *leaves)
{
	RangeTblEntry *rte = rt_fetch(split->rti, query->rtable);
	Query	   *all = view->leaves;
	Index		first = 0;
	ListCell   *lc;

	foreach(lc, leaves)
		aggregate_leaf(lfirst(lc), split, view);
	foreach(lc, all->rtable)
	{
		RangeTblEntry *leaf = lfirst_node(RangeTblEntry, lc);

		if (leaf->rtekind == RTE_SUBQUERY)
		{
			set_columns(leaf, split->columns);
			if (first == 0)
				first = foreach_current_index(lc) + 1;
		}
	}
	set_union_columns(all->setOperations, split->columns);
	all->targetList = NIL;
	foreach(lc, split->columns)
	{
		TargetEntry *column = lfirst_node(TargetEntry, lc);

		all->targetList = lappend(all->targetList,
								  makeTargetEntry((Expr *) makeVarFromTargetEntry(first, column),
												  column->resno, column->resname, false));
	}
	rte->subquery = all;
	set_columns(rte, split->columns);

	/* what is left of the view: the privileges on it, and its lock */
	view->query->rtable = list_delete_nth_cell(view->query->rtable, view->leaves_rti - 1);
	compat_append_rtable(query, view->query);
}

/* --- which queries ---------------------------------------------------------------- */

static bool
is_aggregation(Query *query)
{
	return query->commandType == CMD_SELECT &&
		(query->hasAggs || query->groupClause != NIL) &&
		query->setOperations == NULL && query->groupingSets == NIL &&
		!query->hasWindowFuncs && !query->hasTargetSRFs && !query->hasSubLinks &&
		query->rowMarks == NIL;
}

/*
 * Is this entry of the query a view whose leaves can aggregate?  If so, fills
 * in *view and *leaves.
 */
static bool
is_view_to_split(Query *query, Split *split, UnionView *view, List **leaves)
{
	RangeTblEntry *rte = rt_fetch(split->rti, query->rtable);
	bool		in_place;
	ListCell   *lc;

	if (rte->rtekind != RTE_SUBQUERY || rte->security_barrier ||
		!is_union_view(rte->subquery, view))
		return false;
	split->id = id_column(view, split->rti);
	*leaves = union_leaves(view);
	foreach(lc, *leaves)
	{
		if (!has_same_columns(view, ((UnionLeaf *) lfirst(lc))->query, &in_place))
			return false;
	}
	return *leaves != NIL;
}

/* Can a leaf evaluate what the query was split into? */
static bool
can_be_split(Split *split)
{
	return !split->failed && split->columns != NIL &&
		GUARD(51, !contain_volatile_functions((Node *) split->columns)) &&
		GUARD(52, !contain_volatile_functions(split->quals)) &&
		!is_not_for_leaves((Node *) split->columns, NULL) &&
		!is_not_for_leaves(split->quals, NULL) &&
		!has_id_condition(split->quals, &split->id);
}

static bool
is_id(Node *node, Split *split)
{
	return is_column_of(node, split->rti) && ((Var *) node)->varattno == split->id.attno;
}

static void
add_group(Split *split, Expr *group, SortGroupClause *clause)
{
	split->failed |= is_id((Node *) group, split);
	clause->tleSortGroupRef = ++split->ngroups;
	(void) add_column(split, group, clause->tleSortGroupRef);
	split->groups = lappend(split->groups, clause);
}

/* The only entry that the query reads, or 0. */
static Index
single_entry(Query *query)
{
	if (list_length(query->jointree->fromlist) != 1 ||
		!IsA(linitial(query->jointree->fromlist), RangeTblRef))
		return 0;
	return linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex;
}

/*
 * Is what the query reads a subquery of expressions over one view or another
 * such subquery?  ORMs count the rows of subqueries.
 */
static bool
reads_subquery(Query *query, ParamListInfo params)
{
	Index		rti = single_entry(query);
	RangeTblEntry *rte;
	UnionView	view;

	if (rti == 0)
		return false;
	rte = rt_fetch(rti, query->rtable);
	return rte->rtekind == RTE_SUBQUERY && !rte->security_barrier &&
		is_plain_select(rte->subquery, params) && rte->subquery->rowMarks == NIL &&
		!rte->subquery->hasSubLinks &&
		rt_fetch(single_entry(rte->subquery), rte->subquery->rtable)->rtekind == RTE_SUBQUERY &&
		!is_union_view(rte->subquery, &view) &&
		!is_not_for_leaves((Node *) query->targetList, NULL) &&
		!is_not_for_leaves(query->havingQual, NULL) &&
		!is_not_for_leaves(query->jointree->quals, NULL) &&
		!contain_volatile_functions((Node *) rte->subquery->targetList) &&
		!contain_volatile_functions(rte->subquery->jointree->quals);
}

/* Lets the query read what its subquery reads. */
static void
lift_subquery(Query *query)
{
	Index		rti = single_entry(query);
	RangeTblEntry *rte = rt_fetch(rti, query->rtable);
	Query	   *subquery = rte->subquery;
	int			offset = list_length(query->rtable);
	Node	   *quals = subquery->jointree->quals;
	List	   *columns = subquery->targetList;

	OffsetVarNodes((Node *) columns, offset, 0);
	IncrementVarSublevelsUp((Node *) columns, -1, 1);
	OffsetVarNodes(quals, offset, 0);
	IncrementVarSublevelsUp(quals, -1, 1);

	query->targetList = (List *) compat_replace_columns((Node *) query->targetList, rti, NULL, columns);
	query->havingQual = compat_replace_columns(query->havingQual, rti, NULL, columns);
	query->jointree->quals = make_and_qual(quals,
										   compat_replace_columns(query->jointree->quals, rti, NULL, columns));
	linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex =
		offset + single_entry(subquery);
	compat_append_rtable(query, subquery);

	/* the entry stays for the privileges on it; nothing reads it */
	rte->subquery = makeNode(Query);
	rte->subquery->commandType = CMD_SELECT;
	rte->subquery->jointree = makeFromExpr(NIL, NULL);
}

static bool
split_query(Query *query)
{
	Split		split = {0};
	UnionView	view;
	List	   *leaves;
	List	   *targets;
	Node	   *having;
	ListCell   *lc;

	split.rti = single_entry(query);
	if (split.rti == 0 || !is_view_to_split(query, &split, &view, &leaves))
		return false;

	foreach(lc, query->groupClause)
		add_group(&split,
				  (Expr *) get_sortgroupclause_expr(lfirst(lc), query->targetList),
				  copyObject(lfirst_node(SortGroupClause, lc)));
	split.quals = query->jointree->quals;
	targets = (List *) split_mutator((Node *) query->targetList, &split);
	having = split_mutator(query->havingQual, &split);
	if (!can_be_split(&split))
		return false;

	replace_view(query, &split, &view, leaves);
	query->jointree->quals = NULL;
	query->targetList = targets;
	query->havingQual = having;
	return true;
}

void
aggregate_in_leaves(Query *query, ParamListInfo params)
{
	Query	   *lifted;

	if (!is_aggregation(query) || single_entry(query) == 0 ||
		rt_fetch(single_entry(query), query->rtable)->rtekind != RTE_SUBQUERY)
		return;
	compat_flatten_groups(query);
	if (!reads_subquery(query, params))
	{
		(void) split_query(query);
		return;
	}
	lifted = copyObject(query);
	while (reads_subquery(lifted, params))
		lift_subquery(lifted);
	if (split_query(lifted))
		*query = *lifted;
}

/* --- joins ------------------------------------------------------------------------ */

/* Have equal values of the type the same bytes, as for deduplication in a B-tree? */
static bool
is_image_equal(Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);
	Oid			function;

	if (!OidIsValid(entry->btree_opf))
		return false;
	function = get_opfamily_proc(entry->btree_opf, entry->btree_opintype,
								 entry->btree_opintype, BTEQUALIMAGE_PROC);
	return OidIsValid(function) &&
		DatumGetBool(OidFunctionCall1Coll(function, collation,
										  ObjectIdGetDatum(entry->btree_opintype)));
}

/* Makes a group of each column of the view outside of aggregates. */
static bool
add_groups_walker(Node *node, void *arg)
{
	Split	   *split = arg;
	Var		   *column = (Var *) node;
	SortGroupClause *clause;
	ListCell   *lc;

	if (node == NULL || IsA(node, Aggref))
		return false;
	if (!IsA(node, Var) || column->varno != split->rti || column->varlevelsup != 0)
		return expression_tree_walker(node, add_groups_walker, arg);
	foreach(lc, split->columns)
	{
		if (equal(lfirst_node(TargetEntry, lc)->expr, column))
			return false;
	}
	if (column->varattno <= 0 ||
		!GUARD(54, is_image_equal(column->vartype, column->varcollid)))
	{
		split->failed = true;
		return true;
	}
	clause = makeNode(SortGroupClause);
	get_sort_group_operators(column->vartype, true, true, false, &clause->sortop,
							 &clause->eqop, NULL, &clause->hashable);
	add_group(split, copyObject((Expr *) column), clause);
	return false;
}

/*
 * Moves the conditions on the view only to those that the leaves test.  Such a
 * condition of an outer join decides not whether a row of the view is shown,
 * but what it is joined with.
 */
static Node *
move_quals(Node *quals, Split *split)
{
	List	   *rest = NIL;
	ListCell   *lc;

	if (is_andclause(quals))
	{
		foreach(lc, ((BoolExpr *) quals)->args)
		{
			Node	   *qual = move_quals(lfirst(lc), split);

			if (qual != NULL)
				rest = lappend(rest, qual);
		}
		return rest == NIL ? NULL : (Node *) make_ands_explicit(rest);
	}
	if (quals == NULL || !bms_is_member(split->rti, pull_varnos(NULL, quals)) ||
		!is_of_view(quals, split))
		return quals;
	split->quals = make_and_qual(split->quals, quals);
	return NULL;
}

/*
 * Looks at a part of the join.  It fails if there is something else than the
 * view and local tables, or if the join extends rows of the other tables by
 * NULL in place of a row of the view.  Returns whether the view is in this part.
 */
static bool
split_join(Node *node, Query *query, Split *split)
{
	RangeTblEntry *rte;
	bool		has_view = false;
	ListCell   *lc;

	check_stack_depth();
	if (IsA(node, RangeTblRef))
	{
		if (((RangeTblRef *) node)->rtindex == split->rti)
			return true;
		rte = rt_fetch(((RangeTblRef *) node)->rtindex, query->rtable);
		split->failed |= rte->rtekind != RTE_RELATION ||
			rte->relkind == RELKIND_FOREIGN_TABLE || rte->tablesample != NULL;
	}
	else if (IsA(node, FromExpr))
	{
		FromExpr   *from = (FromExpr *) node;

		foreach(lc, from->fromlist)
			has_view |= split_join(lfirst(lc), query, split);
		if (has_view)
			from->quals = move_quals(from->quals, split);
	}
	else
	{
		JoinExpr   *join = castNode(JoinExpr, node);
		bool		left = split_join(join->larg, query, split);
		bool		right = split_join(join->rarg, query, split);

		has_view = left || right;
		if (join->jointype == JOIN_INNER && has_view)
			join->quals = move_quals(join->quals, split);
		split->failed |= !GUARD(55, join->jointype == JOIN_INNER ||
								(join->jointype == JOIN_LEFT && !right) ||
								(join->jointype == JOIN_RIGHT && !left));
	}
	return has_view;
}

static bool
aggregate_below_join(Query *query, Index rti)
{
	Split		split = {0};
	UnionView	view;
	List	   *leaves;
	FromExpr   *jointree;
	List	   *targets;
	Node	   *having;
	ListCell   *lc;

	split.rti = rti;
	split.joined = true;
	split.may_be_empty = query->groupClause == NIL;
	if (!is_view_to_split(query, &split, &view, &leaves))
		return false;
	jointree = (FromExpr *) compat_flatten_join_aliases(query, copyObject(query->jointree));
	targets = (List *) compat_flatten_join_aliases(query, copyObject(query->targetList));
	having = compat_flatten_join_aliases(query, copyObject(query->havingQual));

	/* each row of the other tables would have a row of a leaf without groups */
	if (!split_join((Node *) jointree, query, &split) || split.failed ||
		contain_volatile_functions((Node *) jointree) ||
		add_groups_walker((Node *) list_make3(jointree, targets, having), &split) ||
		!GUARD(56, split.ngroups > 0))
		return false;
	jointree = (FromExpr *) split_mutator((Node *) jointree, &split);
	targets = (List *) split_mutator((Node *) targets, &split);
	having = split_mutator(having, &split);
	if (!can_be_split(&split))
		return false;

	replace_view(query, &split, &view, leaves);
	query->jointree = jointree;
	query->targetList = targets;
	query->havingQual = having;
	/* nothing refers to the columns of joins any more */
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
		ListCell   *lc2;

		foreach(lc2, rte->joinaliasvars)
		{
			Node	   *column = lfirst(lc2);

			if (column != NULL && bms_is_member(rti, pull_varnos(NULL, column)))
				lfirst(lc2) = makeNullConst(exprType(column), exprTypmod(column),
											exprCollation(column));
		}
	}
	return true;
}

static bool
aggregate_below_joins_walker(Node *node, void *any)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		*(bool *) any |= aggregate_below_joins((Query *) node);
		return false;
	}
	return expression_tree_walker(node, aggregate_below_joins_walker, any);
}

bool
aggregate_below_joins(Query *query)
{
	bool		any = false;

	check_stack_depth();
	(void) query_tree_walker(query, aggregate_below_joins_walker, &any, 0);
	if (is_aggregation(query))
	{
		compat_flatten_groups(query);
		for (Index rti = 1; rti <= list_length(query->rtable); rti++)
		{
			if (aggregate_below_join(query, rti))
				return true;
		}
	}
	return any;
}

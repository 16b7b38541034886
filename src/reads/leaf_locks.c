/*
 * leaf_locks.c
 *		SELECT ... FOR UPDATE and the like of a view over several stores.
 *
 * The rewriter passes a row lock down to the tables of a view, but not through
 * UNION ALL.  The one idea: before planning, each leaf of the union becomes a
 * subquery with a lock of its own, as if somebody had written
 *
 *		SELECT ... FROM (
 *			(SELECT ... FROM local WHERE ... ORDER BY ... LIMIT ... FOR UPDATE)
 *			UNION ALL
 *			(SELECT ... FROM foreign WHERE ... ORDER BY ... LIMIT ... FOR UPDATE)
 *		) ORDER BY ... LIMIT ...
 *
 * PostgreSQL locks rows of the local table by itself.  The subquery of a foreign
 * table is sent to its store as a whole, which locks the rows there and returns
 * them.  If a part of it cannot be sent, the store would lock rows that the
 * query does not return; foreign_plan.c refuses that.  For the same reason this
 * file refuses joins, subqueries in conditions and the like, whichever the store
 * of the rows is: a statement must not work until ids of another kind come.
 *
 * With a LIMIT, each store locks as many rows as the whole query may return.
 *
 * If the ids of a query say that all its rows are in one store, the table of
 * that store takes the place of the view (seam_shortcut.c) with the lock.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "common/int.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/analyze.h"
#include "parser/parse_clause.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"

#include "ground/compat.h"
#include "reads/leaf_locks.h"
#include "reads/seam_pruning.h"

/* how many queries a leaf is below the one that reads the view */
#define LEAF_DEPTH 3

/* run_ops_split.leaf_locks */
bool		leaf_locks = true;

void
leaf_locks_init(void)
{
	DefineCustomBoolVariable("run_ops_split.leaf_locks",
							 "Locks rows for SELECT ... FOR UPDATE and the like of a view in their stores.",
							 "If it is off, such a statement is refused while split is on. The setting does not change plans that are already cached.",
							 &leaf_locks,
							 true,
							 PGC_USERSET,
							 GUC_EXPLAIN,
							 NULL, NULL, NULL);
}

/* ----------------------------------------------------------------
 *		What is refused
 * ----------------------------------------------------------------
 */

static void
refuse(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot lock rows of a view over several stores"),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

/* Can the leaves evaluate the ORDER BY or LIMIT expression instead? */
static bool
can_move(Node *expr)
{
	return !checkExprHasSubLink(expr) && !contain_volatile_functions(expr);
}

void
refuse_unlockable(Query *query, Index rti, UnionView *view,
				  RowMarkClause *mark)
{
	FromExpr   *from = query->jointree;
	ListCell   *lc;

	/* the parser has not seen what comes from another view */
	CheckSelectLocking(query, mark->strength);
	if (view->store == NULL)
		refuse("Rows of a table with routing \"store\" do not say in which store they are.",
			   "Use run_ops.lock_row(view, id).");
	if (list_length(from->fromlist) != 1 ||
		!IsA(linitial(from->fromlist), RangeTblRef))
		refuse("In a join, a store would lock rows before it is known whether the query returns them.",
			   "Lock the rows in a query of the view alone, for example below WITH, and join its result. Or name only other tables in FOR UPDATE OF.");
	if (rt_fetch(rti, query->rtable)->security_barrier)
		refuse("A view with security_barrier tests conditions of the query after its own, and a store would lock rows before that.",
			   "Use run_ops.lock_row(view, id).");
	/* with ORDER BY or LIMIT the subquery would be locked before the query */
	if (mark->pushedDown && query->sortClause == NIL &&
		query->limitCount == NULL && query->limitOffset == NULL)
		refuse("The view is read by another view or a subquery, whose rows the query locks.",
			   "Write FOR UPDATE in the subquery that reads the view.");
	if (checkExprHasSubLink(from->quals))
		refuse("A condition with a subquery cannot be tested in every store.",
			   "Select the ids without a lock, and lock the rows by their ids. Or pass the result of the subquery as a parameter.");
	if (query->limitOption == LIMIT_OPTION_WITH_TIES)
		refuse("With WITH TIES, a store would lock rows that the query does not return.",
			   "Use LIMIT, or FETCH FIRST ... ROWS ONLY.");
	foreach(lc, query->sortClause)
	{
		if (!can_move(get_sortgroupclause_expr(lfirst(lc), query->targetList)))
			refuse("ORDER BY has a subquery or a volatile function.",
				   "Order by columns of the view.");
	}
	if (!can_move(query->limitCount) || !can_move(query->limitOffset))
		refuse("LIMIT or OFFSET has a subquery or a volatile function.",
			   "Pass the number of rows as a parameter.");
	foreach(lc, union_leaves(view))
	{
		UnionLeaf  *leaf = lfirst(lc);

		if (linitial_node(RangeTblEntry, leaf->query->rtable)->securityQuals)
			refuse("The policies of row-level security for UPDATE are not applied to a union.",
				   "Use run_ops.lock_row(view, id).");
	}
}

/* ----------------------------------------------------------------
 *		The subquery of a leaf
 * ----------------------------------------------------------------
 */

void
lock_leaf(Query *leaf, RowMarkClause *mark)
{
	Index		rti =
		linitial_node(RangeTblRef, leaf->jointree->fromlist)->rtindex;

	compat_require_privileges(leaf, rt_fetch(rti, leaf->rtable),
							  ACL_SELECT_FOR_UPDATE);
	/* pushed down: foreign_plan.c knows it as the lock of a leaf by that */
	applyLockingClause(leaf, rti, mark->strength, mark->waitPolicy, true);
	mark->pushedDown = true;
}

/*
 * An expression of the query on the view as one of the leaf.  Columns of outer
 * queries are further away there.
 */
static Node *
at_leaf(Node *expr, Query *query, Index rti, Query *leaf)
{
	expr = copyObject(expr);
	IncrementVarSublevelsUp(expr, LEAF_DEPTH, 1);
	return compat_replace_columns(expr, rti, rt_fetch(rti, query->rtable),
								  leaf->targetList);
}

/*
 * How many rows the query needs from one leaf at most; NULL: all.  If OFFSET
 * is NULL at run time, which means 0, the sum is NULL: then all rows that meet
 * the conditions are locked.
 */
static Node *
leaf_limit(Query *query)
{
	Node	   *count = eval_const_expressions(NULL, query->limitCount);
	Node	   *offset = eval_const_expressions(NULL, query->limitOffset);
	int64		sum;

	if (count == NULL || offset == NULL ||
		(IsA(offset, Const) && ((Const *) offset)->constisnull))
		return count;
	if (IsA(count, Const) && IsA(offset, Const) &&
		!((Const *) count)->constisnull &&
		pg_add_s64_overflow(DatumGetInt64(((Const *) count)->constvalue),
							DatumGetInt64(((Const *) offset)->constvalue), &sum))
		return NULL;
	return (Node *) makeFuncExpr(F_INT8PL, INT8OID, list_make2(count, offset),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

static void
add_order(Query *query, Index rti, Query *leaf)
{
	ListCell   *lc;

	foreach(lc, query->sortClause)
	{
		SortGroupClause *sort = copyObject(lfirst_node(SortGroupClause, lc));
		Node	   *expr = get_sortgroupclause_expr(sort, query->targetList);
		TargetEntry *tle;

		expr = at_leaf(expr, query, rti, leaf);
		tle = tlist_member((Expr *) expr, leaf->targetList);
		if (tle == NULL)
		{
			tle = makeTargetEntry((Expr *) expr,
								  list_length(leaf->targetList) + 1, NULL, true);
			leaf->targetList = lappend(leaf->targetList, tle);
		}
		sort->tleSortGroupRef = assignSortGroupRef(tle, leaf->targetList);
		leaf->sortClause = lappend(leaf->sortClause, sort);
	}
}

/*
 * SELECT * FROM leaf WHERE precheck.  The precheck has no columns, so the
 * executor evaluates it before it starts the leaf.  In the leaf it would keep
 * postgres_fdw from sending a LIMIT.
 */
static Query *
add_precheck(Query *leaf, Expr *precheck)
{
	ParseState *pstate = make_parsestate(NULL);
	RangeTblRef *ref = makeNode(RangeTblRef);
	Query	   *query = makeNode(Query);
	ListCell   *lc;

	IncrementVarSublevelsUp((Node *) leaf, 1, 1);
	ref->rtindex = addRangeTableEntryForSubquery(pstate, leaf,
												 makeAlias("leaf", NIL),
												 false, true)->p_rtindex;
	query->commandType = CMD_SELECT;
	query->rtable = pstate->p_rtable;
	query->jointree = makeFromExpr(list_make1(ref), (Node *) precheck);
	foreach(lc, leaf->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (!tle->resjunk)
			query->targetList =
				lappend(query->targetList,
						makeTargetEntry((Expr *) makeVarFromTargetEntry(ref->rtindex, tle),
										tle->resno, tle->resname, false));
	}
	return query;
}

/* The leaf, with a lock of the rows that the query on the view needs from it. */
static Query *
lock_rows_of_leaf(Query *query, Index rti, UnionView *view, Query *leaf,
				  RowMarkClause *mark)
{
	IdColumn	id = id_column(view, rti);
	TargetEntry *id_tle = get_tle_by_resno(leaf->targetList, view->id->varattno);
	TargetEntry *store_tle = get_tle_by_resno(leaf->targetList, view->store->varattno);
	Const	   *store = (Const *) store_tle->expr;
	UnionLeaf	union_leaf = {leaf, DatumGetTextPP(store->constvalue)};
	Expr	   *precheck = NULL;
	bool		exact = false;

	if (seam_pruning)
		precheck = residency_of_conditions(query->jointree->quals, &id, store, &exact);
	leaf->jointree->quals = at_leaf(query->jointree->quals, query, rti, leaf);
	if (!exact)
		leaf->jointree->quals = make_and_qual(leaf->jointree->quals,
											  leaf_filter(view, &union_leaf, id_tle->expr, true));
	add_order(query, rti, leaf);
	leaf->limitCount = leaf_limit(query);
	if (leaf->limitCount)
		IncrementVarSublevelsUp(leaf->limitCount, LEAF_DEPTH, 1);
	lock_leaf(leaf, mark);
	/* the planner must not merge it into the query on the view */
	leaf->hasForUpdate = true;
	if (precheck == NULL)
		return leaf;
	IncrementVarSublevelsUp((Node *) precheck, LEAF_DEPTH, 1);
	return add_precheck(leaf, precheck);
}

void
lock_each_leaf(Query *query, Index rti, UnionView *view, RowMarkClause *mark)
{
	List	   *leaves = union_leaves(view);
	bool		in_place;
	ListCell   *lc;

	foreach(lc, leaves)
	{
		if (!has_same_columns(view, ((UnionLeaf *) lfirst(lc))->query, &in_place))
			return;
	}
	if (leaves == NIL)
		return;
	foreach(lc, view->leaves->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		rte->subquery = lock_rows_of_leaf(query, rti, view, rte->subquery, mark);
	}

	/* All that is done below now.  hasForUpdate stays, for the same reason. */
	view->query->jointree->quals = NULL;
	view->query->rowMarks = NIL;
	query->jointree->quals = NULL;
	query->rowMarks = list_delete_ptr(query->rowMarks, mark);
}

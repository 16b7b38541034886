/*
 * union_view.c
 *		Recognizes the view of a routed table in a query that has been rewritten,
 *		its leaves, and the conditions that select one of them.
 *
 * The one idea: the views are generated (read_through.sql), so they have one
 * form: plain columns of a UNION ALL, whose branches, the leaves, read one
 * relation each, and a filter above it.  What does not have this form is not one
 * of our views, and is left alone.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "ground/guard.h"
#include "reads/lookup_condition.h"
#include "reads/residency.h"
#include "reads/union_view.h"

bool
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

Const *
known_value(Node *node, ParamListInfo params)
{
	Datum		value;
	bool		isnull;
	int16		len;
	bool		byval;

	if (!has_value(node, params, &value, &isnull))
		return NULL;
	get_typlenbyval(exprType(node), &len, &byval);
	return makeConst(exprType(node), exprTypmod(node), exprCollation(node), len, value, isnull, byval);
}

static bool
skips_nothing(Node *offset, ParamListInfo params)
{
	Datum		value;
	bool		isnull;
	bool		is_int4;

	if (offset == NULL)
		return true;
	/* a number in the query has been cast to bigint */
	is_int4 = IsA(offset, FuncExpr) && ((FuncExpr *) offset)->funcid == F_INT8_INT4;
	if (is_int4)
		offset = linitial(((FuncExpr *) offset)->args);
	return has_value(offset, params, &value, &isnull) &&
		(isnull || GUARD(57, (is_int4 ? DatumGetInt32(value) : DatumGetInt64(value)) == 0));
}

bool
is_plain_select(Query *query, ParamListInfo params)
{
	return query->commandType == CMD_SELECT &&
		query->setOperations == NULL && query->jointree != NULL &&
		list_length(query->jointree->fromlist) == 1 &&
		IsA(linitial(query->jointree->fromlist), RangeTblRef) &&
		!query->hasAggs && !query->hasWindowFuncs &&
		!query->hasTargetSRFs &&
		query->cteList == NIL && query->groupClause == NIL &&
		query->groupingSets == NIL &&
		query->havingQual == NULL && query->distinctClause == NIL &&
		query->sortClause == NIL && query->limitCount == NULL &&
		skips_nothing(query->limitOffset, params);
}

static bool
match_view(Query *query, UnionView *view)
{
	RangeTblEntry *rte;

	if (!is_plain_select(query, NULL) || query->hasSubLinks ||
		query->jointree->quals == NULL)
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

	view->filter = (FuncExpr *) query->jointree->quals;
	if (!IsA(view->filter, FuncExpr))
		return false;
	view->id = residency_column(view->filter);
	if (view->id == NULL || !is_column_of((Node *) view->id, view->leaves_rti))
		return false;
	view->same_shape = NULL;
	if (is_residency((Node *) view->filter))
	{
		view->store = lsecond(view->filter->args);
		if (list_length(view->filter->args) == 3)
			view->same_shape = (Var *) without_relabeling(lthird(view->filter->args));
		return is_column_of((Node *) view->store, view->leaves_rti) &&
			(view->same_shape == NULL || is_column_of((Node *) view->same_shape, view->leaves_rti));
	}
	view->store = NULL;
	return is_refuse_locks((Node *) view->filter);
}

bool
is_union_view(Query *query, UnionView *view)
{
	return query->rowMarks == NIL && match_view(query, view);
}

/*
 * If a query locks rows of the view, the rewriter has added the lock to the
 * query of the view too.
 */
bool
is_locked_union_view(Query *query, UnionView *view)
{
	return query->rowMarks != NIL && match_view(query, view);
}

/* --- which ids ------------------------------------------------------------------ */

static Const *
make_store(text *store)
{
	return makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1, PointerGetDatum(store), false, false);
}

/*
 * Are the ids of X known, and do all of them reside in the store?  Sets *any
 * if there is an id.  NULL equals nothing, so it does not count.
 */
static bool
all_reside(FuncExpr *filter, Node *ids, bool is_array, ParamListInfo params, text *store,
		   bool *any)
{
	Const	   *value;
	bool		some;
	bool		all;

	if (is_array && IsA(ids, ArrayExpr))
	{
		ListCell   *lc;

		if (((ArrayExpr *) ids)->multidims)
			return false;
		foreach(lc, ((ArrayExpr *) ids)->elements)
		{
			if (!all_reside(filter, lfirst(lc), false, params, store, any))
				return false;
		}
		return true;
	}
	value = known_value(ids, params);
	if (value == NULL)
		return false;
	if (value->constisnull)
		return true;
	residency_of_value(filter, value, is_array, make_store(store), &some, &all);
	*any |= some;
	return GUARD(29, all);
}

IdColumn
id_column(const UnionView *view, Index rti)
{
	IdColumn	id = {rti, view->id->varattno, 0, view->filter, copyObject(view->id)};

	id.var->varno = rti;
	if (view->same_shape)
		id.same_shape = view->same_shape->varattno;
	return id;
}

/* Do all rows that meet the condition belong in the store, and is there an id? */
static bool
lookup_selects_leaf(const LookupCondition *condition, FuncExpr *filter, ParamListInfo params,
					text *store)
{
	Node	   *ids = ids_of_lookup(condition, filter);
	bool		any = false;

	return ids != NULL &&
		all_reside(filter, ids, condition->is_array, params, store, &any) && any;
}

bool
quals_select_leaf(Node *quals, IdColumn *id, ParamListInfo params,
				  text *store)
{
	LookupCondition condition;
	List	   *clauses;
	ListCell   *lc;

	if (quals == NULL)
		return false;
	check_stack_depth();
	quals = lookup_clause(quals);
	if (!is_andclause(quals))
		return match_lookup_condition(quals, is_id_column, id, &condition) &&
			lookup_selects_leaf(&condition, id->filter, params, store);
	clauses = ((BoolExpr *) quals)->args;
	foreach(lc, clauses)
	{
		if (quals_select_leaf(lfirst(lc), id, params, store))
			return true;
	}
	return match_lookup_range(clauses, is_id_column, id, &condition) &&
		lookup_selects_leaf(&condition, id->filter, params, store);
}

bool
range_selects_leaf(Node *quals, IdColumn *id, text *store)
{
	return quals != NULL && is_stored_in((Node *) id->filter) &&
		predicate_implied_by(list_make1(residency_for_store(id->filter, (Node *) id->var, store)),
							 make_ands_implicit((Expr *) quals), false);
}

bool
has_id_condition(Node *quals, IdColumn *id)
{
	LookupCondition condition;

	if (quals == NULL)
		return false;
	if (match_lookup_condition(quals, is_id_column, id, &condition) &&
		is_bytewise_equality(&condition))
		return true;
	return expression_tree_walker(quals, has_id_condition, id);
}

/* --- which leaf ----------------------------------------------------------------- */

/*
 * Adds the leaves below a set operation to the list.  False if it is not a
 * UNION ALL of plain SELECTs from one relation each.
 */
static bool
add_leaves(UnionView *view, Node *setop, List **leaves)
{
	UnionLeaf  *leaf;
	TargetEntry *store;

	check_stack_depth();
	if (IsA(setop, SetOperationStmt))
	{
		SetOperationStmt *stmt = (SetOperationStmt *) setop;

		return stmt->op == SETOP_UNION && stmt->all &&
			add_leaves(view, stmt->larg, leaves) &&
			add_leaves(view, stmt->rarg, leaves);
	}
	leaf = palloc0(sizeof(UnionLeaf));
	leaf->query = rt_fetch(((RangeTblRef *) setop)->rtindex,
						   view->leaves->rtable)->subquery;
	if (!is_plain_select(leaf->query, NULL) || leaf->query->rowMarks != NIL ||
		list_length(leaf->query->rtable) != 1 ||
		linitial_node(RangeTblEntry, leaf->query->rtable)->rtekind != RTE_RELATION)
		return false;
	if (view->store != NULL)
	{
		store = get_tle_by_resno(leaf->query->targetList, view->store->varattno);
		if (store == NULL || !IsA(store->expr, Const) ||
			((Const *) store->expr)->consttype != TEXTOID ||
			((Const *) store->expr)->constisnull)
			return false;
		leaf->store = DatumGetTextPP(((Const *) store->expr)->constvalue);
	}
	*leaves = lappend(*leaves, leaf);
	return true;
}

List *
union_leaves(UnionView *view)
{
	List	   *leaves = NIL;

	return add_leaves(view, view->leaves->setOperations, &leaves) ? leaves : NIL;
}

bool
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

Node *
leaf_filter(UnionView *view, UnionLeaf *leaf, Expr *id, bool shipped)
{
	RangeTblEntry *rte = linitial_node(RangeTblEntry, leaf->query->rtable);
	Const	   *store;
	Node	   *condition = NULL;

	/* routing "store": the leaf itself says which of its rows are shown */
	if (view->store == NULL)
		return NULL;
	store = make_store(leaf->store);
	if (IsA(id, Var) &&
		is_proven_by_check(view->filter, rte->relid, rte->inh, ((Var *) id)->varattno, store))
		return NULL;
	if (rte->relkind == RELKIND_FOREIGN_TABLE ? shipped : is_stored_in((Node *) view->filter))
		condition = residency_for_store(view->filter, (Node *) id, leaf->store);
	if (condition != NULL)
		return condition;
	return (Node *) residency_of(view->filter, (Node *) id, false, store, true);
}

/*
 * seam_pruning.c
 *		Planner support of run_ops.resides: a plan contains only the stores
 *		that can hold the ids a query asks for.
 *
 * The view of a routed table is a union of leaves, one for each store,
 * filtered by resides(id, store), or by stored_in(rule, store) with a key rule over
 * the id.  The one idea: when the planner copies that
 * filter to a leaf, it simplifies the filter and calls our support function.
 * The leaf says which store it is, and the conditions of the query on the
 * union are known by then.  So "id = X" turns the filter into resides(X,
 * store):
 *
 *	X a constant		true or false; false removes the leaf from the plan
 *	X another expression without columns (a parameter, a stable function)
 *						a precheck: the executor evaluates it once, as a
 *						One-Time Filter, before it starts the leaf
 *
 * With a key rule, which PostgreSQL can look into, conditions such as ranges say
 * something as well, if they are constants.
 *
 * Results do not depend on this.  A filter with a condition that is not
 * recognized stays, and the executor tests it for each row.
 *
 * Another column may be declared to have the shape of the id.  A constraint of
 * the table of each store proves that both columns tell the same about that store
 * (same_shape.sql).  So a condition on it says about the filter what one on the
 * id says.  The view passes this column as third argument of resides(), where it
 * has no effect on the result.
 *
 * The same call refuses FOR UPDATE and the like on a union.  The rewriter
 * passes such a lock to the tables of a view, but not through UNION ALL: the
 * statement would run and lock nothing.  What leaf_locks.c has rewritten does
 * not get here.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/guc.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "reads/residency.h"
#include "reads/seam_pruning.h"

PG_FUNCTION_INFO_V1(run_ops_resides_support);
PG_FUNCTION_INFO_V1(run_ops_resides_selectivity);
PG_FUNCTION_INFO_V1(run_ops_refuse_locks_support);

/* run_ops_split.seam_pruning */
bool		seam_pruning = true;

/* A filter by the id of a row for one store, and how conditions name the id. */
typedef struct LeafFilter
{
	FuncExpr   *filter;
	Const	   *store;
	column_test is_column;
	void	   *column;
	Var		   *id;				/* the id as conditions name it, or NULL */
} LeafFilter;

/*
 * A column of a leaf, which conditions name as one of the union, and the other one
 * that has its shape.
 */
typedef struct LeafColumn
{
	AppendRelInfo *leaf;		/* maps columns of the union to the leaf */
	Var		   *column;			/* of the leaf */
	Node	   *same_shape;		/* of the leaf, or NULL */
} LeafColumn;

/*
 * What a condition of the query says about the filter.  If the precheck is
 * false, the filter is false for each row that meets the condition.  If the
 * bound is exact and the precheck is true, the filter is true for each row
 * that meets the condition.
 */
typedef struct Bound
{
	Expr	   *precheck;		/* NULL: the condition says nothing */
	bool		exact;
} Bound;

static const Bound unbounded = {NULL, false};

static Bound bound_of_clause(LeafFilter *filter, Node *clause);

void
seam_pruning_init(void)
{
	DefineCustomBoolVariable("run_ops_split.seam_pruning",
							 "Plans only the stores that can hold the ids a query asks for.",
							 "Results are the same either way. The setting does not change plans that are already cached.",
							 &seam_pruning,
							 true,
							 PGC_USERSET,
							 GUC_EXPLAIN,
							 NULL, NULL, NULL);
}

/* --- what conditions say about a leaf ----------------------------------------- */

static bool
is_const_bool(Expr *expr, bool value)
{
	return IsA(expr, Const) && !((Const *) expr)->constisnull &&
		DatumGetBool(((Const *) expr)->constvalue) == value;
}

/* Is this the column of the union that maps to the column of the leaf? */
static bool
is_our_column(Node *node, void *arg)
{
	LeafColumn *column = arg;
	Var		   *var = (Var *) strip_wrappers(node);
	Node	   *at_leaf;

	if (!is_column_of((Node *) var, column->leaf->parent_relid) ||
		var->varattno > list_length(column->leaf->translated_vars))
		return false;
	at_leaf = list_nth(column->leaf->translated_vars, var->varattno - 1);
	if (at_leaf == NULL)
		return false;
	at_leaf = strip_wrappers(at_leaf);
	return GUARD(20, equal(at_leaf, column->column) || equal(at_leaf, column->same_shape));
}

static Bound
bound_of_lookup(LeafFilter *filter, const LookupCondition *lookup)
{
	Node	   *ids = ids_of_lookup(lookup, filter->filter);
	bool		is_array = lookup->is_array;
	Bound		bound = unbounded;

	if (ids == NULL)
		return bound;
	if (IsA(ids, Const))
	{
		bool		any = false;
		bool		all = true;

		if (((Const *) ids)->constisnull && GUARD(45, !lookup->null_equals))
			 /* equals nothing */ ;
		else
			residency_of_value(filter->filter, (Const *) ids, is_array, filter->store, &any, &all);
		bound.precheck = (Expr *) makeBoolConst(any, false);
		bound.exact = GUARD(23, all);
	}
	else if (!contain_var_clause(ids) &&
			 GUARD(21, !contain_volatile_functions(ids)) &&
			 !contain_subplans(ids))
	{
		bound.precheck = residency_of(filter->filter, ids, is_array, filter->store, false);
		bound.exact = GUARD(22, !is_array);
	}
	return bound;
}

/*
 * All conditions have to hold, so all prechecks have to hold, and one exact
 * bound makes the result exact.
 */
static Bound
bound_of_and(LeafFilter *filter, List *clauses)
{
	Bound		bound = unbounded;
	List	   *prechecks = NIL;
	LookupCondition range;
	bool		has_range = match_lookup_range(clauses, filter->is_column, filter->column, &range);

	for (int i = 0; i < list_length(clauses) + has_range; i++)
	{
		Bound		one = i < list_length(clauses) ?
			bound_of_clause(filter, list_nth(clauses, i)) :
			bound_of_lookup(filter, &range);

		if (one.precheck == NULL)
			continue;
		if (is_const_bool(one.precheck, false))
			return one;
		bound.exact |= one.exact;
		bound.precheck = one.precheck;
		/* the planner does not accept an AND directly below another AND */
		prechecks = list_concat_copy(prechecks,
									 make_ands_implicit(one.precheck));
	}
	if (prechecks != NIL)
		bound.precheck = make_ands_explicit(prechecks);
	return bound;
}

/*
 * One of the conditions has to hold, so each must have a precheck.  If one of
 * the prechecks is true at run time, it is unknown for which condition.  So
 * the bound is exact only if all bounds are exact and their prechecks are the
 * constant true.
 */
static Bound
bound_of_or(LeafFilter *filter, List *clauses)
{
	Bound		bound = {NULL, true};
	bool		always = false;
	List	   *prechecks = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Bound		one = bound_of_clause(filter, lfirst(lc));

		if (one.precheck == NULL)
			return unbounded;
		if (is_const_bool(one.precheck, true))
			always = true;
		else
		{
			one.exact = false;
			if (!is_const_bool(one.precheck, false))
				prechecks = lappend(prechecks, one.precheck);
		}
		bound.exact &= GUARD(27, one.exact);
	}
	if (always || prechecks == NIL)
		bound.precheck = (Expr *) makeBoolConst(always, false);
	else
		bound.precheck = list_length(prechecks) == 1 ? linitial(prechecks) :
			make_orclause(prechecks);
	return bound;
}

static Bound
bound_of_clause(LeafFilter *filter, Node *clause)
{
	LookupCondition condition;

	check_stack_depth();

	clause = lookup_clause(clause);
	if (is_andclause(clause))
		return bound_of_and(filter, ((BoolExpr *) clause)->args);
	if (is_orclause(clause))
		return bound_of_or(filter, ((BoolExpr *) clause)->args);
	return match_lookup_condition(clause, filter->is_column, filter->column, &condition) ?
		bound_of_lookup(filter, &condition) : unbounded;
}

/*
 * What the conditions together say about the id: also ranges, if the filter is one
 * by a key rule.
 */
static Bound
bound_of_all(LeafFilter *filter, List *clauses)
{
	Bound		bound = bound_of_and(filter, clauses);
	List	   *condition;

	if (filter->id == NULL || !is_stored_in((Node *) filter->filter) ||
		(bound.precheck && IsA(bound.precheck, Const) && bound.exact))
		return bound;
	condition = list_make1(residency_for_store(filter->filter, (Node *) filter->id,
											   DatumGetTextPP(filter->store->constvalue)));
	if (GUARD(60, predicate_refuted_by(condition, clauses, true)))
		return (Bound) {(Expr *) makeBoolConst(false, false), true};
	if (GUARD(61, predicate_implied_by(condition, clauses, false)))
		return (Bound) {(Expr *) makeBoolConst(true, false), true};
	return bound;
}

Expr *
residency_of_conditions(Node *conditions, IdColumn *id, Const *store, bool *exact)
{
	LeafFilter	filter = {id->filter, store, is_id_column, id, id->var};
	Bound		bound = conditions ? bound_of_all(&filter, make_ands_implicit((Expr *) conditions)) : unbounded;

	*exact = bound.exact;
	return bound.precheck;
}

/* --- the support functions ------------------------------------------------------ */

/*
 * Raises an error if the query locks rows of the union that this condition
 * filters.
 */
static void
refuse_row_lock(PlannerInfo *root, FuncExpr *filter)
{
	Var		   *var;
	RangeTblEntry *rte;

	if (root->parse->rowMarks == NIL || (var = residency_column(filter)) == NULL ||
		get_parse_rowmark(root->parse, var->varno) == NULL)
		return;
	rte = rt_fetch(var->varno, root->parse->rtable);
	if (rte->rtekind != RTE_SUBQUERY || rte->subquery->setOperations == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot lock rows of a view over several stores"),
			 errdetail("FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE and FOR KEY SHARE would lock nothing in a union."),
			 errhint("Use run_ops.lock_row(view, id), which locks the row in its store. If this is the first statement of the session, try it again, or load the library before, with session_preload_libraries.")));
}

/* The column of the union that maps to this one of a leaf; NULL if there is none. */
static Var *
column_of_union(AppendRelInfo *leaf, Var *column)
{
	ListCell   *lc;

	foreach(lc, leaf->translated_vars)
	{
		if (lfirst(lc) != NULL && equal(strip_wrappers(lfirst(lc)), column))
			return makeVar(leaf->parent_relid, foreach_current_index(lc) + 1, exprType(lfirst(lc)),
						   exprTypmod(lfirst(lc)), exprCollation(lfirst(lc)), 0);
	}
	return NULL;
}

/* The filter for the plan of a leaf; NULL means that it stays as it is. */
static Node *
simplify_filter(PlannerInfo *root, FuncExpr *call)
{
	LeafColumn	column;
	LeafFilter	filter = {call, (Const *) strip_wrappers(lsecond(call->args)), is_our_column, &column};
	RangeTblEntry *rte;
	RelOptInfo *parent;
	Bound		bound;
	Expr	   *per_row;

	column.column = residency_column(call);
	column.same_shape = list_length(call->args) == 3 ? strip_wrappers(lthird(call->args)) : NULL;
	/* the leaves have not been expanded yet */
	if (root->append_rel_array == NULL || root->simple_rel_array == NULL ||
		column.column == NULL ||
		!IsA(filter.store, Const) || filter.store->constisnull)
		return NULL;
	column.leaf = root->append_rel_array[column.column->varno];
	if (column.leaf == NULL)
		return NULL;
	parent = root->simple_rel_array[column.leaf->parent_relid];
	if (parent == NULL)
		return NULL;

	filter.id = column_of_union(column.leaf, column.column);
	bound = bound_of_all(&filter, parent->baserestrictinfo);
	rte = planner_rt_fetch(column.column->varno, root);
	if (bound.precheck == NULL && rte->rtekind == RTE_RELATION &&
		is_proven_by_check(call, rte->relid, rte->inh, column.column->varattno, filter.store))
		return makeBoolConst(true, false);
	if (bound.precheck != NULL && (bound.exact || is_const_bool(bound.precheck, false)))
		return (Node *) bound.precheck;
	/* the filter has to hide strays, also among the ids that were asked for */
	if (is_stored_in((Node *) call) && rte->rtekind == RTE_RELATION && rte->relkind != RELKIND_FOREIGN_TABLE)
		per_row = (Expr *) residency_for_store(call, (Node *) column.column,
											   DatumGetTextPP(filter.store->constvalue));
	else if (bound.precheck == NULL || is_const_bool(bound.precheck, true))
		return NULL;
	else
		per_row = residency_of(call, (Node *) column.column, false, filter.store, false);
	if (bound.precheck == NULL)
		return (Node *) per_row;
	return (Node *) make_andclause(list_concat_copy(make_ands_implicit(bound.precheck),
													make_ands_implicit(per_row)));
}

/*
 * Is the call of a function that support was written for?  A superuser may
 * give it to any other: then there is nothing to say about it.
 */
static bool
is_filter_call(FuncExpr *call)
{
	return call->funcresulttype == BOOLOID &&
		(list_length(call->args) == 2 || list_length(call->args) == 3) &&
		exprType(linitial(call->args)) == TEXTOID &&
		exprType(lsecond(call->args)) == TEXTOID;
}

/*
 * resides_support(internal) returns internal
 */
Datum
run_ops_resides_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestSimplify))
	{
		SupportRequestSimplify *req = (SupportRequestSimplify *) request;

		if (req->root == NULL || !is_filter_call(req->fcall))
			PG_RETURN_POINTER(NULL);
		refuse_row_lock(req->root, req->fcall);
		PG_RETURN_POINTER(seam_pruning ?
						  simplify_filter(req->root, req->fcall) : NULL);
	}
	return run_ops_resides_selectivity(fcinfo);
}

/*
 * resides_selectivity(internal) returns internal
 */
Datum
run_ops_resides_selectivity(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (!IsA(request, SupportRequestSelectivity))
		PG_RETURN_POINTER(NULL);
	((SupportRequestSelectivity *) request)->selectivity = 1.0;
	PG_RETURN_POINTER(request);
}

/*
 * refuse_locks_support(internal) returns internal
 */
Datum
run_ops_refuse_locks_support(PG_FUNCTION_ARGS)
{
	SupportRequestSimplify *req =
		(SupportRequestSimplify *) PG_GETARG_POINTER(0);

	if (!IsA(req, SupportRequestSimplify) ||
		req->fcall->funcresulttype != BOOLOID ||
		list_length(req->fcall->args) != 1)
		PG_RETURN_POINTER(NULL);
	if (req->root != NULL)
		refuse_row_lock(req->root, req->fcall);
	PG_RETURN_POINTER(makeBoolConst(true, false));
}

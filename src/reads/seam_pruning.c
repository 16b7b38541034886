/*
 * seam_pruning.c
 *		Planner support of run_ops.resides: a plan contains only the stores
 *		that can hold the ids a query asks for.
 *
 * The view of a routed table is a union of leaves, one for each store,
 * filtered by resides(id, store).  The one idea: when the planner copies that
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

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "ids/id_shape.h"
#include "reads/lookup_condition.h"
#include "reads/seam_pruning.h"

PG_FUNCTION_INFO_V1(run_ops_resides_support);
PG_FUNCTION_INFO_V1(run_ops_resides_selectivity);
PG_FUNCTION_INFO_V1(run_ops_refuse_locks_support);
PG_FUNCTION_INFO_V1(run_ops_any_id_resides);
PG_FUNCTION_INFO_V1(run_ops_own_ids);

/* run_ops_split.seam_pruning */
bool		seam_pruning = true;

/* A filter resides(column, store), and how conditions name the column. */
typedef struct LeafFilter
{
	column_test is_column;
	void	   *column;
	Const	   *store;
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

/* --- sets of ids ---------------------------------------------------------- */

/*
 * Sets *any if an id of the text array resides in the store, and *all if every
 * id does.  NULL elements equal nothing, so they do not count.  An empty array
 * gives false for *any and true for *all.
 */
void
array_residency(ArrayType *ids, const char *store, int store_len,
				bool *any, bool *all)
{
	ArrayIterator iterator = array_create_iterator(ids, 0, NULL);
	Datum		id;
	bool		isnull;

	*any = false;
	*all = true;
	while (array_iterate(iterator, &id, &isnull))
	{
		if (isnull)
			continue;
		if (id_resides(id_shape_datum(id), store, store_len))
			*any = true;
		else
			*all = false;
	}
	array_free_iterator(iterator);
}

/*
 * any_id_resides(ids text[], store text) returns boolean
 *
 * Strict.  Whether one of the ids belongs in the store.
 */
Datum
run_ops_any_id_resides(PG_FUNCTION_ARGS)
{
	text	   *store = PG_GETARG_TEXT_PP(1);
	bool		any;
	bool		all;

	array_residency(PG_GETARG_ARRAYTYPE_P(0), VARDATA_ANY(store),
					VARSIZE_ANY_EXHDR(store), &any, &all);
	PG_RETURN_BOOL(any);
}

/*
 * own_ids(ids text[], store text) returns text[]
 *
 * Strict.  The ids that belong in the store.
 */
Datum
run_ops_own_ids(PG_FUNCTION_ARGS)
{
	ArrayIterator iterator = array_create_iterator(PG_GETARG_ARRAYTYPE_P(0),
												   0, NULL);
	text	   *store = PG_GETARG_TEXT_PP(1);
	ArrayBuildState *own = initArrayResult(TEXTOID, CurrentMemoryContext,
										   false);
	Datum		id;
	bool		isnull;

	while (array_iterate(iterator, &id, &isnull))
	{
		if (!isnull && id_resides(id_shape_datum(id), VARDATA_ANY(store),
								  VARSIZE_ANY_EXHDR(store)))
			accumArrayResult(own, id, false, TEXTOID, CurrentMemoryContext);
	}
	array_free_iterator(iterator);
	PG_RETURN_DATUM(makeArrayResult(own, CurrentMemoryContext));
}

/* --- what conditions say about a leaf ----------------------------------------- */

static bool
is_const_bool(Expr *expr, bool value)
{
	return IsA(expr, Const) && !((Const *) expr)->constisnull &&
		DatumGetBool(((Const *) expr)->constvalue) == value;
}

/*
 * The expression without wrappers that change neither bytes nor NULL: casts
 * between binary-compatible types, and the PlaceHolderVar that the planner
 * puts around the constants of a leaf when it pulls the leaf up.
 */
static Node *
strip(Node *node)
{
	for (;;)
	{
		node = without_relabeling(node);
		if (!IsA(node, PlaceHolderVar) ||
			((PlaceHolderVar *) node)->phlevelsup != 0)
			return node;
		node = (Node *) ((PlaceHolderVar *) node)->phexpr;
	}
}

/* Is this the column of the union that maps to the column of the leaf? */
static bool
is_our_column(Node *node, void *arg)
{
	LeafColumn *column = arg;
	Var		   *var = (Var *) strip(node);
	Node	   *at_leaf;

	if (!is_column_of((Node *) var, column->leaf->parent_relid) ||
		var->varattno > list_length(column->leaf->translated_vars))
		return false;
	at_leaf = list_nth(column->leaf->translated_vars, var->varattno - 1);
	if (at_leaf == NULL)
		return false;
	at_leaf = strip(at_leaf);
	return GUARD(20, equal(at_leaf, column->column) || equal(at_leaf, column->same_shape));
}

/*
 * A plan that contains such a call depends on the function, as on any function it
 * calls.
 *
 * The function is looked up directly in the catalog, because a user who reads
 * a view needs no privileges on the schema run_ops.
 */
Expr *
make_run_ops_call(const char *name, Oid result, List *args)
{
	Oid			argtypes[FUNC_MAX_ARGS];
	ListCell   *lc;
	Oid			funcid;

	foreach(lc, args)
		argtypes[foreach_current_index(lc)] = IsA(lfirst(lc), RowExpr) ? RECORDOID : exprType(lfirst(lc));
	funcid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							 CStringGetDatum(name),
							 PointerGetDatum(buildoidvector(argtypes, list_length(args))),
							 ObjectIdGetDatum(get_namespace_oid("run_ops", true)));
	if (!OidIsValid(funcid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist",
						funcname_signature_string(psprintf("run_ops.%s", name), list_length(args),
												  NIL, argtypes))));
	return (Expr *) makeFuncExpr(funcid, result, args, InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

Expr *
make_store_call(const char *name, Oid result, Node *ids, Node *store)
{
	return make_run_ops_call(name, result, list_make2(copyObject(ids), copyObject(store)));
}

static Expr *
make_filter_call(LeafFilter *filter, const char *name, Node *ids)
{
	return make_store_call(name, BOOLOID, ids, (Node *) filter->store);
}

static Bound
bound_of_lookup(LeafFilter *filter, const LookupCondition *lookup)
{
	Node	   *ids = lookup->values;
	bool		is_array = lookup->is_array;
	text	   *store = DatumGetTextPP(filter->store->constvalue);
	const char *store_name = VARDATA_ANY(store);
	int			store_len = VARSIZE_ANY_EXHDR(store);
	Bound		bound = unbounded;

	if (!is_bytewise_equality(lookup) ||
		exprType(ids) != (is_array ? TEXTARRAYOID : TEXTOID))
		return bound;
	if (IsA(ids, Const))
	{
		Const	   *value = (Const *) ids;
		bool		any = false;
		bool		all = true;

		if (value->constisnull && GUARD(45, !lookup->null_equals))
			 /* equals nothing */ ;
		else if (value->constisnull)
			any = all = id_resides(id_shape("", 0), store_name, store_len);
		else if (is_array)
			array_residency(DatumGetArrayTypeP(value->constvalue),
							store_name, store_len, &any, &all);
		else
			any = all = id_resides(id_shape_datum(value->constvalue),
								   store_name, store_len);
		bound.precheck = (Expr *) makeBoolConst(any, false);
		bound.exact = GUARD(23, all);
	}
	else if (!contain_var_clause(ids) &&
			 GUARD(21, !contain_volatile_functions(ids)) &&
			 !contain_subplans(ids))
	{
		bound.precheck = make_filter_call(filter,
										  is_array ? "any_id_resides" :
										  "id_resides", ids);
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

Expr *
residency_of_conditions(Node *conditions, column_test is_column, void *column,
						Const *store, bool *exact)
{
	LeafFilter	filter = {is_column, column, store};
	Bound		bound = conditions ? bound_of_clause(&filter, conditions) : unbounded;

	*exact = bound.exact;
	return bound.precheck;
}

/* --- the support functions ------------------------------------------------------ */

/*
 * On a foreign table a constraint is a declaration of its owner about the remote
 * rows.
 */
bool
is_proven_by_check(Oid relid, bool inherited, AttrNumber column, Const *store)
{
	Relation	relation = table_open(relid, NoLock);
	TupleConstr *constr = RelationGetDescr(relation)->constr;
	bool		proven = false;

	for (int i = 0; constr != NULL && i < constr->num_check && !proven; i++)
	{
		ConstrCheck *check = &constr->check[i];
		FuncExpr   *proof;

		/* a NO INHERIT constraint does not hold for child tables */
		if (!GUARD(28, check->ccvalid) || (check->ccnoinherit && inherited))
			continue;
		proof = stringToNode(check->ccbin);
		if (is_resides((Node *) proof))
		{
			Var		   *var = (Var *) strip(linitial(proof->args));

			proven = IsA(var, Var) && var->varattno == column &&
				equal(strip(lsecond(proof->args)), store);
		}
	}
	table_close(relation, NoLock);
	return proven;
}

/*
 * Raises an error if the query locks rows of the union that this condition
 * filters.  "node" is the column of the condition.
 */
static void
refuse_row_lock(PlannerInfo *root, Node *node)
{
	Var		   *var = (Var *) strip(node);
	RangeTblEntry *rte;

	if (root->parse->rowMarks == NIL || !IsA(var, Var) ||
		var->varlevelsup != 0 ||
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

/* The filter for the plan of a leaf; NULL means that it stays as it is. */
static Node *
simplify_filter(PlannerInfo *root, FuncExpr *call)
{
	LeafColumn	column;
	LeafFilter	filter = {is_our_column, &column};
	RangeTblEntry *rte;
	RelOptInfo *parent;
	Bound		bound;
	Expr	   *per_row;

	column.column = (Var *) strip(linitial(call->args));
	column.same_shape = list_length(call->args) == 3 ? strip(lthird(call->args)) : NULL;
	filter.store = (Const *) strip(lsecond(call->args));
	/* the leaves have not been expanded yet */
	if (root->append_rel_array == NULL || root->simple_rel_array == NULL ||
		!IsA(column.column, Var) || column.column->varlevelsup != 0 ||
		!IsA(filter.store, Const) || filter.store->constisnull)
		return NULL;
	column.leaf = root->append_rel_array[column.column->varno];
	if (column.leaf == NULL)
		return NULL;
	parent = root->simple_rel_array[column.leaf->parent_relid];
	if (parent == NULL)
		return NULL;

	bound = bound_of_and(&filter, parent->baserestrictinfo);
	rte = planner_rt_fetch(column.column->varno, root);
	if (bound.precheck == NULL)
		return rte->rtekind == RTE_RELATION &&
			is_proven_by_check(rte->relid, rte->inh, column.column->varattno, filter.store) ?
			makeBoolConst(true, false) : NULL;
	if (bound.exact || is_const_bool(bound.precheck, false))
		return (Node *) bound.precheck;
	/* the filter has to hide strays, also among the ids that were asked for */
	if (is_const_bool(bound.precheck, true))
		return NULL;
	per_row = make_filter_call(&filter, "id_resides", linitial(call->args));
	return (Node *) make_andclause(list_concat_copy(make_ands_implicit(bound.precheck),
													list_make1(per_row)));
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
		refuse_row_lock(req->root, linitial(req->fcall->args));
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
		refuse_row_lock(req->root, linitial(req->fcall->args));
	PG_RETURN_POINTER(makeBoolConst(true, false));
}

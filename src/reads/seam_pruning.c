/*
 * seam_pruning.c
 *		Planner support of run_ops.resides: only the stores are planned that
 *		can hold the ids a query asks for.
 *
 * A routed table's view is a union of leaves, one a store, filtered by
 * resides(id, store).  The one idea: when the planner copies that filter to
 * a leaf it simplifies it, and asks us.  The leaf says which store it is, and
 * the conditions of the query on the union are known by then, so "id = X"
 * turns the filter into resides(X, store):
 *
 *	X a constant		true or false; false removes the leaf from the plan
 *	X anything else that is the same for all rows (a parameter, a stable
 *						function): a one-time filter, tested before the leaf
 *						is begun
 *
 * Nothing depends on this for right answers: whatever is not understood keeps
 * the filter, which is then tested row by row.
 *
 * The same call is where FOR UPDATE and its like are refused on a union.  The
 * rewriter passes such a lock down to the tables of a view, but not through
 * UNION ALL: the statement would run and lock nothing.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
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
#include "reads/seam_pruning.h"

PG_FUNCTION_INFO_V1(run_ops_resides_support);
PG_FUNCTION_INFO_V1(run_ops_resides_selectivity);
PG_FUNCTION_INFO_V1(run_ops_refuse_locks_support);
PG_FUNCTION_INFO_V1(run_ops_refuse_locks);
PG_FUNCTION_INFO_V1(run_ops_any_id_resides);
PG_FUNCTION_INFO_V1(run_ops_own_ids);

/* run_ops_split.seam_pruning */
bool		seam_pruning = true;

/* One filter resides(column, store) at one leaf of a union. */
typedef struct LeafFilter
{
	PlannerInfo *root;
	AppendRelInfo *leaf;		/* how columns of the union map to it */
	Var		   *column;			/* of the leaf */
	Const	   *store;
} LeafFilter;

/*
 * What a condition says about the filter.  The filter is false for each row
 * that meets the condition, unless "gate" holds; "exact": where the gate
 * holds, the filter is true for each such row.
 */
typedef struct Bound
{
	Expr	   *gate;			/* NULL: the condition says nothing */
	bool		exact;
} Bound;

static const Bound unbounded = {NULL, false};

static Bound bound_of_clause(LeafFilter *filter, Node *clause);

void
seam_pruning_init(void)
{
	DefineCustomBoolVariable("run_ops_split.seam_pruning",
							 "Plans only the stores that can hold the ids a query asks for.",
							 "Results are the same either way. Plans that are cached already keep their shape.",
							 &seam_pruning,
							 true,
							 PGC_USERSET,
							 GUC_EXPLAIN,
							 NULL, NULL, NULL);
}

/* --- sets of ids ---------------------------------------------------------- */

/*
 * Whether any, and whether all, ids of a text array reside in the store.
 * NULL elements equal nothing, so they do not count.  False and true for an
 * empty array.
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
 * Strict.  Whether one of the ids belongs into the store.
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
 * Strict.  The ids that belong into the store.
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
 * Below what changes neither bytes nor NULL: a cast between binary-compatible
 * types, or the wrapper that pulling up a leaf puts around its constants.
 */
static Node *
strip(Node *node)
{
	for (;;)
	{
		if (IsA(node, RelabelType))
			node = (Node *) ((RelabelType *) node)->arg;
		else if (IsA(node, PlaceHolderVar) &&
				 ((PlaceHolderVar *) node)->phlevelsup == 0)
			node = (Node *) ((PlaceHolderVar *) node)->phexpr;
		else
			return node;
	}
}

/* Is this the union's column that is our column at the leaf? */
static bool
is_our_column(LeafFilter *filter, Node *node)
{
	Var		   *var = (Var *) strip(node);
	Node	   *at_leaf;

	if (!IsA(var, Var) || var->varno != filter->leaf->parent_relid ||
		var->varlevelsup != 0 || var->varattno <= 0 ||
		var->varattno > list_length(filter->leaf->translated_vars))
		return false;
	at_leaf = list_nth(filter->leaf->translated_vars, var->varattno - 1);
	return at_leaf != NULL &&
		GUARD(20, equal(strip(at_leaf), filter->column));
}

/*
 * run_ops.<name>(ids, store).  A plan that holds a call of it depends on it
 * as on any function it calls.
 *
 * The function is looked up in the catalog itself: who reads a view needs no
 * rights on the schema of what stands in its plan.
 */
Expr *
make_store_call(const char *name, Oid result, Node *ids, Node *store)
{
	Oid			argtypes[2] = {exprType(ids), TEXTOID};
	Oid			funcid;

	funcid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							 CStringGetDatum(name),
							 PointerGetDatum(buildoidvector(argtypes, 2)),
							 ObjectIdGetDatum(get_namespace_oid("run_ops", true)));
	if (!OidIsValid(funcid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function run_ops.%s(%s, text) does not exist",
						name, format_type_be(argtypes[0]))));
	return (Expr *) makeFuncExpr(funcid, result,
								 list_make2(copyObject(ids),
											copyObject(store)),
								 InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

static Expr *
make_gate(LeafFilter *filter, const char *name, Node *ids)
{
	return make_store_call(name, BOOLOID, ids, (Node *) filter->store);
}

/* column = ids, or column = ANY (ids) */
static Bound
bound_of_equality(LeafFilter *filter, Node *ids, bool is_array)
{
	text	   *store = DatumGetTextPP(filter->store->constvalue);
	const char *store_name = VARDATA_ANY(store);
	int			store_len = VARSIZE_ANY_EXHDR(store);
	Bound		bound = unbounded;

	if (exprType(ids) != (is_array ? TEXTARRAYOID : TEXTOID))
		return bound;
	if (IsA(ids, Const))
	{
		Const	   *value = (Const *) ids;
		bool		any = false;
		bool		all = true;

		if (value->constisnull)
			 /* equals nothing */ ;
		else if (is_array)
			array_residency(DatumGetArrayTypeP(value->constvalue),
							store_name, store_len, &any, &all);
		else
			any = all = id_resides(id_shape_datum(value->constvalue),
								   store_name, store_len);
		bound.gate = (Expr *) makeBoolConst(any, false);
		bound.exact = GUARD(23, all);
	}
	else if (!contain_var_clause(ids) &&
			 GUARD(21, !contain_volatile_functions(ids)) &&
			 !contain_subplans(ids))
	{
		bound.gate = make_gate(filter,
							   is_array ? "any_id_resides" : "id_resides",
							   ids);
		bound.exact = GUARD(22, !is_array);
	}
	return bound;
}

/* All conditions hold: each gate must, and one exact bound is enough. */
static Bound
bound_of_and(LeafFilter *filter, List *clauses)
{
	Bound		bound = unbounded;
	List	   *gates = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Bound		one = bound_of_clause(filter, lfirst(lc));

		if (one.gate == NULL)
			continue;
		if (is_const_bool(one.gate, false))
			return one;
		bound.exact |= one.exact;
		bound.gate = one.gate;
		/* the planner takes no AND below another, nor do we make one */
		gates = list_concat_copy(gates, make_ands_implicit(one.gate));
	}
	if (gates != NIL)
		bound.gate = make_ands_explicit(gates);
	return bound;
}

/*
 * One of the conditions holds, so each must say something.  A true gate does
 * not tell which one it was, so the bound is exact only when all are, and
 * true.
 */
static Bound
bound_of_or(LeafFilter *filter, List *clauses)
{
	Bound		bound = {NULL, true};
	bool		always = false;
	List	   *gates = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Bound		one = bound_of_clause(filter, lfirst(lc));

		if (one.gate == NULL)
			return unbounded;
		if (is_const_bool(one.gate, true))
			always = true;
		else
		{
			one.exact = false;
			if (!is_const_bool(one.gate, false))
				gates = lappend(gates, one.gate);
		}
		bound.exact &= GUARD(27, one.exact);
	}
	if (always || gates == NIL)
		bound.gate = (Expr *) makeBoolConst(always, false);
	else
		bound.gate = list_length(gates) == 1 ? linitial(gates) :
			make_orclause(gates);
	return bound;
}

/*
 * Equality must be text's own under a collation where equal means the same
 * bytes, which is all that the shape of an id depends on.
 */
bool
is_bytewise_equality(Oid opno, Oid collation)
{
	return GUARD(24, opno == TextEqualOperator) && OidIsValid(collation) &&
		GUARD(25, get_collation_isdeterministic(collation));
}

static Bound
bound_of_clause(LeafFilter *filter, Node *clause)
{
	check_stack_depth();

	if (IsA(clause, RestrictInfo))
		clause = (Node *) ((RestrictInfo *) clause)->clause;

	if (is_andclause(clause))
		return bound_of_and(filter, ((BoolExpr *) clause)->args);
	if (is_orclause(clause))
		return bound_of_or(filter, ((BoolExpr *) clause)->args);
	if (IsA(clause, OpExpr))
	{
		OpExpr	   *op = (OpExpr *) clause;

		if (!is_bytewise_equality(op->opno, op->inputcollid))
			return unbounded;
		if (is_our_column(filter, linitial(op->args)))
			return bound_of_equality(filter, lsecond(op->args), false);
		if (is_our_column(filter, lsecond(op->args)))
			return bound_of_equality(filter, linitial(op->args), false);
	}
	else if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		if (GUARD(26, op->useOr) &&
			is_bytewise_equality(op->opno, op->inputcollid) &&
			is_our_column(filter, linitial(op->args)))
			return bound_of_equality(filter, lsecond(op->args), true);
	}
	return unbounded;
}

/*
 * Told by the C function, so that nothing depends on names in the catalog.
 * run_ops.id_resides() is the same one.
 */
bool
is_resides(Node *clause)
{
	FuncExpr   *func = (FuncExpr *) clause;
	FmgrInfo	flinfo;

	if (!IsA(clause, FuncExpr) || list_length(func->args) != 2 ||
		get_func_rettype(func->funcid) != BOOLOID)
		return false;
	fmgr_info(func->funcid, &flinfo);
	return flinfo.fn_addr == run_ops_resides;
}

/* --- the support functions ------------------------------------------------------ */

/*
 * Does a constraint of the leaf say what the filter asks?  On a foreign table
 * a constraint is what its owner declares about the remote rows.
 */
static bool
is_proven_by_check(LeafFilter *filter, FuncExpr *call)
{
	RangeTblEntry *rte = planner_rt_fetch(filter->column->varno, filter->root);
	Relation	relation;
	TupleConstr *constr;
	bool		proven = false;

	if (rte->rtekind != RTE_RELATION)
		return false;
	relation = table_open(rte->relid, NoLock);
	constr = RelationGetDescr(relation)->constr;
	for (int i = 0; constr != NULL && i < constr->num_check && !proven; i++)
	{
		ConstrCheck *check = &constr->check[i];
		FuncExpr   *proof;

		/* children need not follow it */
		if (!GUARD(28, check->ccvalid) || (check->ccnoinherit && rte->inh))
			continue;
		proof = stringToNode(check->ccbin);
		if (IsA(proof, FuncExpr) && proof->funcid == call->funcid)
		{
			Var		   *var = (Var *) strip(linitial(proof->args));

			proven = IsA(var, Var) &&
				var->varattno == filter->column->varattno &&
				equal(strip(lsecond(proof->args)), filter->store);
		}
	}
	table_close(relation, NoLock);
	return proven;
}

/*
 * Refuse a lock on the union that this condition filters.  "node" is the
 * condition's column.
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
			 errhint("Use run_ops.lock_row(view, id), which locks the row in its store; in a join, name the other tables in FOR UPDATE OF.")));
}

/* The filter as it should stand in the plan of a leaf; NULL: as it is. */
static Node *
simplify_filter(PlannerInfo *root, FuncExpr *call)
{
	LeafFilter	filter;
	RelOptInfo *parent;
	Bound		bound;

	filter.root = root;
	filter.column = (Var *) strip(linitial(call->args));
	filter.store = (Const *) strip(lsecond(call->args));
	/* before leaves are expanded there is nothing to tell */
	if (root->append_rel_array == NULL || root->simple_rel_array == NULL ||
		!IsA(filter.column, Var) || filter.column->varlevelsup != 0 ||
		!IsA(filter.store, Const) || filter.store->constisnull)
		return NULL;
	filter.leaf = root->append_rel_array[filter.column->varno];
	if (filter.leaf == NULL)
		return NULL;
	parent = root->simple_rel_array[filter.leaf->parent_relid];
	if (parent == NULL)
		return NULL;

	bound = bound_of_and(&filter, parent->baserestrictinfo);
	if (bound.gate == NULL)
		return is_proven_by_check(&filter, call) ?
			makeBoolConst(true, false) : NULL;
	if (bound.exact || is_const_bool(bound.gate, false))
		return (Node *) bound.gate;
	/* strays must stay hidden, also among the ids that were asked for */
	if (is_const_bool(bound.gate, true))
		return NULL;
	return (Node *) make_andclause(list_concat_copy(make_ands_implicit(bound.gate),
													list_make1(make_gate(&filter, "id_resides",
																		 linitial(call->args)))));
}

/*
 * Is the call of a function that support was written for?  A superuser may
 * give it to any other: then there is nothing to say about it.
 */
static bool
is_filter_call(FuncExpr *call)
{
	return call->funcresulttype == BOOLOID && list_length(call->args) == 2 &&
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

/*
 * refuse_locks("any") returns boolean
 *
 * True, also for NULL.
 */
Datum
run_ops_refuse_locks(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

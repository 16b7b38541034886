/*
 * residency.c
 *		The filter of a view over several stores, and what it says of other ids.
 *
 * The filter tests for each row of a leaf whether its id belongs in that store: by
 * the shape of the id (id_shape.c), or by a key rule (key_rule.c).  The one idea:
 * the filter itself is the rule.  For another id, that takes the place of the
 * column in it, and for another store the name of that.  So whoever plans needs to
 * know neither shapes nor rules.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "ground/guard.h"
#include "ids/id_shape.h"
#include "ids/key_rule.h"
#include "reads/read_locks.h"
#include "reads/residency.h"

PG_FUNCTION_INFO_V1(run_ops_any_id_resides);
PG_FUNCTION_INFO_V1(run_ops_own_ids);

/* --- expressions -------------------------------------------------------------------- */

Node *
without_relabeling(Node *node)
{
	while (node && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node;
}

/*
 * The expression without wrappers that change neither bytes nor NULL: casts
 * between binary-compatible types, and the PlaceHolderVar that the planner
 * puts around the constants of a leaf when it pulls the leaf up.
 */
Node *
strip_wrappers(Node *node)
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

Node *
id_as_text(Node *id)
{
	return exprType(id) != VARCHAROID ? id :
		(Node *) makeRelabelType((Expr *) id, TEXTOID, -1, exprCollation(id), COERCE_IMPLICIT_CAST);
}

/* --- which filter ------------------------------------------------------------------- */

/*
 * Compares the C function, so that the result does not depend on names in the
 * catalog.
 */
static bool
calls(Node *clause, PGFunction function, int nargs)
{
	FuncExpr   *func = (FuncExpr *) clause;
	FmgrInfo	flinfo;

	if (!IsA(clause, FuncExpr) || list_length(func->args) != nargs ||
		get_func_rettype(func->funcid) != BOOLOID)
		return false;
	fmgr_info(func->funcid, &flinfo);
	return flinfo.fn_addr == function;
}

/* The C function of run_ops.id_resides() is the same. */
bool
is_resides(Node *clause)
{
	return calls(clause, run_ops_resides, 2) || calls(clause, run_ops_resides, 3);
}

/* The C function of run_ops.id_stored_in() is the same. */
bool
is_stored_in(Node *clause)
{
	return calls(clause, run_ops_stored_in, 2);
}

bool
is_residency(Node *clause)
{
	return is_resides(clause) || is_stored_in(clause);
}

bool
is_refuse_locks(Node *clause)
{
	return calls(clause, run_ops_refuse_locks, 1);
}

static bool
find_column(Node *node, void *arg)
{
	Var		  **column = arg;

	if (node == NULL)
		return false;
	if (!IsA(node, Var))
		return expression_tree_walker(node, find_column, arg);
	if (((Var *) node)->varlevelsup != 0 ||
		(*column != NULL && !equal(node, *column)))
		return true;
	*column = (Var *) node;
	return false;
}

Var *
residency_column(FuncExpr *filter)
{
	Var		   *column = NULL;
	Node	   *id = linitial(filter->args);

	return find_column(id, &column) ? NULL : column;
}

/* --- sets of ids ---------------------------------------------------------- */

static void
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

/* --- filters, for other ids -------------------------------------------------------- */

/* What takes the place of the column in a key rule. */
typedef struct IdInRule
{
	Var		   *column;
	Node	   *id;
} IdInRule;

static Node *
replace_id(Node *node, void *arg)
{
	IdInRule   *rule = arg;
	Oid			type = exprType(rule->id);

	if (node == NULL)
		return NULL;
	/* a value of another type is one of the type to which the rule casts the column */
	if ((!IsA(node, RelabelType) ||
		 (type != rule->column->vartype && type == ((RelabelType *) node)->resulttype)) &&
		equal(strip_wrappers(node), rule->column))
		return copyObject(rule->id);
	return expression_tree_mutator(node, replace_id, arg);
}

Node *
name_of_store(FuncExpr *filter, Node *id)
{
	IdInRule	rule = {residency_column(filter), id};

	return replace_id(linitial(filter->args), &rule);
}

static bool
has_case(Node *node, void *arg)
{
	return node != NULL && (IsA(node, CaseExpr) || expression_tree_walker(node, has_case, arg));
}

/*
 * An array of booleans, whether each id of an array is one of the store: the
 * condition is applied to the elements as a cast would be.  NULL if that is not
 * possible: CASE has no access to the element.
 */
static Node *
stored_array(FuncExpr *filter, Node *ids, text *store)
{
	ArrayCoerceExpr *result = makeNode(ArrayCoerceExpr);
	CaseTestExpr *element = makeNode(CaseTestExpr);

	element->typeId = get_base_element_type(exprType(ids));
	element->typeMod = -1;
	element->collation = exprCollation(ids);
	result->arg = (Expr *) copyObject(ids);
	result->elemexpr = (Expr *) residency_for_store(filter, (Node *) element, store);
	result->resulttype = BOOLARRAYOID;
	result->resulttypmod = -1;
	result->coerceformat = COERCE_EXPLICIT_CAST;
	result->location = -1;
	return has_case((Node *) result->elemexpr, NULL) ? NULL : (Node *) result;
}

Expr *
residency_of(FuncExpr *filter, Node *ids, bool is_array, Const *store, bool in_view)
{
	const char *name;

	if (is_stored_in((Node *) filter))
	{
		name = is_array ? "any_stored_in" : in_view ? "stored_in" : "id_stored_in";
		ids = is_array ? stored_array(filter, ids, DatumGetTextPP(store->constvalue)) : name_of_store(filter, ids);
	}
	else
	{
		name = is_array ? "any_id_resides" : in_view ? "resides" : "id_resides";
		ids = id_as_text(ids);
	}
	return ids ? make_store_call(name, BOOLOID, ids, (Node *) store) : NULL;
}

Node *
residency_for_store(FuncExpr *filter, Node *id, text *store)
{
	return is_stored_in((Node *) filter) ?
		(Node *) named_store_condition(name_of_store(filter, id), text_to_cstring(store)) :
		id_residency_condition(id_as_text(id), text_to_cstring(store));
}

void
residency_of_value(FuncExpr *filter, Const *ids, bool is_array, Const *store,
				   bool *any, bool *all)
{
	text	   *name = DatumGetTextPP(store->constvalue);
	Const	   *said;
	ArrayIterator iterator;
	Datum		value;
	bool		isnull;

	*any = false;
	*all = true;
	if (!is_stored_in((Node *) filter))
	{
		if (is_array)
			array_residency(DatumGetArrayTypeP(ids->constvalue),
							VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), any, all);
		else
			*any = *all = id_resides(ids->constisnull ? id_shape("", 0) : id_shape_datum(ids->constvalue),
									 VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
		return;
	}
	if (!is_array)
	{
		said = (Const *) eval_const_expressions(NULL, name_of_store(filter, (Node *) ids));
		if (!IsA(said, Const))
			elog(ERROR, "could not evaluate a key rule");
		*any = *all = names_store(said->constvalue, said->constisnull,
								  VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
		return;
	}
	said = (Const *) stored_array(filter, (Node *) ids, name);
	said = said ? (Const *) eval_const_expressions(NULL, (Node *) said) : NULL;
	if (said == NULL || !IsA(said, Const) || said->constisnull)
	{
		*any = true;
		*all = false;
		return;
	}
	iterator = array_create_iterator(DatumGetArrayTypeP(said->constvalue), 0, NULL);
	while (array_iterate(iterator, &value, &isnull))
	{
		if (!isnull && DatumGetBool(value))
			*any = true;
		else
			*all = false;
	}
	array_free_iterator(iterator);
}

/* --- constraints -------------------------------------------------------------------- */

/* Does the constraint say that all rows are of the store?  Its columns are of rti 1. */
static bool
is_proof(Node *constraint, FuncExpr *filter, AttrNumber attno, Const *store)
{
	Var		   *column;

	if (is_stored_in((Node *) filter))
	{
		column = copyObject(residency_column(filter));
		column->varno = 1;
		column->varattno = attno;
		return predicate_implied_by(list_make1(residency_for_store(filter, (Node *) column,
																   DatumGetTextPP(store->constvalue))),
									make_ands_implicit((Expr *) constraint), false);
	}
	if (!is_resides(constraint))
		return false;
	column = (Var *) strip_wrappers(linitial(((FuncExpr *) constraint)->args));
	return IsA(column, Var) && column->varattno == attno &&
		equal(strip_wrappers(lsecond(((FuncExpr *) constraint)->args)), store);
}

/*
 * On a foreign table a constraint is a declaration of its owner about the remote
 * rows.
 */
bool
is_proven_by_check(FuncExpr *filter, Oid relid, bool inherited, AttrNumber column, Const *store)
{
	Relation	relation = table_open(relid, NoLock);
	TupleConstr *constr = RelationGetDescr(relation)->constr;
	bool		proven = false;

	for (int i = 0; constr != NULL && i < constr->num_check && !proven; i++)
	{
		ConstrCheck *check = &constr->check[i];

		/* a NO INHERIT constraint does not hold for child tables */
		if (GUARD(28, check->ccvalid) && !(check->ccnoinherit && inherited))
			proven = is_proof(stringToNode(check->ccbin), filter, column, store);
	}
	table_close(relation, NoLock);
	return proven;
}

/*
 * key_rule.c
 *		Which store holds a row, where the shape of a text does not tell it: an
 *		expression over one column that names the store.
 *
 * The user gives an SQL function, for example one that returns "new" from a
 * number on and "legacy" before.  The one idea: its body is kept, not its name.
 * So it can be planned, sent to a store that has nothing but PostgreSQL, and
 * tested against the conditions of a query, and whoever changes or drops the
 * function moves no row.  For this it consists of what is built in.
 *
 * The registry has the expression as text, with $1 for the column.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "parser/parser.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "ground/compat.h"
#include "ids/id_shape.h"
#include "ids/key_rule.h"

PG_FUNCTION_INFO_V1(run_ops_stored_in);
PG_FUNCTION_INFO_V1(run_ops_any_stored_in);
PG_FUNCTION_INFO_V1(run_ops_rule_expression);
PG_FUNCTION_INFO_V1(run_ops_rule_names);
PG_FUNCTION_INFO_V1(run_ops_rule_condition);

bool
names_store(Datum named, bool isnull, const char *store, int store_len)
{
	const char *name = STORE_LEGACY;
	int			len = strlen(STORE_LEGACY);

	if (!isnull)
	{
		text	   *value = DatumGetTextPP(named);

		name = VARDATA_ANY(value);
		len = VARSIZE_ANY_EXHDR(value);
	}
	return len == store_len && memcmp(name, store, len) == 0;
}

/*
 * stored_in(named text, store text) returns boolean
 *
 * Whether a key rule has named this store.  A rule that gives NULL names
 * "legacy".  False for a NULL store.
 */
Datum
run_ops_stored_in(PG_FUNCTION_ARGS)
{
	text	   *store;

	if (PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	store = PG_GETARG_TEXT_PP(1);
	PG_RETURN_BOOL(names_store(PG_GETARG_DATUM(0), PG_ARGISNULL(0),
							   VARDATA_ANY(store), VARSIZE_ANY_EXHDR(store)));
}

/*
 * any_stored_in(stored boolean[], store text) returns boolean
 *
 * Strict.  Whether one of several ids is one of the store, which is an argument
 * only for who reads the plan.
 */
Datum
run_ops_any_stored_in(PG_FUNCTION_ARGS)
{
	ArrayIterator iterator = array_create_iterator(PG_GETARG_ARRAYTYPE_P(0), 0, NULL);
	bool		result = false;
	Datum		stored;
	bool		isnull;

	while (!result && array_iterate(iterator, &stored, &isnull))
		result = !isnull && DatumGetBool(stored);
	array_free_iterator(iterator);
	PG_RETURN_BOOL(result);
}

/* --- a condition for each store ------------------------------------------------- */

/*
 * Is the value of the expression not NULL, if its column is not?  Says no if it is
 * not known.
 */
static bool
is_never_null(Node *expr)
{
	List	   *args = NIL;
	ListCell   *lc;

	check_stack_depth();
	switch (nodeTag(expr))
	{
		case T_Const:
			return !((Const *) expr)->constisnull &&
				(!type_is_array(((Const *) expr)->consttype) ||
				 !array_contains_nulls(DatumGetArrayTypeP(((Const *) expr)->constvalue)));
		case T_Var:
		case T_Param:
			return true;
		case T_RelabelType:
			return is_never_null((Node *) ((RelabelType *) expr)->arg);
		case T_CollateExpr:
			return is_never_null((Node *) ((CollateExpr *) expr)->arg);
		case T_CoerceViaIO:
			return is_never_null((Node *) ((CoerceViaIO *) expr)->arg);
		case T_OpExpr:
			/* arithmetic, and comparisons */
			if (exprType(expr) != INT8OID && exprType(expr) != INT4OID && exprType(expr) != INT2OID &&
				!compat_is_comparison(((OpExpr *) expr)->opno))
				return false;
			args = ((OpExpr *) expr)->args;
			break;
		case T_ScalarArrayOpExpr:
			if (!compat_is_comparison(((ScalarArrayOpExpr *) expr)->opno))
				return false;
			args = ((ScalarArrayOpExpr *) expr)->args;
			break;
		case T_ArrayExpr:
			args = ((ArrayExpr *) expr)->elements;
			break;
		case T_BoolExpr:
			args = ((BoolExpr *) expr)->args;
			break;
		case T_FuncExpr:
			switch (((FuncExpr *) expr)->funcid)
			{
				case F_SUBSTR_TEXT_INT4:
				case F_SUBSTR_TEXT_INT4_INT4:
				case F_LEFT:
				case F_RIGHT:
				case F_GET_BYTE:
				case F_UUID_SEND:
				case F_INT8_INT4:
				case F_INT8_INT2:
				case F_INT4_INT8:
					break;
				default:
					return false;
			}
			args = ((FuncExpr *) expr)->args;
			break;
		default:
			return false;
	}
	foreach(lc, args)
	{
		if (!is_never_null(lfirst(lc)))
			return false;
	}
	return true;
}

static bool
is_bool(Expr *expr, bool value)
{
	return IsA(expr, Const) && DatumGetBool(((Const *) expr)->constvalue) == value;
}

/*
 * The test, or its opposite, as a condition that is never NULL.  It is one of those
 * that postgres_fdw sends to a store.
 */
static Expr *
is_true(Expr *test, bool value)
{
	Expr	   *differs;

	if (is_never_null((Node *) test))
		return value ? test : (Expr *) negate_clause((Node *) test);
	differs = make_opclause(BooleanEqualOperator, BOOLOID, false, test,
							(Expr *) makeBoolConst(true, false), InvalidOid, InvalidOid);
	set_opfuncid((OpExpr *) differs);
	NodeSetTag(differs, T_DistinctExpr);
	return value ? make_notclause(differs) : differs;
}

/* "CASE WHEN test THEN here ELSE otherwise END" */
static Expr *
choose(Expr *test, Expr *here, Expr *otherwise)
{
	if (is_bool(here, true) && is_bool(otherwise, true))
		return here;
	if (is_bool(here, false) && is_bool(otherwise, false))
		return here;
	if (is_bool(here, true))
		return is_bool(otherwise, false) ? is_true(test, true) :
			make_orclause(list_make2(is_true(test, true), otherwise));
	if (is_bool(here, false))
		return is_bool(otherwise, true) ? is_true(test, false) :
			make_andclause(list_make2(is_true(test, false), otherwise));
	return make_orclause(list_make2(make_andclause(list_make2(is_true(test, true), here)),
									make_andclause(list_make2(is_true(copyObject(test), false), otherwise))));
}

static Expr *
make_name(const char *store)
{
	return (Expr *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
							  CStringGetTextDatum(store), false, false);
}

static Expr *
condition_of(Node *named, const char *store)
{
	CaseExpr   *choice = (CaseExpr *) named;

	check_stack_depth();
	if (named == NULL)
		return (Expr *) makeBoolConst(strcmp(store, STORE_LEGACY) == 0, false);
	if (IsA(named, Const))
		return (Expr *) makeBoolConst(names_store(((Const *) named)->constvalue,
												  ((Const *) named)->constisnull,
												  store, strlen(store)), false);
	if (IsA(choice, CaseExpr) && choice->arg == NULL)
	{
		Expr	   *result = condition_of((Node *) choice->defresult, store);

		for (int i = list_length(choice->args) - 1; i >= 0; i--)
		{
			CaseWhen   *branch = list_nth_node(CaseWhen, choice->args, i);

			result = choose(branch->expr, condition_of((Node *) branch->result, store), result);
		}
		return result;
	}
	if (!is_never_null(named))
	{
		CoalesceExpr *name = makeNode(CoalesceExpr);

		name->coalescetype = TEXTOID;
		name->coalescecollid = exprCollation(named);
		name->args = list_make2(named, make_name(STORE_LEGACY));
		name->location = -1;
		named = (Node *) name;
	}
	return make_opclause(TextEqualOperator, BOOLOID, false, (Expr *) named,
						 make_name(store), InvalidOid, exprCollation(named));
}

Expr *
named_store_condition(Node *named, const char *store)
{
	return copyObject(condition_of(named, store));
}

/* --- the text of a rule ----------------------------------------------------------- */

/* The column, in the text of a rule. */
#define COLUMN "$1"

static void
refuse_rule(Oid function, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("function %s cannot be a key rule", format_procedure(function)),
			 errdetail_internal("%s", detail),
			 hint ? errhint("%s", hint) : 0));
}

static bool
is_not_built_in(Oid function, void *arg)
{
	return function >= FirstGenbkiObjectId;
}

/* Finds what a rule cannot have, and says it. */
static bool
find_unfit(Node *node, void *unfit)
{
	Oid			type = InvalidOid;
	Oid			collation;
	RegProcedure estimator = InvalidOid;

	if (node == NULL)
		return false;
	collation = exprInputCollation(node);
	if (IsA(node, OpExpr))
		estimator = get_oprrest(((OpExpr *) node)->opno);
	if (IsA(node, Const) || IsA(node, RelabelType) || IsA(node, CoerceViaIO) ||
		IsA(node, CoerceToDomain))
		type = exprType(node);
	if (IsA(node, SubLink) || IsA(node, ArrayCoerceExpr) || IsA(node, SQLValueFunction))
		*(char **) unfit = _("It has a subquery, a cast of arrays, or a value of the session.");
	else if (IsA(node, CaseExpr) && ((CaseExpr *) node)->arg != NULL)
		*(char **) unfit = _("It has CASE with a value that is compared. Write CASE WHEN with conditions.");
	else if (type >= FirstGenbkiObjectId || check_functions_in_node(node, is_not_built_in, NULL))
		*(char **) unfit = _("It uses a function, operator or type that is not part of PostgreSQL, so a store could not evaluate it.");
	else if (OidIsValid(collation) && collation != C_COLLATION_OID &&
			 (estimator == F_SCALARLTSEL || estimator == F_SCALARLESEL ||
			  estimator == F_SCALARGTSEL || estimator == F_SCALARGESEL) &&
			 !op_in_opfamily(((OpExpr *) node)->opno, TEXT_PATTERN_BTREE_FAM_OID) &&
			 !op_in_opfamily(((OpExpr *) node)->opno, BPCHAR_PATTERN_BTREE_FAM_OID))
		*(char **) unfit = _("It orders texts by a collation that can differ in a store. Write COLLATE \"C\", or use ~>=~ and its like.");
	else
		return expression_tree_walker(node, find_unfit, unfit);
	return true;
}

/* The expression of "SELECT expression"; NULL if the query is something else. */
static Node *
only_expression(Query *query)
{
	if (!IsA(query, Query) || query->commandType != CMD_SELECT ||
		query->rtable != NIL || query->jointree->quals != NULL ||
		query->setOperations != NULL || query->cteList != NIL ||
		query->limitCount != NULL || query->limitOffset != NULL ||
		query->hasAggs || query->hasTargetSRFs || query->hasWindowFuncs ||
		list_length(query->targetList) != 1)
		return NULL;
	return (Node *) linitial_node(TargetEntry, query->targetList)->expr;
}

/* The expression that an SQL function returns; NULL if it is no such function. */
static Node *
returned_expression(HeapTuple function)
{
	bool		isnull;
	Datum		body = SysCacheGetAttr(PROCOID, function, Anum_pg_proc_prosqlbody, &isnull);
	Query	   *query;

	if (isnull)
		return NULL;
	query = stringToNode(TextDatumGetCString(body));
	/* BEGIN ATOMIC has a list of lists of queries */
	while (IsA(query, List) && list_length((List *) query) == 1)
		query = linitial((List *) query);
	return only_expression(query);
}

/* What takes the place of the argument of a function. */
typedef struct Argument
{
	Node	   *value;
	int			uses;
} Argument;

static Node *
replace_argument(Node *node, Argument *argument)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param))
	{
		argument->uses++;
		return copyObject(argument->value);
	}
	return expression_tree_mutator(node, replace_argument, argument);
}

/*
 * rule_expression(rule regprocedure, column_type regtype) returns text
 *
 * Strict.  The expression that the function returns, with $1 for a column of that
 * type.  Errors: 42P13 if the function cannot be a key rule.
 */
Datum
run_ops_rule_expression(PG_FUNCTION_ARGS)
{
	Oid			function = PG_GETARG_OID(0);
	Oid			column_type = PG_GETARG_OID(1);
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	Param	   *column = makeNode(Param);
	Argument	argument = {NULL, 0};
	Node	   *expr;
	char	   *unfit = NULL;
	char	   *result;
	int			found = 0;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(column_type)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type with OID %u does not exist", column_type)));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prokind != PROKIND_FUNCTION || proc->pronargs != 1 ||
		proc->proretset || proc->prorettype != TEXTOID)
		refuse_rule(function, _("A key rule takes one argument, the column, and returns the name of a store as text."), NULL);
	if (proc->provolatile != PROVOLATILE_IMMUTABLE)
		refuse_rule(function, _("It is not declared IMMUTABLE, but the store of a row never changes."), NULL);
	column->paramkind = PARAM_EXTERN;
	column->paramid = 1;
	column->paramtype = column_type;
	column->paramtypmod = -1;
	column->paramcollid = get_typcollation(column_type);
	column->location = -1;
	argument.value = coerce_to_target_type(NULL, (Node *) column, column_type,
										   proc->proargtypes.values[0], -1,
										   COERCION_IMPLICIT, COERCE_EXPLICIT_CAST, -1);
	if (argument.value == NULL)
		refuse_rule(function, psprintf(_("The column is of type %s."), format_type_be(column_type)), NULL);
	expr = returned_expression(tuple);
	if (expr == NULL)
		refuse_rule(function, _("It is not an SQL function whose body is RETURN and an expression."),
					_("For example: CREATE FUNCTION store_of(id bigint) RETURNS text IMMUTABLE RETURN CASE WHEN id >= 1000000 THEN 'new' ELSE 'legacy' END;"));
	ReleaseSysCache(tuple);
	if (contain_mutable_functions(expr))
		refuse_rule(function, _("It calls functions that are not IMMUTABLE."), NULL);
	if (find_unfit(expr, &unfit))
		refuse_rule(function, unfit, NULL);

	result = deparse_expression(replace_argument(expr, &argument), NIL, false, false);
	for (char *at = result; (at = strstr(at, COLUMN)) != NULL; at++)
		found++;
	if (argument.uses == 0)
		refuse_rule(function, _("It does not use its argument."), NULL);
	if (found != argument.uses)
		refuse_rule(function, _("It has a text with \"$1\"."), NULL);
	PG_RETURN_TEXT_P(cstring_to_text(result));
}

/* The expression of a rule, over a parameter of this type. */
static Node *
parse_rule(const char *rule, Oid column_type)
{
	char	   *sql = psprintf("SELECT %s", rule);
	List	   *statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	Query	   *query = list_length(statements) != 1 ? NULL :
		compat_parse_analyze(linitial_node(RawStmt, statements), sql, &column_type, 1);
	Node	   *result = query ? only_expression(query) : NULL;

	if (result == NULL || exprType(result) != TEXTOID)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("\"%s\" is not the expression of a key rule", rule)));
	return result;
}

/* Adds the names that the expression gives as constants. */
static void
collect_names(Node *named, ArrayBuildState *names)
{
	CaseExpr   *choice = (CaseExpr *) named;
	ListCell   *lc;

	check_stack_depth();
	if (named == NULL)
		return;
	if (IsA(named, Const) && !((Const *) named)->constisnull)
		accumArrayResult(names, ((Const *) named)->constvalue, false, TEXTOID, CurrentMemoryContext);
	if (!IsA(named, CaseExpr))
		return;
	foreach(lc, choice->args)
		collect_names((Node *) lfirst_node(CaseWhen, lc)->result, names);
	collect_names((Node *) choice->defresult, names);
}

/*
 * rule_names(rule text, column_type regtype) returns text[]
 *
 * Strict.  The names of stores that a rule has as constants.
 */
Datum
run_ops_rule_names(PG_FUNCTION_ARGS)
{
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);

	collect_names(parse_rule(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_OID(1)), names);
	PG_RETURN_DATUM(makeArrayResult(names, CurrentMemoryContext));
}

/*
 * rule_condition(rule text, column_type regtype, id text, store text) returns text
 *
 * Strict.  The condition that the rule names the store, for the SQL expression
 * "id", which is of that type and never NULL.
 */
Datum
run_ops_rule_condition(PG_FUNCTION_ARGS)
{
	Node	   *named = parse_rule(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_OID(1));
	Expr	   *condition = named_store_condition(named, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	char	   *result = deparse_expression((Node *) condition, NIL, false, false);

	PG_RETURN_DATUM(DirectFunctionCall3Coll(replace_text, C_COLLATION_OID,
											CStringGetTextDatum(result),
											CStringGetTextDatum(COLUMN),
											PG_GETARG_DATUM(2)));
}

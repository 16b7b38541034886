/*
 * stand_ins.c
 *		Lets postgres_fdw ship what it would not: enums, now(), rows, and the filter resides().
 *
 * The one idea: postgres_fdw is shown another expression, which means the same to
 * the store.  Such a stand-in exists only while postgres_fdw looks at a clause or
 * writes it.  The planner and the executor never see it: they would take an enum
 * for a text, and pruning looks for resides().
 *
 * postgres_fdw ships nothing that contains a value of a user's type: it does not
 * know whether the type is the same in the store.  Of a routed table it is: a
 * gate compares the labels of enums.  A column of an enum is shown as one of type
 * text.  postgres_fdw then writes "status = 'DONE'" and "GROUP BY status", without
 * a type, as it does for a foreign table whose owner has declared an enum as text.
 * The store reads this as its own enum, and can use its indexes.  A new value of an
 * enum is shown as one of type unknown, which the store reads in the same way; so
 * is a parameter.
 *
 * Nor does postgres_fdw ship now(), or a function of the application, whose result
 * in the store may be another one.  If there is no column in it, it is shown as a
 * parameter, and in the finished plan the value of the parameter is computed here.
 * A comparison of rows, which postgres_fdw does not know, is shown as comparisons of
 * columns.
 *
 * For the target of an UPDATE or DELETE, resides() is shown as an expression of
 * what is built in.  If the store can test that, it may be able to execute the
 * whole statement.  A scan that only reads tests the filter here, where it costs
 * less.
 *
 * What depends on the order of the labels is not shipped, because it may differ:
 * "<", ORDER BY, min() and max().
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "ground/compat.h"
#include "reads/lookup_condition.h"
#include "reads/residency.h"
#include "reads/stand_ins.h"
#include "reads/store_order.h"

/* A value while a parameter is in its place. */
typedef struct ReplacedValue
{
	Node	   *original;
	Param	   *stand_in;
} ReplacedValue;

/* A condition while its stand-in is in its place. */
typedef struct ReplacedCondition
{
	RestrictInfo *rinfo;
	Expr	   *original;
	List	   *values;			/* in the stand-in */
} ReplacedCondition;

/* What with_stand_ins() does. */
typedef struct StandIns
{
	bool		found;			/* there is a stand-in for something */
	bool		for_change;		/* of rows that the statement changes */
	bool		conditional;	/* where something is not always computed */
	int			next_param;		/* the number of the next value; 0: none are replaced */
	List	   *values;
} StandIns;

/*
 * The parameters that are values have numbers that no other has, for each table of a
 * query; 0 is for the new values of an UPDATE.
 */
#define MAX_VALUES 1000
#define FIRST_PARAM(varno) ((1000 + (int) (varno)) * MAX_VALUES)

/* --- values ------------------------------------------------------------------------- */

static bool
is_users_function(Oid function, void *may_read_tables)
{
	return function >= FirstGenbkiObjectId &&
		(!may_read_tables || func_volatile(function) != PROVOLATILE_IMMUTABLE);
}

/* Does it call functions of the application?  If asked for, those that may read tables. */
static bool
calls_users_functions(Node *node, void *may_read_tables)
{
	return node != NULL &&
		(check_functions_in_node(node, is_users_function, may_read_tables) ||
		 expression_tree_walker(node, calls_users_functions, may_read_tables));
}

/* Is it a parameter, or a constant but for the time, the user and the like? */
static bool
never_fails(Node *node, bool params)
{
	List	   *args;
	ListCell   *lc;

	check_stack_depth();
	switch (nodeTag(node))
	{
		case T_Param:
			return params;
		case T_Const:
		case T_SQLValueFunction:
			return true;
		case T_OpExpr:
			args = ((OpExpr *) node)->args;
			break;
		case T_FuncExpr:
			args = ((FuncExpr *) node)->args;
			/* of functions with arguments, casts */
			if (args != NIL && ((FuncExpr *) node)->funcformat == COERCE_EXPLICIT_CALL)
				return false;
			break;
		default:
			return false;
	}
	foreach(lc, args)
	{
		if (!never_fails(lfirst(lc), false))
			return false;
	}
	return !calls_users_functions(node, NULL);
}

/* Does it depend on something that is not there before a row is? */
static bool
needs_row(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_PlaceHolderVar:
		case T_Aggref:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_SubPlan:
		case T_AlternativeSubPlan:
		case T_CaseTestExpr:
		case T_CoerceToDomainValue:
		case T_CurrentOfExpr:
		case T_SetToDefault:
			return true;
		case T_Param:
			return ((Param *) node)->paramkind != PARAM_EXTERN &&
				((Param *) node)->paramkind != PARAM_EXEC;
		default:
			return expression_tree_walker(node, needs_row, context);
	}
}

/*
 * Can it be computed here, once, and may it have a stand-in?  The value for a change is
 * computed when the store is asked to make it, and others may have made theirs by then.
 * What a table computes only sometimes must not be an error here.
 */
static bool
is_value(Node *node, StandIns *context)
{
	return context->next_param != 0 && context->next_param % MAX_VALUES != MAX_VALUES - 1 &&
		!expression_returns_set(node) && !needs_row(node, NULL) && !contain_volatile_functions(node) &&
		!(context->for_change && calls_users_functions(node, &context->for_change)) &&
		(!context->conditional || never_fails(node, true));
}

static Expr *
stand_in_param(Node *node, Oid type, int32 typmod, Oid collation, StandIns *context)
{
	ReplacedValue *value = palloc(sizeof(ReplacedValue));
	Param	   *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = context->next_param++;
	param->paramtype = type;
	param->paramtypmod = typmod;
	param->paramcollid = collation;
	param->location = -1;
	value->original = node;
	value->stand_in = param;
	context->values = lappend(context->values, value);
	return (Expr *) param;
}

/*
 * The parameter for a value that postgres_fdw would not let the store compute; NULL if
 * it is something else.
 */
static Expr *
value_from_here(Node *node, StandIns *context)
{
	switch (nodeTag(node))
	{
		case T_FuncExpr:
		case T_OpExpr:
		case T_SQLValueFunction:
		case T_CoerceViaIO:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_CaseExpr:
		case T_ArrayExpr:
			break;
		default:
			return NULL;
	}
	if (!is_value(node, context) || !(contain_mutable_functions(node) || calls_users_functions(node, NULL)))
		return NULL;
	return stand_in_param(node, exprType(node), exprTypmod(node), exprCollation(node), context);
}

/* The same for a value of an enum, or an array of them: the store finds out the type. */
static Expr *
untyped_value(Node *node, StandIns *context)
{
	return !is_value(node, context) ? NULL :
		stand_in_param(node, UNKNOWNOID, -1, InvalidOid, context);
}

/* --- enums -------------------------------------------------------------------------- */

/* The stand-in for a column of an enum; NULL if it is something else. */
static Expr *
enum_column(Node *node)
{
	Var		   *column = (Var *) node;

	if (!IsA(node, Var) || column->varlevelsup != 0 || column->varattno <= 0 ||
		get_typtype(column->vartype) != TYPTYPE_ENUM)
		return NULL;
	column = copyObject(column);
	column->vartype = TEXTOID;
	column->vartypmod = -1;
	column->varcollid = DEFAULT_COLLATION_OID;
	return (Expr *) column;
}

/*
 * The label, if the expression is one: a constant, or a cast of a constant text,
 * as ORMs write it.  The store refuses a text that is no label, as the cast does.
 */
static Const *
enum_label(Node *node)
{
	Const	   *label = (Const *) node;
	Oid			output;
	bool		is_varlena;

	/* enum_in() is stable, so the planner has left the cast, with a cstring */
	if (IsA(node, CoerceViaIO) && get_typtype(((CoerceViaIO *) node)->resulttype) == TYPTYPE_ENUM)
		label = (Const *) ((CoerceViaIO *) node)->arg;
	if (!IsA(label, Const) || label->constisnull)
		return NULL;
	getTypeOutputInfo(label->consttype, &output, &is_varlena);
	return makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
					 CStringGetTextDatum(OidOutputFunctionCall(output, label->constvalue)), false, false);
}

static Expr *
make_comparison(Oid function, Expr *column, Expr *value)
{
	return make_opclause(function == F_ENUM_EQ ? TextEqualOperator : get_negator(TextEqualOperator),
						 BOOLOID, false, column, value, InvalidOid,
						 DEFAULT_COLLATION_OID);
}

/* column = value, value = column, or the same with <> */
static Expr *
comparison(OpExpr *op, StandIns *context)
{
	Oid			function = get_opcode(op->opno);

	if (function != F_ENUM_EQ && function != F_ENUM_NE)
		return NULL;
	for (int side = 0; side < 2; side++)
	{
		Expr	   *column = enum_column(list_nth(op->args, side));
		Node	   *node = list_nth(op->args, 1 - side);
		Expr	   *value;

		if (column == NULL)
			continue;
		value = (Expr *) enum_label(node);
		if (value == NULL)
			value = untyped_value(node, context);
		if (value != NULL)
			return make_comparison(function, column, value);
	}
	return NULL;
}

/* The labels of an array as expressions; NIL if it has none. */
static List *
array_labels(Node *node)
{
	ArrayType  *array;
	List	   *labels = NIL;
	ArrayIterator iterator;
	Datum		label;
	bool		isnull;

	if (IsA(node, ArrayExpr) && !((ArrayExpr *) node)->multidims)
		return ((ArrayExpr *) node)->elements;
	if (!IsA(node, Const) || ((Const *) node)->constisnull)
		return NIL;
	array = DatumGetArrayTypeP(((Const *) node)->constvalue);
	iterator = array_create_iterator(array, 0, NULL);
	while (array_iterate(iterator, &label, &isnull))
		labels = lappend(labels, makeConst(ARR_ELEMTYPE(array), -1, InvalidOid, sizeof(Oid),
										   label, isnull, true));
	array_free_iterator(iterator);
	return labels;
}

/* column = ANY (values) or column <> ALL (values) */
static Expr *
comparison_with_all(ScalarArrayOpExpr *op, StandIns *context)
{
	Oid			function = get_opcode(op->opno);
	Expr	   *column = enum_column(linitial(op->args));
	Node	   *array = lsecond(op->args);
	List	   *comparisons = NIL;
	ListCell   *lc;

	if (function != (op->useOr ? F_ENUM_EQ : F_ENUM_NE) || column == NULL)
		return NULL;
	foreach(lc, array_labels(array))
	{
		Const	   *label = enum_label(lfirst(lc));

		if (label == NULL)
		{
			comparisons = NIL;
			break;
		}
		comparisons = lappend(comparisons, make_comparison(function, column, (Expr *) label));
	}
	if (comparisons == NIL)
	{
		Expr	   *value = IsA(array, Const) ? NULL : untyped_value(array, context);
		ScalarArrayOpExpr *copy;

		if (value == NULL)
			return NULL;
		copy = copyObject(op);
		copy->opno = op->useOr ? TextEqualOperator : get_negator(TextEqualOperator);
		copy->opfuncid = get_opcode(copy->opno);
		copy->inputcollid = DEFAULT_COLLATION_OID;
		copy->args = list_make2(column, value);
		return (Expr *) copy;
	}
	if (list_length(comparisons) == 1)
		return linitial(comparisons);
	return op->useOr ? make_orclause(comparisons) : make_andclause(comparisons);
}

void
restore_values(ForeignScan *plan, List *values)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, plan->fdw_exprs)
	{
		foreach(lc2, values)
		{
			ReplacedValue *value = lfirst(lc2);

			if (equal(lfirst(lc), value->stand_in))
			{
				lfirst(lc) = copyObject(value->original);
				break;
			}
		}
	}
}

/* --- rows --------------------------------------------------------------------------- */

/* The comparison of the nth columns of both sides; NULL if there is no operator. */
static Expr *
compare_columns(RowCompareExpr *row, int n, int16 strategy)
{
	Oid			left;
	Oid			right;
	Oid			operator;
	int			used_strategy;

	get_op_opfamily_properties(list_nth_oid(row->opnos, n), list_nth_oid(row->opfamilies, n), false,
							   &used_strategy, &left, &right);
	operator = get_opfamily_member(list_nth_oid(row->opfamilies, n), left, right, strategy);
	return !OidIsValid(operator) ? NULL :
		make_opclause(operator, BOOLOID, false, list_nth(row->largs, n), list_nth(row->rargs, n),
					  InvalidOid, list_nth_oid(row->inputcollids, n));
}

/*
 * (a, b) < (x, y) is a < x OR a = x AND b < y.  That a <= x lets the store use an
 * index.  NULL if it cannot be said so.
 */
static Expr *
row_comparison(RowCompareExpr *row)
{
	int			strategy = compat_row_strategy(row);
	bool		less = strategy < BTEqualStrategyNumber;
	int			last = list_length(row->opnos) - 1;
	Expr	   *result;
	Expr	   *bound;

	if (contain_volatile_functions((Node *) row))
		return NULL;
	result = compare_columns(row, last, strategy);
	for (int n = last - 1; n >= 0; n--)
	{
		Expr	   *differs = compare_columns(row, n, less ? BTLessStrategyNumber : BTGreaterStrategyNumber);
		Expr	   *equals = compare_columns(row, n, BTEqualStrategyNumber);

		if (result == NULL || differs == NULL || equals == NULL)
			return NULL;
		result = make_orclause(list_make2(differs, make_andclause(list_make2(equals, result))));
	}
	bound = compare_columns(row, 0, less ? BTLessEqualStrategyNumber : BTGreaterEqualStrategyNumber);
	return bound == NULL ? NULL : make_andclause(list_make2(bound, result));
}

/* --- all of them -------------------------------------------------------------------- */

static Node *
stand_in_mutator(Node *node, void *arg)
{
	StandIns   *context = arg;
	Expr	   *stand_in = NULL;

	if (node == NULL)
		return NULL;
	if (IsA(node, OpExpr) && list_length(((OpExpr *) node)->args) == 2)
		stand_in = comparison((OpExpr *) node, context);
	else if (IsA(node, ScalarArrayOpExpr))
		stand_in = comparison_with_all((ScalarArrayOpExpr *) node, context);
	else if (IsA(node, RowCompareExpr))
		/* whose values may have stand-ins */
		stand_in = row_comparison((RowCompareExpr *) expression_tree_mutator(node, stand_in_mutator, arg));
	else if (IsA(node, NullTest) || (IsA(node, Aggref) && ((Aggref *) node)->aggfnoid == F_COUNT_ANY))
	{
		/* these look at the column, and not at its value */
		Node	   *copy = expression_tree_mutator(node, stand_in_mutator, arg);
		Expr	  **column = IsA(copy, NullTest) ? &((NullTest *) copy)->arg :
			&linitial_node(TargetEntry, ((Aggref *) copy)->args)->expr;

		if ((stand_in = enum_column((Node *) *column)) == NULL)
			return copy;
		*column = stand_in;
		stand_in = (Expr *) copy;
	}
	if (stand_in == NULL)
		stand_in = value_from_here(node, context);
	if (stand_in == NULL)
	{
		bool		conditional = context->conditional;
		Node	   *result;

		context->conditional |= IsA(node, CaseExpr) || IsA(node, CoalesceExpr) ||
			is_orclause(node) || is_andclause(node);
		result = expression_tree_mutator(node, stand_in_mutator, arg);
		context->conditional = conditional;
		return result;
	}
	context->found = true;
	return (Node *) stand_in;
}

/* The expression with stand-ins; NULL if there are none. */
static Expr *
with_stand_ins(Expr *expr, StandIns *context)
{
	Node	   *result;

	context->found = false;
	result = stand_in_mutator((Node *) expr, context);
	return context->found ? (Expr *) result : NULL;
}

/* --- conditions --------------------------------------------------------------------- */

/* The stand-in for a filter by the id of a row; NULL if it is something else. */
static Expr *
shipped_filter(Expr *clause)
{
	FuncExpr   *filter = (FuncExpr *) clause;
	Const	   *store;
	Var		   *column;

	if (!is_residency((Node *) clause) || (column = residency_column(filter)) == NULL ||
		!IsA(store = lsecond(filter->args), Const) || store->constisnull)
		return NULL;
	return (Expr *) residency_for_store(filter, (Node *) column, DatumGetTextPP(store->constvalue));
}

/* What postgres_fdw is shown in place of a condition; NULL: the condition. */
static Expr *
condition_to_show(PlannerInfo *root, RelOptInfo *rel, Expr *clause, StandIns *context)
{
	Expr	   *stand_in = NULL;

	context->for_change = (root->parse->commandType == CMD_UPDATE || root->parse->commandType == CMD_DELETE) &&
		bms_is_member(rel->relid, root->all_result_relids);
	if (context->for_change)
		stand_in = shipped_filter(clause);
	if (stand_in == NULL && COMPAT_COMPARES_WITHOUT_TYPE)
		stand_in = with_stand_ins(clause, context);
	if (depends_on_store_order(root, (Node *) (stand_in ? stand_in : clause)))
		return kept_here(clause);
	return stand_in;
}

List *
replace_conditions(PlannerInfo *root, RelOptInfo *rel)
{
	List	   *replaced = NIL;
	int			next_param = FIRST_PARAM(rel->relid);
	ListCell   *lc;

	foreach(lc, rel->baserestrictinfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		StandIns	context = {.next_param = next_param};
		Expr	   *stand_in;
		ReplacedCondition *condition;

		if (rinfo->pseudoconstant)
			continue;
		stand_in = condition_to_show(root, rel, rinfo->clause, &context);
		if (stand_in == NULL)
			continue;
		next_param = context.next_param;

		/*
		 * Keep the selectivity in the RestrictInfo.  Nothing may estimate that
		 * of the stand-in: the statistics are those of the enum.
		 */
		(void) clause_selectivity(root, (Node *) rinfo, 0, JOIN_INNER, NULL);
		if (rinfo->norm_selec < 0)
			continue;
		condition = palloc(sizeof(ReplacedCondition));
		condition->rinfo = rinfo;
		condition->original = rinfo->clause;
		condition->values = context.values;
		rinfo->clause = stand_in;
		replaced = lappend(replaced, condition);
	}
	return replaced;
}

List *
keep_join_clauses_here(PlannerInfo *root, RelOptInfo *rel, List *clauses)
{
	List	   *replaced = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		ReplacedCondition *condition;

		if (list_member_ptr(rel->baserestrictinfo, rinfo) ||
			!depends_on_store_order(root, (Node *) rinfo->clause))
			continue;
		condition = palloc0(sizeof(ReplacedCondition));
		condition->rinfo = rinfo;
		condition->original = rinfo->clause;
		rinfo->clause = kept_here(rinfo->clause);
		replaced = lappend(replaced, condition);
	}
	return replaced;
}

void
restore_conditions(List *replaced)
{
	ListCell   *lc;

	foreach(lc, replaced)
	{
		ReplacedCondition *condition = lfirst(lc);

		condition->rinfo->clause = condition->original;
	}
}

void
restore_values_of_conditions(ForeignScan *plan, List *replaced)
{
	ListCell   *lc;

	foreach(lc, replaced)
		restore_values(plan, ((ReplacedCondition *) lfirst(lc))->values);
}

static List *
restore_list(List *quals, List *replaced)
{
	ListCell   *lc;
	ListCell   *lc2;

	/* postgres_fdw writes an UPDATE or DELETE from this list later */
	quals = list_copy(quals);
	foreach(lc, quals)
	{
		foreach(lc2, replaced)
		{
			ReplacedCondition *condition = lfirst(lc2);

			if (lfirst(lc) == condition->rinfo->clause)
				lfirst(lc) = condition->original;
		}
	}
	return quals;
}

void
restore_conditions_of_plan(ForeignScan *plan, List *replaced)
{
	plan->scan.plan.qual = restore_list(plan->scan.plan.qual, replaced);
	plan->fdw_recheck_quals = restore_list(plan->fdw_recheck_quals, replaced);
	restore_values_of_conditions(plan, replaced);
}

/* --- new values ---------------------------------------------------------------------- */

/* The stand-in for a new value of an enum; NULL if it is something else. */
static Expr *
new_enum_value(Node *node, StandIns *context)
{
	Const	   *label;

	if (get_typtype(exprType(node)) != TYPTYPE_ENUM)
		return NULL;
	label = enum_label(node);
	if (label != NULL)
		return (Expr *) makeConst(UNKNOWNOID, -1, InvalidOid, -2,
								  CStringGetDatum(TextDatumGetCString(label->constvalue)), false, false);
	return untyped_value(node, context);
}

List *
replace_new_values(List *targetlist, List **values)
{
	StandIns	context = {.for_change = true, .next_param = FIRST_PARAM(0)};
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Expr	   *stand_in = tle->resjunk ? NULL : new_enum_value((Node *) tle->expr, &context);

		if (stand_in == NULL && !tle->resjunk)
			stand_in = with_stand_ins(tle->expr, &context);
		if (stand_in != NULL)
		{
			tle = flatCopyTargetEntry(tle);
			tle->expr = stand_in;
		}
		result = lappend(result, tle);
	}
	*values = context.values;
	return result;
}

/* --- groups ------------------------------------------------------------------------- */

static Expr *
of_target(Expr *expr)
{
	Expr	   *column = enum_column((Node *) expr);
	StandIns	context = {0};

	return column != NULL ? column : with_stand_ins(expr, &context);
}

PathTarget *
replace_groups(PathTarget *target)
{
	PathTarget *result = copy_pathtarget(target);
	bool		any = false;
	ListCell   *lc;

	if (!COMPAT_COMPARES_WITHOUT_TYPE)
		return NULL;
	foreach(lc, result->exprs)
	{
		Expr	   *stand_in = of_target(lfirst(lc));

		if (stand_in != NULL)
		{
			lfirst(lc) = stand_in;
			any = true;
		}
	}
	return any ? result : NULL;
}

void
restore_groups(ForeignScan *plan, PathTarget *target)
{
	List	   *originals = list_concat_copy(target->exprs,
											 pull_var_clause((Node *) target->exprs,
															 PVC_INCLUDE_AGGREGATES |
															 PVC_RECURSE_PLACEHOLDERS));
	ListCell   *lc;
	ListCell   *lc2;

	plan->fdw_scan_tlist = copyObject(plan->fdw_scan_tlist);
	foreach(lc, originals)
	{
		Expr	   *stand_in = of_target(lfirst(lc));

		foreach(lc2, plan->fdw_scan_tlist)
		{
			TargetEntry *tle = lfirst_node(TargetEntry, lc2);

			if (stand_in != NULL && equal(tle->expr, stand_in))
				tle->expr = copyObject(lfirst(lc));
		}
	}
}

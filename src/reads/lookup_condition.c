/*
 * lookup_condition.c
 *		Recognizes a condition that looks up rows by the values of one column.
 *
 * Planner code of three files needs the same pattern: seam_pruning.c and
 * union_view.c look for the ids that a query asks for, foreign_plan.c
 * looks for lookups through an index of the store.  The files differ only in
 * what they call the column, so each brings a test for it.
 *
 * People and query builders write "id = X" in many ways.  The one idea: whatever
 * implies "id = X" is made to look like it here, and nowhere else.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "ground/guard.h"
#include "reads/lookup_condition.h"
#include "reads/residency.h"

bool
is_column_of(Node *node, Index rti)
{
	return IsA(node, Var) && ((Var *) node)->varno == rti &&
		((Var *) node)->varlevelsup == 0 && ((Var *) node)->varattno > 0;
}

bool
is_id_column(Node *node, void *arg)
{
	IdColumn   *id = arg;

	return is_column_of(node, id->rti) &&
		GUARD(30, ((Var *) node)->varattno == id->attno ||
			  ((Var *) node)->varattno == id->same_shape);
}

Node *
lookup_clause(Node *clause)
{
	if (IsA(clause, RestrictInfo))
		clause = (Node *) ((RestrictInfo *) clause)->clause;
	for (;;)
	{
		if (IsA(clause, BooleanTest) &&
			GUARD(40, ((BooleanTest *) clause)->booltesttype == IS_TRUE))
			clause = (Node *) ((BooleanTest *) clause)->arg;
		else if (IsA(clause, CoalesceExpr))
		{
			List	   *args = ((CoalesceExpr *) clause)->args;
			ListCell   *lc;

			for_each_from(lc, args, 1)
			{
				Const	   *other = lfirst(lc);

				if (!GUARD(41, IsA(other, Const) &&
						   (other->constisnull || !DatumGetBool(other->constvalue))))
					return clause;
			}
			clause = linitial(args);
		}
		else
			return clause;
	}
}

/* A value of type name, as the text that it equals. */
static Node *
name_as_text(Node *value)
{
	Const	   *name = (Const *) value;

	if (!IsA(name, Const))
		return (Node *) makeFuncExpr(F_TEXT_NAME, TEXTOID, list_make1(value),
									 InvalidOid, InvalidOid,
									 COERCE_EXPLICIT_CALL);
	return (Node *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
							  name->constisnull ? (Datum) 0 :
							  CStringGetTextDatum(NameStr(*DatumGetName(name->constvalue))),
							  name->constisnull, false);
}

/* Splits a condition into its operator and the two sides of that. */
static bool
split_comparison(Node *clause, column_test is_column, void *arg,
				 LookupCondition *condition, List **sides)
{
	condition->is_array = condition->null_equals = false;
	if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;
		ArrayExpr  *array = (ArrayExpr *) without_relabeling(lsecond(op->args));

		if (!GUARD(26, op->useOr))
			return false;
		condition->opno = op->opno;
		condition->collation = op->inputcollid;
		*sides = op->args;
		/* X = ANY (ARRAY[column]) */
		if (IsA(array, ArrayExpr) && !array->multidims &&
			GUARD(42, list_length(array->elements) == 1) &&
			is_column(without_relabeling(linitial(array->elements)), arg))
			*sides = list_make2(linitial(op->args), linitial(array->elements));
		else
			condition->is_array = true;
	}
	else
	{
		OpExpr	   *op = (OpExpr *) clause;

		/* NOT (column IS DISTINCT FROM X) */
		if (is_notclause(clause) && IsA(get_notclausearg((Expr *) clause), DistinctExpr))
		{
			op = (OpExpr *) get_notclausearg((Expr *) clause);
			condition->null_equals = true;
		}
		else if (!IsA(clause, OpExpr))
			return false;
		condition->opno = op->opno;
		condition->collation = op->inputcollid;
		*sides = op->args;
	}
	return list_length(*sides) == 2;
}

bool
match_lookup_condition(Node *clause, column_test is_column, void *arg,
					   LookupCondition *condition)
{
	List	   *sides;

	if (!split_comparison(clause, is_column, arg, condition, &sides))
		return false;
	for (int side = 0; side < (condition->is_array ? 1 : 2); side++)
	{
		condition->column = without_relabeling(list_nth(sides, side));
		condition->values = list_nth(sides, 1 - side);
		if (!is_column(condition->column, arg))
			continue;
		if (exprType(condition->values) == NAMEOID &&
			get_opcode(condition->opno) == (side == 0 ? F_TEXTEQNAME : F_NAMEEQTEXT))
		{
			condition->opno = TextEqualOperator;
			condition->values = name_as_text(condition->values);
		}
		return true;
	}
	return false;
}

/* Is the clause a bound of the column: column >= X, or column <= X if "upper"? */
static bool
match_bound(Node *clause, bool upper, column_test is_column, void *arg,
			LookupCondition *bound)
{
	OpExpr	   *op = (OpExpr *) clause;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2)
		return false;
	bound->collation = op->inputcollid;
	for (int side = 0; side < 2; side++)
	{
		bound->column = without_relabeling(list_nth(op->args, side));
		bound->values = list_nth(op->args, 1 - side);
		if (is_column(bound->column, arg))
			return GUARD(43, get_opcode(op->opno) ==
						 ((side == 0) == upper ? F_TEXT_LE : F_TEXT_GE));
	}
	return false;
}

bool
match_lookup_range(List *clauses, column_test is_column, void *arg,
				   LookupCondition *condition)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, clauses)
	{
		LookupCondition upper;

		if (!match_bound(lookup_clause(lfirst(lc)), false, is_column, arg, condition))
			continue;
		foreach(lc2, clauses)
		{
			if (match_bound(lookup_clause(lfirst(lc2)), true, is_column, arg, &upper) &&
				upper.collation == condition->collation &&
				GUARD(58, equal(upper.column, condition->column)) &&
				GUARD(44, equal(upper.values, condition->values)))
			{
				condition->opno = TextEqualOperator;
				condition->is_array = condition->null_equals = false;
				return true;
			}
		}
	}
	return false;
}

/*
 * The operator must be the equality of the type of the column.  If the type has
 * collations, that of the operator must be deterministic.
 */
bool
is_bytewise_equality(const LookupCondition *condition)
{
	Oid			type = getBaseType(exprType(condition->column));

	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case UUIDOID:
		case BYTEAOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
			break;
		default:
			return false;
	}
	return GUARD(24, get_op_opfamily_strategy(condition->opno,
											  lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY)->btree_opf) == BTEqualStrategyNumber) &&
		(!OidIsValid(condition->collation) ||
		 GUARD(25, get_collation_isdeterministic(condition->collation)));
}

Node *
ids_of_lookup(const LookupCondition *condition, FuncExpr *filter)
{
	Node	   *ids = condition->values;
	Oid			type = exprType(ids);
	Var		   *column;
	Oid			column_type;

	if (!is_bytewise_equality(condition))
		return NULL;
	if (is_resides((Node *) filter))
		return type == (condition->is_array ? TEXTARRAYOID : TEXTOID) ? ids : NULL;
	column = residency_column(filter);
	if (column == NULL)
		return NULL;
	column_type = getBaseType(column->vartype);
	if (condition->is_array)
		return IsBinaryCoercible(get_base_element_type(type), column_type) ? ids : NULL;
	if (IsBinaryCoercible(type, column_type))
		return ids;
	return eval_const_expressions(NULL, coerce_to_target_type(NULL, ids, type, column_type, -1,
															  COERCION_IMPLICIT, COERCE_IMPLICIT_CAST, -1));
}

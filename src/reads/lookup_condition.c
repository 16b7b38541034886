/*
 * lookup_condition.c
 *		Recognizes a condition that looks up rows by the values of one column, and
 *		the filters of views.
 *
 * Planner code of three files needs the same pattern: seam_pruning.c and
 * union_view.c look for the ids that a query asks for, foreign_plan.c
 * looks for lookups through an index of the store.  The files differ only in
 * what they call the column, so each brings a test for it.
 */
#include "postgres.h"

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/lsyscache.h"

#include "ground/guard.h"
#include "ids/id_shape.h"
#include "reads/lookup_condition.h"
#include "reads/read_locks.h"

Node *
without_relabeling(Node *node)
{
	while (node && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node;
}

bool
is_column_of(Node *node, Index rti)
{
	return IsA(node, Var) && ((Var *) node)->varno == rti &&
		((Var *) node)->varlevelsup == 0 && ((Var *) node)->varattno > 0;
}

bool
match_lookup_condition(Node *clause, column_test is_column, void *arg,
					   LookupCondition *condition)
{
	List	   *args;

	condition->is_array = IsA(clause, ScalarArrayOpExpr);
	if (condition->is_array)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		if (!GUARD(26, op->useOr))
			return false;
		args = op->args;
		condition->opno = op->opno;
		condition->collation = op->inputcollid;
	}
	else if (IsA(clause, OpExpr))
	{
		OpExpr	   *op = (OpExpr *) clause;

		args = op->args;
		condition->opno = op->opno;
		condition->collation = op->inputcollid;
	}
	else
		return false;
	if (list_length(args) != 2)
		return false;

	for (int side = 0; side < (condition->is_array ? 1 : 2); side++)
	{
		condition->column = without_relabeling(list_nth(args, side));
		condition->values = list_nth(args, 1 - side);
		if (is_column(condition->column, arg))
			return true;
	}
	return false;
}

/*
 * The operator must be the equality of text.  Its collation must be
 * deterministic: then equal values have the same bytes, and the shape of an id
 * depends on its bytes only.
 */
bool
is_bytewise_equality(const LookupCondition *condition)
{
	return GUARD(24, condition->opno == TextEqualOperator) &&
		OidIsValid(condition->collation) &&
		GUARD(25, get_collation_isdeterministic(condition->collation));
}

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
	return calls(clause, run_ops_resides, 2);
}

bool
is_refuse_locks(Node *clause)
{
	return calls(clause, run_ops_refuse_locks, 1);
}

/*
 * startup_pruning.c
 *		A generic plan starts only the leaf that its parameters select.
 *
 * A generic plan of a lookup by id is an Append of all leaves, and each has a
 * One-Time Filter.  The executor would initialize them all, which costs more than
 * the lookup itself.  The one idea: when it starts, the parameters are known.  If
 * the filters let one leaf pass, its plan can be executed in place of the Append.
 * PostgreSQL does the same for partitions.
 *
 * The filters are immutable functions of parameters, so they have the same value
 * when the plan runs.  The range table stays, for privileges and locks.
 *
 * Only an Append near the top of a plan is looked for.  EXPLAIN shows the whole
 * plan.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"

#include "ground/guard.h"
#include "ids/id_shape.h"
#include "ids/key_rule.h"
#include "reads/lookup_condition.h"
#include "reads/residency.h"
#include "reads/seam_pruning.h"
#include "reads/startup_pruning.h"
#include "reads/union_view.h"

static ExecutorStart_hook_type next_executor_start = NULL;

/* What is known of a One-Time Filter. */
typedef enum Verdict
{
	PASSES,
	PASSES_PERHAPS,
	SKIPS
} Verdict;

/* Of a condition id_resides(parameter, store), or id_stored_in(rule, store). */
static Verdict
judge(Node *clause, ParamListInfo params)
{
	FuncExpr   *filter = (FuncExpr *) clause;
	PlannerInfo root = {.type = T_PlannerInfo};
	PlannerGlobal glob = {.type = T_PlannerGlobal};
	Const	   *store;
	text	   *name;
	Datum		id;
	bool		isnull;

	if (!is_residency(clause) || !IsA(store = lsecond(filter->args), Const) || store->constisnull)
		return PASSES_PERHAPS;
	name = DatumGetTextPP(store->constvalue);
	if (is_resides(clause))
	{
		/* rows with NULL are in one of the stores too */
		IdShape		shape = {ID_KIND_NONE, '\0'};

		if (!has_value(linitial(filter->args), params, &id, &isnull))
			return PASSES_PERHAPS;
		if (!isnull)
			shape = id_shape_datum(id);
		return id_resides(shape, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) ? PASSES : SKIPS;
	}
	root.glob = &glob;
	glob.boundParams = params;
	clause = eval_const_expressions(&root, linitial(filter->args));
	return !IsA(clause, Const) ? PASSES_PERHAPS :
		names_store(((Const *) clause)->constvalue, ((Const *) clause)->constisnull,
					VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) ? PASSES : SKIPS;
}

static Verdict
judge_leaf(Plan *leaf, ParamListInfo params)
{
	Plan	   *filter = IsA(leaf, ModifyTable) ? outerPlan(leaf) : leaf;
	Verdict		verdict = PASSES;
	ListCell   *lc;

	if (!IsA(filter, Result))
		return PASSES_PERHAPS;
	foreach(lc, (List *) ((Result *) filter)->resconstantqual)
	{
		Verdict		one = judge(lfirst(lc), params);

		if (one == SKIPS)
			return SKIPS;
		if (one == PASSES_PERHAPS)
			verdict = PASSES_PERHAPS;
	}
	return verdict;
}

/* Does a Result return the rows of the plan below it as they are? */
static bool
returns_all_columns(Plan *result)
{
	Plan	   *below = outerPlan(result);
	ListCell   *lc;

	if (below == NULL || result->initPlan != NIL ||
		list_length(below->targetlist) != list_length(result->targetlist))
		return false;
	foreach(lc, result->targetlist)
	{
		Var		   *column = (Var *) lfirst_node(TargetEntry, lc)->expr;

		if (!IsA(column, Var) || column->varno != OUTER_VAR ||
			column->varattno != foreach_current_index(lc) + 1)
			return false;
	}
	return true;
}

/* The only leaf that is not skipped, or the Append itself. */
static Plan *
only_leaf(Append *append, ParamListInfo params)
{
	Plan	   *only = NULL;
	Verdict		verdict = PASSES_PERHAPS;
	ListCell   *lc;

	if (!GUARD(59, append->plan.initPlan == NIL))
		return (Plan *) append;
	foreach(lc, append->appendplans)
	{
		Verdict		one = judge_leaf(lfirst(lc), params);

		if (one == SKIPS)
			continue;
		if (!GUARD(47, only == NULL))
			return (Plan *) append;
		only = lfirst(lc);
		verdict = one;
	}
	if (only == NULL)
		return (Plan *) append;
	return GUARD(48, verdict == PASSES) && IsA(only, Result) && GUARD(49, returns_all_columns(only)) ?
		outerPlan(only) : only;
}

/*
 * The plan with one leaf in place of the Append at its top; the same plan if there
 * is none, or if several leaves may be needed.  The plan itself belongs to the plan
 * cache, so what changes is copied.
 */
static Plan *
start_one_leaf(Plan *plan, ParamListInfo params)
{
	Plan	   *below;
	size_t		size;

	switch (nodeTag(plan))
	{
		case T_Append:
			return only_leaf((Append *) plan, params);
		case T_Limit:
			size = sizeof(Limit);
			break;
		case T_Result:
			size = sizeof(Result);
			break;
		case T_Agg:
			size = sizeof(Agg);
			break;
		case T_Sort:
			size = sizeof(Sort);
			break;
		default:
			return plan;
	}
	check_stack_depth();
	below = outerPlan(plan) ? start_one_leaf(outerPlan(plan), params) : NULL;
	if (below == outerPlan(plan))
		return plan;
	plan = memcpy(palloc(size), plan, size);
	outerPlan(plan) = below;
	return plan;
}

static void
start_executor(QueryDesc *query, int eflags)
{
	if (seam_pruning && query->params && query->instrument_options == 0 &&
		(eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
	{
		PlannedStmt *stmt = query->plannedstmt;
		Plan	   *plan = start_one_leaf(stmt->planTree, query->params);

		if (plan != stmt->planTree)
		{
			query->plannedstmt = memcpy(palloc(sizeof(PlannedStmt)), stmt, sizeof(PlannedStmt));
			query->plannedstmt->planTree = plan;
		}
	}
	next_executor_start(query, eflags);
}

void
name_leaf_columns(Plan *plan)
{
	ListCell   *lc;
	ListCell   *lc2;
	ListCell   *lc3;

	foreach(lc, IsA(plan, Append) ? ((Append *) plan)->appendplans : NIL)
	{
		for (Plan *leaf = lfirst(lc); leaf; leaf = IsA(leaf, Result) ? outerPlan(leaf) : NULL)
		{
			forboth(lc2, plan->targetlist, lc3, leaf->targetlist)
				lfirst_node(TargetEntry, lc3)->resname = lfirst_node(TargetEntry, lc2)->resname;
		}
	}
}

void
startup_pruning_init(void)
{
	next_executor_start = ExecutorStart_hook ? ExecutorStart_hook : standard_ExecutorStart;
	ExecutorStart_hook = start_executor;
}

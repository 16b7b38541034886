/*
 * leaf_plans.c
 *		The plan of a statement that writes to the view of a routed table.
 *
 * The one idea: leaf_statements.c gives the planner one statement for each store, all
 * but the last below WITH.  In the finished plan they become the children of an Append,
 * so that they are one statement again, with one count and one RETURNING.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

#include "ground/compat.h"
#include "reads/foreign_plan.h"
#include "stores/foreign_scan.h"
#include "writes/leaf_plans.h"
#include "writes/leaf_statements.h"
#include "writes/routed_view.h"

static planner_hook_type next_planner = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;

/* Where the plan of a common table expression is; removes it from there. */
static Plan **
find_cte_plan(PlannedStmt *stmt, const char *name, SubPlan **found)
{
	char	   *label = psprintf("CTE %s", name);
	ListCell   *lc;

	foreach(lc, stmt->planTree->initPlan)
	{
		SubPlan    *subplan = lfirst_node(SubPlan, lc);

		if (subplan->plan_name && strcmp(subplan->plan_name, label) == 0)
		{
			*found = subplan;
			return (Plan **) &lfirst(list_nth_cell(stmt->subplans, subplan->plan_id - 1));
		}
	}
	elog(ERROR, "could not find the plan of a leaf");
	return NULL;
}

static void
set_can_set_tag(ModifyTable *plan, bool can_set_tag)
{
	Plan	   *rows = outerPlan(plan);
	List	   *scans;
	ListCell   *lc;

	plan->canSetTag = can_set_tag;
	/* children of the local table may be of other servers */
	if (IsA(rows, Result) && outerPlan(rows))
		rows = outerPlan(rows);
	scans = IsA(rows, Append) ? ((Append *) rows)->appendplans : list_make1(rows);
	foreach(lc, scans)
	{
		ForeignScan *scan = lfirst(lc);

		if (IsA(scan, ForeignScan) && scan->operation != CMD_SELECT)
			set_direct_modify_counts(scan, can_set_tag);
	}
}

/*
 * The local table comes first: with routing "store" its rows depend on what the
 * stores have, which must not be what the statement changes there.
 */
static List *
add_leaf_plan(PlannedStmt *stmt, List *plans, Plan *plan)
{
	Index		target = castNode(ModifyTable, plan)->nominalRelation;

	return rt_fetch(target, stmt->rtable)->relkind == RELKIND_FOREIGN_TABLE ?
		lappend(plans, plan) : lcons(plan, plans);
}

/*
 * The cost of asking a store twice, for the rows and with their new values.  The
 * planner has left out the first trip because of the One-Time Filter; then the plan
 * cache would keep a generic plan that asks twice where a custom plan asks once.
 */
static Cost
two_trips_cost(PlannedStmt *stmt, ModifyTable *plan)
{
	RangeTblEntry *rte = rt_fetch(linitial_int(plan->resultRelations), stmt->rtable);

	return plan->operation == CMD_INSERT || rte->relkind != RELKIND_FOREIGN_TABLE ||
		!bms_is_empty(plan->fdwDirectModifyPlans) ? 0 :
		2 * foreign_cost_options(rte->relid).startup_cost;
}

/*
 * Makes the statements of a group one plan.  It takes the place of the last one,
 * because what the others refer to is initialized before that.
 */
static void
join_leaf_plans(PlannedStmt *stmt, LeafGroup *group)
{
	SubPlan    *subplan;
	Plan	  **place = group->last ? find_cte_plan(stmt, group->last, &subplan) :
		&stmt->planTree;
	ModifyTable *last = castNode(ModifyTable, *place);
	Append	   *append = makeNode(Append);
	ListCell   *lc;

	append->plan.initPlan = last->plan.initPlan;
	foreach(lc, group->others)
	{
		Plan	  **other = find_cte_plan(stmt, lfirst(lc), &subplan);

		set_can_set_tag(castNode(ModifyTable, *other), last->canSetTag);
		/* the planner has charged the top for all that is below WITH */
		if (group->last == NULL)
		{
			last->plan.startup_cost -= (*other)->total_cost;
			last->plan.total_cost -= (*other)->total_cost;
		}
		append->appendplans = add_leaf_plan(stmt, append->appendplans, *other);
		*other = NULL;
		stmt->planTree->initPlan = list_delete_ptr(stmt->planTree->initPlan, subplan);
	}
	if (group->last == NULL)
		append->plan.initPlan = stmt->planTree->initPlan;
	last->plan.initPlan = NIL;
	append->appendplans = add_leaf_plan(stmt, append->appendplans, &last->plan);
	append->first_partial_plan = list_length(append->appendplans);
	compat_no_pruning(append);
	foreach(lc, append->appendplans)
	{
		Plan	   *plan = lfirst(lc);

		plan->total_cost += two_trips_cost(stmt, (ModifyTable *) plan);
		append->plan.total_cost += plan->total_cost;
		append->plan.plan_rows += plan->plan_rows;
		append->plan.plan_width = Max(append->plan.plan_width, plan->plan_width);
		append->plan.extParam = bms_add_members(append->plan.extParam, plan->extParam);
		append->plan.allParam = bms_add_members(append->plan.allParam, plan->allParam);
	}
	foreach(lc, last->plan.targetlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Var		   *column = makeVar(OUTER_VAR, tle->resno, exprType((Node *) tle->expr),
									 exprTypmod((Node *) tle->expr),
									 exprCollation((Node *) tle->expr), 0);

		append->plan.targetlist = lappend(append->plan.targetlist,
										  makeTargetEntry((Expr *) column, tle->resno,
														  tle->resname, tle->resjunk));
		llast_node(TargetEntry, append->plan.targetlist)->resorigtbl = tle->resorigtbl;
		llast_node(TargetEntry, append->plan.targetlist)->resorigcol = tle->resorigcol;
	}
	*place = (Plan *) append;
}

static PlannedStmt *
leaf_planner(Query *parse, const char *query_string, int cursor_options,
			 ParamListInfo params)
{
	List	   *groups = NIL;
	bool		row_security;
	PlannedStmt *stmt;
	ListCell   *lc;

	parse = to_leaf_statements(parse, params, &groups);
	row_security = parse->hasRowSecurity;
	foreach(lc, parse->cteList)
		row_security |= castNode(Query, lfirst_node(CommonTableExpr, lc)->ctequery)->hasRowSecurity;
	stmt = next_planner(parse, query_string, cursor_options, params);
	/* the plan cache has looked at the query before the leaves were in it */
	stmt->dependsOnRole |= row_security;
	foreach(lc, groups)
		join_leaf_plans(stmt, lfirst(lc));
	return stmt;
}

/* The plan has the view for its privileges only. */
static void
start_executor(QueryDesc *query, int eflags)
{
	PlannedStmt *stmt = query->plannedstmt;
	ListCell   *lc;

	if ((stmt->commandType != CMD_SELECT || stmt->hasModifyingCTE) &&
		(eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
	{
		foreach(lc, stmt->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_VIEW &&
				is_known_routed_view(rte->relid))
				require_active_stores(rte->relid);
		}
	}
	next_executor_start(query, eflags);
}

void
leaf_plans_init(void)
{
	/* reads/seam_shortcut.c is there already, and comes after this */
	next_planner = planner_hook ? planner_hook : standard_planner;
	planner_hook = leaf_planner;
	next_executor_start = ExecutorStart_hook ? ExecutorStart_hook : standard_ExecutorStart;
	ExecutorStart_hook = start_executor;
}

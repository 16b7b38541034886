/*
 * leaf_statements.c
 *		A statement that writes to the view of a routed table is planned as one
 *		statement on the table of each store.
 *
 * The one idea: PostgreSQL changes rows of a table better than any trigger can.
 * It locks them, waits for other sessions and looks again, fires the triggers of
 * the statement once, checks constraints at its end, and counts.  So before
 * planning, the leaf takes the place of the view in the query, as PostgreSQL does
 * it for a view on one table.
 *
 * If several stores can have the rows, there is one query for each leaf.  To the
 * planner all but the last are data-modifying statements below WITH; leaf_plans.c
 * makes them one statement again.  Rows to insert come from a common table
 * expression that also says to which leaf each goes.
 *
 * The triggers of the view do the same for what is not planned here: COPY, and
 * the first statement of a session, which loads this library only while it is
 * planned (collected_rows.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteDefine.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "ground/compat.h"
#include "ids/id_shape.h"
#include "reads/foreign_plan.h"
#include "reads/lookup_condition.h"
#include "reads/residency.h"
#include "reads/seam_pruning.h"
#include "reads/union_view.h"
#include "writes/collected_rows.h"
#include "writes/conflict_clause.h"
#include "writes/leaf_statements.h"
#include "writes/routed_view.h"

/* The view that a statement writes to. */
typedef struct Target
{
	UnionView	view;
	Oid			relid;
	bool		security_barrier;
	List	   *leaves;			/* of UnionLeaf */
	Index		source;			/* UPDATE and DELETE read the view here */
} Target;

/* What is known while a query is rewritten. */
typedef struct Rewrite
{
	List	   *ctes;			/* WITH of the top query */
	CommonTableExpr *cte;		/* the one that is rewritten; NULL: the top */
	ParamListInfo params;
	List	   *own;			/* those of "ctes" that are added here */
	List	   *groups;			/* of LeafGroup */
	ConflictClause *conflict;	/* of the INSERT that is rewritten */
	bool		on_view;		/* a statement was on a view */
} Rewrite;

/* ----------------------------------------------------------------
 *		Common table expressions
 * ----------------------------------------------------------------
 */

/*
 * A move of a query to another level, or of what it refers to.  References from
 * the level of the query to the level "from" to "upto" above it change.
 */
typedef struct CteMove
{
	int			from;
	int			upto;
	int			change;
	int			depth;
} CteMove;

static bool
move_cte_references_walker(Node *node, CteMove *move)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;
		int			level = (int) rte->ctelevelsup - move->depth;

		if (rte->rtekind == RTE_CTE && level >= move->from && level <= move->upto)
			rte->ctelevelsup += move->change;
		return false;			/* the caller walks through its contents */
	}
	if (IsA(node, Query))
	{
		check_stack_depth();
		move->depth++;
		(void) query_tree_walker((Query *) node, move_cte_references_walker, move,
								 QTW_EXAMINE_RTES_BEFORE);
		move->depth--;
		return false;
	}
	return expression_tree_walker(node, move_cte_references_walker, move);
}

static void
move_cte_references(Query *query, int from, int upto, int change)
{
	CteMove		move = {from, upto, change, 0};

	(void) query_tree_walker(query, move_cte_references_walker, &move,
							 QTW_EXAMINE_RTES_BEFORE);
}

/* Before the query that is rewritten. */
static void
insert_cte(Rewrite *rewrite, CommonTableExpr *cte)
{
	int			place = list_length(rewrite->ctes);
	ListCell   *lc;

	foreach(lc, rewrite->ctes)
	{
		if (lfirst(lc) == rewrite->cte)
			place = foreach_current_index(lc);
	}
	rewrite->ctes = list_insert_nth(rewrite->ctes, place, cte);
	rewrite->own = lappend(rewrite->own, cte);
}

/* A name that no other has; EXPLAIN may show it. */
static char *
new_cte_name(Rewrite *rewrite)
{
	for (int i = 1;; i++)
	{
		char	   *name = psprintf("run_ops %d", i);
		bool		taken = false;
		ListCell   *lc;

		foreach(lc, rewrite->ctes)
			taken |= strcmp(lfirst_node(CommonTableExpr, lc)->ctename, name) == 0;
		if (!taken)
			return name;
	}
}

/* Adds a query to WITH of the top query. */
static CommonTableExpr *
add_cte(Rewrite *rewrite, Query *query)
{
	CommonTableExpr *cte = makeNode(CommonTableExpr);
	List	   *columns = query->commandType == CMD_SELECT ? query->targetList :
		query->returningList;
	ListCell   *lc;

	cte->ctename = new_cte_name(rewrite);
	cte->ctematerialized = CTEMaterializeAlways;
	cte->ctequery = (Node *) query;
	cte->location = -1;
	foreach(lc, columns)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (tle->resjunk)
			continue;
		cte->ctecolnames = lappend(cte->ctecolnames, makeString(pstrdup(tle->resname ? tle->resname : "?column?")));
		cte->ctecoltypes = lappend_oid(cte->ctecoltypes, exprType((Node *) tle->expr));
		cte->ctecoltypmods = lappend_int(cte->ctecoltypmods, exprTypmod((Node *) tle->expr));
		cte->ctecolcollations = lappend_oid(cte->ctecolcollations, exprCollation((Node *) tle->expr));
	}
	insert_cte(rewrite, cte);
	return cte;
}

/* A range table entry that reads it, "levelsup" levels below the top. */
static RangeTblEntry *
make_cte_entry(CommonTableExpr *cte, Index levelsup)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_CTE;
	rte->ctename = cte->ctename;
	rte->ctelevelsup = levelsup;
	rte->coltypes = cte->ctecoltypes;
	rte->coltypmods = cte->ctecoltypmods;
	rte->colcollations = cte->ctecolcollations;
	rte->eref = makeAlias(cte->ctename, copyObject(cte->ctecolnames));
	rte->inFromCl = true;
	cte->cterefcount++;
	return rte;
}

/* ----------------------------------------------------------------
 *		The view and its leaves
 * ----------------------------------------------------------------
 */

static bool
find_target(Query *query, Target *target)
{
	RangeTblEntry *rte;
	Relation	rel;
	bool		found;

	if (query->commandType != CMD_INSERT && query->commandType != CMD_UPDATE &&
		query->commandType != CMD_DELETE)
		return false;
	rte = rt_fetch(query->resultRelation, query->rtable);
	if (rte->rtekind != RTE_RELATION || rte->relkind != RELKIND_VIEW)
		return false;
	rel = table_open(rte->relid, NoLock);
	found = is_routed_view(rel) &&
		is_union_view(copyObject(get_view_query(rel)), &target->view);
	target->relid = RelationGetRelid(rel);
	target->security_barrier = RelationIsSecurityView(rel);
	table_close(rel, NoLock);
	if (!found)
		return false;
	/* leaf_plans.c will want to know it */
	(void) get_routed_view(target->relid);
	target->leaves = union_leaves(&target->view);
	target->source = 0;
	if (query->commandType != CMD_INSERT)
	{
		/* the rewriter has added it last */
		TargetEntry *rows = llast_node(TargetEntry, query->targetList);

		if (!rows->resjunk || !IsA(rows->expr, Var) ||
			((Var *) rows->expr)->varattno != InvalidAttrNumber)
			elog(ERROR, "could not find the rows of view \"%s\"", get_rel_name(target->relid));
		target->source = ((Var *) rows->expr)->varno;
	}
	return target->leaves != NIL;
}

static RangeTblEntry *
leaf_relation(UnionLeaf *leaf)
{
	return linitial_node(RangeTblEntry, leaf->query->rtable);
}

/* The columns of the view, as columns of the leaf at this place in a query. */
static List *
leaf_columns(Target *target, UnionLeaf *leaf, Index rti)
{
	List	   *columns = NIL;
	ListCell   *lc;
	bool		in_place;

	if (!has_same_columns(&target->view, leaf->query, &in_place))
		elog(ERROR, "view \"%s\" does not have the columns of its tables",
			 get_rel_name(target->relid));
	foreach(lc, target->view.query->targetList)
	{
		TargetEntry *shown = lfirst_node(TargetEntry, lc);
		TargetEntry *column = copyObject(get_tle_by_resno(leaf->query->targetList,
														  ((Var *) shown->expr)->varattno));

		column->resno = shown->resno;
		columns = lappend(columns, column);
	}
	ChangeVarNodes((Node *) columns,
				   linitial_node(RangeTblRef, leaf->query->jointree->fromlist)->rtindex,
				   rti, 0);
	return columns;
}

static Var *
nth_column(List *columns, AttrNumber attno)
{
	TargetEntry *column = get_tle_by_resno(columns, attno);

	if (column == NULL || !IsA(column->expr, Var) || ((Var *) column->expr)->varattno <= 0)
		elog(ERROR, "column %d of a view is not a column of its table", attno);
	return (Var *) column->expr;
}

/* The column of the view that says where a row is. */
static AttrNumber
route_column(Target *target)
{
	ListCell   *lc;

	foreach(lc, target->view.query->targetList)
	{
		TargetEntry *shown = lfirst_node(TargetEntry, lc);

		if (((Var *) shown->expr)->varattno == target->view.id->varattno)
			return shown->resno;
	}
	elog(ERROR, "view \"%s\" does not show its key", get_rel_name(target->relid));
	return InvalidAttrNumber;
}

/* --- residency -------------------------------------------------------------- */

static Const *
make_text(text *value)
{
	return makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1, PointerGetDatum(value),
					 false, false);
}

static Const *
make_oid(Oid value)
{
	return makeConst(OIDOID, -1, InvalidOid, sizeof(Oid), ObjectIdGetDatum(value),
					 false, true);
}

/*
 * What has to be tested for a row of a leaf, besides the conditions of the query
 * on the view; NULL if nothing.  False if the leaf can have no such row.
 */
static bool
leaf_condition(Target *target, UnionLeaf *leaf, Query *query,
			   List *columns, Node **condition)
{
	Const	   *store;
	IdColumn	id = id_column(&target->view, target->source);
	bool		exact;
	Expr	   *precheck;

	*condition = copyObject(leaf->query->jointree->quals);
	ChangeVarNodes(*condition,
				   linitial_node(RangeTblRef, leaf->query->jointree->fromlist)->rtindex,
				   target->source, 0);
	if (leaf->store == NULL)
		return true;
	store = make_text(leaf->store);
	precheck = seam_pruning ?
		residency_of_conditions(query->jointree->quals, &id, store, &exact) : NULL;
	if (precheck != NULL)
	{
		if (IsA(precheck, Const) && !DatumGetBool(((Const *) precheck)->constvalue))
			return false;
		/* not of the query: its subqueries do not have the view */
		*condition = make_and_qual(*condition, (Node *) precheck);
		if (exact)
			return true;
	}
	*condition = make_and_qual(*condition,
							   leaf_filter(&target->view, leaf,
										   (Expr *) nth_column(columns, id.attno), false));
	return true;
}

/* ----------------------------------------------------------------
 *		A leaf as the target of a statement
 * ----------------------------------------------------------------
 */

/* Columns of the view, as privileges name them, as columns of the leaf. */
static Bitmapset *
translate_columns(Bitmapset *columns, List *leaf_columns)
{
	Bitmapset  *result = NULL;
	int			column = -1;

	while ((column = bms_next_member(columns, column)) >= 0)
	{
		AttrNumber	attno = column + FirstLowInvalidHeapAttributeNumber;

		if (attno > 0)
			result = bms_add_member(result, nth_column(leaf_columns, attno)->varattno -
									FirstLowInvalidHeapAttributeNumber);
	}
	return result;
}

/* The rewriter has finished, so they would be ignored. */
static void
refuse_rules(Relation rel, CmdType operation)
{
	for (int i = 0; rel->rd_rules && i < rel->rd_rules->numLocks; i++)
	{
		RewriteRule *rule = rel->rd_rules->rules[i];

		if (rule->event == operation && rule->enabled != RULE_DISABLED)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table \"%s\" has rules, which are not supported behind a view over several stores",
							RelationGetRelationName(rel)),
					 errhint("Use triggers.")));
	}
}

/*
 * Makes the leaf the target of the query, at this place in its range table.
 * Access is checked as for any view: of the writer to the view, and of the
 * view's owner to the leaf.
 */
static void
set_target(Query *query, Target *target, UnionLeaf *leaf, Index rti,
		   List *columns)
{
	CompatPermissions *of_view = compat_permissions(query, rt_fetch(query->resultRelation, query->rtable));
	CompatPermissions *of_leaf = compat_permissions(leaf->query, leaf_relation(leaf));
	RangeTblEntry *rte = copyObject(leaf_relation(leaf));
	CompatPermissions *granted;
	Relation	rel;

	LockRelationOid(rte->relid, RowExclusiveLock);
	rte->rellockmode = RowExclusiveLock;
	rte->inFromCl = query->commandType != CMD_INSERT;
	if (query->commandType == CMD_INSERT)
		rte->inh = false;
	rel = table_open(rte->relid, NoLock);
	rte->relkind = rel->rd_rel->relkind;
	refuse_rules(rel, query->commandType);
	granted = compat_add_permissions(query, rte);
	granted->checkAsUser = of_leaf->checkAsUser;
	granted->selectedCols = of_leaf->selectedCols;
	granted->requiredPerms = of_view->requiredPerms;
	granted->insertedCols = translate_columns(of_view->insertedCols, columns);
	granted->updatedCols = translate_columns(of_view->updatedCols, columns);
	table_close(rel, NoLock);
	if (rti > list_length(query->rtable))
		query->rtable = lappend(query->rtable, rte);
	else
		lfirst(list_nth_cell(query->rtable, rti - 1)) = rte;
}

/*
 * Adds the row-level security of the target.  The rewriter knows what that is
 * for a statement on the table, so it gets one that says nothing else.
 */
static void
add_row_security(Query *query)
{
	RangeTblEntry *rte = rt_fetch(query->resultRelation, query->rtable);
	Relation	rel = table_open(rte->relid, NoLock);
	bool		secured = rel->rd_rel->relrowsecurity;
	Query	   *plain;

	table_close(rel, NoLock);
	if (!secured)
		return;
	plain = makeNode(Query);
	plain->commandType = query->commandType;
	plain->canSetTag = true;
	plain->resultRelation = 1;
	plain->rtable = list_make1(copyObject(rte));
	compat_copy_permissions(plain, query, linitial_node(RangeTblEntry, plain->rtable));
	plain->jointree = makeFromExpr(NIL, NULL);
	if (query->onConflict)
	{
		plain->onConflict = makeNode(OnConflictExpr);
		plain->onConflict->action = query->onConflict->action;
	}
	if (query->commandType != CMD_INSERT)
	{
		RangeTblRef *ref = makeNode(RangeTblRef);

		ref->rtindex = 1;
		plain->jointree->fromlist = list_make1(ref);
	}
	plain = linitial_node(Query, QueryRewrite(plain));
	ChangeVarNodes((Node *) plain, 1, query->resultRelation, 0);
	rte->securityQuals = list_concat(linitial_node(RangeTblEntry, plain->rtable)->securityQuals,
									 rte->securityQuals);
	query->withCheckOptions = list_concat(plain->withCheckOptions, query->withCheckOptions);
	query->hasRowSecurity |= plain->hasRowSecurity;
	query->hasSubLinks |= plain->hasSubLinks;
}

/* In a table, a generated column gets no value. */
static void
refuse_generated(Target *target, Oid leaf, AttrNumber attno, AttrNumber shown)
{
	if (get_attgenerated(leaf, attno) != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("cannot write to column \"%s\" of view \"%s\"",
						get_attname(target->relid, shown, false),
						get_rel_name(target->relid)),
				 errdetail("It is a generated column of the table.")));
}

/* The new id of a row, or an error if the row would have to move. */
static Expr *
id_that_stays(Target *target, Oid leaf, Var *was, Expr *is)
{
	NullTest   *test;
	CaseWhen   *branch;
	CaseExpr   *result;

	if (!is_stored_in((Node *) target->view.filter))
	{
		Expr	   *id;

		/* with routing "store", a key of another type says nothing */
		if (!is_resides((Node *) target->view.filter) && was->vartype != TEXTOID)
			return is;
		id = make_run_ops_call("id_that_stays", TEXTOID,
							   list_make4(make_oid(target->relid), make_oid(leaf),
										  id_as_text((Node *) was), id_as_text((Node *) is)));
		return was->vartype == TEXTOID ? id :
			(Expr *) makeRelabelType(id, was->vartype, was->vartypmod, was->varcollid, COERCE_IMPLICIT_CAST);
	}
	/* the rule would be asked about another value than the one that is written */
	if (contain_volatile_functions((Node *) is))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot set column \"%s\", which decides where a row is, to a volatile expression",
						get_attname(target->relid, was->varattno, false)),
				 errhint("Compute the value before, in a statement of its own.")));
	test = makeNode(NullTest);
	test->arg = copyObject(is);
	test->nulltesttype = IS_NOT_NULL;
	test->location = -1;
	branch = makeNode(CaseWhen);
	branch->expr = make_run_ops_call("row_stays", BOOLOID,
									 list_make4(make_oid(target->relid),
												name_of_store(target->view.filter, (Node *) was),
												name_of_store(target->view.filter, (Node *) is),
												test));
	branch->result = is;
	branch->location = -1;
	result = makeNode(CaseExpr);
	result->casetype = was->vartype;
	result->casecollid = was->varcollid;
	result->args = list_make1(branch);
	result->defresult = (Expr *) makeNullConst(was->vartype, was->vartypmod, was->varcollid);
	result->location = -1;
	return (Expr *) result;
}

/* Makes the target list that of the leaf. */
static void
translate_target_list(Query *query, Target *target, UnionLeaf *leaf, List *columns)
{
	AttrNumber	route = route_column(target);
	Oid			relid = leaf_relation(leaf)->relid;
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Var		   *column;

		if (tle->resjunk)
			continue;
		column = nth_column(columns, tle->resno);
		refuse_generated(target, relid, column->varattno, tle->resno);
		if (query->commandType == CMD_UPDATE && tle->resno == route)
			/* the view's column, as in all other expressions until they are replaced */
			tle->expr = id_that_stays(target, relid,
									  makeVar(target->source, tle->resno, column->vartype,
											  column->vartypmod, column->varcollid, 0),
									  tle->expr);
		tle->resno = column->varattno;
	}
}

/* UPDATE or DELETE: the query on the view as a query on a leaf. */
static Query *
change_of_leaf(Query *query, Target *target, UnionLeaf *leaf, List *columns,
			   Node *condition)
{
	Query	   *result = copyObject(query);
	Index		rti = target->source;
	RangeTblEntry *view = rt_fetch(rti, result->rtable);
	List	   *security = view->securityQuals;

	/* the rows of the view, which its triggers would get */
	result->targetList = list_delete_last(result->targetList);
	translate_target_list(result, target, leaf, columns);
	/* RETURNING shows the target, which has a place of its own until now */
	ChangeVarNodes((Node *) result->returningList, result->resultRelation, rti, 0);
	ChangeVarNodes((Node *) result->withCheckOptions, result->resultRelation, rti, 0);
	view->securityQuals = NIL;
	result = (Query *) compat_replace_target((Node *) result, rti, view, columns, rti);
	security = (List *) compat_replace_columns((Node *) security, rti, view, columns);
	set_target(result, target, leaf, rti, columns);
	result->resultRelation = rti;
	if (condition && checkExprHasSubLink(condition))
		result->hasSubLinks = true;
	if (condition && target->security_barrier)
		security = lcons(condition, security);
	else if (condition)
		result->jointree->quals = make_and_qual(result->jointree->quals, condition);
	rt_fetch(rti, result->rtable)->securityQuals = security;
	add_row_security(result);
	return result;
}

/* ----------------------------------------------------------------
 *		What is evaluated once, although there are several statements
 * ----------------------------------------------------------------
 */

/* Could a second evaluation of this query differ from the first one? */
static bool
may_differ(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		return query->rowMarks != NIL || query->limitCount != NULL ||
			query->limitOffset != NULL ||
			query_tree_walker(query, may_differ, context, 0);
	}
	return expression_tree_walker(node, may_differ, context);
}

static bool
must_run_once(Query *query)
{
	return !contain_vars_of_level((Node *) query, 1) &&
		(may_differ((Node *) query, NULL) || contain_volatile_functions((Node *) query));
}

/* Moves a subquery of the query to WITH, and returns what reads it from there. */
static RangeTblEntry *
evaluate_once(Rewrite *rewrite, Query *subquery, Index levelsup)
{
	/* it was one level below the query, and is one level below the top now */
	if (rewrite->cte)
		move_cte_references(subquery, 1, INT_MAX, -1);
	return make_cte_entry(add_cte(rewrite, subquery), levelsup + (rewrite->cte ? 1 : 0));
}

static bool
evaluate_sublinks_once(Node *node, Rewrite *rewrite)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink))
	{
		SubLink    *sublink = (SubLink *) node;
		Query	   *subquery = castNode(Query, sublink->subselect);

		if (must_run_once(subquery))
		{
			Query	   *reader = makeNode(Query);
			RangeTblRef *ref = makeNode(RangeTblRef);
			ListCell   *lc;
			AttrNumber	attno = 0;

			reader->commandType = CMD_SELECT;
			reader->canSetTag = true;
			ref->rtindex = 1;
			reader->jointree = makeFromExpr(list_make1(ref), NULL);
			foreach(lc, subquery->targetList)
			{
				TargetEntry *tle = lfirst_node(TargetEntry, lc);

				if (tle->resjunk)
					continue;
				attno++;
				reader->targetList =
					lappend(reader->targetList,
							makeTargetEntry((Expr *) makeVar(1, attno, exprType((Node *) tle->expr),
															 exprTypmod((Node *) tle->expr),
															 exprCollation((Node *) tle->expr), 0),
											attno, tle->resname, false));
			}
			reader->rtable = list_make1(evaluate_once(rewrite, subquery, 1));
			sublink->subselect = (Node *) reader;
		}
		return evaluate_sublinks_once(sublink->testexpr, rewrite);
	}
	if (IsA(node, Query))
		return false;
	return expression_tree_walker(node, evaluate_sublinks_once, rewrite);
}

/* "SELECT * FROM f()" */
static Query *
function_as_subquery(RangeTblEntry *rte)
{
	Query	   *result = makeNode(Query);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List	   *names;
	List	   *vars;
	ListCell   *lc;
	ListCell   *lc2;

	compat_expand_entry(rte, 1, &names, &vars);
	result->commandType = CMD_SELECT;
	result->canSetTag = true;
	result->rtable = list_make1(rte);
	ref->rtindex = 1;
	result->jointree = makeFromExpr(list_make1(ref), NULL);
	forboth(lc, names, lc2, vars)
		result->targetList = lappend(result->targetList,
									 makeTargetEntry(lfirst(lc2), list_length(result->targetList) + 1,
													 strVal(lfirst(lc)), false));
	return result;
}

static void
evaluate_subqueries_once(Rewrite *rewrite, Query *query, Index but)
{
	ListCell   *lc;

	for (Index rti = 1; rti <= list_length(query->rtable); rti++)
	{
		RangeTblEntry *rte = rt_fetch(rti, query->rtable);
		Query	   *subquery = NULL;
		RangeTblEntry *reader;

		if (rte->rtekind == RTE_SUBQUERY && rti != but)
			subquery = rte->subquery;
		else if (rte->rtekind == RTE_FUNCTION && !contain_var_clause((Node *) rte->functions) &&
				 !checkExprHasSubLink((Node *) rte->functions))
			subquery = function_as_subquery(rte);
		if (subquery == NULL || !must_run_once(subquery))
			continue;
		if (rte->rtekind == RTE_FUNCTION)
		{
			List	   *columns = copyObject(subquery->targetList);

			/* a whole row has the type of the function, not record */
			ChangeVarNodes((Node *) columns, 1, rti, 0);
			*query = *(Query *) compat_replace_columns((Node *) query, rti, rte, columns);
		}
		reader = evaluate_once(rewrite, subquery, 0);
		reader->alias = rte->alias;
		reader->eref = rte->eref;
		reader->lateral = false;
		reader->inFromCl = rte->inFromCl;
		lfirst(list_nth_cell(query->rtable, rti - 1)) = reader;
	}
	if (query->hasSubLinks)
	{
		(void) evaluate_sublinks_once((Node *) query->jointree, rewrite);
		(void) evaluate_sublinks_once((Node *) query->targetList, rewrite);
		(void) evaluate_sublinks_once((Node *) query->returningList, rewrite);
	}
	/* those that the planner would put in the place of their only reader */
	foreach(lc, rewrite->ctes)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		if (cte->ctematerialized == CTEMaterializeDefault && may_differ(cte->ctequery, NULL))
			cte->ctematerialized = CTEMaterializeAlways;
	}
}

/* ----------------------------------------------------------------
 *		UPDATE and DELETE
 * ----------------------------------------------------------------
 */

/* A new name for a common table expression of a query. */
typedef struct CteRename
{
	const char *from;
	char	   *to;
	Index		depth;
} CteRename;

static bool
rename_cte_walker(Node *node, CteRename *rename)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_CTE && rte->ctelevelsup == rename->depth &&
			strcmp(rte->ctename, rename->from) == 0)
			rte->ctename = rename->to;
		return false;
	}
	if (IsA(node, Query))
	{
		check_stack_depth();
		rename->depth++;
		(void) query_tree_walker((Query *) node, rename_cte_walker, rename,
								 QTW_EXAMINE_RTES_BEFORE);
		rename->depth--;
		return false;
	}
	return expression_tree_walker(node, rename_cte_walker, rename);
}

/*
 * The common table expressions of a query below WITH become those of the top,
 * because several statements are going to read them.
 */
static void
move_own_ctes(Rewrite *rewrite, Query *query)
{
	ListCell   *lc;

	foreach(lc, query->cteList)
	{
		CommonTableExpr *own = lfirst_node(CommonTableExpr, lc);
		CteRename	rename = {own->ctename, new_cte_name(rewrite)};

		(void) query_tree_walker(query, rename_cte_walker, &rename, QTW_EXAMINE_RTES_BEFORE);
		own->ctename = rename.to;
		insert_cte(rewrite, own);
	}
	foreach(lc, query->cteList)
	{
		CommonTableExpr *own = lfirst_node(CommonTableExpr, lc);

		move_cte_references(castNode(Query, own->ctequery), 2, INT_MAX, -1);
	}
	query->cteList = NIL;
	move_cte_references(query, 0, 0, 1);
}

/* Puts the queries in the place of the one that is rewritten. */
static Query *
put_in_place(Rewrite *rewrite, List *queries)
{
	LeafGroup  *group = palloc0(sizeof(LeafGroup));
	Query	   *last = llast_node(Query, queries);
	ListCell   *lc;

	if (list_length(queries) == 1)
		return last;
	group->last = rewrite->cte ? rewrite->cte->ctename : NULL;
	foreach(lc, queries)
	{
		Query	   *query = lfirst_node(Query, lc);

		if (query == last)
			break;
		query->canSetTag = false;
		/* the top goes one level down, a query below WITH stays where it is */
		if (rewrite->cte == NULL)
			move_cte_references(query, 0, INT_MAX, 1);
		group->others = lappend(group->others, add_cte(rewrite, query)->ctename);
	}
	rewrite->groups = lappend(rewrite->groups, group);
	return last;
}

/*
 * Leaves only the columns of the view, for whole rows of it.  Each leaf copies the
 * query, and all leaves in it as many times.
 */
static void
forget_leaves(Query *query, Target *target)
{
	RangeTblEntry *view = rt_fetch(target->source, query->rtable);
	Query	   *columns = makeNode(Query);

	columns->commandType = CMD_SELECT;
	columns->targetList = view->subquery->targetList;
	view->subquery = columns;
}

static Query *
change_view(Rewrite *rewrite, Query *query, Target *target)
{
	List	   *selected = NIL;
	List	   *queries = NIL;
	IdColumn	id = id_column(&target->view, target->source);
	ListCell   *lc;

	forget_leaves(query, target);
	/* the quick way: the ids are known, so their leaf needs no condition */
	foreach(lc, target->leaves)
	{
		UnionLeaf  *leaf = lfirst(lc);

		if (seam_pruning && leaf->store &&
			quals_select_leaf(query->jointree->quals, &id, rewrite->params, leaf->store))
			selected = lappend(selected, leaf);
	}
	if (list_length(selected) == 1)
	{
		UnionLeaf  *leaf = linitial(selected);

		return change_of_leaf(query, target, leaf, leaf_columns(target, leaf, target->source), NULL);
	}

	if (list_length(target->leaves) > 1)
		evaluate_subqueries_once(rewrite, query, target->source);
	foreach(lc, target->leaves)
	{
		UnionLeaf  *leaf = lfirst(lc);
		List	   *columns = leaf_columns(target, leaf, target->source);
		Node	   *condition;

		if (leaf_condition(target, leaf, query, columns, &condition))
			queries = lappend(queries, change_of_leaf(query, target, leaf, columns, condition));
	}
	/* no store can have such rows, but the statement has a count */
	if (queries == NIL)
	{
		UnionLeaf  *leaf = linitial(target->leaves);

		queries = list_make1(change_of_leaf(query, target, leaf,
											leaf_columns(target, leaf, target->source),
											makeBoolConst(false, false)));
	}
	return put_in_place(rewrite, queries);
}

/* ----------------------------------------------------------------
 *		INSERT
 * ----------------------------------------------------------------
 */

/* Columns that only the table has, because they were added later. */
static void
add_defaults(Query *query, Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);

	for (AttrNumber attno = 1; attno <= desc->natts; attno++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, attno - 1);
		Node	   *value;

		if (att->attisdropped || att->attgenerated ||
			get_tle_by_resno(query->targetList, attno) != NULL ||
			(value = build_column_default(rel, attno)) == NULL)
			continue;
		query->targetList = lappend(query->targetList,
									makeTargetEntry((Expr *) value, attno,
													pstrdup(NameStr(att->attname)), false));
	}
	table_close(rel, NoLock);
}

static int
compare_resno(const ListCell *a, const ListCell *b)
{
	return lfirst_node(TargetEntry, a)->resno - lfirst_node(TargetEntry, b)->resno;
}

/* The query as an INSERT into a leaf, of rows that go there. */
static Query *
insert_into_leaf(Rewrite *rewrite, Query *query, Target *target, UnionLeaf *leaf)
{
	Query	   *result = copyObject(query);
	Index		view = result->resultRelation;
	Index		rti = list_length(result->rtable) + 1;
	List	   *columns = leaf_columns(target, leaf, rti);

	translate_target_list(result, target, leaf, columns);
	set_target(result, target, leaf, rti, columns);
	result->returningList = (List *)
		compat_replace_target((Node *) result->returningList, view,
							  rt_fetch(view, result->rtable), columns, rti);
	/* of a view on the view */
	result->withCheckOptions = (List *)
		compat_replace_target((Node *) result->withCheckOptions, view,
							  rt_fetch(view, result->rtable), columns, rti);
	result->resultRelation = rti;
	add_defaults(result, leaf_relation(leaf)->relid);
	/* the planner wants it in the order of the table */
	list_sort(result->targetList, compare_resno);
	if (rewrite->conflict)
	{
		Relation	rel = table_open(leaf_relation(leaf)->relid, NoLock);

		add_conflict_clause(result, rewrite->conflict, rel, columns, route_column(target));
		table_close(rel, NoLock);
	}
	add_row_security(result);
	return result;
}

/* "expression = relid" */
static Node *
is_leaf(Node *expression, UnionLeaf *leaf)
{
	Oid			equal = lookup_type_cache(OIDOID, TYPECACHE_EQ_OPR)->eq_opr;

	return (Node *) make_opclause(equal, BOOLOID, false, (Expr *) expression,
								  (Expr *) make_oid(leaf_relation(leaf)->relid),
								  InvalidOid, InvalidOid);
}

/* Errors about the id are left to leaf_of_new_id(), after privileges were checked. */
static bool
is_known_to_go_to(Target *target, Expr *id, ParamListInfo params, UnionLeaf *leaf)
{
	Const	   *value = known_value((Node *) id, params);
	bool		any;
	bool		all;

	if (value == NULL || value->constisnull ||
		(is_resides((Node *) target->view.filter) && id_shape_datum(value->constvalue).kind == ID_KIND_NONE))
		return false;
	residency_of_value(target->view.filter, value, false, make_text(leaf->store), &any, &all);
	return any;
}

/* The leaf to which a row with this id goes; an error if there is none. */
static Expr *
leaf_of_new_id(Target *target, Expr *id)
{
	return is_stored_in((Node *) target->view.filter) ?
		make_run_ops_call("leaf_of_store", OIDOID,
						  list_make2(make_oid(target->relid),
									 name_of_store(target->view.filter, (Node *) id))) :
		make_run_ops_call("leaf_of_new_id", OIDOID,
						  list_make2(make_oid(target->relid), id_as_text((Node *) copyObject(id))));
}

/*
 * Does the id go to this leaf?  Only the first leaf raises errors about the id; so
 * startup_pruning.c can tell from the others to which one it goes.
 */
static Node *
new_id_is_of_leaf(Target *target, UnionLeaf *leaf, Expr *id)
{
	return leaf == linitial(target->leaves) ? is_leaf((Node *) leaf_of_new_id(target, id), leaf) :
		(Node *) residency_of(target->view.filter, (Node *) id, false, make_text(leaf->store), false);
}

/*
 * One row, with an id that does not change when it is evaluated again: the
 * statement of each leaf has the row, and does nothing if it goes elsewhere.
 */
static Query *
insert_row(Rewrite *rewrite, Query *query, Target *target, Expr *id)
{
	List	   *queries = NIL;
	Query	   *known = NULL;
	ListCell   *lc;

	foreach(lc, target->leaves)
	{
		UnionLeaf  *leaf = lfirst(lc);
		Query	   *of_leaf = insert_into_leaf(rewrite, query, target, leaf);

		/* the other leaves may still refuse the statement, as a generic plan would */
		if (is_known_to_go_to(target, id, rewrite->params, leaf))
			known = of_leaf;
		else
			of_leaf->jointree->quals = new_id_is_of_leaf(target, leaf, id);
		queries = lappend(queries, of_leaf);
	}
	return known ? known : put_in_place(rewrite, queries);
}

/*
 * The rows to insert, as a common table expression with the columns of the view
 * and the leaf to which each row goes.
 */
static CommonTableExpr *
rows_to_insert(Rewrite *rewrite, Query *query, Target *target)
{
	Query	   *source = copyObject(query);
	Query	   *rows = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	Relation	view = table_open(target->relid, NoLock);
	RowExpr    *row = makeNode(RowExpr);
	Expr	   *leaf;

	source->commandType = CMD_SELECT;
	source->resultRelation = 0;
	source->returningList = NIL;
	source->withCheckOptions = NIL;
	source->targetList = NIL;
	source->override = OVERRIDING_NOT_SET;
	compat_check_nothing(rt_fetch(query->resultRelation, source->rtable));
	/* the top is two levels above now, or one more than before */
	move_cte_references(source, 0, INT_MAX, rewrite->cte ? 1 : 2);

	rows->commandType = CMD_SELECT;
	rows->canSetTag = true;
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = source;
	rte->inFromCl = true;
	rte->eref = makeAlias("rows", NIL);
	ref->rtindex = 1;
	rows->rtable = list_make1(rte);
	rows->jointree = makeFromExpr(list_make1(ref), NULL);
	for (AttrNumber attno = 1; attno <= RelationGetDescr(view)->natts; attno++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(view), attno - 1);
		TargetEntry *given = get_tle_by_resno(query->targetList, attno);
		char	   *name = pstrdup(NameStr(att->attname));
		Expr	   *value = given ? copyObject(given->expr) :
			(Expr *) makeNullConst(att->atttypid, att->atttypmod, att->attcollation);
		Expr	   *column = (Expr *) makeVar(1, attno, exprType((Node *) value),
											  exprTypmod((Node *) value),
											  exprCollation((Node *) value), 0);

		source->targetList = lappend(source->targetList,
									 makeTargetEntry(value, attno, name, false));
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(name));
		rows->targetList = lappend(rows->targetList,
								   makeTargetEntry(column, attno, name, false));
		row->args = lappend(row->args, column);
		row->colnames = lappend(row->colnames, makeString(name));
	}
	row->row_typeid = view->rd_rel->reltype;
	row->row_format = COERCE_IMPLICIT_CAST;
	row->location = -1;
	table_close(view, NoLock);

	leaf = get_routed_view(target->relid)->routing == ROUTING_LOOKUP ?
		make_run_ops_call("leaf_of_new_row", OIDOID, list_make2(make_oid(target->relid), row)) :
		leaf_of_new_id(target, list_nth(row->args, route_column(target) - 1));
	rows->targetList = lappend(rows->targetList,
							   makeTargetEntry(leaf, list_length(rows->targetList) + 1,
											   "run_ops_leaf", false));
	return add_cte(rewrite, rows);
}

static Query *
insert_rows(Rewrite *rewrite, Query *query, Target *target)
{
	CommonTableExpr *rows = rows_to_insert(rewrite, query, target);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List	   *queries = NIL;
	ListCell   *lc;

	/* what is left of the query reads these rows; level 0 is the top */
	query->rtable = list_make2(rt_fetch(query->resultRelation, query->rtable),
							   make_cte_entry(rows, rewrite->cte ? 1 : 0));
	ChangeVarNodes((Node *) query->returningList, query->resultRelation, 1, 0);
	ChangeVarNodes((Node *) query->withCheckOptions, query->resultRelation, 1, 0);
	if (rewrite->conflict && rewrite->conflict->view != 1)
	{
		ChangeVarNodes((Node *) rewrite->conflict->expr, rewrite->conflict->view, 1, 0);
		rewrite->conflict->view = 1;
	}
	query->resultRelation = 1;
	ref->rtindex = 2;
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	query->hasSubLinks = checkExprHasSubLink((Node *) query->returningList) ||
		checkExprHasSubLink((Node *) query->withCheckOptions);
	query->hasTargetSRFs = false;
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		tle->expr = (Expr *) makeVar(2, tle->resno, exprType((Node *) tle->expr),
									 exprTypmod((Node *) tle->expr),
									 exprCollation((Node *) tle->expr), 0);
	}
	foreach(lc, target->leaves)
	{
		UnionLeaf  *leaf = lfirst(lc);
		Query	   *of_leaf = insert_into_leaf(rewrite, query, target, leaf);
		AttrNumber	attno = list_length(rows->ctecolnames);

		of_leaf->jointree->quals =
			is_leaf((Node *) makeVar(2, attno, OIDOID, -1, InvalidOid, 0), leaf);
		if (lc != list_head(target->leaves))
			rows->cterefcount++;
		queries = lappend(queries, of_leaf);
	}
	return put_in_place(rewrite, queries);
}

static Query *
insert_into_view(Rewrite *rewrite, Query *query, Target *target)
{
	AttrNumber	route = route_column(target);
	TargetEntry *given = get_tle_by_resno(query->targetList, route);
	Expr	   *id = given ? given->expr :
		(Expr *) makeNullConst(target->view.id->vartype, target->view.id->vartypmod,
							   target->view.id->varcollid);

	/* to the rewriter a view has no identity columns */
	if (query->override == OVERRIDING_USER_VALUE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("OVERRIDING USER VALUE is not supported for views over several stores")));
	if (target->view.store != NULL && query->jointree->fromlist == NIL &&
		!query->hasTargetSRFs && !contain_volatile_functions((Node *) id) &&
		!contain_subplans((Node *) id))
		return insert_row(rewrite, query, target, id);
	return insert_rows(rewrite, query, target);
}

/* ----------------------------------------------------------------
 *		The query
 * ----------------------------------------------------------------
 */

/* The query with each statement on a view replaced by those on its leaves. */
static Query *
rewrite_statement(Rewrite *rewrite, Query *query)
{
	Target		target;

	if (!find_target(query, &target))
		return query;
	rewrite->on_view = true;
	rewrite->conflict = take_conflict_clause(rewrite->cte ? &query->cteList : &rewrite->ctes,
											 query->resultRelation);
	if (rewrite->cte && query->cteList)
		move_own_ctes(rewrite, query);
	return query->commandType == CMD_INSERT ? insert_into_view(rewrite, query, &target) :
		change_view(rewrite, query, &target);
}

/*
 * Statements below WITH that nothing reads need no RETURNING.  So foreign_scan.c
 * can tell them, and executes them first.
 */
static void
mark_unread(Rewrite *rewrite)
{
	ListCell   *lc;
	ListCell   *lc2;
	List	   *unread = NIL;

	foreach(lc, rewrite->ctes)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		if (cte->cterefcount == 0 && !list_member_ptr(rewrite->own, cte))
			unread = lappend(unread, cte->ctename);
	}
	foreach(lc, rewrite->groups)
	{
		LeafGroup  *group = lfirst(lc);

		if (group->last && list_member_ptr(unread, group->last))
			unread = list_concat(unread, group->others);
	}
	foreach(lc, rewrite->ctes)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		foreach(lc2, unread)
		{
			if (strcmp(cte->ctename, lfirst(lc2)) == 0)
				castNode(Query, cte->ctequery)->returningList = NIL;
		}
	}
}

Query *
to_leaf_statements(Query *query, ParamListInfo params, List **groups)
{
	Rewrite		rewrite = {query->cteList, NULL, params};
	ListCell   *lc;

	if (query->commandType == CMD_SELECT && !query->hasModifyingCTE)
		return query;
	query->cteList = NIL;
	/* the list grows meanwhile */
	foreach(lc, list_copy(rewrite.ctes))
	{
		rewrite.cte = lfirst_node(CommonTableExpr, lc);
		if (IsA(rewrite.cte->ctequery, Query))
			rewrite.cte->ctequery = (Node *)
				rewrite_statement(&rewrite, (Query *) rewrite.cte->ctequery);
	}
	rewrite.cte = NULL;
	query = rewrite_statement(&rewrite, query);
	if (rewrite.on_view)
		mark_unread(&rewrite);
	query->cteList = rewrite.ctes;
	if (rewrite.groups)
		query->hasModifyingCTE = true;
	*groups = rewrite.groups;
	return query;
}

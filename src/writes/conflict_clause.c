/*
 * conflict_clause.c
 *		INSERT ... ON CONFLICT through the views of routed tables.
 *
 * The rewriter refuses ON CONFLICT for a view with rules, and our views have one
 * for that purpose: without it, PostgreSQL would ignore the clause.  The one idea:
 * after parse analysis the clause is taken out of the INSERT and hidden, as text,
 * in a common table expression that nothing reads.  It survives rewriting and the
 * plan cache there.  Before planning it is given to the statements on the leaves.
 *
 * The local table gets the clause itself.  For a store it is written as SQL; what
 * does not depend on a row is computed here, so now() is this server's, and sent
 * as a parameter.
 *
 * A session that has not loaded this library yet, or that finds the statement in
 * the catalog (a function with BEGIN ATOMIC), is refused by the rule.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "ground/compat.h"
#include "stores/remote_change.h"
#include "stores/remote_rows.h"
#include "writes/collected_rows.h"
#include "writes/conflict_clause.h"

/* The name of the common table expression; no identifier begins like that. */
#define HIDING_PLACE "\001run_ops conflict"

/* No range table is that long. */
#define FAR_AWAY 100000

static post_parse_analyze_hook_type next_post_parse_analyze = NULL;

/* ----------------------------------------------------------------
 *		Hiding the clause
 * ----------------------------------------------------------------
 */

/* With rules of somebody else it is refused, as it is for any table. */
static bool
has_our_rule_only(Relation view)
{
	int			n = 0;

	for (int i = 0; view->rd_rules && i < view->rd_rules->numLocks; i++)
	{
		CmdType		event = view->rd_rules->rules[i]->event;

		n += event == CMD_INSERT || event == CMD_UPDATE;
	}
	return n == 1;
}

static bool
is_insert_into_our_view(Query *query)
{
	RangeTblEntry *rte;
	Relation	rel;
	bool		result;

	if (query->commandType != CMD_INSERT || query->onConflict == NULL)
		return false;
	rte = rt_fetch(query->resultRelation, query->rtable);
	if (rte->rtekind != RTE_RELATION || rte->relkind != RELKIND_VIEW)
		return false;
	rel = table_open(rte->relid, NoLock);
	result = is_routed_view(rel) && has_our_rule_only(rel);
	table_close(rel, NoLock);
	return result;
}

static void
hide_clause(Query *query)
{
	CommonTableExpr *cte;
	Query	   *text;

	if (!is_insert_into_our_view(query))
		return;
	if (checkExprHasSubLink((Node *) query->onConflict))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("subqueries in ON CONFLICT are not supported for views over several stores"),
				 errhint("Compute the value in the SELECT of the INSERT, and use EXCLUDED.")));
	text = makeNode(Query);
	text->commandType = CMD_SELECT;
	text->canSetTag = false;
	text->jointree = makeFromExpr(NIL, NULL);
	text->targetList =
		list_make1(makeTargetEntry((Expr *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
													  CStringGetTextDatum(nodeToString(query->onConflict)),
													  false, false),
								   1, "clause", false));
	cte = makeNode(CommonTableExpr);
	cte->ctename = pstrdup(HIDING_PLACE);
	cte->ctequery = (Node *) text;
	cte->ctecolnames = list_make1(makeString("clause"));
	cte->ctecoltypes = list_make1_oid(TEXTOID);
	cte->ctecoltypmods = list_make1_int(-1);
	cte->ctecolcollations = list_make1_oid(DEFAULT_COLLATION_OID);
	cte->location = -1;
	query->cteList = lappend(query->cteList, cte);
	query->onConflict = NULL;
}

static void
hide_clauses(Query *query)
{
	ListCell   *lc;

	if (query->commandType == CMD_UTILITY)
	{
		if (query->utilityStmt && IsA(query->utilityStmt, ExplainStmt) &&
			IsA(((ExplainStmt *) query->utilityStmt)->query, Query))
			hide_clauses((Query *) ((ExplainStmt *) query->utilityStmt)->query);
		return;
	}
	foreach(lc, query->cteList)
		hide_clause(castNode(Query, lfirst_node(CommonTableExpr, lc)->ctequery));
	hide_clause(query);
}

static void
analyze(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (next_post_parse_analyze)
		next_post_parse_analyze(pstate, query, jstate);
	hide_clauses(query);
}

ConflictClause *
take_conflict_clause(List **ctes, Index view)
{
	ListCell   *lc;

	foreach(lc, *ctes)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);
		ConflictClause *clause;
		Const	   *hidden;

		if (strcmp(cte->ctename, HIDING_PLACE) != 0)
			continue;
		hidden = castNode(Const, linitial_node(TargetEntry, castNode(Query, cte->ctequery)->targetList)->expr);
		clause = palloc(sizeof(ConflictClause));
		clause->expr = stringToNode(TextDatumGetCString(hidden->constvalue));
		clause->view = view;
		*ctes = list_delete_cell(*ctes, lc);
		return clause;
	}
	return NULL;
}

/* ----------------------------------------------------------------
 *		For the local table
 * ----------------------------------------------------------------
 */

/* The columns of the view as columns of another relation of the same type. */
static List *
at_relation(List *columns, Index from, Index to)
{
	List	   *result = copyObject(columns);

	ChangeVarNodes((Node *) result, from, to, 0);
	return result;
}

/* Names the columns of the leaf in SET, which may have DEFAULT: generated ones keep it. */
static void
translate_set(OnConflictExpr *expr, Relation leaf, List *columns)
{
	ListCell   *lc;

	foreach(lc, expr->onConflictSet)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Var		   *column = castNode(Var, get_tle_by_resno(columns, tle->resno)->expr);

		tle->resno = column->varattno;
		if (IsA(tle->expr, SetToDefault) &&
			!TupleDescAttr(RelationGetDescr(leaf), tle->resno - 1)->attgenerated)
		{
			Node	   *value = build_column_default(leaf, tle->resno);

			tle->expr = value ? (Expr *) value :
				(Expr *) makeNullConst(column->vartype, column->vartypmod, column->varcollid);
		}
	}
}

static void
add_native_clause(Query *query, ConflictClause *clause, Relation leaf, List *columns)
{
	RangeTblEntry *view = rt_fetch(clause->view, query->rtable);
	OnConflictExpr *expr = copyObject(clause->expr);
	RangeTblEntry *excluded;
	Index		rti = list_length(query->rtable) + 1;
	ListCell   *lc;

	excluded = addRangeTableEntryForRelation(make_parsestate(NULL), leaf, RowExclusiveLock,
											 makeAlias("excluded", NIL), false, false)->p_rte;
	excluded->relkind = RELKIND_COMPOSITE_TYPE;
	compat_check_nothing(excluded);
	query->rtable = lappend(query->rtable, excluded);

	OffsetVarNodes((Node *) expr, FAR_AWAY, 0);
	expr->exclRelTlist = NIL;
	expr = (OnConflictExpr *)
		compat_replace_columns((Node *) expr, clause->expr->exclRelIndex + FAR_AWAY, view,
							   at_relation(columns, query->resultRelation, rti));
	expr = (OnConflictExpr *)
		compat_replace_columns((Node *) expr, clause->view + FAR_AWAY, view, columns);
	expr->exclRelIndex = rti;
	expr->exclRelTlist = BuildOnConflictExcludedTargetlist(leaf, rti);
	translate_set(expr, leaf, columns);
	foreach(lc, expr->onConflictSet)
	{
		if (IsA(lfirst_node(TargetEntry, lc)->expr, SetToDefault))
			expr->onConflictSet = foreach_delete_current(expr->onConflictSet, lc);
	}
	query->onConflict = expr;
}

/* ----------------------------------------------------------------
 *		For the table of a store
 * ----------------------------------------------------------------
 */

/*
 * An expression on its way to SQL.  What the SQL of the store says in another way
 * than ours is replaced by parameters with large numbers.  After that has been
 * written as SQL, these are replaced by their texts.
 */
typedef struct RemoteExpression
{
	ConflictClause *clause;
	Relation	leaf;
	List	   *columns;
	List	  **values;			/* computed here, as parameters; NULL: must not be */
	List	   *texts;			/* for the replaced parts */
} RemoteExpression;

#define FIRST_PART 1900000000

pg_noreturn static void
refuse_expression(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("ON CONFLICT has an expression that a store cannot be asked to evaluate"),
			 errdetail_internal("%s", what),
			 errhint("Compute the value in the SELECT of the INSERT, and use EXCLUDED.")));
}

static Node *
make_part(RemoteExpression *remote, Node *node, char *text)
{
	Param	   *part = makeNode(Param);

	part->paramkind = PARAM_EXTERN;
	part->paramid = FIRST_PART + list_length(remote->texts);
	part->paramtype = exprType(node);
	part->paramtypmod = exprTypmod(node);
	part->paramcollid = exprCollation(node);
	part->location = -1;
	remote->texts = lappend(remote->texts, text);
	return (Node *) part;
}

static Node *
replace_column(RemoteExpression *remote, Var *var)
{
	TargetEntry *column = get_tle_by_resno(remote->columns, var->varattno);

	if (column == NULL)
		refuse_expression(_("It uses a whole row."));
	return make_part(remote, (Node *) var,
					 psprintf("%s.%s", var->varno == remote->clause->view ? "t" : "excluded",
							  remote_column_name(RelationGetRelid(remote->leaf),
												 castNode(Var, column->expr)->varattno)));
}

/* A constant as the store reads it. */
static char *
constant_text(Const *value)
{
	FmgrInfo	output;
	RemoteText	text = {.output = &output};
	int			nest_level;
	char	   *result;

	if (value->constisnull)
		return pstrdup("NULL");
	remote_text_add(&text, value->consttype);
	nest_level = remote_text_begin(&text);
	result = quote_literal_cstr(OutputFunctionCall(&output, value->constvalue));
	remote_text_end(nest_level);
	return result;
}

/* A part that is the same for all rows. */
static Node *
replace_value(RemoteExpression *remote, Node *node)
{
	Oid			type = exprType(node);
	char	   *text;

	if (remote->values == NULL)
	{
		if (!IsA(node, Const))
			refuse_expression(_("The condition of the index has a value that is not constant."));
		text = constant_text((Const *) node);
	}
	else
	{
		if (contain_volatile_functions(node))
			refuse_expression(_("It uses a volatile function."));
		*remote->values = lappend(*remote->values, node);
		text = psprintf(REMOTE_VALUE, list_length(*remote->values));
	}
	/* the store knows the type of a user from the context */
	if (type < FirstGenbkiObjectId)
		text = psprintf("%s::%s", text,
						format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	return make_part(remote, node, text);
}

/* "CASE a WHEN b" as "CASE WHEN a = b" */
static Node *
replace_case_test(Node *node, Node *value)
{
	if (node == NULL || IsA(node, CaseExpr))
		return node;
	if (IsA(node, CaseTestExpr))
		return copyObject(value);
	return expression_tree_mutator(node, replace_case_test, value);
}

static CaseExpr *
without_case_test(CaseExpr *expr)
{
	CaseExpr   *result = copyObject(expr);
	ListCell   *lc;

	foreach(lc, result->args)
	{
		CaseWhen   *when = lfirst_node(CaseWhen, lc);

		when->expr = (Expr *) replace_case_test((Node *) when->expr, (Node *) result->arg);
	}
	result->arg = NULL;
	return result;
}

/* Is the function the same in the store? */
static bool
is_not_shippable(Oid function, void *context)
{
	return function >= FirstGenbkiObjectId || func_volatile(function) != PROVOLATILE_IMMUTABLE;
}

static Node *
replace_parts(Node *node, RemoteExpression *remote)
{
	if (node == NULL)
		return NULL;
	check_stack_depth();
	if (IsA(node, Var))
		return replace_column(remote, (Var *) node);
	if (IsA(node, List))
		return expression_tree_mutator(node, replace_parts, remote);
	if (!IsA(node, CaseWhen) && !contain_var_clause(node))
		return replace_value(remote, node);
	if (IsA(node, CaseExpr) && ((CaseExpr *) node)->arg)
		node = (Node *) without_case_test((CaseExpr *) node);
	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_FuncExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_MinMaxExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_CoalesceExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_ArrayExpr:
			break;
		case T_RelabelType:
		case T_CoerceViaIO:
			if (exprType(node) < FirstGenbkiObjectId)
				break;
			/* fall through */
		default:
			refuse_expression(_("It uses a kind of expression that is not supported there."));
	}
	if (check_functions_in_node(node, is_not_shippable, NULL))
		refuse_expression(_("It uses a function that is not built in, or not immutable."));
	/* the length of a type, and the keywords of SQL's own functions, are constants */
	if (exprIsLengthCoercion(node, NULL))
	{
		FuncExpr   *call = copyObject((FuncExpr *) node);

		linitial(call->args) = replace_parts(linitial(call->args), remote);
		return (Node *) call;
	}
	node = expression_tree_mutator(node, replace_parts, remote);
	if (IsA(node, FuncExpr) && ((FuncExpr *) node)->funcformat == COERCE_SQL_SYNTAX)
		((FuncExpr *) node)->funcformat = COERCE_EXPLICIT_CALL;
	return node;
}

/*
 * Replaces the parameters of replace_parts() by their texts.  There is no other
 * "$": all constants were replaced, and functions are built in.
 */
static char *
insert_texts(const char *sql, List *texts)
{
	StringInfoData result;

	initStringInfo(&result);
	while (*sql)
	{
		char	   *end;

		if (*sql != '$')
		{
			appendStringInfoChar(&result, *sql++);
			continue;
		}
		Assert(texts != NIL);
		appendStringInfoString(&result, list_nth(texts, strtol(sql + 1, &end, 10) - FIRST_PART));
		sql = end;
	}
	return result.data;
}

static char *
remote_expression(RemoteExpression *remote, Node *node)
{
	int			nest_level = NewGUCNestLevel();
	char	   *sql;

	remote->texts = NIL;
	node = replace_parts(node, remote);
	(void) set_config_option("search_path", "pg_catalog", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	sql = deparse_expression(node, NIL, false, false);
	AtEOXact_GUC(true, nest_level);
	return insert_texts(sql, remote->texts);
}

/* "(columns) WHERE predicate" */
static void
append_arbiter(StringInfo sql, RemoteExpression *remote)
{
	OnConflictExpr *expr = remote->clause->expr;
	ListCell   *lc;

	foreach(lc, expr->arbiterElems)
	{
		InferenceElem *elem = lfirst_node(InferenceElem, lc);
		TargetEntry *column = IsA(elem->expr, Var) ?
			get_tle_by_resno(remote->columns, ((Var *) elem->expr)->varattno) : NULL;

		if (column == NULL || OidIsValid(elem->infercollid) || OidIsValid(elem->inferopclass))
			refuse_expression(_("The conflict target is not a list of columns."));
		appendStringInfo(sql, "%s%s", foreach_current_index(lc) ? ", " : " (",
						 remote_column_name(RelationGetRelid(remote->leaf),
											castNode(Var, column->expr)->varattno));
	}
	if (expr->arbiterElems)
		appendStringInfoChar(sql, ')');
	if (expr->arbiterWhere)
		appendStringInfo(sql, " WHERE %s", remote_expression(remote, expr->arbiterWhere));
}

static void
append_update(StringInfo sql, RemoteExpression *remote)
{
	OnConflictExpr *expr = copyObject(remote->clause->expr);
	ListCell   *lc;

	translate_set(expr, remote->leaf, remote->columns);
	appendStringInfoString(sql, " DO UPDATE SET");
	foreach(lc, expr->onConflictSet)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Expr	   *value = tle->expr;

		/* the column there has the domain */
		while (IsA(value, CoerceToDomain) &&
			   ((CoerceToDomain *) value)->coercionformat == COERCE_IMPLICIT_CAST)
			value = ((CoerceToDomain *) value)->arg;
		appendStringInfo(sql, "%s %s = %s", foreach_current_index(lc) ? "," : "",
						 remote_column_name(RelationGetRelid(remote->leaf), tle->resno),
						 IsA(value, SetToDefault) ? "DEFAULT" :
						 remote_expression(remote, (Node *) value));
	}
	if (expr->onConflictWhere)
		appendStringInfo(sql, " WHERE %s", remote_expression(remote, expr->onConflictWhere));
}

/*
 * The planner refuses ON CONFLICT with a target for foreign tables, because they
 * have no indexes.  So it gets a DO NOTHING without a target, and foreign_modify.c
 * finds the text of the clause and its values in the place of SET.
 */
static void
add_remote_clause(Query *query, ConflictClause *clause, Relation leaf, List *columns)
{
	RemoteExpression remote = {clause, leaf, columns, NULL, NIL};
	OnConflictExpr *expr = makeNode(OnConflictExpr);
	List	   *values = NIL;
	StringInfoData sql;
	ListCell   *lc;

	/* to the executor, a row that was updated there is a new one */
	if (clause->expr->action == ONCONFLICT_UPDATE && compat_returns_old_or_new(query->returningList))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("OLD and NEW in RETURNING are not supported with ON CONFLICT DO UPDATE for views over several stores")));
	initStringInfo(&sql);
	append_arbiter(&sql, &remote);
	remote.values = &values;
	if (clause->expr->action == ONCONFLICT_UPDATE)
		append_update(&sql, &remote);
	else
		appendStringInfoString(&sql, " DO NOTHING");
	values = lcons(makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
							 CStringGetTextDatum(sql.data), false, false), values);
	expr->action = ONCONFLICT_NOTHING;
	foreach(lc, values)
		expr->onConflictSet = lappend(expr->onConflictSet,
									  makeTargetEntry(lfirst(lc), foreach_current_index(lc) + 1,
													  NULL, false));
	query->onConflict = expr;
}

/*
 * A row stays where it is: SET may give the route column only the value by which
 * the rows conflict.
 */
static void
refuse_set_of_route(ConflictClause *clause, AttrNumber route)
{
	OnConflictExpr *expr = clause->expr;
	bool		in_target = false;
	ListCell   *lc;

	foreach(lc, expr->arbiterElems)
	{
		Node	   *elem = lfirst_node(InferenceElem, lc)->expr;

		in_target |= IsA(elem, Var) && ((Var *) elem)->varattno == route;
	}
	foreach(lc, expr->onConflictSet)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Var		   *value = (Var *) tle->expr;

		if (tle->resno != route ||
			(in_target && IsA(value, Var) && value->varno == expr->exclRelIndex &&
			 value->varattno == route))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT DO UPDATE cannot set column \"%s\", which decides where a row is",
						tle->resname)));
	}
}

void
add_conflict_clause(Query *query, ConflictClause *clause, Relation leaf,
					List *columns, AttrNumber route)
{
	refuse_set_of_route(clause, route);
	if (leaf->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		add_remote_clause(query, clause, leaf, columns);
	else
		add_native_clause(query, clause, leaf, columns);
}

void
conflict_clause_init(void)
{
	next_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = analyze;
}

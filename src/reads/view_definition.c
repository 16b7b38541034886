/*
 * view_definition.c
 *		Has a view the query that it must have?
 *
 * Anybody who owns a view can replace it, and then it shows other rows than the
 * mode of the database says.  The one idea: the query that run_ops.view_query()
 * gives is analyzed as CREATE VIEW would, and both are deparsed and compared.
 * So names that have changed since the view was created make no difference.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "ground/compat.h"

PG_FUNCTION_INFO_V1(run_ops_has_query);

/* A table that was renamed is not shown by its old name. */
static bool
use_current_names(Node *node, void *context)
{
	RangeTblEntry *rte = (RangeTblEntry *) node;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, use_current_names, context,
								 QTW_EXAMINE_RTES_BEFORE);
	if (IsA(node, RangeTblEntry))
	{
		if (rte->rtekind == RTE_RELATION && rte->alias == NULL)
			rte->eref->aliasname = get_rel_name(rte->relid);
		return false;
	}
	return expression_tree_walker(node, use_current_names, context);
}

/*
 * PostgreSQL has a function for expressions only, so it is made one.  Below an
 * outer query, all columns are written with their tables; otherwise that would
 * depend on entries of the range table that only a stored query has.
 */
static char *
query_text(Query *query, Oid outer)
{
	SubLink    *link = makeNode(SubLink);

	query = copyObject(query);
	(void) use_current_names((Node *) query, NULL);
	link->subLinkType = EXISTS_SUBLINK;
	link->subselect = (Node *) query;
	return deparse_expression((Node *) link, deparse_context_for("(outer)", outer),
							  false, false);
}

/*
 * has_query(view regclass, query text) returns boolean
 *
 * Whether that is the query of the view.  NULL for NULL; false if it is no view.
 */
Datum
run_ops_has_query(PG_FUNCTION_ARGS)
{
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Relation	view = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	ParseState *pstate;
	List	   *statements;
	Query	   *expected;
	bool		result = false;

	if (view == NULL)
		PG_RETURN_BOOL(false);
	statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	if (list_length(statements) != 1 ||
		!IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("query of a view must be one SELECT")));
	if (view->rd_rel->relkind == RELKIND_VIEW)
	{
		pstate = make_parsestate(NULL);
		pstate->p_sourcetext = sql;
		expected = transformTopLevelStmt(pstate, linitial_node(RawStmt, statements));
		free_parsestate(pstate);
		result = strcmp(query_text(get_view_query(view), RelationGetRelid(view)),
						query_text(expected, RelationGetRelid(view))) == 0;
	}
	relation_close(view, AccessShareLock);
	PG_RETURN_BOOL(result);
}

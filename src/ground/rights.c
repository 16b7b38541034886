/*
 * rights.c
 *		Executes statements whose access to tables is checked as one role,
 *		while the functions they call run as another.
 *
 * PostgreSQL executes a statement on a view in this way: the owner of the view
 * needs the privileges on the tables behind it, but triggers, defaults,
 * checks, casts and operators run as the user who executes the statement.  If
 * the whole statement ran as the owner of the view, anybody who can attach
 * code to a table could use the privileges of that owner.
 *
 * The one idea: parse analysis can separate the two roles.  Names are looked
 * up as the role that may see them.  Then each table of the query is marked to
 * be checked as the access role, in the same field that the rewriter sets for
 * the tables of a view.  Planning and execution use the current user.  All of
 * this is in the parser setup of the plan, so it is repeated when the plan
 * cache analyzes the statement again.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/params.h"
#include "parser/analyze.h"
#include "parser/parse_node.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "ground/rights.h"

PG_FUNCTION_INFO_V1(run_ops_as_owner);

static post_parse_analyze_hook_type next_post_parse_analyze = NULL;

/* ----------------------------------------------------------------
 *		Parse analysis
 * ----------------------------------------------------------------
 */

/*
 * Resolves "$n" in a statement.  end_analysis() recognizes our statements by
 * this hook.
 */
static Node *
param_of_statement(ParseState *pstate, ParamRef *pref)
{
	RightsStatement *statement = pstate->p_ref_hook_state;
	Oid			type;

	if (pref->number <= 0 || pref->number > statement->nargs)
		return NULL;
	type = statement->argtypes[pref->number - 1];
	{
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = pref->number;
		param->paramtype = type;
		param->paramtypmod = -1;
		param->paramcollid = get_typcollation(type);
		param->location = pref->location;
		return (Node *) param;
	}
}

/*
 * Parser setup.  After an error before end_analysis(), the other role stays
 * set until the transaction or subtransaction is rolled back.  The rollback
 * restores the user, as after every error.
 */
static void
begin_analysis(ParseState *pstate, void *arg)
{
	RightsStatement *statement = arg;

	pstate->p_paramref_hook = param_of_statement;
	pstate->p_ref_hook_state = statement;
	GetUserIdAndSecContext(&statement->save_userid,
						   &statement->save_sec_context);
	SetUserIdAndSecContext(statement->names_role,
						   statement->save_sec_context |
						   SECURITY_LOCAL_USERID_CHANGE);
}

static bool
check_access_as(Node *node, void *role)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		compat_check_access_as((Query *) node, *(Oid *) role);
		return query_tree_walker((Query *) node, check_access_as, role, 0);
	}
	return expression_tree_walker(node, check_access_as, role);
}

static void
end_analysis(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (pstate->p_paramref_hook == param_of_statement)
	{
		RightsStatement *statement = pstate->p_ref_hook_state;

		SetUserIdAndSecContext(statement->save_userid,
							   statement->save_sec_context);
		if (OidIsValid(statement->access_role))
			(void) check_access_as((Node *) query, &statement->access_role);
	}
	if (next_post_parse_analyze)
		next_post_parse_analyze(pstate, query, jstate);
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

RightsStatement *
rights_prepare(const char *sql, Oid names_role, Oid access_role, int nargs,
			   const Oid *argtypes, int cursor_options, MemoryContext context)
{
	RightsStatement *statement =
		MemoryContextAllocZero(context, offsetof(RightsStatement, argtypes) +
							   sizeof(Oid) * nargs);

	statement->names_role = names_role;
	statement->access_role = access_role;
	statement->nargs = nargs;
	if (nargs > 0)
		memcpy(statement->argtypes, argtypes, sizeof(Oid) * nargs);
	statement->plan = SPI_prepare_params(sql, begin_analysis, statement,
										 cursor_options);
	if (statement->plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	return statement;
}

int
rights_execute(RightsStatement *statement, Datum *values, const char *nulls,
			   bool read_only, long count, DestReceiver *receiver)
{
	ParamListInfo params = makeParamList(statement->nargs);
	SPIExecuteOptions options = {0};

	Assert(values != NULL || statement->nargs == 0);
	for (int i = 0; i < statement->nargs; i++)
	{
		ParamExternData *param = &params->params[i];

		param->value = values[i];
		param->isnull = nulls && nulls[i] == 'n';
		param->pflags = PARAM_FLAG_CONST;
		param->ptype = statement->argtypes[i];
	}
	options.params = params;
	options.read_only = read_only;
	options.tcount = count;
	options.dest = receiver;
	return SPI_execute_plan_extended(statement->plan, &options);
}

/* ----------------------------------------------------------------
 *		As the owner of a table
 * ----------------------------------------------------------------
 */

static bool
only_reads(CachedPlanSource *source)
{
	ListCell   *lc;

	foreach(lc, source->query_list)
	{
		Query	   *query = lfirst_node(Query, lc);

		if (query->commandType != CMD_SELECT || query->rowMarks != NIL ||
			query->hasModifyingCTE)
			return false;
	}
	return true;
}

/*
 * as_owner(relation regclass, command text, VARIADIC arguments "any")
 *		returns setof record
 *
 * Executes a command that reads or writes a table of another owner.  Access is
 * checked as the caller.  Code that the owner has attached to the table or to
 * the types of its columns runs as the owner, as in the commands of
 * foreign-key triggers.  The command is a security-restricted operation, so
 * that code cannot defer anything until the caller commits.
 *
 * Afterwards, settings that such code has changed are restored; otherwise it
 * could choose the search_path of the function that called this one.
 *
 * For a caller without the privileges of the owner, everything runs as the
 * caller, which must not be able to run its own commands as another role.  A
 * command that only reads sees the same as its caller; in a STABLE function
 * that is the snapshot of the calling query.  Returns the rows of the command,
 * if it has any.  Errors: those of the command; 42P01 if the relation does not
 * exist.
 */
Datum
run_ops_as_owner(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext per_query;
	MemoryContext oldcontext;
	Tuplestorestate *rows;
	TupleDesc	desc;
	DestReceiver *receiver;
	RightsStatement *statement;
	CachedPlanSource *source;
	HeapTuple	relation;
	Datum	   *args = NULL;
	Oid		   *types = NULL;
	bool	   *isnull = NULL;
	char	   *nulls;
	int			nargs = 0;
	Oid			owner;
	Oid			caller;
	int			sec_context;
	int			guc_level;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		!(rsinfo->allowedModes & SFRM_Materialize) ||
		rsinfo->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("run_ops.as_owner() must be called in FROM, with a column definition list")));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation and command must not be null")));
	relation = SearchSysCache1(RELOID, ObjectIdGetDatum(PG_GETARG_OID(0)));
	if (!HeapTupleIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", PG_GETARG_OID(0))));
	owner = ((Form_pg_class) GETSTRUCT(relation))->relowner;
	ReleaseSysCache(relation);
	if (PG_NARGS() > 2)
		nargs = extract_variadic_args(fcinfo, 2, true, &args, &types, &isnull);
	if (nargs < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the array of arguments must not be null")));

	per_query = rsinfo->econtext->ecxt_per_query_memory;
	oldcontext = MemoryContextSwitchTo(per_query);
	rows = tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0,
								 false, work_mem);
	desc = CreateTupleDescCopy(rsinfo->expectedDesc);
	MemoryContextSwitchTo(oldcontext);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	GetUserIdAndSecContext(&caller, &sec_context);
	nulls = palloc(nargs + 1);
	for (int i = 0; i < nargs; i++)
		nulls[i] = isnull[i] ? 'n' : ' ';
	statement = rights_prepare(text_to_cstring(PG_GETARG_TEXT_PP(1)),
							   caller, caller, nargs, types, 0,
							   CurrentMemoryContext);
	source = linitial(SPI_plan_get_plan_sources(statement->plan));
	if (source->resultDesc != NULL)
	{
		oldcontext = MemoryContextSwitchTo(per_query);
		desc = CreateTupleDescCopy(source->resultDesc);
		MemoryContextSwitchTo(oldcontext);
	}
	receiver = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(receiver, rows, per_query, false, NULL, NULL);
	guc_level = NewGUCNestLevel();
	if (has_privs_of_role(caller, owner))
		SetUserIdAndSecContext(owner, sec_context |
							   SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	if (rights_execute(statement, args, nulls, only_reads(source), 0,
					   receiver) < 0)
		elog(ERROR, "could not execute \"%s\"",
			 text_to_cstring(PG_GETARG_TEXT_PP(1)));
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(caller, sec_context);
	SPI_finish();

	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = rows;
	rsinfo->setDesc = desc;
	return (Datum) 0;
}

void
rights_init(void)
{
	next_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = end_analysis;
}

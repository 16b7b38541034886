/*
 * foreign_plan.c
 *		Planning of run_ops_fdw: a lookup by key is cheap, and one with a
 *		precheck is cheaper still.
 *
 * postgres_fdw assumes that each scan reads the whole remote table.  The one
 * idea: the options "key" and "indexed" of the foreign table tell which scans
 * are lookups, and the planner gets estimates for them:
 *
 * - one row for a lookup by the key;
 * - the cost of a lookup, and not that of reading the table;
 * - paths parameterized by a join on an indexed column; postgres_fdw offers
 *	 none, and would fetch the whole remote table for the join;
 * - low costs for scans with a precheck; otherwise generic plans would be
 *	 rejected because of a leaf that mostly does not run;
 * - a precheck of its own: if the id of the row has to equal X and to reside in
 *	 this store, the scan does not begin unless X resides in this store.
 *
 * The scan also requests less from the store: only those of a set of ids that
 * belong in this store, and only one page of ordered rows.
 *
 * Non-goals: this file writes no remote SQL, and postgres_fdw decides which
 * clauses it sends to the store.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"
#include "optimizer/prep.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "ground/compat.h"
#include "reads/assumed_statistics.h"
#include "reads/foreign_plan.h"
#include "reads/lookup_condition.h"
#include "reads/residency.h"
#include "reads/stand_ins.h"
#include "reads/store_order.h"
#include "reads/union_view.h"
#include "stores/foreign_modify.h"
#include "stores/foreign_scan.h"
#include "stores/remote_rows.h"

FdwRoutine	postgres_fdw_routine;

/* defaults of postgres_fdw, which none of its headers exports */
#define DEFAULT_FDW_STARTUP_COST 100.0
#define DEFAULT_FDW_TUPLE_COST COMPAT_DEFAULT_FDW_TUPLE_COST

/*
 * How many of the lookups of a join with a precheck are expected to run.  Of
 * each id only one store is asked.  What fetches a whole table in place of the
 * lookups needs the store in any case, also if no id is of that store, so it has
 * to be much cheaper.
 */
#define PRECHECK_PASSED_SHARE 0.1

/*
 * A sort in the store, as a factor: cheap, because an index mostly has the
 * order, but not asked for in vain.
 */
#define SORTED_LOOKUP_FACTOR 1.05

/*
 * What the store does itself, as a share of the same work with one query for
 * each table.
 */
#define STORE_SIDE_SHARE 0.9

CostOptions
foreign_cost_options(Oid relid)
{
	CostOptions result = {DEFAULT_FDW_STARTUP_COST, DEFAULT_FDW_TUPLE_COST, 0};
	ForeignTable *table = GetForeignTable(relid);
	ForeignServer *server = GetForeignServer(table->serverid);
	ListCell   *lc;

	/* options of the table override those of the server */
	foreach(lc, list_concat_copy(server->options, table->options))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "fdw_startup_cost") == 0)
			(void) parse_real(defGetString(def), &result.startup_cost, 0, NULL);
		else if (strcmp(def->defname, "fdw_tuple_cost") == 0)
			(void) parse_real(defGetString(def), &result.tuple_cost, 0, NULL);
		else if (strcmp(def->defname, "fetch_size") == 0)
			(void) parse_int(defGetString(def), &result.fetch_size, 0, NULL);
	}
	return result;
}

/* The expression as a column of the relation, or NULL if it is none. */
static Var *
column_of(Node *expr, Index varno)
{
	expr = without_relabeling(expr);
	return expr && is_column_of(expr, varno) ? (Var *) expr : NULL;
}

static bool
is_column_of_rel(Node *expr, void *arg)
{
	return is_column_of(expr, ((RelOptInfo *) arg)->relid);
}

/*
 * Is the clause "column = X" or "column = ANY (X)", which a store looks up
 * through an index, and does X not use this relation?
 */
static bool
is_lookup(PlannerInfo *root, Node *clause, RelOptInfo *rel,
		  LookupCondition *lookup)
{
	return match_lookup_condition(clause, is_column_of_rel, rel, lookup) &&
		!lookup->null_equals &&
		lookup->is_array == IsA(clause, ScalarArrayOpExpr) &&
		op_mergejoinable(lookup->opno, exprType(lookup->column)) &&
		!bms_is_member(rel->relid, pull_varnos(root, lookup->values));
}

/* Is it a lookup by a column with the option "indexed"? */
static bool
is_lookup_by_index(PlannerInfo *root, Node *clause, RelOptInfo *rel, Oid relid)
{
	LookupCondition lookup;

	return is_lookup(root, clause, rel, &lookup) &&
		remote_column_is_indexed(relid, ((Var *) lookup.column)->varattno);
}

static bool
has_lookup_by_index(PlannerInfo *root, List *clauses, RelOptInfo *rel, Oid relid)
{
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Node	   *clause = lfirst(lc);

		if (IsA(clause, RestrictInfo))
			clause = (Node *) ((RestrictInfo *) clause)->clause;
		if (is_lookup_by_index(root, clause, rel, relid))
			return true;
	}
	return false;
}

/*
 * Would the store look up the rows of this path through an index?  Only
 * postgres_fdw knows which clauses it sends.  So this function lets it make
 * the plan, whose recheck quals are the clauses that it would send.
 */
static bool
is_indexed_lookup(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				  ForeignPath *path, List *clauses)
{
	List	   *replaced;
	ForeignScan *plan;

	if (!has_lookup_by_index(root, clauses, rel, relid))
		return false;
	replaced = replace_conditions(root, rel);
	plan = postgres_fdw_routine.GetForeignPlan(root, rel, relid, path, NIL,
											   clauses, NULL);
	restore_conditions(replaced);
	return has_lookup_by_index(root, plan->fdw_recheck_quals, rel, relid);
}

/* The cost of finding and fetching these rows through a remote index. */
static Cost
lookup_run_cost(CostOptions *options, double rows)
{
	return rows * (random_page_cost + cpu_index_tuple_cost + cpu_tuple_cost +
				   options->tuple_cost);
}

/* State of a walk over the equivalence classes, column by column. */
typedef struct ColumnWalk
{
	Oid			relid;
	AttrNumber	current;
	Bitmapset  *done;
} ColumnWalk;

/* ec_matches_callback_type: is the member the next indexed column? */
static bool
matches_indexed_column(PlannerInfo *root, RelOptInfo *rel,
					   EquivalenceClass *ec, EquivalenceMember *em, void *arg)
{
	ColumnWalk *walk = arg;
	Var		   *column = column_of((Node *) em->em_expr, rel->relid);

	if (column == NULL || bms_is_member(column->varattno, walk->done))
		return false;
	if (walk->current == 0 && remote_column_is_indexed(walk->relid, column->varattno))
		walk->current = column->varattno;
	return walk->current == column->varattno;
}

/*
 * The join clauses that look up an indexed column: those of the query, and
 * those that follow from equivalence classes.
 */
static List *
indexed_join_clauses(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rel->joininfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);

		if (join_clause_is_movable_to(rinfo, rel) &&
			is_lookup_by_index(root, (Node *) rinfo->clause, rel, relid))
			result = lappend(result, rinfo);
	}
	if (rel->has_eclass_joins)
	{
		ColumnWalk	walk = {relid, 0, NULL};

		for (;;)
		{
			List	   *clauses;

			walk.current = 0;
			clauses = generate_implied_equalities_for_column(root, rel,
															 matches_indexed_column,
															 &walk,
															 rel->lateral_referencers);
			if (walk.current == 0)
				break;
			foreach(lc, clauses)
			{
				if (join_clause_is_movable_to(lfirst(lc), rel))
					result = lappend(result, lfirst(lc));
			}
			walk.done = bms_add_member(walk.done, walk.current);
		}
	}
	return result;
}

/* Does the column, the id or what has its shape, tell what the filter tests? */
static bool
is_column_of_filter(Var *column, FuncExpr *filter, RelOptInfo *rel)
{
	ListCell   *lc;

	if (is_stored_in((Node *) filter))
		return equal(column, residency_column(filter));
	foreach(lc, filter->args)
	{
		Var		   *arg = column_of(lfirst(lc), rel->relid);

		if (arg != NULL && arg->varattno == column->varattno)
			return true;
	}
	return false;
}

/*
 * If the clause is "id = X" or "id = ANY (X)" and there is a filter
 * resides(id, store), or one by a key rule, as well, returns the filter and sets *ids to X; otherwise
 * returns NULL.
 *
 * The store must be a constant, as in the view of a routed table, because the
 * caller makes an expression of the filter that is evaluated before there is a
 * row.
 */
static FuncExpr *
filter_of_lookup(PlannerInfo *root, RelOptInfo *rel, List *scan_clauses,
				 Node *clause, Node **ids)
{
	LookupCondition lookup;
	ListCell   *lc;

	if (!is_lookup(root, clause, rel, &lookup) ||
		contain_volatile_functions(lookup.values) ||
		contain_subplans(lookup.values))
		return NULL;

	foreach(lc, scan_clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		FuncExpr   *filter = (FuncExpr *) rinfo->clause;

		if (!rinfo->pseudoconstant && is_residency((Node *) filter) &&
			IsA(lsecond(filter->args), Const) &&
			is_column_of_filter((Var *) lookup.column, filter, rel) &&
			(*ids = ids_of_lookup(&lookup, filter)) != NULL)
			return filter;
	}
	return NULL;
}

/*
 * "resides(id, store)" and "id = X" imply "resides(X, store)", which can be
 * tested before the store is queried.
 */
static List *
derive_prechecks(PlannerInfo *root, RelOptInfo *rel, List *scan_clauses)
{
	List	   *prechecks = NIL;
	ListCell   *lc;

	foreach(lc, scan_clauses)
	{
		Node	   *clause = (Node *) lfirst_node(RestrictInfo, lc)->clause;
		Node	   *ids;
		FuncExpr   *filter;

		if (!IsA(clause, OpExpr))
			continue;
		filter = filter_of_lookup(root, rel, scan_clauses, clause, &ids);
		if (filter != NULL)
			prechecks = lappend(prechecks, residency_of(filter, ids, false, lsecond(filter->args), false));
	}
	return prechecks;
}

/* A set of ids; only those that belong in the store are sent to it. */
typedef struct SentIds
{
	Expr	   *clause;			/* id = ANY (ids) */
	ScalarArrayOpExpr *sent;	/* id = ANY (stand_in) */
	Param	   *stand_in;
	Expr	   *own;			/* own_ids(ids, store) */
} SentIds;

/*
 * The clauses from which postgres_fdw makes the plan.  In place of a set of
 * ids they have a parameter, which send_own_ids() replaces afterwards.
 */
static List *
stand_in_for_ids(PlannerInfo *root, RelOptInfo *rel, List *scan_clauses,
				 List **sets)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, scan_clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		FuncExpr   *filter;
		Node	   *ids;

		if (IsA(rinfo->clause, ScalarArrayOpExpr) &&
			(filter = filter_of_lookup(root, rel, scan_clauses,
									   (Node *) rinfo->clause, &ids)) != NULL &&
			is_resides((Node *) filter))
		{
			SentIds    *set = palloc(sizeof(SentIds));
			RestrictInfo *sent = makeNode(RestrictInfo);

			set->clause = rinfo->clause;
			set->stand_in = makeNode(Param);
			set->stand_in->paramkind = PARAM_EXTERN;
			/* no parameter of a query has a number that large */
			set->stand_in->paramid = PG_INT32_MAX - list_length(*sets);
			set->stand_in->paramtype = TEXTARRAYOID;
			set->stand_in->paramtypmod = -1;
			set->stand_in->paramcollid = exprCollation(ids);
			set->stand_in->location = -1;
			set->sent = (ScalarArrayOpExpr *) copyObject(rinfo->clause);
			lsecond(set->sent->args) = set->stand_in;
			set->own = make_store_call("own_ids", TEXTARRAYOID, ids,
									   lsecond(filter->args));
			*sets = lappend(*sets, set);

			*sent = *rinfo;
			sent->clause = (Expr *) set->sent;
			rinfo = sent;
		}
		result = lappend(result, rinfo);
	}
	return result;
}

static void
send_own_ids(ForeignScan *plan, List *sets)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, sets)
	{
		SentIds    *set = lfirst(lc);

		foreach(lc2, plan->fdw_exprs)
		{
			if (equal(lfirst(lc2), set->stand_in))
				lfirst(lc2) = set->own;
		}
		/* this server tests the original clause */
		foreach(lc2, plan->fdw_recheck_quals)
		{
			if (lfirst(lc2) == set->sent)
				lfirst(lc2) = set->clause;
		}
		foreach(lc2, plan->scan.plan.qual)
		{
			if (lfirst(lc2) == set->sent)
				lfirst(lc2) = set->clause;
		}
	}
}

/*
 * Adds a path for each set of other relations that gives the value of an
 * indexed column: one lookup for each of their rows.  With a precheck the
 * startup cost is zero, for the reason given at correct_costs().
 */
static void
add_lookup_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				 CostOptions *options)
{
	List	   *seen = NIL;
	ListCell   *lc;

	foreach(lc, indexed_join_clauses(root, rel, relid))
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Relids		outer;
		ParamPathInfo *param;
		ForeignPath *path;
		Cost		startup;
		Cost		run;

		outer = bms_del_member(bms_union(rinfo->clause_relids,
										 rel->lateral_relids), rel->relid);
		if (bms_is_empty(outer))
			continue;
		param = get_baserel_parampathinfo(root, rel, outer);
		if (list_member_ptr(seen, param))
			continue;
		seen = lappend(seen, param);

		startup = options->startup_cost * RESCAN_STARTUP_SHARE;
		run = lookup_run_cost(options, param->ppi_rows);
		if (derive_prechecks(root, rel, list_concat_copy(rel->baserestrictinfo,
													 param->ppi_clauses)))
		{
			startup = 0;
			run *= PRECHECK_PASSED_SHARE;
		}
		path = compat_create_foreignscan_path(root, rel, param->ppi_rows,
											  startup, startup + run, outer);
		if (is_indexed_lookup(root, rel, relid, path, param->ppi_clauses))
			add_path(rel, (Path *) path);
	}
}

/*
 * Does the query lock rows of a view, of which this is a leaf?  Then the store
 * must lock the rows that the query returns, and no others (leaf_locks.c).
 */
static bool
is_locked_leaf(PlannerInfo *root, Index relid)
{
	RowMarkClause *mark = get_parse_rowmark(root->parse, relid);

	return mark != NULL && mark->pushedDown;
}

/*
 * If the store can order the rows, it does, so that rows are locked in the order
 * of the query.  Then sessions that lock the same rows wait for each other, and
 * not in a circle.
 */
static void
keep_ordered_paths(PlannerInfo *root, RelOptInfo *rel)
{
	List	   *ordered = NIL;
	ListCell   *lc;

	foreach(lc, rel->pathlist)
	{
		Path	   *path = lfirst(lc);

		if (pathkeys_contained_in(root->query_pathkeys, path->pathkeys))
			ordered = lappend(ordered, path);
	}
	if (ordered != NIL)
		rel->pathlist = ordered;
}

static bool
has_precheck(RelOptInfo *rel)
{
	ListCell   *lc;

	foreach(lc, rel->baserestrictinfo)
	{
		if (lfirst_node(RestrictInfo, lc)->pseudoconstant)
			return true;
	}
	return false;
}

/*
 * postgres_fdw charges a lookup for a scan of the whole table.  This function
 * replaces that by the cost of the lookup.
 *
 * It also removes the startup cost from the paths of a scan with a precheck.
 * Mostly such a scan does not run, and if it does, the leaf of the other store
 * does not.  With fdw_startup_cost, every generic plan would look more
 * expensive than a custom plan.
 */
static void
correct_costs(PlannerInfo *root, RelOptInfo *rel, Oid relid,
			  CostOptions *options)
{
	List	   *paths = rel->pathlist;
	bool		prechecked = has_precheck(rel);
	bool		lookup = is_indexed_lookup(root, rel, relid, linitial(paths),
										   rel->baserestrictinfo);
	ListCell   *lc;

	if (!lookup && !prechecked)
		return;
	/* add_path() sorts the list by cost, so add the paths again */
	rel->pathlist = NIL;
	foreach(lc, paths)
	{
		Path	   *path = lfirst(lc);

		if (lookup)
		{
			path->startup_cost = options->startup_cost;
			path->total_cost = path->startup_cost +
				lookup_run_cost(options, path->rows) *
				(path->pathkeys != NIL ? SORTED_LOOKUP_FACTOR : 1);
		}
		if (prechecked)
		{
			path->startup_cost = Max(path->startup_cost - options->startup_cost, 0);
			path->total_cost = Max(path->total_cost - options->startup_cost,
								   path->startup_cost);
		}
		add_path(rel, path);
	}
}

/*
 * Tells the planner about the remote table before postgres_fdw estimates its
 * size.
 *
 * A lookup by the key finds one row, whatever the statistics say.  The planner
 * derives that from a unique index, so this function adds one.  The index is
 * not "immediate", so the planner uses it for estimates and not for proofs.
 *
 * A table that was never analyzed is assumed to be large, see
 * assumed_statistics.c.  If it is small after all, the plan is less wrong than
 * one that fetches a whole large table for a few rows.
 */
static void
storeGetForeignRelSize(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	List	   *key = remote_key(relid);
	List	   *statistics = rel->statlist;
	List	   *replaced;
	ListCell   *lc;

	if (key != NIL)
	{
		IndexOptInfo *index = makeNode(IndexOptInfo);

		index->rel = rel;
		index->ncolumns = index->nkeycolumns = list_length(key);
		index->indexkeys = palloc(sizeof(int) * list_length(key));
		foreach(lc, key)
			index->indexkeys[foreach_current_index(lc)] = lfirst_int(lc);
		index->unique = true;
		rel->indexlist = lappend(rel->indexlist, index);
	}
	if (rel->tuples < 0)
	{
		rel->tuples = assumed_rows(relid);
		rel->pages = (BlockNumber) Min(rel->tuples / 10, MaxBlockNumber);
	}

	/* estimates with stand-ins do not use the statistics of several columns */
	replaced = replace_conditions(root, rel);
	if (replaced != NIL)
		rel->statlist = NIL;
	postgres_fdw_routine.GetForeignRelSize(root, rel, relid);
	restore_conditions(replaced);
	rel->statlist = statistics;
}

static void
storeGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	CostOptions options = foreign_cost_options(relid);

	postgres_fdw_routine.GetForeignPaths(root, rel, relid);
	remove_store_ordered_paths(root, rel);

	correct_costs(root, rel, relid, &options);
	add_lookup_paths(root, rel, relid, &options);
	if (is_locked_leaf(root, rel->relid))
		keep_ordered_paths(root, rel);
}

/* ----------------------------------------------------------------
 *		How the rows are read
 * ----------------------------------------------------------------
 */

/* About as much memory is used for rows that wait to be wanted. */
#define FETCH_BYTES (4 * 1024 * 1024)
#define MIN_FETCH 100
#define MAX_FIRST_FETCH 10000

/* Has postgres_fdw written a query that locks the rows of this relation? */
static bool
is_locked(PlannerInfo *root, Index relid)
{
	PlanRowMark *mark = get_plan_rowmark(root->rowMarks, relid);

	return (mark && mark->strength != LCS_NONE) ||
		((root->parse->commandType == CMD_UPDATE || root->parse->commandType == CMD_DELETE) &&
		 bms_is_member(relid, root->all_result_relids));
}

static bool
any_relation(PlannerInfo *root, RelOptInfo *rel,
			 bool (*test) (PlannerInfo *root, Index relid))
{
	Relids		relids = IS_UPPER_REL(rel) ? root->all_baserels : rel->relids;
	int			relid = -1;

	while ((relid = bms_next_member(relids, relid)) >= 0)
	{
		if (test(root, relid))
			return true;
	}
	return false;
}

static bool
only_residency(List *quals)
{
	ListCell   *lc;

	foreach(lc, quals)
	{
		if (!is_residency(lfirst(lc)))
			return false;
	}
	return true;
}

/* the private list of a path of postgres_fdw, if it has one */
#define FDW_PATH_PRIVATE_HAS_LIMIT 1

static bool
sends_limit(ForeignPath *path)
{
	return path->fdw_private != NIL &&
		compat_bool_value(list_nth(path->fdw_private, FDW_PATH_PRIVATE_HAS_LIMIT));
}

/*
 * How many rows a cursor fetches at first; 0: the query has no cursor.
 *
 * If a query returns a page of ordered rows, merged from several stores, it
 * needs at most one page of rows from each store, unless conditions are left to
 * be tested here.  resides() does not count: each stray costs one more fetch at
 * most.  If the store applies the LIMIT, all rows that it returns are wanted.
 */
static int
rows_to_fetch(PlannerInfo *root, ForeignPath *path, ForeignScan *plan, int fetch_size)
{
	int			width = Max(path->path.pathtarget->width, 1);
	double		rows = path->path.rows;

	if (fetch_size == 0)
		fetch_size = Min(Max(FETCH_BYTES / width, MIN_FETCH), MAX_FIRST_FETCH);
	/* one row; it is not worth a transaction */
	if (rows < 2)
		return 0;
	if (root->tuple_fraction > 0 && !sends_limit(path))
	{
		if (root->limit_tuples >= 1 && path->path.pathkeys != NIL &&
			path->path.param_info == NULL &&
			bms_membership(root->all_baserels) == BMS_SINGLETON &&
			only_residency(plan->scan.plan.qual))
			return (int) Min(root->limit_tuples, fetch_size);
		return Min(MIN_FETCH, fetch_size);
	}
	return rows <= fetch_size ? 0 : fetch_size;
}

/*
 * postgres_fdw writes FOR UPDATE or FOR SHARE, and that is what its query ends
 * with.  In place of it comes what the statement says.
 */
static char *
exact_lock(char *sql, LockClauseStrength strength, LockWaitPolicy wait)
{
	static const char *const suffixes[] = {" FOR UPDATE", " FOR SHARE"};
	int			len = strlen(sql);

	for (int i = 0; i < lengthof(suffixes); i++)
	{
		int			cut = len - strlen(suffixes[i]);

		if (cut > 0 && strcmp(sql + cut, suffixes[i]) == 0)
			return psprintf("%.*s FOR %s%s", cut, sql,
							strength == LCS_FORKEYSHARE ? "KEY SHARE" :
							strength == LCS_FORSHARE ? "SHARE" :
							strength == LCS_FORNOKEYUPDATE ? "NO KEY UPDATE" : "UPDATE",
							wait == LockWaitSkip ? " SKIP LOCKED" :
							wait == LockWaitError ? " NOWAIT" : "");
	}
	return sql;
}

/* The only relation of a query of one table, with ORDER BY and LIMIT or not. */
static Index
single_relation(PlannerInfo *root, RelOptInfo *rel)
{
	int			relid;

	if (IS_SIMPLE_REL(rel))
		return rel->relid;
	return IS_UPPER_REL(rel) && bms_get_singleton_member(root->all_baserels, &relid) ? relid : 0;
}

/* Says in the private list of postgres_fdw how the rows are read. */
#define FDW_PRIVATE_SQL 0
#define FDW_PRIVATE_FETCH_SIZE 2

/* Is it one row, because its key is given?  Then LIMIT can be applied here. */
static bool
is_one_row(RelOptInfo *rel, Oid relid)
{
	List	   *key = remote_key(relid);
	IdColumn	id = {rel->relid, key ? linitial_int(key) : InvalidAttrNumber};
	LookupCondition condition;
	ListCell   *lc;

	foreach(lc, list_length(key) == 1 ? rel->baserestrictinfo : NIL)
	{
		if (match_lookup_condition((Node *) lfirst_node(RestrictInfo, lc)->clause, is_id_column,
								   &id, &condition) &&
			!condition.is_array && is_bytewise_equality(&condition))
			return true;
	}
	return false;
}

static LockFault
lock_fault(PlannerInfo *root, RelOptInfo *rel, ForeignPath *path,
		   ForeignScan *plan)
{
	if (!IS_SIMPLE_REL(rel) || !is_locked_leaf(root, rel->relid))
		return LOCK_FAULT_NONE;
	if (plan->scan.plan.qual != NIL)
		return LOCK_FAULT_CONDITION;
	return limit_needed(root->parse) && !sends_limit(path) &&
		!is_one_row(rel, planner_rt_fetch(rel->relid, root)->relid) ?
		LOCK_FAULT_LIMIT : LOCK_FAULT_NONE;
}

/*
 * The leaf of a generic plan is perhaps below a precheck.  Then nobody knows
 * yet whether it will be read.
 */
static bool
may_be_skipped(PlannerInfo *root)
{
	return root->parent_root != NULL &&
		root->parent_root->parse->jointree->quals != NULL;
}

static ForeignScan *
read_rows(PlannerInfo *root, RelOptInfo *rel, ForeignPath *path,
		  ForeignScan *plan, int fetch_size)
{
	bool		locks = any_relation(root, rel, is_locked);
	ListCell   *sql = list_nth_cell(plan->fdw_private, FDW_PRIVATE_SQL);
	Index		single = single_relation(root, rel);
	PlanRowMark *mark = single ? get_plan_rowmark(root->rowMarks, single) : NULL;
	LockFault	fault = lock_fault(root, rel, path, plan);

	if (fault != LOCK_FAULT_NONE && !may_be_skipped(root))
		report_lock_fault(fault, get_rel_name(planner_rt_fetch(rel->relid, root)->relid));
	if (single && bms_is_member(single, root->all_result_relids) &&
		root->parse->commandType == CMD_UPDATE)
		/* an UPDATE of the key takes the stronger lock itself */
		lfirst(sql) = makeString(exact_lock(strVal(lfirst(sql)), LCS_FORNOKEYUPDATE, LockWaitBlock));
	else if (mark && mark->strength != LCS_NONE)
		lfirst(sql) = makeString(exact_lock(strVal(lfirst(sql)), mark->strength, mark->waitPolicy));
	lfirst(list_nth_cell(plan->fdw_private, FDW_PRIVATE_FETCH_SIZE)) =
		foreign_scan_plan(rows_to_fetch(root, path, plan, fetch_size), locks, fault);
	return plan;
}

/* postgres_fdw writes the conditions of all tables of a join. */
static List *
replace_all_conditions(PlannerInfo *root)
{
	List	   *replaced = NIL;

	for (int i = 1; i < root->simple_rel_array_size; i++)
	{
		RelOptInfo *rel = root->simple_rel_array[i];

		if (rel != NULL && IS_SIMPLE_REL(rel) && rel->fdwroutine != NULL &&
			rel->fdwroutine->GetForeignRelSize == storeGetForeignRelSize)
			replaced = list_concat(replaced, replace_conditions(root, rel));
	}
	return replaced;
}

/*
 * Our prechecks are added to the recheck quals.  There their parameters are
 * replaced as in every other expression of the plan, and they do no harm,
 * because the other recheck quals imply them.
 */
static ForeignScan *
storeGetForeignPlan(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				   ForeignPath *best_path, List *tlist, List *scan_clauses,
				   Plan *outer_plan)
{
	List	   *sets = NIL;
	List	   *scan_clauses_sent;
	List	   *replaced;
	List	   *joins;
	ForeignScan *plan;

	if (!IS_SIMPLE_REL(rel))
	{
		replaced = replace_all_conditions(root);
		plan = postgres_fdw_routine.GetForeignPlan(root, rel, relid, best_path,
												   tlist, scan_clauses,
												   outer_plan);
		restore_conditions(replaced);
		restore_values_of_conditions(plan, replaced);
		if (IS_UPPER_REL(rel))
			restore_groups(plan, rel->reltarget);
		return read_rows(root, rel, best_path, plan, 0);
	}
	scan_clauses_sent = stand_in_for_ids(root, rel, scan_clauses, &sets);
	replaced = replace_conditions(root, rel);
	joins = keep_join_clauses_here(root, rel, scan_clauses);
	plan = postgres_fdw_routine.GetForeignPlan(root, rel, relid, best_path,
											   tlist, scan_clauses_sent,
											   outer_plan);
	restore_conditions_of_plan(plan, list_concat_copy(replaced, joins));
	restore_conditions(replaced);
	restore_conditions(joins);
	send_own_ids(plan, sets);
	plan->fdw_recheck_quals =
		list_concat_copy(plan->fdw_recheck_quals,
						 derive_prechecks(root, rel, scan_clauses));
	return read_rows(root, rel, best_path, plan, foreign_cost_options(relid).fetch_size);
}

/* The paths of postgres_fdw, which groups by enums as if they were text. */
static void
add_upper_paths(PlannerInfo *root, UpperRelationKind stage,
				RelOptInfo *input, RelOptInfo *output, void *extra)
{
	PathTarget *target = output->reltarget;
	PathTarget *stand_in = stage == UPPERREL_GROUP_AGG ? replace_groups(target) : NULL;
	ListCell   *lc;

	if (stand_in != NULL)
		output->reltarget = stand_in;
	postgres_fdw_routine.GetForeignUpperPaths(root, stage, input, output, extra);
	output->reltarget = target;
	foreach(lc, output->pathlist)
	{
		Path	   *path = lfirst(lc);

		if (stand_in != NULL && path->pathtarget == stand_in)
			path->pathtarget = target;
	}
}

/* Do the rows of the relation need a lock that postgres_fdw does not write? */
static bool
needs_own_lock(PlannerInfo *root, Index relid)
{
	PlanRowMark *mark = get_plan_rowmark(root->rowMarks, relid);

	return mark && mark->strength != LCS_NONE && mark->waitPolicy != LockWaitBlock;
}

/* Is the table read by the values of an indexed column? */
static bool
is_looked_up(PlannerInfo *root, Index relid)
{
	RelOptInfo *rel = root->simple_rel_array[relid];

	return rel != NULL &&
		has_lookup_by_index(root, rel->baserestrictinfo, rel,
							planner_rt_fetch(relid, root)->relid);
}

/*
 * The paths that postgres_fdw has added to a join or upper relation, "rel", in
 * place of the others.  It computes their costs from those of scans of whole
 * tables.  If the store looks up rows, it needs no more than lookups from here
 * would, and spares some.
 */
static void
add_store_side_paths(PlannerInfo *root, RelOptInfo *rel, List *others)
{
	List	   *paths = rel->pathlist;
	Path	   *best = NULL;
	ListCell   *lc;

	rel->pathlist = others;
	foreach(lc, paths != NIL && any_relation(root, rel, is_looked_up) ? others : NIL)
	{
		Path	   *path = lfirst(lc);

		if (path->param_info == NULL &&
			(best == NULL || path->total_cost < best->total_cost))
			best = path;
	}
	foreach(lc, paths)
	{
		Path	   *path = lfirst(lc);

		if (best != NULL)
		{
			path->total_cost = Min(path->total_cost, best->total_cost * STORE_SIDE_SHARE);
			path->startup_cost = Min(path->startup_cost, path->total_cost);
		}
		add_path(rel, path);
	}
}

/* A join in the store would not have such a lock. */
static void
storeGetForeignJoinPaths(PlannerInfo *root, RelOptInfo *joinrel,
						RelOptInfo *outerrel, RelOptInfo *innerrel,
						JoinType jointype, JoinPathExtraData *extra)
{
	List	   *others = joinrel->pathlist;

	if (any_relation(root, joinrel, needs_own_lock) ||
		depends_on_store_order(root, (Node *) get_actual_clauses(extra->restrictlist)))
		return;
	/* postgres_fdw needs the other paths to evaluate locked rows again */
	if (root->parse->commandType != CMD_SELECT || root->rowMarks != NIL)
		others = NIL;
	else
		joinrel->pathlist = NIL;
	postgres_fdw_routine.GetForeignJoinPaths(root, joinrel, outerrel, innerrel,
											 jointype, extra);
	remove_store_ordered_paths(root, joinrel);
	if (others != NIL)
		add_store_side_paths(root, joinrel, others);
}

static void
storeGetForeignUpperPaths(PlannerInfo *root, UpperRelationKind stage,
						  RelOptInfo *input_rel, RelOptInfo *output_rel,
						  void *extra)
{
	List	   *others = output_rel->pathlist;

	if (stage == UPPERREL_GROUP_AGG ?
		depends_on_store_order(root, (Node *) output_rel->reltarget->exprs) ||
		depends_on_store_order(root, root->parse->havingQual) :
		store_orders_differently(root, root->all_baserels, root->sort_pathkeys))
		return;
	output_rel->pathlist = NIL;
	add_upper_paths(root, stage, input_rel, output_rel, extra);
	/* if rows of a leaf are locked, LIMIT is for the store, whatever the estimates say */
	if (stage != UPPERREL_FINAL || output_rel->pathlist == NIL ||
		!any_relation(root, output_rel, is_locked_leaf))
		add_store_side_paths(root, output_rel, others);
}

/* Is there an expression of send_own_ids()?  postgres_fdw would not write it again. */
static bool
sends_own_ids(ForeignScan *plan)
{
	ListCell   *lc;

	foreach(lc, plan->fdw_exprs)
	{
		if (IsA(lfirst(lc), FuncExpr))
			return true;
	}
	return false;
}

/*
 * Does the statement also change other rows on this server, below WITH?  The store
 * would see them; see foreign_modify.c.
 */
static bool
is_one_of_several_changes(PlannerInfo *root, Oid serverid)
{
	Query	   *statement;
	int			changes = 0;
	ListCell   *lc;

	while (root->parent_root)
		root = root->parent_root;
	statement = root->parse;
	foreach(lc, lappend(list_copy(statement->cteList), NULL))
	{
		CommonTableExpr *cte = lfirst(lc);
		Query	   *query = cte ? castNode(Query, cte->ctequery) : statement;
		RangeTblEntry *target;

		if (query->commandType == CMD_SELECT || query->resultRelation == 0)
			continue;
		target = rt_fetch(query->resultRelation, query->rtable);
		if (target->relkind == RELKIND_FOREIGN_TABLE &&
			GetForeignServerIdByRelId(target->relid) == serverid)
			changes++;
	}
	return changes > 1;
}

/*
 * The rows that a change of a join returns have columns of several tables.  It
 * is done row by row.
 *
 * Below a One-Time Filter the store can execute the statement as well.  postgres_fdw
 * does not expect one, so it does not see it.
 *
 * The executor computes what the scan shows from the rows that the store returns.
 * These are the new rows, from which the new values must not be computed again:
 * that might fail.  Nothing reads them.
 */
static bool
storePlanDirectModify(PlannerInfo *root, ModifyTable *plan, Index target,
					 int subplan_index)
{
	Plan	   *rows = outerPlan(plan);
	Plan	   *scan = IsA(rows, Result) && ((Result *) rows)->resconstantqual &&
		outerPlan(rows) && IsA(outerPlan(rows), ForeignScan) ? outerPlan(rows) : rows;
	List	   *targetlist = root->processed_tlist;
	List	   *values;
	List	   *replaced;
	bool		planned;
	ListCell   *lc;

	if ((plan->returningLists != NIL &&
		 bms_membership(root->all_baserels) == BMS_MULTIPLE) ||
		depends_on_store_order(root, (Node *) root->processed_tlist))
		return false;
	if (is_one_of_several_changes(root, GetForeignServerIdByRelId(planner_rt_fetch(target, root)->relid)) ||
		reads_rows_again(root, planner_rt_fetch(target, root)->relid))
		return false;
	if (IsA(scan, ForeignScan) && sends_own_ids((ForeignScan *) scan))
		return false;
	root->processed_tlist = replace_new_values(targetlist, &values);
	outerPlan(plan) = scan;
	planned = postgres_fdw_routine.PlanDirectModify(root, plan, target, subplan_index);
	outerPlan(plan) = rows;
	root->processed_tlist = targetlist;
	if (!planned || !IsA(scan, ForeignScan))
		return planned;
	restore_values((ForeignScan *) scan, values);
	/* postgres_fdw has written the conditions again */
	replaced = replace_all_conditions(root);
	restore_conditions(replaced);
	restore_values_of_conditions((ForeignScan *) scan, replaced);
	foreach(lc, rows->targetlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Node	   *expr = (Node *) tle->expr;

		if (!tle->resjunk)
			tle->expr = (Expr *) makeNullConst(exprType(expr), exprTypmod(expr),
											   exprCollation(expr));
	}
	return true;
}

void
foreign_plan_routine(FdwRoutine *routine)
{
	routine->GetForeignRelSize = storeGetForeignRelSize;
	routine->GetForeignPaths = storeGetForeignPaths;
	routine->GetForeignPlan = storeGetForeignPlan;
	routine->GetForeignJoinPaths = storeGetForeignJoinPaths;
	routine->GetForeignUpperPaths = storeGetForeignUpperPaths;
	routine->PlanDirectModify = storePlanDirectModify;
}

/*
 * foreign_plan.c
 *		Planning of run_ops_fdw: a lookup by key is cheap, and one with a
 *		precheck is cheaper still.
 *
 * postgres_fdw assumes that each scan reads the whole remote table.  The one idea: the options "key" and "indexed" of the
 * foreign table tell which scans are lookups, and the planner gets estimates
 * for them:
 *
 * - one row for a lookup by the key;
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

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/prep.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "ground/compat.h"
#include "reads/foreign_plan.h"
#include "reads/lookup_condition.h"
#include "reads/seam_pruning.h"
#include "reads/shipped_enums.h"
#include "stores/foreign_scan.h"
#include "stores/remote_rows.h"

FdwRoutine	postgres_fdw_routine;

/* defaults of postgres_fdw, which none of its headers exports */
#define DEFAULT_FDW_STARTUP_COST 100.0
#define DEFAULT_FDW_TUPLE_COST COMPAT_DEFAULT_FDW_TUPLE_COST

/*
 * The cost of a rescan, as a share of fdw_startup_cost.  The connection and
 * the remote transaction exist already; a rescan is one query.
 */
#define RESCAN_STARTUP_SHARE 0.1

/* Assumed number of rows of a remote table that was never analyzed. */
#define NEVER_ANALYZED_TUPLES 1000000

/* The options of a foreign table that determine its costs. */
typedef struct CostOptions
{
	double		startup_cost;
	double		tuple_cost;
	int			fetch_size;		/* 0: not set */
} CostOptions;

static CostOptions
cost_options(Oid relid)
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

static bool
column_is_indexed(Oid relid, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, GetForeignColumnOptions(relid, attno))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, RUN_OPS_FDW_OPTION_INDEXED) == 0)
			return defGetBoolean(def);
	}
	return false;
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
 * Is the clause "column = X" or "column = ANY (X)", and does X not use this
 * relation?
 */
static bool
is_lookup(PlannerInfo *root, Node *clause, RelOptInfo *rel,
		  LookupCondition *lookup)
{
	return match_lookup_condition(clause, is_column_of_rel, rel, lookup) &&
		op_mergejoinable(lookup->opno, exprType(lookup->column)) &&
		!bms_is_member(rel->relid, pull_varnos(root, lookup->values));
}

/* Is it a lookup by a column with the option "indexed"? */
static bool
is_lookup_by_index(PlannerInfo *root, Node *clause, RelOptInfo *rel, Oid relid)
{
	LookupCondition lookup;

	return is_lookup(root, clause, rel, &lookup) &&
		column_is_indexed(relid, ((Var *) lookup.column)->varattno);
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
	ForeignScan *plan = postgres_fdw_routine.GetForeignPlan(root, rel, relid,
															path, NIL,
															clauses, NULL);
	ListCell   *lc;

	foreach(lc, plan->fdw_recheck_quals)
	{
		if (is_lookup_by_index(root, lfirst(lc), rel, relid))
			return true;
	}
	return false;
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
	if (walk->current == 0 && column_is_indexed(walk->relid, column->varattno))
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

/*
 * If the clause is "id = X" or "id = ANY (X)" and there is a filter
 * resides(id, store) as well, returns the filter and sets *ids to X; otherwise
 * returns NULL.
 *
 * Equal ids must have the same bytes, since resides() depends on the bytes.
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
		!is_bytewise_equality(&lookup) ||
		contain_volatile_functions(lookup.values) ||
		contain_subplans(lookup.values))
		return NULL;
	*ids = lookup.values;

	foreach(lc, scan_clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		FuncExpr   *filter = (FuncExpr *) rinfo->clause;
		Var		   *id;

		if (!rinfo->pseudoconstant && is_resides((Node *) filter) &&
			IsA(lsecond(filter->args), Const) &&
			(id = column_of(linitial(filter->args), rel->relid)) != NULL &&
			id->varattno == ((Var *) lookup.column)->varattno)
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
		FuncExpr   *precheck;

		if (!IsA(clause, OpExpr))
			continue;
		precheck = filter_of_lookup(root, rel, scan_clauses, clause, &ids);
		if (precheck == NULL)
			continue;
		precheck = copyObject(precheck);
		linitial(precheck->args) = copyObject(ids);
		prechecks = lappend(prechecks, precheck);
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
			exprType(ids) == TEXTARRAYOID)
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
 * startup cost is zero, for the reason given at discount_prechecked_paths().
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

		outer = bms_del_member(bms_union(rinfo->clause_relids,
										 rel->lateral_relids), rel->relid);
		if (bms_is_empty(outer))
			continue;
		param = get_baserel_parampathinfo(root, rel, outer);
		if (list_member_ptr(seen, param))
			continue;
		seen = lappend(seen, param);

		if (derive_prechecks(root, rel, list_concat_copy(rel->baserestrictinfo,
													 param->ppi_clauses)))
			startup = 0;
		else
			startup = options->startup_cost * RESCAN_STARTUP_SHARE;
		path = compat_create_foreignscan_path(root, rel, param->ppi_rows,
											  startup,
											  startup + lookup_run_cost(options, param->ppi_rows),
											  outer);
		if (is_indexed_lookup(root, rel, relid, path, param->ppi_clauses))
			add_path(rel, (Path *) path);
	}
}

/*
 * Removes the startup cost from the paths of a scan with a precheck.  Mostly
 * such a scan does not run, and if it does, the leaf of the other store does
 * not.  With fdw_startup_cost, every generic plan would look more expensive
 * than a custom plan.
 *
 * postgres_fdw charges a lookup for a scan of the whole table.  For the same comparison, this function replaces that by the
 * cost of the lookup.
 */
static void
discount_prechecked_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid,
					 CostOptions *options)
{
	List	   *paths = rel->pathlist;
	bool		lookup = is_indexed_lookup(root, rel, relid, linitial(paths),
										   rel->baserestrictinfo);
	ListCell   *lc;

	/* add_path() sorts the list by cost, so add the paths again */
	rel->pathlist = NIL;
	foreach(lc, paths)
	{
		Path	   *path = lfirst(lc);

		if (lookup)
		{
			path->startup_cost = options->startup_cost;
			path->total_cost = path->startup_cost +
				lookup_run_cost(options, path->rows);
		}
		path->startup_cost = Max(path->startup_cost - options->startup_cost, 0);
		path->total_cost = Max(path->total_cost - options->startup_cost,
							   path->startup_cost);
		add_path(rel, path);
	}
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
 * Tells the planner about the remote table before postgres_fdw estimates its
 * size.
 *
 * A lookup by the key finds one row, whatever the statistics say.  The planner
 * derives that from a unique index, so this function adds one.  The index is
 * not "immediate", so the planner uses it for estimates and not for proofs.
 *
 * A table that was never analyzed is assumed to be large.  If it is small
 * after all, the plan is less wrong than one that fetches a whole large table
 * for a few rows.
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
		rel->tuples = NEVER_ANALYZED_TUPLES;
		rel->pages = NEVER_ANALYZED_TUPLES / 10;
	}

	/* estimates with stand-ins do not use the statistics of several columns */
	replaced = replace_enum_conditions(root, rel);
	if (replaced != NIL)
		rel->statlist = NIL;
	postgres_fdw_routine.GetForeignRelSize(root, rel, relid);
	restore_enum_conditions(replaced);
	rel->statlist = statistics;
}

static void
storeGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	CostOptions options = cost_options(relid);

	postgres_fdw_routine.GetForeignPaths(root, rel, relid);

	if (has_precheck(rel))
		discount_prechecked_paths(root, rel, relid, &options);
	add_lookup_paths(root, rel, relid, &options);
}

/* ----------------------------------------------------------------
 *		How the rows are read
 * ----------------------------------------------------------------
 */

/* About as much memory is used for rows that wait to be wanted. */
#define FETCH_BYTES (4 * 1024 * 1024)
#define MIN_FETCH 100
#define MAX_FIRST_FETCH 10000

/*
 * Is the relation what an UPDATE or DELETE changes through a view?  The leaves
 * of such a view are locked as for FOR UPDATE, and their rows have to be.
 */
static bool
is_leaf_to_change(PlannerInfo *root, Index relid)
{
	RangeTblEntry *rte = planner_rt_fetch(relid, root);
	PlanRowMark *mark = get_plan_rowmark(root->rowMarks, relid);

	return rte->rtekind == RTE_RELATION && rte->rellockmode == RowShareLock &&
		!bms_is_member(relid, root->all_result_relids) &&
		(mark == NULL || mark->strength == LCS_NONE);
}

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
only_resides(List *quals)
{
	ListCell   *lc;

	foreach(lc, quals)
	{
		if (!is_resides(lfirst(lc)))
			return false;
	}
	return true;
}

/*
 * How many rows a cursor fetches at first; 0: the query has no cursor.
 *
 * If a query returns a page of ordered rows, merged from several stores, it
 * needs at most one page of rows from each store, unless conditions are left to
 * be tested here.  resides() does not count: each stray costs one more fetch at
 * most.
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
	if (root->tuple_fraction > 0)
	{
		if (root->limit_tuples >= 1 && path->path.pathkeys != NIL &&
			path->path.param_info == NULL &&
			bms_membership(root->all_baserels) == BMS_SINGLETON &&
			only_resides(plan->scan.plan.qual))
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
exact_lock(char *sql, PlanRowMark *mark)
{
	static const char *const suffixes[] = {" FOR UPDATE", " FOR SHARE"};
	int			len = strlen(sql);

	for (int i = 0; i < lengthof(suffixes); i++)
	{
		int			cut = len - strlen(suffixes[i]);

		if (cut > 0 && strcmp(sql + cut, suffixes[i]) == 0)
			return psprintf("%.*s FOR %s%s", cut, sql,
							mark->strength == LCS_FORKEYSHARE ? "KEY SHARE" :
							mark->strength == LCS_FORSHARE ? "SHARE" :
							mark->strength == LCS_FORNOKEYUPDATE ? "NO KEY UPDATE" : "UPDATE",
							mark->waitPolicy == LockWaitSkip ? " SKIP LOCKED" :
							mark->waitPolicy == LockWaitError ? " NOWAIT" : "");
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

static ForeignScan *
read_rows(PlannerInfo *root, RelOptInfo *rel, ForeignPath *path,
		  ForeignScan *plan, int fetch_size)
{
	bool		locks = any_relation(root, rel, is_locked);
	ListCell   *sql = list_nth_cell(plan->fdw_private, FDW_PRIVATE_SQL);
	Index		single = single_relation(root, rel);
	PlanRowMark *mark = single ? get_plan_rowmark(root->rowMarks, single) : NULL;

	if (mark && mark->strength != LCS_NONE)
		lfirst(sql) = makeString(exact_lock(strVal(lfirst(sql)), mark));
	if (IS_SIMPLE_REL(rel) && is_leaf_to_change(root, rel->relid))
	{
		/* an UPDATE that needs the stronger lock takes it */
		lfirst(sql) = makeString(psprintf("%s FOR %s", strVal(lfirst(sql)),
										  root->parse->commandType == CMD_DELETE ?
										  "UPDATE" : "NO KEY UPDATE"));
		locks = true;
	}
	lfirst(list_nth_cell(plan->fdw_private, FDW_PRIVATE_FETCH_SIZE)) =
		foreign_scan_plan(rows_to_fetch(root, path, plan, fetch_size), locks);
	return plan;
}

/* postgres_fdw writes the conditions of all tables of a join. */
static List *
replace_all_enum_conditions(PlannerInfo *root)
{
	List	   *replaced = NIL;

	for (int i = 1; i < root->simple_rel_array_size; i++)
	{
		RelOptInfo *rel = root->simple_rel_array[i];

		if (rel != NULL && IS_SIMPLE_REL(rel) && rel->fdwroutine != NULL &&
			rel->fdwroutine->GetForeignRelSize == storeGetForeignRelSize)
			replaced = list_concat(replaced, replace_enum_conditions(root, rel));
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
	ForeignScan *plan;

	if (!IS_SIMPLE_REL(rel))
	{
		replaced = replace_all_enum_conditions(root);
		plan = postgres_fdw_routine.GetForeignPlan(root, rel, relid, best_path,
												   tlist, scan_clauses,
												   outer_plan);
		restore_enum_conditions(replaced);
		if (IS_UPPER_REL(rel))
			restore_enums_of_grouping(plan, rel->reltarget);
		return read_rows(root, rel, best_path, plan, 0);
	}
	replaced = replace_enum_conditions(root, rel);
	scan_clauses_sent = stand_in_for_ids(root, rel, scan_clauses, &sets);
	plan = postgres_fdw_routine.GetForeignPlan(root, rel, relid, best_path,
											   tlist, scan_clauses_sent,
											   outer_plan);
	restore_enums_of_plan(plan, replaced);
	restore_enum_conditions(replaced);
	send_own_ids(plan, sets);
	plan->fdw_recheck_quals =
		list_concat_copy(plan->fdw_recheck_quals,
						 derive_prechecks(root, rel, scan_clauses));
	return read_rows(root, rel, best_path, plan, cost_options(relid).fetch_size);
}

static void
storeGetForeignUpperPaths(PlannerInfo *root, UpperRelationKind stage,
						  RelOptInfo *input, RelOptInfo *output, void *extra)
{
	PathTarget *target = output->reltarget;
	PathTarget *stand_in = stage == UPPERREL_GROUP_AGG ? replace_enums_of_target(target) : NULL;
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

	return is_leaf_to_change(root, relid) ||
		(mark && mark->strength != LCS_NONE && mark->waitPolicy != LockWaitBlock);
}

/* A join in the store would not have such a lock. */
static void
storeGetForeignJoinPaths(PlannerInfo *root, RelOptInfo *joinrel,
						RelOptInfo *outerrel, RelOptInfo *innerrel,
						JoinType jointype, JoinPathExtraData *extra)
{
	if (!any_relation(root, joinrel, needs_own_lock))
		postgres_fdw_routine.GetForeignJoinPaths(root, joinrel, outerrel, innerrel,
												 jointype, extra);
}

/*
 * The rows that a change of a join returns have columns of several tables.  It
 * is done row by row.
 */
static bool
storePlanDirectModify(PlannerInfo *root, ModifyTable *plan, Index target,
					 int subplan_index)
{
	if (plan->returningLists != NIL &&
		bms_membership(root->all_baserels) == BMS_MULTIPLE)
		return false;
	return postgres_fdw_routine.PlanDirectModify(root, plan, target, subplan_index);
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

/*
 * lazy_fdw_plan.c
 *		Planning of run_ops_fdw: a lookup by key is cheap, and one below a gate
 *		is cheaper still.
 *
 * Without use_remote_estimate postgres_fdw takes each scan for a scan of the
 * whole remote table.  The one idea: what is declared about the remote table,
 * its "key" and its "indexed" columns, tells which scans are lookups, and the
 * planner is shown what those are worth:
 *
 * - one row for a lookup by the key;
 * - paths parameterised by a join on an indexed column; postgres_fdw offers
 *	 none, and fetches the whole remote table for the join;
 * - cheap costs for scans below a gate, so that a generic plan is not
 *	 rejected for a branch that will mostly not run;
 * - a gate of its own: where the row's id has to equal X and to reside in
 *	 this store, nothing is asked for while X does not reside here.
 *
 * Non-goals: no remote SQL of its own; which clauses are shipped is
 * postgres_fdw's to decide.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "lazy_fdw.h"
#include "seam_pruning.h"

/* postgres_fdw's defaults, which it keeps to itself */
#define DEFAULT_FDW_STARTUP_COST 100.0
#define DEFAULT_FDW_TUPLE_COST COMPAT_DEFAULT_FDW_TUPLE_COST

/*
 * What a rescan costs, as a share of fdw_startup_cost: the connection and the
 * remote transaction are there already, what remains is a cursor closed,
 * opened and fetched from.
 */
#define RESCAN_STARTUP_SHARE 0.1

/* Rows of a remote table of which nothing is known. */
#define NEVER_ANALYZED_TUPLES 1000000

/* The options of a foreign table that decide about its costs. */
typedef struct CostOptions
{
	double		startup_cost;
	double		tuple_cost;
	bool		use_remote_estimate;
} CostOptions;

static CostOptions
cost_options(Oid relid)
{
	CostOptions result = {DEFAULT_FDW_STARTUP_COST, DEFAULT_FDW_TUPLE_COST, false};
	ForeignTable *table = GetForeignTable(relid);
	ForeignServer *server = GetForeignServer(table->serverid);
	ListCell   *lc;

	/* the table's come last, because they win */
	foreach(lc, list_concat_copy(server->options, table->options))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "fdw_startup_cost") == 0)
			(void) parse_real(defGetString(def), &result.startup_cost, 0, NULL);
		else if (strcmp(def->defname, "fdw_tuple_cost") == 0)
			(void) parse_real(defGetString(def), &result.tuple_cost, 0, NULL);
		else if (strcmp(def->defname, "use_remote_estimate") == 0)
			result.use_remote_estimate = defGetBoolean(def);
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

/* The column of the relation that the expression is, or NULL. */
static Var *
column_of(Node *expr, Index varno)
{
	while (expr && IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (expr && IsA(expr, Var) && ((Var *) expr)->varno == varno &&
		((Var *) expr)->varattno > 0 && ((Var *) expr)->varlevelsup == 0)
		return (Var *) expr;
	return NULL;
}

/*
 * Is the clause "column = X" or "column = ANY (X)", X free of this relation?
 * Then *column and *other are its two sides.
 */
static bool
is_lookup(PlannerInfo *root, Node *clause, Index varno,
		  Var **column, Node **other)
{
	Oid			opno;
	List	   *args;
	int			nsides = 2;

	if (IsA(clause, OpExpr))
	{
		opno = ((OpExpr *) clause)->opno;
		args = ((OpExpr *) clause)->args;
	}
	else if (IsA(clause, ScalarArrayOpExpr) &&
			 ((ScalarArrayOpExpr *) clause)->useOr)
	{
		opno = ((ScalarArrayOpExpr *) clause)->opno;
		args = ((ScalarArrayOpExpr *) clause)->args;
		nsides = 1;
	}
	else
		return false;
	if (list_length(args) != 2)
		return false;

	for (int side = 0; side < nsides; side++)
	{
		*column = column_of(list_nth(args, side), varno);
		*other = list_nth(args, 1 - side);
		if (*column && op_mergejoinable(opno, exprType(list_nth(args, side))) &&
			!bms_is_member(varno, pull_varnos(root, *other)))
			return true;
	}
	return false;
}

/*
 * Would the remote side look up rows of this path through an index?  Only
 * postgres_fdw knows which clauses it ships, so it is asked for the plan; the
 * clauses it would ship come back as the recheck quals.
 */
static bool
is_indexed_lookup(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				  ForeignPath *path, List *clauses)
{
	ForeignScan *plan = lazy_fdw_stock.GetForeignPlan(root, rel, relid, path, NIL,
											 clauses, NULL);
	ListCell   *lc;

	foreach(lc, plan->fdw_recheck_quals)
	{
		Var		   *column;
		Node	   *other;

		if (is_lookup(root, lfirst(lc), rel->relid, &column, &other) &&
			column_is_indexed(relid, column->varattno))
			return true;
	}
	return false;
}

/* What it costs to find and fetch these rows through a remote index. */
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

/* ec_matches_callback_type: members that are an indexed column not yet seen */
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

/* Join clauses, of either origin, that look up an indexed column. */
static List *
indexed_join_clauses(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rel->joininfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Var		   *column;
		Node	   *other;

		if (join_clause_is_movable_to(rinfo, rel) &&
			is_lookup(root, (Node *) rinfo->clause, rel->relid,
					  &column, &other) &&
			column_is_indexed(relid, column->varattno))
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
 * From "resides(id, store)" and "id = X" follows "resides(X, store)", which
 * can be tested before anything is asked of the remote side.  Only where
 * equal means the same bytes, which is all that resides() looks at.
 */
static List *
derive_gates(PlannerInfo *root, RelOptInfo *rel, List *scan_clauses)
{
	List	   *gates = NIL;
	ListCell   *lc;

	foreach(lc, scan_clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		FuncExpr   *resides = (FuncExpr *) rinfo->clause;
		Var		   *id;
		ListCell   *lc2;

		if (rinfo->pseudoconstant || !is_resides((Node *) resides))
			continue;
		id = column_of(linitial(resides->args), rel->relid);
		if (id == NULL)
			continue;
		foreach(lc2, scan_clauses)
		{
			OpExpr	   *op = (OpExpr *) lfirst_node(RestrictInfo, lc2)->clause;
			Var		   *column;
			Node	   *other;
			FuncExpr   *gate;

			if (!IsA(op, OpExpr) || op->opfuncid != F_TEXTEQ ||
				!get_collation_isdeterministic(op->inputcollid) ||
				!is_lookup(root, (Node *) op, rel->relid, &column, &other) ||
				column->varattno != id->varattno ||
				contain_volatile_functions(other) || contain_subplans(other))
				continue;
			gate = copyObject(resides);
			linitial(gate->args) = copyObject(other);
			gates = lappend(gates, gate);
		}
	}
	return gates;
}

/*
 * Offers a path for each set of other relations that can give the value of an
 * indexed column: one lookup for each of their rows.  With a gate the start is
 * free, for the reason given at discount_gated_paths().
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

		if (derive_gates(root, rel, list_concat_copy(rel->baserestrictinfo,
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
 * A scan below a gate costs what it does when it runs, but not the start:
 * mostly it will not run, and when it does, the branch of the other store is
 * the one that does not.  Charging fdw_startup_cost would make every generic
 * plan look worse than planning anew each time.
 *
 * Without remote estimates postgres_fdw charges a scan of the whole table for
 * a lookup as well; the same comparison needs the lookup's true cost.
 */
static void
discount_gated_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid,
					 CostOptions *options)
{
	List	   *paths = rel->pathlist;
	bool		lookup = false;
	ListCell   *lc;

	if (!options->use_remote_estimate)
		lookup = is_indexed_lookup(root, rel, relid, linitial(paths),
								   rel->baserestrictinfo);
	/* costs decide about a path's place in the list */
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
is_gated(RelOptInfo *rel)
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
 * What the planner should know of a remote table before postgres_fdw estimates
 * its size.
 *
 * A lookup by the key finds one row, whatever the statistics say.  The planner
 * takes that from a unique index, so it is shown one; not "immediate", so that
 * it serves estimates only and proves nothing.
 *
 * A table that was never analyzed is taken for a large one: to fetch all of a
 * large table for a few rows is the dearer mistake.
 */
void
lazyGetForeignRelSize(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	ListCell   *lc;

	foreach(lc, GetForeignTable(relid)->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		AttrNumber	attno;

		if (strcmp(def->defname, RUN_OPS_FDW_OPTION_KEY) == 0 &&
			(attno = get_attnum(relid, defGetString(def))) > 0)
		{
			IndexOptInfo *index = makeNode(IndexOptInfo);

			index->rel = rel;
			index->ncolumns = index->nkeycolumns = 1;
			index->indexkeys = palloc(sizeof(int));
			index->indexkeys[0] = attno;
			index->unique = true;
			rel->indexlist = lappend(rel->indexlist, index);
		}
	}
	if (rel->tuples < 0)
	{
		rel->tuples = NEVER_ANALYZED_TUPLES;
		rel->pages = NEVER_ANALYZED_TUPLES / 10;
	}
	lazy_fdw_stock.GetForeignRelSize(root, rel, relid);
}

void
lazyGetForeignPaths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	CostOptions options = cost_options(relid);

	lazy_fdw_stock.GetForeignPaths(root, rel, relid);

	if (is_gated(rel))
		discount_gated_paths(root, rel, relid, &options);
	/* with remote estimates postgres_fdw has offered them itself */
	if (!options.use_remote_estimate)
		add_lookup_paths(root, rel, relid, &options);
}

/*
 * Gates of our own travel among the recheck quals: those get their parameters
 * replaced like every other expression of the plan, and follow from the
 * others there.
 */
ForeignScan *
lazyGetForeignPlan(PlannerInfo *root, RelOptInfo *rel, Oid relid,
				   ForeignPath *best_path, List *tlist, List *scan_clauses,
				   Plan *outer_plan)
{
	ForeignScan *plan = lazy_fdw_stock.GetForeignPlan(root, rel, relid, best_path,
											 tlist, scan_clauses, outer_plan);

	if (IS_SIMPLE_REL(rel))
		plan->fdw_recheck_quals =
			list_concat_copy(plan->fdw_recheck_quals,
							 derive_gates(root, rel, scan_clauses));
	return plan;
}

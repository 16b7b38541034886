/*
 * store_order.c
 *		Keeps order and ranges from a store that orders values in another way.
 *
 * The order of texts is that of their collation, and a collation of the same
 * name may be another one in a store: its definition differs, or the version of
 * the library that implements it.  Such columns of foreign tables have the option
 * "order_differs" (run_ops.mark_orders()).  The one idea: what depends on the
 * order is done by this server, and equality is still tested by the store, since
 * equal texts have equal bytes in every deterministic collation.
 *
 * So this file knows which functions do not depend on the order.  Whatever it
 * does not know is not sent.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "reads/lookup_condition.h"
#include "reads/residency.h"
#include "reads/store_order.h"
#include "stores/foreign_scan.h"
#include "stores/remote_rows.h"

/* Is it a foreign table of a store? */
static Oid
store_table(PlannerInfo *root, Index varno)
{
	RelOptInfo *rel = varno < root->simple_rel_array_size ? root->simple_rel_array[varno] : NULL;
	RangeTblEntry *rte = rel != NULL ? planner_rt_fetch(varno, root) : NULL;

	return rte != NULL && rte->rtekind == RTE_RELATION && rel->fdwroutine != NULL &&
		is_store_table(rel->fdwroutine) ? rte->relid : InvalidOid;
}

static bool
contains_other_order(Node *node, void *root)
{
	Var		   *var = (Var *) node;
	Oid			relid;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return var->varlevelsup == 0 && var->varattno > 0 &&
			OidIsValid(relid = store_table(root, var->varno)) &&
			remote_order_differs(relid, var->varattno);
	return expression_tree_walker(node, contains_other_order, root);
}

/*
 * Functions of which the result is the same under all deterministic collations.
 */
static bool
ignores_order(Oid function)
{
	switch (function)
	{
		case F_TEXTEQ:
		case F_TEXTNE:
		case F_BPCHAREQ:
		case F_BPCHARNE:
		case F_ARRAY_EQ:
		case F_ARRAY_NE:
		case F_ARRAYCONTAINS:
		case F_ARRAYCONTAINED:
		case F_ARRAYOVERLAP:
		case F_CARDINALITY:
		case F_ARRAY_LENGTH:
		case F_TEXTLIKE:
		case F_TEXTNLIKE:
		case F_BPCHARLIKE:
		case F_BPCHARNLIKE:
		case F_TEXTREGEXEQ:
		case F_TEXTREGEXNE:
		case F_TEXTCAT:
		case F_LENGTH_TEXT:
		case F_CHAR_LENGTH_TEXT:
		case F_CHARACTER_LENGTH_TEXT:
		case F_OCTET_LENGTH_TEXT:
		case F_STRPOS:
		case F_POSITION_TEXT_TEXT:
		case F_STARTS_WITH:
		case F_SUBSTR_TEXT_INT4:
		case F_SUBSTR_TEXT_INT4_INT4:
		case F_SUBSTRING_TEXT_INT4:
		case F_SUBSTRING_TEXT_INT4_INT4:
		case F_LEFT:
		case F_RIGHT:
		case F_COUNT_ANY:
		case F_JSONB_OBJECT_FIELD:
		case F_JSONB_OBJECT_FIELD_TEXT:
		case F_JSONB_EXTRACT_PATH:
		case F_JSONB_EXTRACT_PATH_TEXT:
		case F_JSONB_EXISTS:
		case F_JSONB_EXISTS_ANY:
		case F_JSONB_EXISTS_ALL:
			return true;
	}
	return false;
}

/* The operators of jsonb compare texts, but have no collation. */
static bool
compares_jsonb(Oid function)
{
	return function == F_JSONB_LT || function == F_JSONB_LE ||
		function == F_JSONB_GT || function == F_JSONB_GE || function == F_JSONB_CMP;
}

static bool
order_walker(Node *node, void *root)
{
	Oid			function = InvalidOid;
	Oid			collation;

	if (node == NULL)
		return false;
	collation = exprInputCollation(node);
	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			function = get_opcode(((OpExpr *) node)->opno);
			break;
		case T_ScalarArrayOpExpr:
			function = get_opcode(((ScalarArrayOpExpr *) node)->opno);
			break;
		case T_FuncExpr:
			function = ((FuncExpr *) node)->funcid;
			break;
		case T_Aggref:
			function = ((Aggref *) node)->aggfnoid;
			if (((Aggref *) node)->aggorder != NIL && contains_other_order(node, root))
				return true;
			break;
		default:
			break;
	}
	/* functions of others are not sent in any case */
	if (OidIsValid(function) && function < FirstGenbkiObjectId &&
		(compares_jsonb(function) ||
		 (OidIsValid(collation) &&
		  (!ignores_order(function) || !get_collation_isdeterministic(collation)))) &&
		contains_other_order(node, root))
		return true;
	return expression_tree_walker(node, order_walker, root);
}

bool
depends_on_store_order(PlannerInfo *root, Node *expr)
{
	return order_walker(expr, root);
}

/* Has the foreign table a column of another order with this collation? */
static bool
has_other_order(Oid relid, Oid collation, bool jsonb)
{
	Relation	rel = table_open(relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		result = false;

	for (int i = 0; i < desc->natts && !result; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		result = !column->attisdropped &&
			(OidIsValid(collation) ? column->attcollation == collation :
			 !jsonb || getBaseType(column->atttypid) == JSONBOID) &&
			remote_order_differs(relid, column->attnum);
	}
	table_close(rel, NoLock);
	return result;
}

/* Is there an expression that is no column?  Then its value may depend on an order. */
static bool
orders_by_expression(EquivalenceClass *ec)
{
	ListCell   *lc;

	foreach(lc, ec->ec_members)
	{
		if (!IsA(without_relabeling((Node *) lfirst_node(EquivalenceMember, lc)->em_expr), Var))
			return true;
	}
	return false;
}

bool
store_orders_differently(PlannerInfo *root, Relids relids, List *pathkeys)
{
	ListCell   *lc;

	foreach(lc, pathkeys)
	{
		PathKey    *key = lfirst_node(PathKey, lc);
		EquivalenceClass *ec = key->pk_eclass;
		bool		jsonb = key->pk_opfamily ==
			get_opclass_family(GetDefaultOpClass(JSONBOID, BTREE_AM_OID));
		int			relid = -1;

		if (!OidIsValid(ec->ec_collation) && !jsonb && !orders_by_expression(ec))
			continue;
		while ((relid = bms_next_member(relids, relid)) >= 0)
		{
			Oid			table = store_table(root, relid);

			if (OidIsValid(table) && has_other_order(table, ec->ec_collation, jsonb))
				return true;
		}
	}
	return false;
}

void
remove_store_ordered_paths(PlannerInfo *root, RelOptInfo *rel)
{
	List	   *kept = NIL;
	ListCell   *lc;

	foreach(lc, rel->pathlist)
	{
		Path	   *path = lfirst(lc);

		if (!IsA(path, ForeignPath) ||
			!store_orders_differently(root, rel->relids, path->pathkeys))
			kept = lappend(kept, path);
	}
	rel->pathlist = kept;
}

Expr *
kept_here(Expr *condition)
{
	BooleanTest *test = makeNode(BooleanTest);

	/* postgres_fdw sends no IS TRUE, which a condition may have or not */
	test->arg = condition;
	test->booltesttype = IS_TRUE;
	test->location = -1;
	return (Expr *) test;
}

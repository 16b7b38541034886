/*
 * lookup_condition.h
 *		Recognizes a condition that looks up rows by the values of one column.
 */
#ifndef RUN_OPS_LOOKUP_CONDITION_H
#define RUN_OPS_LOOKUP_CONDITION_H

#include "nodes/primnodes.h"

/* A condition "column = X", or one that says the same, or "column = ANY (X)". */
typedef struct LookupCondition
{
	Node	   *column;			/* without relabeling */
	Node	   *values;			/* X */
	bool		is_array;		/* the condition is column = ANY (X) */
	bool		null_equals;	/* column IS NOT DISTINCT FROM X */
	Oid			opno;
	Oid			collation;
} LookupCondition;

/*
 * A column of a range table entry, such as the id column of a view, and the other
 * one that has its shape.
 */
typedef struct IdColumn
{
	Index		rti;
	AttrNumber	attno;
	AttrNumber	same_shape;		/* 0 if there is none */
	FuncExpr   *filter;			/* what the view says of the id, or NULL */
	Var		   *var;			/* the id itself */
} IdColumn;

/* Tests whether an expression, without relabeling, is the column. */
typedef bool (*column_test) (Node *expr, void *arg);

/* Is the expression a column of this range table entry? */
extern bool is_column_of(Node *node, Index rti);

/* column_test of an IdColumn */
extern bool is_id_column(Node *node, void *arg);

/*
 * The condition of a RestrictInfo or clause.  Of "C IS TRUE" and "coalesce(C,
 * false)", which hold exactly when C does, it is C.
 */
extern Node *lookup_clause(Node *clause);

/*
 * Does the clause compare the column with X?  If so, fills in *condition.  The
 * operator can be any, so the caller has to check it; see below.
 */
extern bool match_lookup_condition(Node *clause, column_test is_column,
								   void *arg, LookupCondition *condition);

/*
 * Do the clauses, which all have to hold, have the two bounds "column >= X" and
 * "column <= X" of a column of type text?
 */
extern bool match_lookup_range(List *clauses, column_test is_column,
							   void *arg, LookupCondition *condition);

/* Does the condition hold exactly for values with the same bytes? */
extern bool is_bytewise_equality(const LookupCondition *condition);

/*
 * If the condition tells what the filter says of the rows that it looks up, their
 * ids; otherwise NULL.  A filter depends on the bytes of an id.
 */
extern Node *ids_of_lookup(const LookupCondition *condition, FuncExpr *filter);

#endif							/* RUN_OPS_LOOKUP_CONDITION_H */

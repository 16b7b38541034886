/*
 * lookup_condition.h
 *		Recognizes a condition that looks up rows by the values of one column, and
 *		the filters of views.
 */
#ifndef RUN_OPS_LOOKUP_CONDITION_H
#define RUN_OPS_LOOKUP_CONDITION_H

#include "nodes/primnodes.h"

/*
 * Is the clause the filter of a view over several stores: resides(id, store), also
 * with a third argument that has the same shape; or refuse_locks(key) if its rows
 * do not say in which store they are?
 */
extern bool is_resides(Node *clause);
extern bool is_refuse_locks(Node *clause);

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

/* Tests whether an expression, without relabeling, is the column. */
typedef bool (*column_test) (Node *expr, void *arg);

/* The expression below casts between binary-compatible types. */
extern Node *without_relabeling(Node *node);

/* Is the expression a column of this range table entry? */
extern bool is_column_of(Node *node, Index rti);

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

#endif							/* RUN_OPS_LOOKUP_CONDITION_H */

/*
 * remote_change.h
 *		INSERT, UPDATE and DELETE of single rows and sets in a store.
 */
#ifndef RUN_OPS_REMOTE_CHANGE_H
#define RUN_OPS_REMOTE_CHANGE_H

#include "funcapi.h"
#include "libpq-fe.h"
#include "nodes/nodes.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "stores/remote_rows.h"
#include "wire/wire.h"

/* A value in an ON CONFLICT clause, by its number, from 1 on. */
#define REMOTE_VALUE "\001%d\001"

/* What is needed to write rows of one foreign table; see remote_change_begin(). */
typedef struct RemoteChange
{
	MemoryContext context;		/* of this struct */
	Wire	   *wire;
	WireStatement *statement;	/* may be NULL */
	Oid			relid;
	CmdType		operation;
	List	   *keys;			/* columns that name the row, or its version */
	bool		version;		/* the last one is the ctid */
	List	   *columns;		/* columns that are written, but generated ones */
	const char *conflict;		/* INSERT: what follows ON CONFLICT; or NULL */
	int			nextra;			/* values in "conflict" */
	const char *const *extra;
	bool		returning;		/* all columns are returned */
	bool		waits;			/* comes after those before it that return rows */
	int			nvalues;		/* of one row */
	RemoteText	text;			/* of the keys, and then of the columns */
	List	   *returned;		/* the columns of a returned row, in order */
	const char **types;			/* of the columns in the store; NULL: not known */
	bool	   *as_it_is;		/* can an array have the type? */
	PGresult   *result;			/* of the last statement */
	int			written;		/* how many rows it has written, if that is known */
	int			left_out;		/* with "version": how many are as they were */
	MemoryContextCallback cleanup;
	MemoryContext values_context;
	int			n;				/* rows that were added */
	int			size;			/* of the array */
	const char **values;
} RemoteChange;

/*
 * Prepares statements that write to the foreign table.  UPDATE and DELETE find
 * a row by its key, which the foreign table has to name.  With "version" they change
 * it only while it also is at the same place in the store, which is the last value
 * of the key.  Errors: 0A000 if there is no key.
 */
extern RemoteChange *remote_change_begin(Relation rel, CmdType operation,
										 List *columns, const char *conflict,
										 bool returning, bool version, Wire *wire,
										 WireStatement *statement);

/* Sets the values of the ON CONFLICT clause, which must stay. */
extern void remote_change_set_extra(RemoteChange *change, int nextra,
									const char *const *extra);

/*
 * Adds a row: the values of its key, for UPDATE and DELETE, and of the columns
 * that are written.  In a set each row has another key.
 */
extern void remote_change_add(RemoteChange *change, const Datum *values,
							  const bool *nulls);

/* Forgets the row that was added last. */
extern void remote_change_forget_last(RemoteChange *change);

/*
 * Writes the rows that were added, with one statement, and tells how many rows the
 * store has written.  "result" has them if they are returned: those of UPDATE and
 * DELETE of a set with the number of the row in the set, from 1 on, as last column.
 * It stays until the next call.  Errors are those of the store.
 *
 * The rows of "before", a list of RemoteChange for the same wire, are written by the
 * same statement.  How many is known of those that return rows.
 */
extern void remote_change_send(RemoteChange *change, List *before);

/* Texts as the store reads an array: n of them, each "step" after the one before. */
extern char *remote_array(const char *const *texts, int n, int step);

/* The text of the statement for one row, for EXPLAIN. */
extern char *remote_change_text(Relation rel, CmdType operation, List *columns,
								const char *conflict, bool returning);

#endif							/* RUN_OPS_REMOTE_CHANGE_H */

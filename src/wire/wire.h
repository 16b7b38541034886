/*
 * wire.h
 *		What a local transaction does in a store, as one transaction there.
 */
#ifndef RUN_OPS_WIRE_H
#define RUN_OPS_WIRE_H

#include "lib/ilist.h"
#include "libpq-fe.h"
#include "nodes/pg_list.h"
#include "utils/palloc.h"

/* The connection of a role to a foreign server; it is opened when needed. */
typedef struct Wire Wire;

/* What a command needs of the transaction in the store. */
typedef enum WireNeed
{
	WIRE_READ,					/* one snapshot for this command */
	WIRE_READ_MANY,				/* the snapshot of the local statement */
	WIRE_WRITE					/* it changes or locks rows */
} WireNeed;

/*
 * What one local statement does in a store.  Its commands see one snapshot
 * until the transaction has written there.
 */
typedef struct WireStatement
{
	dlist_node	node;
	Wire	   *wire;
	void	   *query;			/* which statement: its EState */
	int			scans;			/* how many of its nodes take part */
	int			running;		/* and have not ended */
	WireNeed	need;
	List	   *changed;		/* foreign tables whose rows it has changed */
	Wire	   *fallback;		/* of a replica: its store; see read_replica.c */
	bool		begun;			/* it has read there */
	MemoryContextCallback forget;
} WireStatement;

/*
 * Who has not read all rows of a query.  yield() is called when the wire is
 * needed for something else while an answer for this reader comes: it must
 * receive all of that.  set_aside() is called when a cursor is about to be lost:
 * it must read all that is left.
 */
typedef struct WireReader
{
	dlist_node	node;
	bool		is_reading;
	void		(*yield) (struct WireReader *reader);
	void		(*set_aside) (struct WireReader *reader);
} WireReader;

/* Errors: none.  The role needs a user mapping only when it is opened. */
extern Wire *wire_get(Oid serverid, Oid userid);

/*
 * A node of a local statement takes part in what that does in the store, and
 * leaves again.  What is known when a node joins, before the first command,
 * decides which transaction the statement has there.  "context" is that of the
 * statement.
 */
extern WireStatement *wire_join(Wire *wire, void *query, WireNeed need,
								MemoryContext context);
extern void wire_leave(WireStatement *statement);

/* What has not begun on its wire goes to another one. */
extern void wire_move(WireStatement *statement, Wire *wire);

/* Is there a transaction that the next statement would be in, too? */
extern bool wire_has_transaction(Wire *wire);

/*
 * Would a transaction be lost with the connection if something else failed while
 * an answer comes?  Then the answer has to be received at once.
 */
extern bool wire_must_be_awaited(Wire *wire);

/*
 * May a query be sent whose answer is read later?  The connection is open, and
 * nothing is on its way that somebody reads, or lost if something else fails.
 */
extern bool wire_is_free(Wire *wire);

/* Would a query that needs no more have no transaction in the store? */
extern bool wire_reads_alone(Wire *wire, WireNeed need);

/*
 * Sends commands in one flight: wire_begin(), any number of wire_add(), whose
 * answers are ignored but for errors, and wire_send(), whose answer is read with
 * wire_receive().  The flight begins a transaction in the store if it has to;
 * what others have not read is set aside.  "statement" may be NULL.  Values are
 * text; NULL is NULL.  Errors: 08001 when the store cannot be reached; 08006
 * when the connection was lost, or with it what this transaction did there.
 */
extern void wire_begin(Wire *wire, WireNeed need, WireStatement *statement);
extern void wire_add(Wire *wire, const char *sql, int nvalues,
					 const char *const *values);
extern void wire_send(Wire *wire, const char *sql, int nvalues,
					  const char *const *values, bool row_by_row);

/*
 * The next result, row by row one row or the end of the command.  NULL when all
 * is answered.  It belongs to the wire, until the next call.  Errors are those
 * of the store, with all their fields; 08006 when the connection is lost or the
 * store does not answer in time.
 */
extern PGresult *wire_receive(Wire *wire);

/*
 * Cancels a query of which too many rows would still come, with its connection.
 * False if the transaction needs that.
 */
extern bool wire_give_up(Wire *wire);

/* The whole result, where it does not come row by row; the other is for keeps. */
extern PGresult *wire_receive_whole(Wire *wire);
extern PGresult *wire_take_whole(Wire *wire);

/* One command, and its whole result; NULL in "statement" and "values" is well. */
extern PGresult *wire_exec(Wire *wire, WireNeed need, const char *sql,
						   int nvalues, const char *const *values);

/*
 * A reader has a cursor in the transaction, or the answer to what was just sent
 * is for it; see WireReader.  It has read all; it wants no more of that answer.
 */
extern void wire_read_begin(Wire *wire, WireReader *reader);
extern void wire_read_end(Wire *wire, WireReader *reader);
extern void wire_read_stop(Wire *wire, WireReader *reader);

/*
 * Runs commands outside the transaction, over a connection of their own, which
 * is closed with the local transaction.  Several may be in "sql", also BEGIN
 * and COMMIT.
 */
extern void wire_exec_apart(Oid serverid, Oid userid, const char *sql);

/*
 * Finishes what atomic commits have left in a store, over such a connection.
 * A list of PreparedTransaction, with outcomes.  Errors: as wire_begin(), and
 * those of the query for what is left.
 */
extern List *wire_resolve_prepared(Oid serverid, Oid userid);

/* The name of the store, or else of the foreign server. */
extern const char *wire_store(Wire *wire);

/*
 * For how long the store may be silent in this flight, in milliseconds; 0 has no
 * limit.  It is store_query_timeout unless said otherwise, after wire_begin().
 */
extern void wire_limit_silence(Wire *wire, int limit);

/* A name for a cursor that no other has. */
extern char *wire_cursor_name(Wire *wire);

/*
 * Sends a command that cleans up in the transaction, if there is still one, and
 * does not wait.  Errors: none.
 */
extern void wire_tell(Wire *wire, const char *sql);

extern void wire_init(void);

#endif							/* RUN_OPS_WIRE_H */

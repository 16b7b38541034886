/*
 * connection.h
 *		A connection to a store, on which no wait is without an end.
 */
#ifndef RUN_OPS_CONNECTION_H
#define RUN_OPS_CONNECTION_H

#include "datatype/timestamp.h"
#include "foreign/foreign.h"
#include "libpq-fe.h"

#include "ground/compat.h"

/* As much of a statement stands in the context of an error. */
#define SHOWN_OF_STATEMENT 300

typedef struct StoreConnection
{
	PGconn	   *conn;			/* NULL: not open */
	struct WaitEventSet *events;	/* of an open one: its socket, and ours */
	PGresult   *result;			/* the last one that was received */
	char		store[NAMEDATALEN];
	char		statement[SHOWN_OF_STATEMENT + 4];	/* empty: none is running */
	int			limit;			/* of silence, in milliseconds; 0: none */
	bool		committing;		/* whether it commits is not known if it is lost */
	TimestampTz heard;			/* when the store last gave a sign of life */
	int			bytes;			/* that came since */
	bool		answered;		/* the statement, at least in part */
	TimestampTz probed;			/* when it last accepted a connection */
	bool		dead;			/* it has not accepted one */
} StoreConnection;

/*
 * Settings run_ops_split.store_timeout, store_query_timeout, store_retry_pause,
 * in milliseconds.  0: wait without limit, ask again at once.
 */
extern int	store_timeout;
extern int	store_query_timeout;
extern int	store_retry_pause;

/*
 * Connects.  Errors: 08001 when the store cannot be reached or does not answer
 * in time, 2F003 when the role may not connect without a password.  The caller
 * must call connection_close() also after an error.
 */
extern void connection_open(StoreConnection *connection, ForeignServer *server,
							UserMapping *user);

/*
 * Closes the connection, and before that ends what the store is doing for us if
 * a command is running.  Also where an error is under way: it raises none and is
 * not interrupted.
 */
extern void connection_close(StoreConnection *connection, bool running);

/* Names the statement that the next errors are about, and starts its time. */
extern void connection_begin_statement(StoreConnection *connection, const char *sql);

/* Sends what libpq holds back.  Errors: 08006. */
extern void connection_flush(StoreConnection *connection);

/*
 * The next result; NULL at the end of a command.  It belongs to the connection,
 * until the next call.  It is not looked at, except that 08006 is raised when
 * the connection is lost or the store does not answer in time.
 */
extern PGresult *connection_receive(StoreConnection *connection);

/* Has the store closed the connection?  Nothing is running. */
extern bool connection_is_closed(StoreConnection *connection);

/* Could the next result be received without waiting for the store? */
extern bool connection_has_result(StoreConnection *connection);

/*
 * Waits until it can; false if that takes longer, or if the connection is lost.
 * That is no error; interrupts must be held.
 */
extern bool connection_await_result(StoreConnection *connection, int patience);

/* Raises the error that the result is, with every field that it has. */
pg_noreturn extern void connection_report(StoreConnection *connection, PGresult *result);
pg_noreturn extern void connection_report_lost(StoreConnection *connection);

extern void connection_init(void);

#endif							/* RUN_OPS_CONNECTION_H */

/*
 * wire.h
 *		A session's own connections to stores.
 */
#ifndef RUN_OPS_WIRE_H
#define RUN_OPS_WIRE_H

#include "libpq-fe.h"

typedef struct Wire Wire;

/* run_ops_split.store_timeout, in milliseconds; 0 waits without limit */
extern int	store_timeout;

/*
 * The connection of a role to a foreign server, opened when there is none.  It
 * is closed when the transaction ends.  "patience", in milliseconds, bounds
 * each wait from here on; 0 does not.  Errors: 08001 when it cannot be
 * opened, 2F003 when the role may not use it without a password.
 */
extern Wire *wire_open(Oid serverid, Oid userid, const char *store,
					   int patience);

/* Sends one or several commands.  Earlier ones must have been answered. */
extern void wire_send(Wire *wire, const char *sql);

/*
 * The next result of what was sent: one row, or the end of a command.  NULL
 * when all is answered.  It belongs to the wire, until the next call.  Errors
 * are those of the store, with all their fields; 08006 when the connection is
 * lost or the store does not answer in time.  After an error, and when a
 * result is not wanted to its end, the wire must be closed.
 */
extern PGresult *wire_receive(Wire *wire);

/* Sends commands and ignores what they answer but for errors. */
extern void wire_execute(Wire *wire, const char *sql);

/* Ends what the store is doing for us, and the connection. */
extern void wire_close(Wire *wire);

extern void wire_init(void);

#endif							/* RUN_OPS_WIRE_H */

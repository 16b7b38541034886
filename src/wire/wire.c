/*
 * wire.c
 *		What a local transaction does in a store, as one transaction there.
 *
 * A session has one connection to a store for each role, and keeps it while it is
 * used.  Commands fly in libpq's pipeline mode: what has to come before a command
 * (BEGIN, SAVEPOINT) is sent together with it, and what follows from it (COMMIT of
 * what only read, ROLLBACK) is sent without waiting for the answer.  So a flight
 * is one round trip, and "expected" lists what is still to come in answer:
 *
 *	 c	a command of which only an error matters
 *	 u	likewise, and nobody waits: not even that
 *	 d	a command whose answer somebody reads
 *	 s	the end of a flight
 *
 * The one idea about transactions: isolation is that of the local transaction.
 * At READ COMMITTED each local statement sees a fresh snapshot of the store. If
 * it sends one query, that needs no transaction at all; if it sends several,
 * they share a "brief" transaction of isolation level REPEATABLE READ, which
 * ends with the statement.  From the first write or row lock on the transaction
 * is READ COMMITTED there as well, waits for others as one does here, and lasts
 * until the local one ends.  At higher levels it has the level of the local one.
 *
 * Levels are nesting levels of local subtransactions.  What was begun at level
 * "base" goes with that level; at levels above it the store has savepoints, up
 * to "depth".  A savepoint is released with the next command that flies.
 */
#include "postgres.h"

#include <limits.h>
#include <sys/socket.h>

#include "access/xact.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "ground/own_table.h"
#include "wire/atomic_commit.h"
#include "wire/connection.h"
#include "wire/cross_store_writes.h"
#include "wire/wire.h"
#include "wire/wire_stats.h"

PG_FUNCTION_INFO_V1(run_ops_store_connections);
PG_FUNCTION_INFO_V1(run_ops_disconnect_stores);

/* how much the pause after a failure grows */
#define MAX_PAUSES 30

/* so many ends of commands are not followed by that of their flight */
#define MAX_EMPTY 3

/*
 * An answer that is on its way when an error comes is received for that long, and
 * waited for that long if a transaction would be lost with the connection.
 */
#define ANSWER_PATIENCE 100
#define TRANSACTION_PATIENCE 1000

/*
 * What the text of values means must not depend on the defaults of the store's
 * roles.  Behind a transaction pooler it is local to the transaction, because
 * another application has the same connection next.
 */
#define SETTINGS \
	"SELECT pg_catalog.set_config(name, value, %s) FROM (VALUES " \
	"('search_path', 'pg_catalog, pg_temp'), ('timezone', 'UTC'), ('datestyle', 'ISO, YMD'), " \
	"('intervalstyle', 'postgres'), ('extra_float_digits', '3'), ('bytea_output', 'hex')) AS s (name, value)"

struct Wire
{
	dlist_node	node;
	StoreConnection connection;
	Oid			serverid;
	Oid			userid;
	bool		apart;			/* see wire_exec_apart() */

	/* the connection */
	uint32		server_hash;	/* of the server and the user mapping, as */
	uint32		mapping_hash;	/* invalidation messages name them */
	bool		public_mapping; /* the role has none of its own */
	bool		stale;			/* they have changed since */
	bool		pooled;
	bool		set_up;			/* the settings have been made */
	bool		keep;			/* after the end of the transaction */
	bool		used;			/* in the transaction */
	TimestampTz used_at;		/* when the last one ended that has used it */
	int			pause;			/* after a failure, in milliseconds */
	TimestampTz retry_at;
	unsigned int cursors;

	/* what is on its way */
	StringInfoData expected;	/* see above; "cursor" is what comes next */
	bool		running;		/* somebody reads the answer of a command */
	int			running_level;	/* who has sent it at that level */
	bool		row_by_row;
	WireReader *streaming;		/* who reads it, if rows come one by one */
	instr_time	sent;			/* for wire_stats.c */

	/* the transaction there */
	int			depth;			/* 0: there is none */
	int			base;
	int			released;		/* savepoints above this are to be released */
	bool		brief;
	bool		written;
	bool		broken;			/* it was lost, with what it has done */
	char		prepared[PREPARED_NAME_SIZE + 1];	/* or about to be; see atomic_commit.c */
	WireStatement *owner;		/* of a brief one */
	dlist_head	statements;
	dlist_head	readers;
};

/* of this session, in TopMemoryContext */
static dlist_head wires = DLIST_STATIC_INIT(wires);

/* ----------------------------------------------------------------
 *		Idle connections
 * ----------------------------------------------------------------
 */

/* Setting run_ops_split.store_idle_timeout, in milliseconds; 0: never. */
static int	store_idle_timeout = 5 * 60 * 1000;

static TimeoutId idle_timer = MAX_TIMEOUTS; /* not registered yet */
static volatile sig_atomic_t idle_timer_runs = false;
static bool stores_used = false;	/* since it was stopped */

/*
 * No store has been used for that long.  This is a signal handler, and whatever
 * the session is doing goes on.  So the stores are only told that nothing more
 * comes: the next use of a connection finds it closed.
 */
static void
leave_stores(void)
{
	dlist_iter	iter;

	idle_timer_runs = false;
	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (wire->connection.conn != NULL)
			(void) shutdown(PQsocket(wire->connection.conn), SHUT_RDWR);
	}
}

/* Before a store is used, or anything is changed that leave_stores() looks at. */
static void
stop_idle_timer(void)
{
	stores_used = true;
	if (idle_timer_runs)
		disable_timeout(idle_timer, false);
	idle_timer_runs = false;
}

/* ----------------------------------------------------------------
 *		Connections
 * ----------------------------------------------------------------
 */

static char *
store_of_server(ForeignServer *server, MemoryContext context)
{
	char	   *store = own_table_lookup("store", "server", server->servername, "name");

	return MemoryContextStrdup(context, store ? store : server->servername);
}

static bool
server_option(ForeignServer *server, const char *name, bool unless_set)
{
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetBoolean(def);
	}
	return unless_set;
}

static Wire *
new_wire(Oid serverid, Oid userid, bool apart)
{
	Wire	   *wire = MemoryContextAllocZero(TopMemoryContext, sizeof(Wire));
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	stop_idle_timer();
	initStringInfo(&wire->expected);
	MemoryContextSwitchTo(oldcontext);
	wire->serverid = serverid;
	wire->userid = userid;
	wire->apart = apart;
	dlist_init(&wire->statements);
	dlist_init(&wire->readers);
	dlist_push_head(&wires, &wire->node);
	return wire;
}

static Wire *
find_wire(Oid serverid, Oid userid, bool apart)
{
	dlist_iter	iter;

	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (wire->serverid == serverid && wire->userid == userid &&
			wire->apart == apart)
			return wire;
	}
	return new_wire(serverid, userid, apart);
}

Wire *
wire_get(Oid serverid, Oid userid)
{
	return find_wire(serverid, userid, false);
}

const char *
wire_store(Wire *wire)
{
	return wire->connection.store;
}

void
wire_limit_silence(Wire *wire, int limit)
{
	wire->connection.limit = limit;
}

char *
wire_cursor_name(Wire *wire)
{
	return psprintf("run_ops_%u", ++wire->cursors);
}

/* Whoever has not read all will find out when he goes on. */
static void
forget_readers(Wire *wire)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &wire->readers)
		wire_read_end(wire, dlist_container(WireReader, node, iter.cur));
}

/* Closes the connection.  What the transaction has done there is lost with it. */
static void
lose_connection(Wire *wire)
{
	stop_idle_timer();
	forget_readers(wire);
	connection_close(&wire->connection, wire->running);
	resetStringInfo(&wire->expected);
	wire->expected.cursor = 0;
	wire->running = false;
	wire->streaming = NULL;
	wire->set_up = false;
	if (wire->depth > 0 && !wire->brief)
		wire->broken = true;
	else
		wire->depth = 0;
}

/* A store that failed is not asked again at once. */
static void
begin_pause(Wire *wire)
{
	wire_stats_event(wire->connection.store, WIRE_FAILED);
	if (store_retry_pause == 0)
		return;
	wire->pause = wire->pause == 0 ? store_retry_pause :
		Min(wire->pause * 2, store_retry_pause * MAX_PAUSES);
	wire->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wire->pause);
}

static void
refuse_in_pause(Wire *wire)
{
	long		left;

	if (wire->pause == 0 || store_retry_pause == 0)
		return;
	left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wire->retry_at);
	if (left <= 0)
		return;
	wire_stats_event(wire->connection.store, WIRE_PAUSED);
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("store \"%s\" cannot be reached", wire->connection.store),
			 errdetail("It has failed in this session, and is asked again in %ld ms.", left),
			 errhint("The first pause is run_ops_split.store_retry_pause.")));
}

static void
open_connection(Wire *wire)
{
	ForeignServer *server = GetForeignServer(wire->serverid);
	UserMapping *user = GetUserMapping(wire->userid, wire->serverid);

	stop_idle_timer();
	strlcpy(wire->connection.store, store_of_server(server, CurrentMemoryContext),
			NAMEDATALEN);
	if (wire->stale)
		wire->pause = 0;
	wire->stale = false;
	wire->server_hash = GetSysCacheHashValue1(FOREIGNSERVEROID, ObjectIdGetDatum(server->serverid));
	wire->mapping_hash = GetSysCacheHashValue1(USERMAPPINGOID, ObjectIdGetDatum(user->umid));
	wire->public_mapping = !SearchSysCacheExists2(USERMAPPINGUSERSERVER,
												  ObjectIdGetDatum(wire->userid),
												  ObjectIdGetDatum(wire->serverid));
	refuse_in_pause(wire);
	wire->pooled = server_option(server, "pooled", false);
	wire->keep = server_option(server, "keep_connections", true) && !wire->apart;
	PG_TRY();
	{
		connection_open(&wire->connection, server, user);
		if (PQenterPipelineMode(wire->connection.conn) == 0)
			connection_report_lost(&wire->connection);
	}
	PG_CATCH();
	{
		lose_connection(wire);
		if (geterrcode() == ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION)
			begin_pause(wire);
		PG_RE_THROW();
	}
	PG_END_TRY();
	wire->pause = 0;
	wire_stats_event(wire->connection.store, WIRE_CONNECTED);
}

/* A server or user mapping has been changed or dropped. */
static void
definition_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter	iter;

	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (hashvalue == 0 || hashvalue ==
			(cacheid == FOREIGNSERVEROID ? wire->server_hash : wire->mapping_hash))
			wire->stale = true;
		/* it may have one now */
		if (cacheid == USERMAPPINGOID && wire->public_mapping)
			wire->stale = true;
	}
}

/* ----------------------------------------------------------------
 *		Flights
 * ----------------------------------------------------------------
 */

static char
next_expected(Wire *wire)
{
	return wire->expected.cursor < wire->expected.len ?
		wire->expected.data[wire->expected.cursor] : '\0';
}

/*
 * Memory for what is expected, also of the end of the flight: nothing here may
 * fail once a command has been given to libpq, which sends it in any case, at the
 * latest when the connection is closed.
 */
static void
reserve_expected(Wire *wire)
{
	enlargeStringInfo(&wire->expected, sizeof("uus"));
}

static void
expect(Wire *wire, char what)
{
	appendStringInfoChar(&wire->expected, what);
}

static void
arrived(Wire *wire)
{
	wire->expected.cursor++;
	if (next_expected(wire) == '\0')
		resetStringInfo(&wire->expected);
}

/* libpq gives such a result again and again, and there is no way out. */
static bool
is_copy(PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	return status == PGRES_COPY_IN || status == PGRES_COPY_OUT ||
		status == PGRES_COPY_BOTH;
}

/* The next result; the connection is gone when there is none. */
static PGresult *
receive(Wire *wire)
{
	PGresult   *result = NULL;

	PG_TRY();
	{
		result = connection_receive(&wire->connection);
		if (is_copy(result))
			connection_report(&wire->connection, result);
	}
	PG_CATCH();
	{
		/* a cancel says nothing about the store */
		if ((geterrcode() == ERRCODE_CONNECTION_FAILURE ||
			 geterrcode() == ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN) &&
			PQstatus(wire->connection.conn) == CONNECTION_OK)
			begin_pause(wire);
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			lose_connection(wire);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return result;
}

static bool
is_error(PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	return status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK &&
		status != PGRES_SINGLE_TUPLE;
}

/*
 * Is that the end of what is expected next?  If so, it is expected no more.  The
 * end of a flight is also that of all before it in the flight: of a command that
 * has failed, libpq leaves its own end out when another one was sent meanwhile.
 */
static bool
has_arrived(Wire *wire, PGresult *result)
{
	if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
	{
		while (next_expected(wire) != 's' && next_expected(wire) != '\0')
			arrived(wire);
		arrived(wire);
		return true;
	}
	/* before the end of a flight, the end of its transaction may fail */
	if (result == NULL && next_expected(wire) != 's')
	{
		arrived(wire);
		return true;
	}
	return false;
}

/* Are these the last words of the server process?  The socket may be open still. */
static bool
ends_connection(PGresult *result)
{
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

	return severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

/* Errors of the store, but not what follows from one. */
static void
report(Wire *wire, PGresult *result)
{
	wire->running = false;
	if (!wire->set_up || ends_connection(result))
	{
		PG_TRY();
		{
			connection_report(&wire->connection, result);
		}
		PG_CATCH();
		{
			lose_connection(wire);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	connection_report(&wire->connection, result);
}

/*
 * Waits for the answers to what is expected next, and ignores them, but for
 * errors if they are asked for.
 */
static void
receive_and_ignore(Wire *wire, bool report_errors)
{
	char		what = next_expected(wire);
	PGresult   *result;
	int			empty = 0;

	while (what != '\0' && !has_arrived(wire, result = receive(wire)))
	{
		if (result == NULL && ++empty == MAX_EMPTY)
		{
			lose_connection(wire);
			what = '\0';
		}
		else if (report_errors && what != 'u' && result != NULL && is_error(result))
			report(wire, result);
	}
	/* nothing, or not what the protocol says, is to come */
	if (what == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to store \"%s\" was lost while an answer was read",
						wire->connection.store)));
	if (what == 's')
		wire->set_up = true;
}

static void
fly(Wire *wire, char what, const char *sql, int nvalues, const char *const *values)
{
	reserve_expected(wire);
	if (!PQsendQueryParams(wire->connection.conn, sql, nvalues, NULL, values,
						   NULL, NULL, 0))
		connection_report_lost(&wire->connection);
	expect(wire, what);
}

static void
end_flight(Wire *wire)
{
	if (!PQpipelineSync(wire->connection.conn))
		connection_report_lost(&wire->connection);
	expect(wire, 's');
}

static void
receive_all(Wire *wire)
{
	/* an error has come before the last command of a flight */
	if (next_expected(wire) != '\0' && wire->expected.data[wire->expected.len - 1] != 's')
		end_flight(wire);
	/* a cancel here is the end of the connection */
	wire->running = next_expected(wire) != '\0';
	wire->running_level = GetCurrentTransactionNestLevel();
	while (next_expected(wire) != '\0')
		receive_and_ignore(wire, false);
	wire->running = false;
}

static void
fly_settings(Wire *wire)
{
	fly(wire, 'c', psprintf(SETTINGS, wire->pooled ? "true" : "false"), 0, NULL);
}

/*
 * Sends commands in a flight of their own, and does not wait.  No error: this is
 * also called when one is under way.  If they do not fly, the connection goes.
 */
static void
send_both_unawaited(Wire *wire, const char *first, const char *second)
{
	PGconn	   *conn = wire->connection.conn;

	if (conn == NULL)
		return;
	reserve_expected(wire);
	if ((first && !PQsendQueryParams(conn, first, 0, NULL, NULL, NULL, NULL, 0)) ||
		!PQsendQueryParams(conn, second, 0, NULL, NULL, NULL, NULL, 0) ||
		!PQpipelineSync(conn) || PQflush(conn) < 0)
	{
		lose_connection(wire);
		return;
	}
	if (first)
		expect(wire, 'u');
	expect(wire, 'u');
	expect(wire, 's');
}

static void
send_unawaited(Wire *wire, const char *sql)
{
	send_both_unawaited(wire, NULL, sql);
}

/* ----------------------------------------------------------------
 *		The transaction there
 * ----------------------------------------------------------------
 */

static void
forget_transaction(Wire *wire)
{
	wire->depth = 0;
	wire->brief = false;
	wire->written = false;
	wire->broken = false;
	wire->owner = NULL;
}

static void
begin_transaction(Wire *wire, const char *isolation, int base)
{
	fly(wire, 'c', psprintf("BEGIN ISOLATION LEVEL %s", isolation), 0, NULL);
	wire->depth = wire->base = wire->released = base;
	if (wire->pooled)
		fly_settings(wire);
}

/* All that others have still to read, before their cursors are lost. */
static void
set_all_aside(Wire *wire)
{
	if (wire->streaming)
		wire->streaming->yield(wire->streaming);
	while (!dlist_is_empty(&wire->readers))
	{
		WireReader *reader = dlist_head_element(WireReader, node, &wire->readers);

		reader->set_aside(reader);
		wire_read_end(wire, reader);
	}
}

/* What has to be sent before a command, so that it is in the right transaction. */
static void
enter_transaction(Wire *wire, WireNeed need, WireStatement *statement)
{
	int			level = GetCurrentTransactionNestLevel();

	if (wire->depth > 0 && wire->brief && need == WIRE_WRITE)
	{
		fly(wire, 'c', "COMMIT", 0, NULL);
		end_flight(wire);
		forget_transaction(wire);
	}
	if (wire->depth == 0)
	{
		if (IsolationUsesXactSnapshot())
			begin_transaction(wire, IsolationIsSerializable() ?
							  "SERIALIZABLE" : "REPEATABLE READ", 1);
		else if (need == WIRE_WRITE)
			begin_transaction(wire, "READ COMMITTED", level);
		else if (need == WIRE_READ_MANY)
		{
			begin_transaction(wire, "REPEATABLE READ", level);
			wire->brief = true;
			wire->owner = statement;
		}
		else
		{
			if (wire->pooled)
				fly_settings(wire);
			return;
		}
	}
	if (wire->released < wire->depth)
	{
		fly(wire, 'c', psprintf("RELEASE SAVEPOINT s%d", wire->released + 1), 0, NULL);
		wire->depth = wire->released;
	}
	while (wire->depth < level)
		fly(wire, 'c', psprintf("SAVEPOINT s%d", ++wire->depth), 0, NULL);
	wire->released = wire->depth;
	if (need == WIRE_WRITE)
		wire->written = true;
}

static void
refuse_broken(Wire *wire)
{
	if (wire->broken)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to store \"%s\" was lost in this transaction",
						wire->connection.store),
				 errdetail("What the transaction has read or written there is lost with it.")));
}

static void resolve_in_passing(Wire *wire);

/*
 * In a subtransaction, an error elsewhere may end the connection while it is read,
 * and a transaction there with it, which others may need.
 */
bool
wire_must_be_awaited(Wire *wire)
{
	return GetCurrentTransactionNestLevel() > 1 &&
		(IsolationUsesXactSnapshot() || wire->depth > 0);
}

bool
wire_is_free(Wire *wire)
{
	return !wire_must_be_awaited(wire) &&
		wire->connection.conn != NULL && !wire->stale && !wire->broken &&
		!wire->running && wire->streaming == NULL;
}

bool
wire_reads_alone(Wire *wire, WireNeed need)
{
	return need == WIRE_READ && wire->depth == 0 && !IsolationUsesXactSnapshot();
}

void
wire_begin(Wire *wire, WireNeed need, WireStatement *statement)
{
	refuse_broken(wire);
	stop_idle_timer();
	wire->used = true;
	/* a server that has been restarted since, or leave_stores(), has closed the connection */
	if (wire->connection.conn != NULL && wire->depth == 0 &&
		(wire->stale || connection_is_closed(&wire->connection)))
		lose_connection(wire);
	wire->connection.limit = store_query_timeout;
	if (wire->connection.conn == NULL)
	{
		open_connection(wire);
		if (cross_store_writes_are_atomic())
			resolve_in_passing(wire);
	}
	else if (wire->brief && need == WIRE_WRITE)
		set_all_aside(wire);
	else if (wire->streaming)
		wire->streaming->yield(wire->streaming);
	connection_begin_statement(&wire->connection, "");
	receive_all(wire);
	if (!wire->set_up && !wire->pooled)
	{
		/* in a transaction of its own, which BEGIN would end up in */
		fly_settings(wire);
		end_flight(wire);
	}
	enter_transaction(wire, need, statement);
}

void
wire_add(Wire *wire, const char *sql, int nvalues, const char *const *values)
{
	connection_begin_statement(&wire->connection, sql);
	fly(wire, 'c', sql, nvalues, values);
}

/*
 * Ends a flight with a command whose answer is read, and perhaps one more.  If
 * that fails, nobody knows what has flown.
 */
static void
send_last(Wire *wire, const char *sql, int nvalues, const char *const *values,
		  bool row_by_row, const char *after)
{
	connection_begin_statement(&wire->connection, sql);
	wire->row_by_row = row_by_row;
	wire->running_level = GetCurrentTransactionNestLevel();
	PG_TRY();
	{
		fly(wire, 'd', sql, nvalues, values);
		if (after)
			fly(wire, 'u', after, 0, NULL);
		end_flight(wire);
		wire->running = true;
		wire_stats_sent(&wire->sent);
		connection_flush(&wire->connection);
	}
	PG_CATCH();
	{
		lose_connection(wire);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

void
wire_send(Wire *wire, const char *sql, int nvalues, const char *const *values,
		  bool row_by_row)
{
	send_last(wire, sql, nvalues, values, row_by_row, NULL);
}

PGresult *
wire_receive(Wire *wire)
{
	PGresult   *result;

	if (!wire->running)
		refuse_broken(wire);
	while (next_expected(wire) != 'd')
		receive_and_ignore(wire, true);
	if (wire->row_by_row)
	{
		PQsetSingleRowMode(wire->connection.conn);
		wire->row_by_row = false;
	}
	result = receive(wire);
	wire_stats_answered(wire->connection.store, &wire->sent);
	if (result == NULL && has_arrived(wire, result))
	{
		receive_and_ignore(wire, true);
		wire->running = false;
		wire->streaming = NULL;
		connection_begin_statement(&wire->connection, "");
	}
	else if (is_error(result))
		report(wire, result);
	return result;
}

PGresult *
wire_receive_whole(Wire *wire)
{
	PGresult   *result = wire_receive(wire);

	/* its end is received before the next command */
	wire->running = false;
	wire->streaming = NULL;
	return result;
}

PGresult *
wire_take_whole(Wire *wire)
{
	PGresult   *result = wire_receive_whole(wire);

	wire->connection.result = NULL;
	return result;
}

PGresult *
wire_exec(Wire *wire, WireNeed need, const char *sql, int nvalues,
		  const char *const *values)
{
	wire_begin(wire, need, NULL);
	wire_send(wire, sql, nvalues, values, false);
	return wire_receive_whole(wire);
}

bool
wire_give_up(Wire *wire)
{
	if (wire->depth > 0)
		return false;
	lose_connection(wire);
	return true;
}

void
wire_tell(Wire *wire, const char *sql)
{
	if (wire->depth > 0)
		send_unawaited(wire, sql);
}

void
wire_read_begin(Wire *wire, WireReader *reader)
{
	if (!reader->is_reading)
		dlist_push_tail(&wire->readers, &reader->node);
	reader->is_reading = true;
	if (wire->running)
		wire->streaming = reader;
}

void
wire_read_end(Wire *wire, WireReader *reader)
{
	if (!reader->is_reading)
		return;
	dlist_delete(&reader->node);
	reader->is_reading = false;
	if (wire->streaming == reader)
		wire->streaming = NULL;
}

void
wire_read_stop(Wire *wire, WireReader *reader)
{
	/* the rest of the answer is received before the next command */
	if (wire->streaming == reader)
		wire->running = false;
	wire_read_end(wire, reader);
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

static void
forget_statement(void *arg)
{
	WireStatement *statement = arg;

	if (statement->wire == NULL)
		return;
	dlist_delete(&statement->node);
	if (statement->wire->owner == statement)
		statement->wire->owner = NULL;
	statement->wire = NULL;
}

WireStatement *
wire_join(Wire *wire, void *query, WireNeed need, MemoryContext context)
{
	WireStatement *statement = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &wire->statements)
	{
		WireStatement *candidate = dlist_container(WireStatement, node, iter.cur);

		if (candidate->query == query)
			statement = candidate;
	}
	if (statement == NULL)
	{
		statement = MemoryContextAllocZero(context, sizeof(WireStatement));
		statement->wire = wire;
		statement->query = query;
		statement->forget.func = forget_statement;
		statement->forget.arg = statement;
		MemoryContextRegisterResetCallback(context, &statement->forget);
		dlist_push_head(&wire->statements, &statement->node);
	}
	statement->scans++;
	statement->running++;
	if (statement->scans > 1)
		need = Max(need, WIRE_READ_MANY);
	statement->need = Max(statement->need, need);
	return statement;
}

void
wire_move(WireStatement *statement, Wire *wire)
{
	dlist_delete(&statement->node);
	statement->wire = wire;
	dlist_push_head(&wire->statements, &statement->node);
}

bool
wire_has_transaction(Wire *wire)
{
	return wire->depth > 0 && !wire->brief;
}

void
wire_leave(WireStatement *statement)
{
	Wire	   *wire = statement->wire;

	statement->running--;
	if (wire == NULL || statement->running > 0)
		return;
	if (wire->depth > 0 && wire->brief && wire->owner == statement)
	{
		set_all_aside(wire);
		send_unawaited(wire, "COMMIT");
		forget_transaction(wire);
	}
}

/* ----------------------------------------------------------------
 *		The connections of the session
 * ----------------------------------------------------------------
 */

/*
 * store_connections() returns setof record
 *
 * A server that has been dropped since has NULL as its name, and so has a role.
 */
Datum
run_ops_store_connections(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	dlist_iter	iter;

	compat_init_materialized_srf(fcinfo);
	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);
		ForeignServer *server = GetForeignServerExtended(wire->serverid, FSV_MISSING_OK);
		char	   *role = GetUserNameFromId(wire->userid, true);
		Datum		values[5];
		bool		nulls[5] = {false};

		if (wire->connection.conn == NULL ||
			(wire->depth == 0 && !wire->running && connection_is_closed(&wire->connection)))
			continue;
		values[0] = CStringGetTextDatum(wire->connection.store);
		nulls[1] = server == NULL;
		values[1] = server ? DirectFunctionCall1(namein, CStringGetDatum(server->servername)) : 0;
		nulls[2] = role == NULL;
		values[2] = role ? DirectFunctionCall1(namein, CStringGetDatum(role)) : 0;
		values[3] = BoolGetDatum(wire->depth > 0);
		values[4] = Int32GetDatum(PQbackendPID(wire->connection.conn));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * disconnect_stores() returns bigint
 *
 * Leaves connections with a transaction or with rows that are being read.
 */
Datum
run_ops_disconnect_stores(PG_FUNCTION_ARGS)
{
	int64		closed = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (wire->connection.conn == NULL || wire->depth > 0 || wire->running)
			continue;
		lose_connection(wire);
		closed++;
	}
	PG_RETURN_INT64(closed);
}

/* ----------------------------------------------------------------
 *		Apart from the transaction
 * ----------------------------------------------------------------
 */

void
wire_exec_apart(Oid serverid, Oid userid, const char *sql)
{
	Wire	   *wire = find_wire(serverid, userid, true);
	PGresult   *result;

	if (wire->connection.conn == NULL)
	{
		open_connection(wire);
		/* only so can several commands be sent as one text */
		PQexitPipelineMode(wire->connection.conn);
	}
	wire->connection.limit = store_query_timeout;
	connection_begin_statement(&wire->connection, sql);
	PG_TRY();
	{
		wire->running = true;
		if (!PQsendQuery(wire->connection.conn, sql))
			connection_report_lost(&wire->connection);
		connection_flush(&wire->connection);
		while ((result = connection_receive(&wire->connection)) != NULL)
		{
			if (is_error(result))
				connection_report(&wire->connection, result);
		}
		wire->running = false;
	}
	PG_CATCH();
	{
		lose_connection(wire);
		PG_RE_THROW();
	}
	PG_END_TRY();
	connection_begin_statement(&wire->connection, "");
}

/* ----------------------------------------------------------------
 *		The ends of local transactions
 * ----------------------------------------------------------------
 */

static void
commit_there(Wire *wire)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	PGresult   *volatile result;

	refuse_broken(wire);
	if (wire->depth == 0)
		return;
	if (!wire->written && !IsolationIsSerializable())
	{
		send_unawaited(wire, "COMMIT");
		forget_transaction(wire);
		return;
	}
	connection_begin_statement(&wire->connection, "COMMIT");
	wire->connection.limit = store_query_timeout;
	receive_all(wire);
	wire->connection.committing = true;
	PG_TRY();
	{
		wire_send(wire, "COMMIT", 0, NULL, false);
		result = wire_receive(wire);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		/* who has canceled it must know that the store may commit it all the same */
		MemoryContextSwitchTo(oldcontext);
		FlushErrorState();
		lose_connection(wire);
		ereport(ERROR,
				(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
				 errmsg("COMMIT in store \"%s\" was canceled", wire->connection.store),
				 errhint("Whether the store has committed is not known. run_ops.in_doubt() lists rows that refer to rows which are in no store.")));
	}
	PG_END_TRY();
	wire->running = false;
	wire->connection.committing = false;
	/* the answer to COMMIT of a transaction that had failed is no error */
	if (strcmp(PQcmdStatus(result), "COMMIT") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
				 errmsg("transaction in store \"%s\" was rolled back",
						wire->connection.store)));
	forget_transaction(wire);
}

/*
 * Ends what a command is doing there when an error has interrupted it here.  The
 * rest of an answer that is on its way already is received, for that is cheaper
 * than another connection.  If a transaction goes on there ("outlives"), with its
 * locks, rows and cursors, the answer is waited for.
 */
static void
interrupt_command(Wire *wire, bool outlives)
{
	TimestampTz since = GetCurrentTimestamp();

	while (next_expected(wire) != '\0')
	{
		int			left = (outlives ? TRANSACTION_PATIENCE : ANSWER_PATIENCE) -
			(int) TimestampDifferenceMilliseconds(since, GetCurrentTimestamp());
		bool		on_its_way = left > 0 &&
			(outlives ? connection_await_result(&wire->connection, left) :
			 connection_has_result(&wire->connection));
		PGresult   *result = on_its_way ? PQgetResult(wire->connection.conn) : NULL;

		if (!on_its_way || is_copy(result))
		{
			PQclear(result);
			lose_connection(wire);
			return;
		}
		(void) has_arrived(wire, result);
		PQclear(result);
	}
	wire->running = false;
	if (wire->streaming)
		wire_read_end(wire, wire->streaming);
}

static void
rollback_there(Wire *wire)
{
	wire->connection.committing = false;
	if (wire->running && wire->connection.conn)
		interrupt_command(wire, false);
	if (wire->depth > 0)
	{
		/* with their cursors; a query outside the transaction goes on */
		forget_readers(wire);
		if (!wire->broken)
			send_unawaited(wire, "ROLLBACK");
	}
	forget_transaction(wire);
}

/* ----------------------------------------------------------------
 *		Atomic commit: see atomic_commit.c
 * ----------------------------------------------------------------
 */

/* Nothing can cancel these waits, so they end also with store_timeout = 0. */
#define FINISH_PATIENCE 5000

/* When the transaction is rolled back, a store has that long to finish preparing. */
#define PREPARE_PATIENCE 1000

/* A command outside a transaction.  Nothing may share its flight but what comes after it. */
static void
send_alone(Wire *wire, const char *sql, const char *after)
{
	if (wire->connection.conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to store \"%s\" was lost", wire->connection.store)));
	wire->connection.limit = store_timeout;
	receive_all(wire);
	send_last(wire, sql, 0, NULL, false, after);
}

static PGresult *
run_alone(void *wire, const char *sql)
{
	send_alone(wire, sql, NULL);
	return wire_receive_whole(wire);
}

/*
 * The first phase.  All stores prepare at the same time; what has only been read
 * is committed before, because that can fail for a serializable transaction.
 *
 * A transaction pooler would give the connection to others now.  They could wait
 * for rows that are prepared, and the second phase for a connection.  So BEGIN
 * flies with PREPARE TRANSACTION and keeps the connection until then.
 */
static void
prepare_everywhere(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (!wire->written)
			commit_there(wire);
	}
	atomic_commit_begin();
	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		refuse_broken(wire);
		if (wire->depth == 0)
			continue;
		connection_begin_statement(&wire->connection, "PREPARE TRANSACTION");
		receive_all(wire);
		atomic_commit_name(wire->prepared,
						   GetUserMapping(wire->userid, wire->serverid)->umid);
		send_alone(wire, psprintf("PREPARE TRANSACTION '%s'", wire->prepared),
				   wire->pooled ? "BEGIN" : NULL);
	}
	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (wire->prepared[0] == '\0')
			continue;
		/* a transaction that had failed is rolled back, which is no error */
		if (strcmp(PQcmdStatus(wire_receive_whole(wire)), "PREPARE TRANSACTION") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
					 errmsg("transaction in store \"%s\" was rolled back",
							wire->connection.store)));
		forget_transaction(wire);
	}
}

/*
 * The answer to the last command that was sent; NULL if it does not come.  No
 * error: from here on, one would be a PANIC after a commit, and in a session
 * that is terminated it would be the end of its rollback.
 */
static PGresult *
last_answer(Wire *wire, int patience)
{
	PGresult   *answer = NULL;
	int			empty = 0;

	if (wire->connection.conn == NULL)
		return NULL;
	while (next_expected(wire) != '\0')
	{
		PGresult   *result;

		if (empty == MAX_EMPTY || !connection_await_result(&wire->connection, patience))
		{
			PQclear(answer);
			return NULL;
		}
		result = PQgetResult(wire->connection.conn);
		if (has_arrived(wire, result))
			PQclear(result);
		else if (result == NULL)
			empty++;
		else
		{
			PQclear(answer);
			answer = result;
		}
	}
	wire->running = false;
	return answer;
}

/*
 * Finds out whether a store has prepared, before its part is rolled back.  If
 * that takes too long, the connection goes, and whether there is something left
 * is not known.
 */
static void
stop_preparing(Wire *wire)
{
	PGresult   *answer;

	if (wire->prepared[0] == '\0' || wire->depth == 0)
		return;
	if (wire->running)
	{
		answer = last_answer(wire, PREPARE_PATIENCE);
		/* after BEGIN it is not known, and if it has not there is nothing to roll back */
		if (answer != NULL &&
			strcmp(PQcmdStatus(answer), wire->pooled ? "BEGIN" : "PREPARE TRANSACTION") == 0)
			forget_transaction(wire);
		PQclear(answer);
	}
	if (wire->depth > 0 && !wire->running && wire->connection.conn != NULL)
		wire->prepared[0] = '\0';
}

/* Is there nothing left of a prepared transaction?  Another session may have finished it. */
static bool
is_finished(PGresult *answer)
{
	const char *state = PQresultErrorField(answer, PG_DIAG_SQLSTATE);

	return PQresultStatus(answer) == PGRES_COMMAND_OK ||
		(state != NULL &&
		 MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]) == ERRCODE_UNDEFINED_OBJECT);
}

static void
warn_of_left(Wire *wire, bool commit, PGresult *answer)
{
	const char *reason = answer ? PQresultErrorField(answer, PG_DIAG_MESSAGE_PRIMARY) : NULL;

	ereport(WARNING,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 commit ? errmsg("transaction is committed, but store \"%s\" may not have committed its part yet",
							 wire->connection.store) :
			 errmsg("transaction is rolled back, but store \"%s\" may still have its part",
					wire->connection.store),
			 errdetail_internal("%s", reason ? reason : "The store has not answered."),
			 errhint("Prepared transaction \"%s\" may be left in the store. run_ops.resolve_in_doubt() finishes it, as does the next session that connects to the store with run_ops_split.cross_store_writes = atomic.",
					 wire->prepared)));
}

/* The second phase in all stores, or the way back from the first one. */
static void
finish_everywhere(bool commit)
{
	char		sql[PREPARED_NAME_SIZE + 30];
	dlist_iter	iter;

	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (wire->prepared[0] == '\0')
			continue;
		snprintf(sql, sizeof(sql), "%s PREPARED '%s'",
				 commit ? "COMMIT" : "ROLLBACK", wire->prepared);
		/* the end of what keeps a pooled connection */
		send_both_unawaited(wire, wire->pooled ? "COMMIT" : NULL, sql);
	}
	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);
		PGresult   *answer;

		if (wire->prepared[0] == '\0')
			continue;
		answer = last_answer(wire, store_timeout > 0 ? store_timeout : FINISH_PATIENCE);
		if (answer == NULL || !is_finished(answer))
		{
			warn_of_left(wire, commit, answer);
			/* so that the next use of the store opens another, and finishes it */
			wire->running = answer == NULL;
			lose_connection(wire);
		}
		PQclear(answer);
		wire->prepared[0] = '\0';
	}
}

/* What is left in a store, for atomic_commit_try(). */
typedef struct LeftThere
{
	Wire	   *wire;
	List	   *left;
} LeftThere;

static void
ask_for_left(void *arg)
{
	LeftThere  *there = arg;

	there->left = atomic_commit_left(run_alone, there->wire);
}

/*
 * A session that connects to a store finishes what others have left there.  Its
 * statement goes on whatever happens, over another connection if need be.
 */
static void
resolve_in_passing(Wire *wire)
{
	LeftThere	there = {wire, NIL};
	char	   *failure;
	ListCell   *lc;

	if (!atomic_commit_may_resolve())
		return;
	failure = atomic_commit_try(ask_for_left, &there);
	if (failure)
		ereport(LOG,
				(errmsg("could not ask store \"%s\" for prepared transactions: %s",
						wire->connection.store, failure)));
	atomic_commit_resolve(there.left, run_alone, wire);
	foreach(lc, there.left)
	{
		PreparedTransaction *prepared = lfirst(lc);

		ereport(LOG,
				(errmsg("prepared transaction \"%s\" in store \"%s\": %s",
						prepared->name, wire->connection.store, prepared->outcome)));
	}
	if (wire->connection.conn == NULL)
	{
		wire->pause = 0;
		open_connection(wire);
	}
	receive_all(wire);
	/* that was not done for these commands, but is for the statement's */
	wire->set_up = false;
}

List *
wire_resolve_prepared(Oid serverid, Oid userid)
{
	Wire	   *wire = find_wire(serverid, userid, true);
	List	   *left = NIL;

	lose_connection(wire);
	wire->connection.limit = store_timeout;
	open_connection(wire);
	PG_TRY();
	{
		left = atomic_commit_left(run_alone, wire);
		atomic_commit_resolve(left, run_alone, wire);
	}
	PG_FINALLY();
	{
		lose_connection(wire);
	}
	PG_END_TRY();
	return left;
}

/* What was used now is idle from now on; what was not may be idle for too long. */
static void
start_idle_timer(void)
{
	bool		is_open = false;
	TimestampTz now = stores_used ? GetCurrentTimestamp() : 0;
	dlist_iter	iter;

	if (!stores_used)
		return;
	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (wire->used)
			wire->used_at = now;
		else if (store_idle_timeout > 0 && wire->connection.conn != NULL &&
				 TimestampDifferenceExceeds(wire->used_at, now, store_idle_timeout))
			lose_connection(wire);
		wire->used = false;
		is_open |= wire->connection.conn != NULL;
	}
	stores_used = false;
	if (store_idle_timeout == 0 || !is_open)
		return;
	/* not before, because the postmaster may load the library */
	if (idle_timer == MAX_TIMEOUTS)
		idle_timer = RegisterTimeout(USER_TIMEOUT, leave_stores);
	idle_timer_runs = true;
	enable_timeout_after(idle_timer, store_idle_timeout);
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	dlist_mutable_iter iter;

	if (event == XACT_EVENT_PRE_COMMIT && refuse_cross_store_writes())
		prepare_everywhere();
	else if (event == XACT_EVENT_COMMIT)
		finish_everywhere(true);
	else if (event == XACT_EVENT_ABORT)
	{
		dlist_foreach_modify(iter, &wires)
		{
			Wire	   *wire = dlist_container(Wire, node, iter.cur);

			stop_preparing(wire);
			rollback_there(wire);
		}
		finish_everywhere(false);
	}
	dlist_foreach_modify(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		switch (event)
		{
			case XACT_EVENT_PRE_COMMIT:
				commit_there(wire);
				break;
			case XACT_EVENT_PRE_PREPARE:
				if (wire->written)
					ereport(ERROR,
							(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							 errmsg("cannot PREPARE a transaction that has written or locked rows in store \"%s\"",
									wire->connection.store)));
				commit_there(wire);
				break;
			case XACT_EVENT_ABORT:
			case XACT_EVENT_COMMIT:
			case XACT_EVENT_PREPARE:
				forget_readers(wire);
				if (wire->apart || !wire->keep || wire->stale)
					lose_connection(wire);
				break;
			default:
				break;
		}
	}
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		start_idle_timer();
}

static void
end_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	dlist_iter	iter;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	dlist_foreach(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (event == SUBXACT_EVENT_COMMIT_SUB && wire->depth > 0)
		{
			wire->released = Min(wire->released, level - 1);
			if (wire->base >= level)
				wire->base = wire->depth = level - 1;
		}
		if (event == SUBXACT_EVENT_COMMIT_SUB)
		{
			wire->running_level = Min(wire->running_level, level - 1);
			continue;
		}
		if (wire->running && wire->running_level >= level && wire->connection.conn)
			interrupt_command(wire, wire->depth > 0 && wire->base < level);
		if (wire->apart || wire->depth == 0)
			continue;
		if (wire->base >= level)
			rollback_there(wire);
		else if (Min(wire->depth, wire->released) >= level && !wire->broken)
		{
			send_unawaited(wire, psprintf("ROLLBACK TO SAVEPOINT s%d", level));
			wire->depth = level;
			wire->released = level - 1;
		}
	}
}

void
wire_init(void)
{
	connection_init();
	DefineCustomIntVariable("run_ops_split.store_idle_timeout",
							"How long a session keeps a connection to a store that it does not use.",
							"The next use opens another one. 0 keeps them until the session ends.",
							&store_idle_timeout, 5 * 60 * 1000, 0, INT_MAX, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, definition_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, definition_changed, (Datum) 0);
}

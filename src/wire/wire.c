/*
 * wire.c
 *		A session's own connections to stores.
 *
 * The one idea: whatever is waited for, it is waited for in one place, by
 * wait_for_store(), which ends with a cancel, with the end of the server, and
 * when the store has sent nothing for too long.  A transfer that moves is not
 * bounded, however long it takes.
 *
 * A connection belongs to one role's user mapping.  It lives until the end of
 * the transaction, and no longer than the first error: what an interrupted
 * command has left in it is nobody's to sort out.  No SQL can reach it.
 *
 * Who may connect without a password is what postgres_fdw decides: a superuser,
 * or whose user mapping a superuser has given password_required 'false'.
 */
#include "postgres.h"

#include <limits.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "libpq/pqcomm.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "wire/wire.h"

/* As much of a statement stands in the context of an error. */
#define SHOWN_OF_STATEMENT 300

/* Fewer bytes than that are no sign of life of a transfer. */
#define MOVING_BYTES 8192

/* How long the cancel of a command may take; nothing can cancel that. */
#define CANCEL_PATIENCE 1000

struct Wire
{
	dlist_node	node;
	PGconn	   *conn;
	PGresult   *result;
	Oid			mapping;		/* the user mapping it was made by */
	Oid			userid;			/* and for whom: several roles may share one */
	char		store[NAMEDATALEN];
	char		statement[SHOWN_OF_STATEMENT + 4];
	int			patience;
	TimestampTz heard;			/* when the store last gave a sign of life */
	int			bytes;			/* that came since */
};

int			store_timeout = 5000;

/* the connections of this transaction, in TopMemoryContext */
static dlist_head wires = DLIST_STATIC_INIT(wires);

/* servers or user mappings have changed since they were opened */
static bool mappings_changed = false;

/* ----------------------------------------------------------------
 *		Errors
 * ----------------------------------------------------------------
 */

static int
statement_context(Wire *wire)
{
	if (wire->statement[0] != '\0')
		errcontext("statement in store \"%s\": %s", wire->store, wire->statement);
	return 0;
}

/* The names of what an error of the store is about. */
static int
names_of_error(PGresult *result)
{
	static const int fields[] = {
		PG_DIAG_SCHEMA_NAME, PG_DIAG_TABLE_NAME, PG_DIAG_COLUMN_NAME,
		PG_DIAG_DATATYPE_NAME, PG_DIAG_CONSTRAINT_NAME
	};

	for (int i = 0; i < lengthof(fields); i++)
	{
		const char *value = PQresultErrorField(result, fields[i]);

		if (value)
			err_generic_string(fields[i], value);
	}
	return 0;
}

/* An error of the store is one of ours, with every field that one has. */
static void
report_result(Wire *wire, PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

	if (state == NULL || strlen(state) != 5)
		return;					/* none that a server has sent */
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4])),
			 errmsg_internal("%s", message ? message : "the store reports an error"),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 names_of_error(result),
			 statement_context(wire)));
}

static void
report_lost(Wire *wire)
{
	char	   *reason = pchomp(PQerrorMessage(wire->conn));

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to store \"%s\" was lost", wire->store),
			 reason[0] ? errdetail_internal("%s", reason) : 0,
			 statement_context(wire)));
}

/* ----------------------------------------------------------------
 *		Waiting
 * ----------------------------------------------------------------
 */

/*
 * Waits until the socket is ready.  False when the store has given no sign of
 * life for longer than the patience.
 */
static bool
wait_for_socket(int socket, int events, TimestampTz since, int patience)
{
	long		timeout = -1;
	int			happened;

	if (patience > 0)
	{
		timeout = patience - TimestampDifferenceMilliseconds(since, GetCurrentTimestamp());
		if (timeout <= 0)
			return false;
	}
	happened = WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | events |
								 (timeout > 0 ? WL_TIMEOUT : 0),
								 socket, timeout, PG_WAIT_EXTENSION);
	if (happened & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* Notes what is there to read, and whether that is a sign of life. */
static void
hear(Wire *wire)
{
	int			available = 0;

	if (ioctl(PQsocket(wire->conn), FIONREAD, &available) == 0)
		wire->bytes += available;
	if (wire->bytes >= MOVING_BYTES)
	{
		wire->heard = GetCurrentTimestamp();
		wire->bytes = 0;
	}
}

static void
wait_for_store(Wire *wire, int events)
{
	if (!wait_for_socket(PQsocket(wire->conn), events, wire->heard, wire->patience))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("store \"%s\" does not answer", wire->store),
				 errdetail("It has sent nothing for %d ms.", wire->patience),
				 errhint("The limit is run_ops_split.store_timeout."),
				 statement_context(wire)));
	hear(wire);
}

/* ----------------------------------------------------------------
 *		Opening
 * ----------------------------------------------------------------
 */

/* Adds those options that libpq knows. */
static int
add_options(List *options, const char **keywords, const char **values, int n)
{
	PQconninfoOption *known = PQconndefaults();
	ListCell   *lc;

	if (known == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OUT_OF_MEMORY), errmsg("out of memory")));
	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		for (PQconninfoOption *option = known; option->keyword; option++)
		{
			if (strcmp(option->keyword, def->defname) != 0 ||
				strchr(option->dispchar, 'D') ||
				strcmp(def->defname, "client_encoding") == 0)
				continue;
			keywords[n] = def->defname;
			values[n++] = defGetString(def);
			break;
		}
	}
	PQconninfoFree(known);
	return n;
}

static const char *
option_value(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

static bool
password_required(UserMapping *user)
{
	ListCell   *lc;

	if (superuser_arg(user->userid))
		return false;
	foreach(lc, user->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "password_required") == 0)
			return defGetBoolean(def);
	}
	return true;
}

static void
refuse_without_password(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static void
report_unreachable(Wire *wire, ForeignServer *server, UserMapping *user,
				   const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("store \"%s\" cannot be reached", wire->store),
			 errdetail_internal("%s", reason),
			 errhint("Check the options of server \"%s\" and the user mapping of \"%s\".",
					 server->servername, GetUserNameFromId(user->userid, false))));
}

/* The options of the server and the user mapping, as libpq wants them. */
static void
start_connection(Wire *wire, ForeignServer *server, UserMapping *user)
{
	int			most = list_length(server->options) + list_length(user->options) + 3;
	const char **keywords = palloc(sizeof(char *) * most);
	const char **values = palloc(sizeof(char *) * most);
	const char *password = option_value(user->options, "password");
	int			n = 0;

	n = add_options(server->options, keywords, values, n);
	n = add_options(user->options, keywords, values, n);
	keywords[n] = "fallback_application_name";
	values[n++] = "run_ops_split";
	keywords[n] = "client_encoding";
	values[n++] = GetDatabaseEncodingName();
	keywords[n] = values[n] = NULL;

	if (password_required(user) && (password == NULL || password[0] == '\0'))
		refuse_without_password("Non-superusers must provide a password in the user mapping.",
								"Set option password of the user mapping, or let a superuser set its option password_required to false.");
	if (!AcquireExternalFD())
		report_unreachable(wire, server, user,
						   "There are too many open files on the local server.");
	wire->conn = PQconnectStartParams(keywords, values, false);
	if (wire->conn == NULL)
	{
		ReleaseExternalFD();
		report_unreachable(wire, server, user, "out of memory");
	}
}

/* What a store says beside its answers is for the log. */
static void
log_notice(void *wire, const char *message)
{
	ereport(LOG,
			(errmsg_internal("store \"%s\": %s", ((Wire *) wire)->store,
							 pchomp(message))));
}

/*
 * Waits until the connection is open.  Its limit is the option connect_timeout
 * of the server, in seconds, as for libpq; without it the patience.
 */
static void
finish_connection(Wire *wire, ForeignServer *server, UserMapping *user)
{
	const char *option = option_value(server->options, "connect_timeout");
	int			limit = option ? Min(Max(atoi(option), 0), INT_MAX / 1000) * 1000 : wire->patience;
	TimestampTz since = GetCurrentTimestamp();
	PostgresPollingStatusType state = PGRES_POLLING_WRITING;

	while (PQstatus(wire->conn) != CONNECTION_BAD && state != PGRES_POLLING_OK)
	{
		if (state == PGRES_POLLING_FAILED)
			break;
		if (!wait_for_socket(PQsocket(wire->conn),
							 state == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE,
							 since, limit))
			report_unreachable(wire, server, user,
							   psprintf("It has not accepted a connection for %d ms.", limit));
		state = PQconnectPoll(wire->conn);
	}
	if (state != PGRES_POLLING_OK)
		report_unreachable(wire, server, user, pchomp(PQerrorMessage(wire->conn)));
	if (password_required(user) && !PQconnectionUsedPassword(wire->conn))
		refuse_without_password("Non-superuser cannot connect if the server does not request a password.",
								"Change the authentication method of the store, or let a superuser set option password_required of the user mapping to false.");
	PQsetnonblocking(wire->conn, 1);
	PQsetNoticeProcessor(wire->conn, log_notice, wire);
}

static void
close_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &wires)
		wire_close(dlist_container(Wire, node, iter.cur));
}

Wire *
wire_open(Oid serverid, Oid userid, const char *store, int patience)
{
	UserMapping *user = GetUserMapping(userid, serverid);
	ForeignServer *server = GetForeignServer(serverid);
	dlist_iter	iter;
	Wire	   *wire;

	if (mappings_changed)
		close_all();
	mappings_changed = false;
	dlist_foreach(iter, &wires)
	{
		wire = dlist_container(Wire, node, iter.cur);
		if (wire->mapping == user->umid && wire->userid == userid)
		{
			wire->patience = patience;
			return wire;
		}
	}

	wire = MemoryContextAllocZero(TopMemoryContext, sizeof(Wire));
	wire->mapping = user->umid;
	wire->userid = userid;
	wire->patience = patience;
	strlcpy(wire->store, store, NAMEDATALEN);
	dlist_push_head(&wires, &wire->node);
	PG_TRY();
	{
		start_connection(wire, server, user);
		finish_connection(wire, server, user);
	}
	PG_CATCH();
	{
		wire_close(wire);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return wire;
}

/* ----------------------------------------------------------------
 *		Commands
 * ----------------------------------------------------------------
 */

void
wire_send(Wire *wire, const char *sql)
{
	int			shown = pg_mbcliplen(sql, strlen(sql), SHOWN_OF_STATEMENT);

	memcpy(wire->statement, sql, shown);
	strcpy(wire->statement + shown, sql[shown] ? "..." : "");
	wire->heard = GetCurrentTimestamp();
	wire->bytes = 0;
	if (!PQsendQuery(wire->conn, sql))
		report_lost(wire);
	/* rows are handed on as they come, or memory would have to hold them all */
	PQsetSingleRowMode(wire->conn);
	for (;;)
	{
		int			unsent = PQflush(wire->conn);

		if (unsent < 0)
			report_lost(wire);
		if (unsent == 0)
			return;
		wait_for_store(wire, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE);
		if (!PQconsumeInput(wire->conn))
			report_lost(wire);
		wire->heard = GetCurrentTimestamp();
	}
}

PGresult *
wire_receive(Wire *wire)
{
	PQclear(wire->result);
	wire->result = NULL;
	/* what was done with the last row took its time, the store did not */
	wire->heard = GetCurrentTimestamp();
	while (PQisBusy(wire->conn))
	{
		wait_for_store(wire, WL_SOCKET_READABLE);
		if (!PQconsumeInput(wire->conn))
			report_lost(wire);
	}
	wire->result = PQgetResult(wire->conn);
	switch (PQresultStatus(wire->result))
	{
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_SINGLE_TUPLE:
			return wire->result;
		default:
			/* of NULL as well, which ends the answer */
			if (wire->result == NULL && PQstatus(wire->conn) == CONNECTION_OK)
			{
				wire->statement[0] = '\0';
				return NULL;
			}
			if (wire->result != NULL && PQresultStatus(wire->result) != PGRES_FATAL_ERROR)
				ereport(ERROR,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("store \"%s\" gave an unexpected answer: %s", wire->store,
								PQresStatus(PQresultStatus(wire->result))),
						 statement_context(wire)));
			if (wire->result != NULL)
				report_result(wire, wire->result);
			report_lost(wire);
			return NULL;		/* not reached */
	}
}

void
wire_execute(Wire *wire, const char *sql)
{
	wire_send(wire, sql);
	while (wire_receive(wire) != NULL)
		;
}

/* ----------------------------------------------------------------
 *		Closing
 * ----------------------------------------------------------------
 */

/*
 * Does the server still accept connections?  A cancel needs one, and libpq
 * waits for it without a limit before version 17.  Nothing is sent that would
 * start a session.
 */
static bool
accepts_connections(int socket_of_session)
{
	struct sockaddr_storage address = {0};
	socklen_t	len = sizeof(address);
	uint32		request[] = {pg_hton32(8), pg_hton32(NEGOTIATE_SSL_CODE)};
	TimestampTz since = GetCurrentTimestamp();
	char		answer;
	bool		result = false;
	int			s;

	if (getpeername(socket_of_session, (struct sockaddr *) &address, &len) != 0)
		return false;
	s = socket(address.ss_family, SOCK_STREAM, 0);
	if (s < 0)
		return false;
	if (pg_set_noblock(s) &&
		(connect(s, (struct sockaddr *) &address, len) == 0 || errno == EINPROGRESS) &&
		wait_for_socket(s, WL_SOCKET_WRITEABLE, since, CANCEL_PATIENCE) &&
		send(s, request, sizeof(request), 0) == sizeof(request))
	{
		while (!result && wait_for_socket(s, WL_SOCKET_READABLE, since, CANCEL_PATIENCE))
		{
			ssize_t		got = recv(s, &answer, 1, 0);

			if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
				break;
			result = got == 1;
		}
	}
	closesocket(s);
	return result;
}

/*
 * Asks the server to end what it does for us.  It is no error when that does
 * not succeed: the connection goes, and the server notices sooner or later.
 */
static void
cancel_command(Wire *wire)
{
	PGcancel   *cancel;
	char		error[256];

	if (COMPAT_CANCEL_HAS_LIMIT)
	{
		(void) compat_cancel(wire->conn,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 CANCEL_PATIENCE));
		return;
	}
	if (!accepts_connections(PQsocket(wire->conn)))
		return;
	cancel = PQgetCancel(wire->conn);
	if (cancel)
		(void) PQcancel(cancel, error, sizeof(error));
	PQfreeCancel(cancel);
}

/* Also where an error is under way, so it raises none and is not interrupted. */
void
wire_close(Wire *wire)
{
	HOLD_INTERRUPTS();
	dlist_delete(&wire->node);
	if (wire->conn)
	{
		if (PQstatus(wire->conn) == CONNECTION_OK &&
			PQtransactionStatus(wire->conn) == PQTRANS_ACTIVE)
			cancel_command(wire);
		PQclear(wire->result);
		PQfinish(wire->conn);
		ReleaseExternalFD();
	}
	pfree(wire);
	RESUME_INTERRUPTS();
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		close_all();
}

/* A command that an error has interrupted is the end of its connection. */
static void
end_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	dlist_mutable_iter iter;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	dlist_foreach_modify(iter, &wires)
	{
		Wire	   *wire = dlist_container(Wire, node, iter.cur);

		if (wire->statement[0] != '\0')
			wire_close(wire);
	}
}

static void
mapping_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	mappings_changed = true;
}

void
wire_init(void)
{
	DefineCustomIntVariable("run_ops_split.store_timeout",
							"How long a store may take to accept a connection, and be silent when it was asked something.",
							"A transfer that moves takes as long as it takes. Connections whose server sets connect_timeout keep that; 0 waits without limit.",
							&store_timeout, 5000, 0, INT_MAX, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, mapping_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, mapping_changed, (Datum) 0);
}

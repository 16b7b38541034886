/*
 * connection.c
 *		A connection to a store, on which no wait is without an end.
 *
 * The one idea: whatever is waited for, it is waited for in one place, by
 * wait_for_store(), which ends with a cancel, with the end of the server, and
 * when the store has sent nothing for too long.  A query may take its time, so
 * when it has been silent for a while the store is asked whether it still
 * accepts connections; only if it does not, or much later, is it given up.  A
 * transfer that moves is not bounded, however long it takes.
 *
 * Who may connect without a password is what postgres_fdw of the same version
 * decides: a superuser, whose user mapping a superuser has given
 * password_required 'false', and who passes credentials of his own client on.
 * Nobody else may use what the operating system's user of this server can do.
 */
#include "postgres.h"

#include <limits.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "libpq/pqcomm.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "wire/connection.h"
#include "wire/wire_stats.h"

/* Fewer bytes than that are no sign of life of a transfer. */
#define MOVING_BYTES 8192

/* How long a probe or the cancel of a command may take; nothing cancels that. */
#define PROBE_PATIENCE 1000

int			store_timeout = 5000;
int			store_query_timeout = 60000;
int			store_retry_pause = 1000;

/* ----------------------------------------------------------------
 *		Errors
 * ----------------------------------------------------------------
 */

static int
statement_context(StoreConnection *connection)
{
	if (connection->statement[0] != '\0')
		errcontext("statement in store \"%s\": %s", connection->store, connection->statement);
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

static int
errcode_of_loss(StoreConnection *connection)
{
	return errcode(connection->committing ? ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN :
				   ERRCODE_CONNECTION_FAILURE);
}

static int
hint_of_loss(StoreConnection *connection)
{
	return connection->committing ?
		errhint("Whether the store has committed is not known. run_ops.in_doubt() lists rows that refer to rows which are in no store.") : 0;
}

void
connection_report_lost(StoreConnection *connection)
{
	char	   *reason = pchomp(PQerrorMessage(connection->conn));

	wire_stats_event(connection->store, WIRE_FAILED);
	ereport(ERROR,
			(errcode_of_loss(connection),
			 errmsg("connection to store \"%s\" was lost", connection->store),
			 reason[0] ? errdetail_internal("%s", reason) : 0,
			 hint_of_loss(connection),
			 statement_context(connection)));
}

void
connection_report(StoreConnection *connection, PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

	/* libpq makes such a result when the connection is lost */
	if (PQresultStatus(result) == PGRES_FATAL_ERROR && (state == NULL || strlen(state) != 5))
		connection_report_lost(connection);
	if (PQresultStatus(result) != PGRES_FATAL_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("store \"%s\" gave an unexpected answer: %s", connection->store,
						PQresStatus(PQresultStatus(result))),
				 statement_context(connection)));
	wire_stats_error(connection->store, MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]));
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4])),
			 errmsg_internal("%s", message ? message : "the store reports an error"),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 names_of_error(result),
			 statement_context(connection)));
}

/* ----------------------------------------------------------------
 *		Waiting
 * ----------------------------------------------------------------
 */

/* where the socket is among the events of a connection */
#define SOCKET_EVENT 2

/* An open connection waits often, and each time for the same. */
static void
prepare_to_wait(StoreConnection *connection)
{
	connection->events = compat_create_wait_set(SOCKET_EVENT + 1);
	AddWaitEventToSet(connection->events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(connection->events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(connection->events, WL_SOCKET_READABLE, PQsocket(connection->conn),
					  NULL, NULL);
}

static int
wait_for_events(WaitEventSet *set, int events, long timeout)
{
	WaitEvent	event;

	ModifyWaitEvent(set, SOCKET_EVENT, events, NULL);
	return WaitEventSetWait(set, timeout, &event, 1, PG_WAIT_EXTENSION) > 0 ? event.events : 0;
}

/*
 * Waits until the socket is ready.  False when the store has given no sign of
 * life for longer than the patience.  "set" is that of an open connection, or
 * NULL.
 */
static bool
wait_for_socket(WaitEventSet *set, int socket, int events, TimestampTz since, int patience)
{
	long		timeout = -1;
	int			happened;

	if (patience > 0)
	{
		timeout = patience - TimestampDifferenceMilliseconds(since, GetCurrentTimestamp());
		if (timeout <= 0)
			return false;
	}
	if (set)
		happened = wait_for_events(set, events, timeout);
	else
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

/*
 * Does the server still accept connections?  Nothing is sent that would start a
 * session.  It is not interrupted, and takes no longer than PROBE_PATIENCE.
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
	HOLD_INTERRUPTS();
	if (pg_set_noblock(s) &&
		(connect(s, (struct sockaddr *) &address, len) == 0 || errno == EINPROGRESS) &&
		wait_for_socket(NULL, s, WL_SOCKET_WRITEABLE, since, PROBE_PATIENCE) &&
		send(s, request, sizeof(request), 0) == sizeof(request))
	{
		while (!result && wait_for_socket(NULL, s, WL_SOCKET_READABLE, since, PROBE_PATIENCE))
		{
			ssize_t		got = recv(s, &answer, 1, 0);

			if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
				break;
			result = got == 1;
		}
	}
	closesocket(s);
	RESUME_INTERRUPTS();
	return result;
}

static int
available_bytes(StoreConnection *connection)
{
	int			available;

	return ioctl(PQsocket(connection->conn), FIONREAD, &available) == 0 ? available : 0;
}

/* Notes what is there to read, and whether that is a sign of life. */
static void
hear(StoreConnection *connection)
{
	connection->bytes += available_bytes(connection);
	if (connection->bytes >= MOVING_BYTES)
	{
		connection->heard = GetCurrentTimestamp();
		connection->bytes = 0;
	}
}

static void
report_silence(StoreConnection *connection, const char *setting)
{
	ereport(ERROR,
			(errcode_of_loss(connection),
			 errmsg("store \"%s\" does not answer", connection->store),
			 errdetail("It has sent nothing for %ld ms.",
					   TimestampDifferenceMilliseconds(connection->heard, GetCurrentTimestamp())),
			 connection->committing ? hint_of_loss(connection) :
			 errhint("The limit is %s.", setting),
			 statement_context(connection)));
}

static void
wait_for_store(StoreConnection *connection, int events)
{
	int			socket = PQsocket(connection->conn);

	/* libpq has closed it */
	if (socket < 0)
		connection_report_lost(connection);
	wire_stats_wait(connection->store, connection->committing ? WIRE_WAITS_COMMIT : WIRE_WAITS_ANSWER,
					connection->heard);
	/* which limit comes first */
	if (store_timeout > 0 && (connection->limit == 0 || store_timeout < connection->limit))
	{
		if (!wait_for_socket(connection->events, socket, events, Max(connection->heard, connection->probed), store_timeout))
		{
			connection->dead = !accepts_connections(socket);
			if (connection->dead)
				report_silence(connection, "run_ops_split.store_timeout");
			connection->probed = GetCurrentTimestamp();
			if (connection->limit > 0 &&
				TimestampDifferenceExceeds(connection->heard, connection->probed, connection->limit))
				report_silence(connection, "run_ops_split.store_query_timeout");
		}
	}
	else if (!wait_for_socket(connection->events, socket, events, connection->heard, connection->limit))
		report_silence(connection, "run_ops_split.store_query_timeout");
	hear(connection);
}

/* ----------------------------------------------------------------
 *		Opening
 * ----------------------------------------------------------------
 */

/*
 * The name by which we are known in the store: option application_name, with
 * the escapes that postgres_fdw has in it since PostgreSQL 15.
 */
static char *
expand_application_name(const char *name)
{
	StringInfoData result;

	initStringInfo(&result);
	for (; *name; name++)
	{
		if (*name != '%' || name[1] == '\0')
		{
			if (*name != '%')
				appendStringInfoChar(&result, *name);
			continue;
		}
		switch (*++name)
		{
			case 'a':
				appendStringInfoString(&result, application_name);
				break;
			case 'c':
				appendStringInfo(&result, "%lx.%x", (long) MyStartTime, MyProcPid);
				break;
			case 'C':
				appendStringInfoString(&result, cluster_name);
				break;
			case 'd':
				appendStringInfoString(&result, get_database_name(MyDatabaseId));
				break;
			case 'p':
				appendStringInfo(&result, "%d", MyProcPid);
				break;
			case 'u':
				appendStringInfoString(&result, GetUserNameFromId(GetSessionUserId(), false));
				break;
			case '%':
				appendStringInfoChar(&result, '%');
				break;
		}
	}
	return result.data;
}

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
			values[n++] = strcmp(def->defname, "application_name") == 0 ?
				expand_application_name(defGetString(def)) : defGetString(def);
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

/* Are the keys of the session's own SCRAM authentication passed on? */
static bool
passes_scram_keys(ForeignServer *server, UserMapping *user)
{
	const char *option;
	bool		wanted = false;

	if (!compat_has_scram_keys())
		return false;
	option = option_value(server->options, "use_scram_passthrough");
	if (option == NULL)
		option = option_value(user->options, "use_scram_passthrough");
	return option && parse_bool(option, &wanted) && wanted;
}

static bool
has_password(UserMapping *user)
{
	const char *password = option_value(user->options, "password");

	return password != NULL && password[0] != '\0';
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
report_unreachable(StoreConnection *connection, ForeignServer *server, UserMapping *user,
				   const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("store \"%s\" cannot be reached", connection->store),
			 errdetail_internal("%s", reason),
			 errhint("Check the options of server \"%s\" and the user mapping of \"%s\".",
					 server->servername, GetUserNameFromId(user->userid, false))));
}

/* The options of the server and the user mapping, as libpq wants them. */
static void
start_connection(StoreConnection *connection, ForeignServer *server, UserMapping *user)
{
	int			most = list_length(server->options) + list_length(user->options) + COMPAT_SCRAM_OPTIONS + 3;
	const char **keywords = palloc(sizeof(char *) * most);
	const char **values = palloc(sizeof(char *) * most);
	bool		scram_keys = passes_scram_keys(server, user);
	int			n = 0;

	n = add_options(server->options, keywords, values, n);
	n = add_options(user->options, keywords, values, n);
	keywords[n] = "fallback_application_name";
	values[n++] = "run_ops_split";
	keywords[n] = "client_encoding";
	values[n++] = GetDatabaseEncodingName();
	if (scram_keys)
		n = compat_add_scram_keys(keywords, values, n);
	keywords[n] = values[n] = NULL;

	if (password_required(user) && !has_password(user) && !scram_keys && !compat_has_delegated_gss())
		refuse_without_password("Non-superusers must provide a password in the user mapping.",
								"Set option password of the user mapping, or let a superuser set its option password_required to false.");
	if (!AcquireExternalFD())
		report_unreachable(connection, server, user,
						   "There are too many open files on the local server.");
	connection->conn = PQconnectStartParams(keywords, values, false);
	if (connection->conn == NULL)
	{
		ReleaseExternalFD();
		report_unreachable(connection, server, user, "out of memory");
	}
}

/* What a store says beside its answers is for the log. */
static void
log_notice(void *connection, const char *message)
{
	ereport(LOG,
			(errmsg_internal("store \"%s\": %s", ((StoreConnection *) connection)->store,
							 pchomp(message))));
}

/*
 * Waits until the connection is open.  Its limit is the option connect_timeout
 * of the server, in seconds, as for libpq; without it store_timeout.
 */
static void
finish_connection(StoreConnection *connection, ForeignServer *server, UserMapping *user)
{
	const char *option = option_value(server->options, "connect_timeout");
	int			limit = option ? Min(Max(atoi(option), 0), INT_MAX / 1000) * 1000 : store_timeout;
	TimestampTz since = GetCurrentTimestamp();
	PostgresPollingStatusType state = PGRES_POLLING_WRITING;

	while (PQstatus(connection->conn) != CONNECTION_BAD && state != PGRES_POLLING_OK)
	{
		if (state == PGRES_POLLING_FAILED)
			break;
		wire_stats_wait(connection->store, WIRE_WAITS_CONNECTION, since);
		if (!wait_for_socket(NULL, PQsocket(connection->conn),
							 state == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE,
							 since, limit))
			report_unreachable(connection, server, user,
							   psprintf("It has not accepted a connection for %d ms.", limit));
		state = PQconnectPoll(connection->conn);
	}
	if (state != PGRES_POLLING_OK)
		report_unreachable(connection, server, user, pchomp(PQerrorMessage(connection->conn)));
	if (password_required(user) &&
		!(PQconnectionUsedPassword(connection->conn) && has_password(user)) &&
		!(compat_used_gss(connection->conn) && compat_has_delegated_gss()) &&
		!passes_scram_keys(server, user))
		refuse_without_password("Non-superuser cannot connect if the server does not request a password.",
								"Change the authentication method of the store, or let a superuser set option password_required of the user mapping to false.");
	PQsetnonblocking(connection->conn, 1);
	PQsetNoticeProcessor(connection->conn, log_notice, connection);
}

void
connection_open(StoreConnection *connection, ForeignServer *server, UserMapping *user)
{
	start_connection(connection, server, user);
	finish_connection(connection, server, user);
	prepare_to_wait(connection);
}

/* ----------------------------------------------------------------
 *		Sending and receiving
 * ----------------------------------------------------------------
 */

void
connection_begin_statement(StoreConnection *connection, const char *sql)
{
	int			shown = pg_mbcliplen(sql, strlen(sql), SHOWN_OF_STATEMENT);

	memcpy(connection->statement, sql, shown);
	strcpy(connection->statement + shown, sql[shown] ? "..." : "");
	connection->heard = GetCurrentTimestamp();
	connection->bytes = 0;
	connection->answered = false;
}

void
connection_flush(StoreConnection *connection)
{
	for (;;)
	{
		int			unsent = PQflush(connection->conn);

		if (unsent < 0)
			connection_report_lost(connection);
		if (unsent == 0)
			return;
		wait_for_store(connection, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE);
		if (!PQconsumeInput(connection->conn))
			connection_report_lost(connection);
		connection->heard = GetCurrentTimestamp();
	}
}

bool
connection_is_closed(StoreConnection *connection)
{
	char		byte;
	ssize_t		got = recv(PQsocket(connection->conn), &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (got < 0)
		return errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
	/* its last words come before the end */
	return got == 0 || !PQconsumeInput(connection->conn) ||
		!PQconsumeInput(connection->conn) ||
		PQstatus(connection->conn) != CONNECTION_OK;
}

bool
connection_has_result(StoreConnection *connection)
{
	return PQconsumeInput(connection->conn) && !PQisBusy(connection->conn);
}

bool
connection_await_result(StoreConnection *connection, int patience)
{
	TimestampTz since = GetCurrentTimestamp();

	while (PQisBusy(connection->conn))
	{
		int			unsent = PQflush(connection->conn);

		if (unsent < 0 || PQsocket(connection->conn) < 0 ||
			!wait_for_socket(connection->events, PQsocket(connection->conn),
							 unsent > 0 ? WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE,
							 since, patience) ||
			!PQconsumeInput(connection->conn))
			return false;
	}
	return PQstatus(connection->conn) == CONNECTION_OK;
}

PGresult *
connection_receive(StoreConnection *connection)
{
	PQclear(connection->result);
	connection->result = NULL;
	if (PQisBusy(connection->conn))
	{
		/*
		 * What was done with the last row took its time, the store did not.  Before
		 * the first answer it did: while another store was waited for, this one
		 * could answer.  So several that are silent cost one time-out.
		 */
		if (connection->answered || available_bytes(connection) > 0)
			connection->heard = GetCurrentTimestamp();
		do
		{
			wait_for_store(connection, WL_SOCKET_READABLE);
			if (!PQconsumeInput(connection->conn))
				connection_report_lost(connection);
		} while (PQisBusy(connection->conn));
	}
	connection->result = PQgetResult(connection->conn);
	if (connection->result == NULL && PQstatus(connection->conn) != CONNECTION_OK)
		connection_report_lost(connection);
	connection->answered = true;
	return connection->result;
}

/* ----------------------------------------------------------------
 *		Closing
 * ----------------------------------------------------------------
 */

/*
 * Asks the server to end what it does for us.  It is no error when that does
 * not succeed: the connection goes, and the server notices sooner or later.
 */
static void
cancel_command(StoreConnection *connection)
{
	PGcancel   *cancel;
	char		error[256];

	if (COMPAT_CANCEL_HAS_LIMIT)
	{
		(void) compat_cancel(connection->conn,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 PROBE_PATIENCE));
		return;
	}
	/* libpq waits without a limit before version 17 */
	if (!accepts_connections(PQsocket(connection->conn)))
		return;
	cancel = PQgetCancel(connection->conn);
	if (cancel)
		(void) PQcancel(cancel, error, sizeof(error));
	PQfreeCancel(cancel);
}

void
connection_close(StoreConnection *connection, bool running)
{
	if (connection->conn == NULL)
		return;
	HOLD_INTERRUPTS();
	if (running && !connection->dead && PQstatus(connection->conn) == CONNECTION_OK)
		cancel_command(connection);
	connection->dead = false;
	PQclear(connection->result);
	connection->result = NULL;
	if (connection->events)
		FreeWaitEventSet(connection->events);
	connection->events = NULL;
	PQfinish(connection->conn);
	ReleaseExternalFD();
	connection->conn = NULL;
	connection->statement[0] = '\0';
	RESUME_INTERRUPTS();
}

void
connection_init(void)
{
	DefineCustomIntVariable("run_ops_split.store_timeout",
							"How long a store may take to accept a connection.",
							"A store that is silent for that long is asked whether it still accepts one, and is given up if not. Connections whose server sets connect_timeout keep that; 0 waits without limit.",
							&store_timeout, 5000, 0, INT_MAX, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.store_query_timeout",
							"How long a store may be silent while it executes a statement.",
							"A transfer that moves takes as long as it takes; 0 waits without limit.",
							&store_query_timeout, 60000, 0, INT_MAX, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.store_retry_pause",
							"How long a session does not ask a store again that could not be reached or did not answer.",
							"The pause doubles with each failure, up to 30 times this. 0 asks again at once.",
							&store_retry_pause, 1000, 0, 60 * 1000, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
}

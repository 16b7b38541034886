/*
 * connect_limit.c
 *		How long a store may take to accept a connection.
 *
 * libpq has a time limit for that, the option connect_timeout of a server or
 * what is in the environment, which is set while a store is connected to and
 * put back at once: others in this session connect as well.  From PostgreSQL
 * 16 on, dblink and postgres_fdw wait for a connection in a loop of their own,
 * which heeds a cancel, but no limit of libpq's.  So a timer cancels, and the
 * cancel is told as what it is.
 *
 * The first command of a remote transaction is sent in the same breath, so
 * there the limit also bounds a store that has frozen since.
 */
#include "postgres.h"

#include <limits.h>

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "wire/connect_limit.h"
#include "wire/wire.h"

static TimeoutId timer = MAX_TIMEOUTS;
static volatile sig_atomic_t timer_fired = false;

/* what is being waited for, while the timer runs */
static Oid	waiting_for;
static int	waiting_ms;

/* what the environment is to be again, while libpq is limited */
static bool libpq_limited = false;
static char *limit_before;

/* A cancel that is there already stays what it is. */
static void
cancel_wait(void)
{
	if (QueryCancelPending)
		return;
	timer_fired = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
start_timer(int ms)
{
	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, cancel_wait);
	enable_timeout_after(timer, ms);
}

/* Was the time over? */
static bool
stop_timer(void)
{
	bool		fired;

	if (timer != MAX_TIMEOUTS)
		disable_timeout(timer, false);
	fired = timer_fired;
	if (fired)
		QueryCancelPending = false; /* in case nobody has seen it */
	timer_fired = false;
	return fired;
}

/* In milliseconds; 0 for no limit. */
static int
limit_of_server(Oid serverid)
{
	ListCell   *lc;

	foreach(lc, GetForeignServer(serverid)->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "connect_timeout") == 0)
			return (int) Min(Max(strtol(defGetString(def), NULL, 10), 0),
							 INT_MAX / 1000) * 1000;
	}
	return store_timeout;
}

/*
 * libpq takes its time limit from the environment where neither the server's
 * options nor the user mapping set one, and postgres_fdw offers no other way
 * to limit it.
 */
static void
limit_libpq(void)
{
	const char *before = getenv("PGCONNECT_TIMEOUT");
	char		seconds[16];

	limit_before = before ?
		MemoryContextStrdup(TopMemoryContext, before) : NULL;
	/* libpq counts whole seconds, and 1 as 2 */
	snprintf(seconds, sizeof(seconds), "%d",
			 store_timeout / 1000 + (store_timeout % 1000 != 0));
	setenv("PGCONNECT_TIMEOUT", seconds, 1);
	libpq_limited = true;
}

static void
unlimit_libpq(void)
{
	if (!libpq_limited)
		return;
	libpq_limited = false;
	if (limit_before == NULL)
		unsetenv("PGCONNECT_TIMEOUT");
	else
	{
		setenv("PGCONNECT_TIMEOUT", limit_before, 1);
		pfree(limit_before);
	}
}

void
connect_limit_begin(Oid serverid)
{
	if (!COMPAT_CONNECT_NEEDS_TIMER)
	{
		limit_libpq();
		return;
	}
	if (!OidIsValid(serverid))
		return;
	waiting_for = serverid;
	waiting_ms = limit_of_server(serverid);
	/* what ends the statement before needs no help */
	if (waiting_ms == 0 ||
		(get_timeout_active(STATEMENT_TIMEOUT) &&
		 get_timeout_finish_time(STATEMENT_TIMEOUT) <=
		 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), waiting_ms)))
		return;
	start_timer(waiting_ms);
}

static void
report_expired(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to server \"%s\"",
					GetForeignServer(waiting_for)->servername),
			 errdetail("It has not answered for %d ms.", waiting_ms),
			 errhint("The limit is option connect_timeout of the server, or else run_ops_split.store_timeout.")));
}

/* In PG_CATCH: an error of another kind is to be raised again. */
void
connect_limit_failed(void)
{
	unlimit_libpq();
	if (!stop_timer() || geterrcode() != ERRCODE_QUERY_CANCELED)
		return;
	FlushErrorState();
	report_expired();
}

/* A connection that came at the last moment is one too late. */
void
connect_limit_end(void)
{
	unlimit_libpq();
	if (stop_timer())
		report_expired();
}

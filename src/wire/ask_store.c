/*
 * ask_store.c
 *		SQL that is run in a store for the extension itself: what gates, the
 *		switch and the views stat_* ask, and what they tell.
 *
 * It runs with the user mapping of the current user.  A question is part of what
 * the transaction does in the store, and sees what that has written there.  A
 * command is told in a transaction of its own.
 */
#include "postgres.h"

#include <limits.h>

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "wire/connection.h"
#include "wire/wire.h"

PG_FUNCTION_INFO_V1(run_ops_ask_store);
PG_FUNCTION_INFO_V1(run_ops_tell_store);
PG_FUNCTION_INFO_V1(run_ops_try_lock_held_there);

/*
 * The settings under which everything runs there, as they decide what names
 * and types look like.  Local to the transaction, for a pooler hands the
 * connection on as it is.  JIT would compile for a second what then runs for
 * milliseconds.
 */
#define SETTINGS \
	"SELECT pg_catalog.set_config(name, value, true) FROM (VALUES " \
	"('application_name', %s), ('statement_timeout', '0'), ('search_path', 'pg_catalog, pg_temp'), " \
	"('datestyle', 'ISO, YMD'), ('timezone', 'UTC'), ('intervalstyle', 'postgres'), " \
	"('extra_float_digits', '1'), ('bytea_output', 'hex'), ('jit', 'off')) AS s (name, value)"

/* What must not stay so for the rest of a transaction that goes on. */
#define TAKE_BACK \
	"SELECT pg_catalog.set_config(name, reset_val, true) FROM pg_catalog.pg_settings " \
	"WHERE name IN ('application_name', 'statement_timeout', 'jit')"

/* The first field of the only row of a query about the store; NULL if none. */
static char *
ask_here(const char *query, text *store, MemoryContext context)
{
	Oid			argtype = TEXTOID;
	Datum		arg = PointerGetDatum(store);
	char	   *answer = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(query, 1, &argtype, &arg, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", query);
	if (SPI_processed > 0)
		answer = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (answer)
		answer = MemoryContextStrdup(context, answer);
	SPI_finish();
	return answer;
}

static Oid
server_of_store(text *store)
{
	char	   *server = ask_here("SELECT server FROM run_ops.store WHERE name OPERATOR(pg_catalog.=) $1",
								  store, CurrentMemoryContext);

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("store \"%s\" is not attached", text_to_cstring(store)),
				 errhint("run_ops.store lists the stores.")));
	return GetForeignServerByName(server, false)->serverid;
}

static char *
settings(text *store)
{
	char	   *name = ask_here("SELECT run_ops.client_name() WHERE $1 IS NOT NULL",
								store, CurrentMemoryContext);

	return psprintf(SETTINGS, quote_literal_cstr(name));
}

/*
 * ask_store(store text, query text, patience interval) returns setof jsonb
 *
 * The rows of a query, each as an object.  Patience, or else
 * run_ops_split.store_timeout, bounds how long the store may be silent; zero
 * does not.  NULL in store or query: no row.
 */
Datum
run_ops_ask_store(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			patience = store_timeout;
	MemoryContext row_context;
	MemoryContext oldcontext;
	PGresult   *result;
	Wire	   *wire;
	char	   *set_up;

	compat_init_materialized_srf(fcinfo);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(2))
	{
		Interval   *interval = PG_GETARG_INTERVAL_P(2);

		patience = (int) Min(Max(interval->time / 1000 +
								 (int64) interval->day * SECS_PER_DAY * 1000 +
								 (int64) interval->month * DAYS_PER_MONTH * SECS_PER_DAY * 1000,
								 0), INT_MAX);
	}

	wire = wire_get(server_of_store(PG_GETARG_TEXT_PP(0)), GetUserId());
	set_up = settings(PG_GETARG_TEXT_PP(0));
	wire_begin(wire, WIRE_READ, NULL);
	wire_limit_silence(wire, patience);
	wire_add(wire, set_up, 0, NULL);
	wire_send(wire, psprintf("SELECT pg_catalog.to_jsonb(q) FROM (%s) AS q",
							 text_to_cstring(PG_GETARG_TEXT_PP(1))), 0, NULL, true);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "run_ops answer",
										ALLOCSET_DEFAULT_SIZES);
	while ((result = wire_receive(wire)) != NULL)
	{
		Datum		row;
		bool		isnull;

		if (PQnfields(result) != 1)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("store \"%s\" gave an answer of %d columns in place of one",
							wire_store(wire), PQnfields(result))));
		if (PQntuples(result) == 0)
			continue;
		isnull = PQgetisnull(result, 0, 0);
		MemoryContextReset(row_context);
		oldcontext = MemoryContextSwitchTo(row_context);
		row = isnull ? (Datum) 0 :
			DirectFunctionCall1(jsonb_in, CStringGetDatum(PQgetvalue(result, 0, 0)));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &row, &isnull);
		MemoryContextSwitchTo(oldcontext);
	}
	MemoryContextDelete(row_context);
	wire_tell(wire, TAKE_BACK);
	return (Datum) 0;
}

/*
 * tell_store(store text, commands text) returns void
 *
 * Runs commands in a transaction of their own, which has ended on disk when
 * this returns, whatever the store's default is.  NULL: nothing is done.
 */
Datum
run_ops_tell_store(PG_FUNCTION_ARGS)
{
	wire_exec_apart(server_of_store(PG_GETARG_TEXT_PP(0)), GetUserId(),
					psprintf("BEGIN; %s; SET LOCAL synchronous_commit = on; %s; COMMIT",
							 settings(PG_GETARG_TEXT_PP(0)),
							 text_to_cstring(PG_GETARG_TEXT_PP(1))));
	PG_RETURN_VOID();
}

/*
 * try_lock_held_there(store text, key bigint) returns boolean
 *
 * Takes an advisory lock in a transaction of the store, and says whether the
 * same one is free here; here it is kept then until the transaction ends.
 * True: the store is another database.  NULL for NULL.
 */
Datum
run_ops_try_lock_held_there(PG_FUNCTION_ARGS)
{
	Oid			server = server_of_store(PG_GETARG_TEXT_PP(0));
	bool		is_free;

	/* a transaction holds it, so that a transaction pooler keeps its word too */
	wire_exec_apart(server, GetUserId(),
					psprintf("BEGIN; %s; SELECT pg_catalog.pg_advisory_xact_lock(" INT64_FORMAT ")",
							 settings(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT64(1)));
	is_free = DatumGetBool(DirectFunctionCall1(pg_try_advisory_xact_lock_int8,
											   PG_GETARG_DATUM(1)));
	wire_exec_apart(server, GetUserId(), "ROLLBACK");
	PG_RETURN_BOOL(is_free);
}

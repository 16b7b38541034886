/*
 * store_connection.c
 *		The connection over which a store is asked outside the current
 *		transaction.
 *
 * It is a connection of dblink, opened with the user mapping of the
 * extension's owner, and whoever runs SQL in the session can use a connection
 * of dblink by its name.  The one idea: it ends with the transaction or
 * subtransaction that opened it.  An error or a cancel rolls that back before
 * anybody's SQL runs again, so there is no way out that leaves it open.
 *
 * dblink's functions are reached by library, not by name in the catalog: nobody
 * can put another function in their place.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"

#include "wire/connect_limit.h"
#include "wire/store_connection.h"

PG_FUNCTION_INFO_V1(run_ops_connect_store);
PG_FUNCTION_INFO_V1(run_ops_disconnect_store);

#define CONNECTION_NAME "run_ops_split"

static bool connected = false;

static PGFunction
dblink_function(const char *name)
{
	return load_external_function("$libdir/dblink", name, true, NULL);
}

/* There is nothing in it that fails. */
static void
disconnect(void)
{
	if (!connected)
		return;
	connected = false;
	DirectFunctionCall1(dblink_function("dblink_disconnect"),
						CStringGetTextDatum(CONNECTION_NAME));
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		disconnect();
}

static void
at_end_of_subtransaction(SubXactEvent event, SubTransactionId mySubid,
						 SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		disconnect();
}

/*
 * connect_store(server name) returns text
 *
 * The name of the connection.
 */
Datum
run_ops_connect_store(PG_FUNCTION_ARGS)
{
	ForeignServer *server =
		GetForeignServerByName(NameStr(*PG_GETARG_NAME(0)), false);
	PGFunction	connect = dblink_function("dblink_connect");

	disconnect();
	CONNECT_LIMIT_BEGIN(server->serverid);
	DirectFunctionCall2(connect, CStringGetTextDatum(CONNECTION_NAME),
						CStringGetTextDatum(server->servername));
	connected = true;
	CONNECT_LIMIT_END();
	PG_RETURN_TEXT_P(cstring_to_text(CONNECTION_NAME));
}

/*
 * disconnect_store() returns void
 */
Datum
run_ops_disconnect_store(PG_FUNCTION_ARGS)
{
	disconnect();
	PG_RETURN_VOID();
}

void
store_connection_init(void)
{
	RegisterXactCallback(at_end_of_transaction, NULL);
	RegisterSubXactCallback(at_end_of_subtransaction, NULL);
}

/*
 * read_replica.c
 *		Reads from a replica of a store, where rows may be stale.
 *
 * The one idea: stale is what the session has chosen, and never what its own
 * transaction has done.  So a statement goes to a replica only if all it does
 * is to read, and if its transaction has nothing in the store: no row that it
 * has written or locked, and no snapshot.  And one statement reads one of the
 * two: it leaves a replica that is of no use before it has read anything there.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ground/own_table.h"
#include "stores/read_replica.h"

/* an answer to LAG_QUERY is good for that long, in milliseconds */
#define LAG_CHECK_INTERVAL 1000

/*
 * The lag in milliseconds; NULL if the server is no replica, so that nothing is
 * known.  A replica that has replayed all it has received does not lag, as long
 * as it receives.
 */
#define LAG \
	"CASE WHEN NOT pg_is_in_recovery() THEN NULL " \
	"WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0 " \
	"ELSE trunc(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000) END"
#define LAG_QUERY "SELECT " LAG
#define STATE_QUERY "SELECT " LAG ", system_identifier, current_database() FROM pg_control_system()"

PG_FUNCTION_INFO_V1(run_ops_replica_state);

/* What is known of a replica; of this session, in TopMemoryContext. */
typedef struct Replica
{
	Wire	   *wire;
	TimestampTz checked_at;
	bool		usable;
} Replica;

static List *replicas = NIL;

static bool read_from_replicas = false;
static int	replica_lag_limit = 10000;

/* The server that the option "read_from" of a store's server names. */
static Oid
replica_server(Oid serverid)
{
	ListCell   *lc;

	foreach(lc, GetForeignServer(serverid)->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "read_from") == 0)
			return get_foreign_server_oid(defGetString(def), true);
	}
	return InvalidOid;
}

static bool
only_reads(PlannedStmt *stmt)
{
	return stmt->commandType == CMD_SELECT && !stmt->hasModifyingCTE &&
		stmt->rowMarks == NIL;
}

/*
 * At REPEATABLE READ, a write would have another snapshot than the reads
 * before it had; and a standby has no SERIALIZABLE.  What the extension itself
 * does with rows, as their owner, is exact.
 */
static bool
may_be_stale(EState *estate)
{
	return read_from_replicas && only_reads(estate->es_plannedstmt) &&
		!InSecurityRestrictedOperation() &&
		(!IsolationUsesXactSnapshot() ||
		 (XactReadOnly && !IsolationIsSerializable()));
}

WireStatement *
join_to_read(Oid serverid, Oid userid, EState *estate, WireNeed need)
{
	Wire	   *store = wire_get(serverid, userid);
	WireStatement *statement;
	Oid			replica = InvalidOid;

	if (need != WIRE_WRITE && may_be_stale(estate) && !wire_has_transaction(store))
		replica = replica_server(serverid);
	statement = wire_join(OidIsValid(replica) ? wire_get(replica, userid) : store,
						  estate, need, estate->es_query_cxt);
	if (OidIsValid(replica) && !statement->begun)
		statement->fallback = store;
	return statement;
}

/* After a switch that has moved rows, an older snapshot would lack them. */
static bool
has_switched_lately(void)
{
	char	   *changed_at = own_table_lookup("split_state", "enabled", "t", "changed_at");
	Datum		since;

	if (changed_at == NULL)
		return false;
	since = DirectFunctionCall3(timestamptz_in, CStringGetDatum(changed_at),
								ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return !TimestampDifferenceExceeds(DatumGetTimestampTz(since), GetCurrentTimestamp(),
									   replica_lag_limit);
}

static bool
is_fresh(Wire *wire)
{
	PGresult   *result = wire_exec(wire, WIRE_READ, LAG_QUERY, 0, NULL);

	return PQntuples(result) == 1 && !PQgetisnull(result, 0, 0) &&
		(replica_lag_limit == 0 || atof(PQgetvalue(result, 0, 0)) <= replica_lag_limit);
}

/*
 * That the replica cannot be reached, does not answer, or shuts down, is no
 * error: the store has the rows as well.  No subtransaction is needed, because
 * the wire has cleaned up.
 */
static bool
check_replica(Wire *wire)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool fresh = false;

	PG_TRY();
	{
		fresh = is_fresh(wire);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			class;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		class = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (class != ERRCODE_CONNECTION_EXCEPTION &&
			(class != ERRCODE_OPERATOR_INTERVENTION || error->sqlerrcode == ERRCODE_QUERY_CANCELED))
			PG_RE_THROW();
		FlushErrorState();
		ereport(DEBUG1,
				(errmsg_internal("reading from the store: %s", error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	return fresh;
}

static Replica *
find_replica(Wire *wire)
{
	MemoryContext oldcontext;
	Replica    *replica;
	ListCell   *lc;

	foreach(lc, replicas)
	{
		if (((Replica *) lfirst(lc))->wire == wire)
			return lfirst(lc);
	}
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	replica = palloc0(sizeof(Replica));
	replica->wire = wire;
	replicas = lappend(replicas, replica);
	MemoryContextSwitchTo(oldcontext);
	return replica;
}

static bool
is_usable(Wire *wire)
{
	Replica    *replica = find_replica(wire);
	TimestampTz now = GetCurrentTimestamp();

	/* the transaction goes on with the snapshot that it has */
	if (wire_has_transaction(wire))
		return true;
	if (replica_lag_limit > 0 && has_switched_lately())
		return false;
	if (TimestampDifferenceExceeds(replica->checked_at, now, LAG_CHECK_INTERVAL))
	{
		replica->usable = check_replica(wire);
		replica->checked_at = now;
	}
	return replica->usable;
}

Wire *
wire_to_read(WireStatement *statement)
{
	if (statement->fallback && !statement->begun && !is_usable(statement->wire))
		wire_move(statement, statement->fallback);
	statement->begun = true;
	return statement->wire;
}

/*
 * replica_state(server name, out lag_ms float8, out system_identifier text,
 * out database text)
 *
 * Strict.  As the current user.  Errors: 42704 without that server or a user
 * mapping, and those of wire_begin().
 */
Datum
run_ops_replica_state(PG_FUNCTION_ARGS)
{
	ForeignServer *server = GetForeignServerByName(NameStr(*PG_GETARG_NAME(0)), false);
	PGresult   *result = wire_exec(wire_get(server->serverid, GetUserId()), WIRE_READ,
								   STATE_QUERY, 0, NULL);
	TupleDesc	desc;
	char	   *values[3];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < 3; i++)
		values[i] = PQgetisnull(result, 0, i) ? NULL : PQgetvalue(result, 0, i);
	PG_RETURN_DATUM(HeapTupleGetDatum(BuildTupleFromCStrings(TupleDescGetAttInMetadata(desc), values)));
}

void
read_replica_init(void)
{
	DefineCustomBoolVariable("run_ops_split.read_from_replicas",
							 "Reads the rows of a store from its replica, where they may be stale.",
							 "It has an effect on stores whose server has the option read_from, and on statements that only read, before their transaction writes or locks rows there.",
							 &read_from_replicas, false, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.replica_lag_limit",
							"How far a replica of a store may lag behind, to be read from.",
							"Otherwise the store is read. 0 has no limit.",
							&replica_lag_limit, 10000, 0, INT_MAX, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
}

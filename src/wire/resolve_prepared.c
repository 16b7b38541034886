/*
 * resolve_prepared.c
 *		Finishes what atomic commits have left in a store.
 */
#include "postgres.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "wire/atomic_commit.h"
#include "wire/wire.h"

PG_FUNCTION_INFO_V1(run_ops_resolve_prepared);

/*
 * resolve_prepared(server name, role oid) returns setof record
 *
 * Strict.
 */
Datum
run_ops_resolve_prepared(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ForeignServer *server;
	ListCell   *lc;

	compat_init_materialized_srf(fcinfo);
	server = GetForeignServerByName(NameStr(*PG_GETARG_NAME(0)), false);
	foreach(lc, wire_resolve_prepared(server->serverid, PG_GETARG_OID(1)))
	{
		PreparedTransaction *prepared = lfirst(lc);
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = CStringGetTextDatum(prepared->name);
		values[1] = DirectFunctionCall3(timestamptz_in, CStringGetDatum(prepared->since),
										ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
		values[2] = CStringGetTextDatum(prepared->outcome);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * read_gate.c
 *		Is split mode on in this database, and may this server use the stores?
 *
 * The state is one row of run_ops.split_state, so it changes in the
 * transaction that changes the views.  Reading the row in each call would be
 * too slow.  A cache that is emptied by invalidation messages would be wrong:
 * a commit is visible before its message arrives, and an old snapshot must
 * still see the old state.  So the state is kept together with a key of the
 * snapshot in which it was read, and is used only under a snapshot that sees
 * the same.  Under another snapshot, it is enough that the version of the row
 * that was read is visible, because the table has one row.
 *
 * A copy of the database has the row as well; after pg_dump, a copy has the
 * stores without the row.  So the row contains the identities of the servers
 * that may use the stores.  A copy has another identity than its original; see
 * ground/server_identity.c.
 */
#include "postgres.h"

#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/pg_foreign_table.h"
#include "executor/tuptable.h"
#include "foreign/foreign.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/errors.h"
#include "ground/own_table.h"
#include "ground/server_identity.h"
#include "ground/snapshot_key.h"
#include "stores/read_gate.h"

PG_FUNCTION_INFO_V1(run_ops_split_enabled);
PG_FUNCTION_INFO_V1(run_ops_server_identity);
PG_FUNCTION_INFO_V1(run_ops_refuse_in_copy);
PG_FUNCTION_INFO_V1(run_ops_setting);

/* columns of run_ops.split_state that are read here */
#define Anum_split_state_enabled 2
#define Anum_split_state_identities 3

static int	clock_skew_limit = 500;
static int	swap_lock_timeout = 100;
static int	swap_attempts = 50;

typedef struct SplitState
{
	bool		enabled;		/* split mode is switched on */
	bool		bound;			/* this server may use the stores */
} SplitState;

static struct
{
	bool		valid;
	SnapshotKey key;
	SplitState	state;
}			cache;

/* A version of the row; as long as the table keeps its file, there is no other. */
static struct
{
	Oid			relid;			/* InvalidOid: none */
	Oid			file;
	ItemPointerData ctid;
	TransactionId xmin;
	char	   *server;			/* the identity that it was compared with */
	SplitState	state;
}			known;

static bool
known_is_visible(Relation rel, Snapshot snapshot)
{
	TupleTableSlot *slot;
	bool		visible;
	bool		isnull;

	if (!(known.relid == RelationGetRelid(rel) && known.file == rel->rd_rel->relfilenode &&
		  strcmp(known.server, server_identity()) == 0 &&
		  ItemPointerGetBlockNumber(&known.ctid) < RelationGetNumberOfBlocks(rel)))
		return false;
	slot = table_slot_create(rel, NULL);
	/* another version may have this ctid now */
	visible = table_tuple_fetch_row_version(rel, &known.ctid, snapshot, slot) &&
		DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)) == known.xmin;
	ExecDropSingleTupleTableSlot(slot);
	return visible;
}

static SplitState
read_state(Snapshot snapshot)
{
	SplitState	state = {false, false};
	Relation	rel = own_table_open("split_state");
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)			/* the extension is being dropped */
		return state;
	if (known_is_visible(rel, snapshot))
	{
		table_close(rel, AccessShareLock);
		return known.state;
	}
	known.relid = InvalidOid;
	/* the table has one row, so no index is used */
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		TupleDesc	desc = RelationGetDescr(rel);
		Datum		enabled = heap_getattr(tuple, Anum_split_state_enabled,
										   desc, &isnull);
		Datum		identities = heap_getattr(tuple,
											  Anum_split_state_identities,
											  desc, &isnull);

		state.enabled = DatumGetBool(enabled);
		state.bound = names_this_server(DatumGetArrayTypeP(identities));
		known.file = rel->rd_rel->relfilenode;
		known.ctid = tuple->t_self;
		known.xmin = HeapTupleHeaderGetXmin(tuple->t_data);
		if (known.server)
			pfree(known.server);
		known.server = NULL;
		known.server = MemoryContextStrdup(TopMemoryContext, server_identity());
		known.state = state;
		known.relid = RelationGetRelid(rel);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return state;
}

static SplitState
current_state(void)
{
	Snapshot	snapshot = GetActiveSnapshot();

	if (snapshot->snapshot_type != SNAPSHOT_MVCC)
		return read_state(snapshot);

	if (snapshot_key_set(&cache.key, snapshot) != SNAPSHOT_SAME)
		cache.valid = false;
	if (!cache.valid)
	{
		cache.state = read_state(snapshot);
		cache.valid = true;
	}
	return cache.state;
}

bool
split_enabled(void)
{
	SplitState	state = current_state();

	return state.enabled && state.bound;
}

bool
split_switched_on(void)
{
	SplitState	state;

	PushActiveSnapshot(GetLatestSnapshot());
	state = read_state(GetActiveSnapshot());
	PopActiveSnapshot();
	return state.enabled;
}

static bool
is_store(Oid serverid)
{
	return own_table_lookup("store", "server", GetForeignServer(serverid)->servername,
							"name") != NULL;
}

/*
 * Whether a server has foreign tables in a schema that attach_store() names.  If
 * it is no store, only the schema of a database was restored, without the
 * registry.
 */
static bool
was_store(Oid serverid)
{
	Relation	rel = table_open(ForeignTableRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_table form = (Form_pg_foreign_table) GETSTRUCT(tuple);

		if (form->ftserver == serverid)
		{
			char	   *schema = get_namespace_name(get_rel_namespace(form->ftrelid));

			found = schema && strncmp(schema, "run_ops_", strlen("run_ops_")) == 0;
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static void
refuse_in_copy(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_RUN_OPS_SUSPENDED),
			 errmsg("split mode is suspended in this copy of the database"),
			 errdetail("Its stores were attached in another server or database; nothing is read from or written to them from here. This is %s.",
					   server_identity()),
			 RecoveryInProgress() ?
			 errhint("If this standby should read the stores, and use them after its promotion, run on its primary: SELECT run_ops.trust_standby('%s');",
					 server_identity()) :
			 errhint("If this database should use the stores: SELECT run_ops.enable_split(); If it should not: SELECT run_ops.disable_split(force => true);")));
}

void
split_require_active(Oid serverid)
{
	if (current_state().bound)
		return;
	if (is_store(serverid))
		refuse_in_copy();
	if (was_store(serverid))
		ereport(ERROR,
				(errcode(ERRCODE_RUN_OPS_SUSPENDED),
				 errmsg("server \"%s\" is not attached as a store in this database",
						GetForeignServer(serverid)->servername),
				 errdetail("Its foreign tables were restored without the data of extension run_ops_split."),
				 errhint("If this database should use the stores, attach them and the tables with run_ops.attach_store() and run_ops.attach_table(). If it should not: DROP EXTENSION run_ops_split CASCADE;")));
}

/*
 * SQL: whether split mode is on.  Never NULL.
 */
Datum
run_ops_split_enabled(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(split_enabled());
}

/*
 * SQL: a text that distinguishes this server and database from copies.  Never
 * NULL.
 */
Datum
run_ops_server_identity(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(server_identity()));
}

/*
 * SQL: raises an error in a copy of the database in which the stores were
 * attached.
 */
Datum
run_ops_refuse_in_copy(PG_FUNCTION_ARGS)
{
	if (!current_state().bound)
		refuse_in_copy();
	PG_RETURN_VOID();
}

/*
 * SQL: a setting of this extension.  current_setting() would fail in a session
 * that has not loaded the library yet; a call of this function loads it.
 */
Datum
run_ops_setting(PG_FUNCTION_ARGS)
{
	char	   *name = psprintf("run_ops_split.%s",
								text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PG_RETURN_TEXT_P(cstring_to_text(GetConfigOptionByName(name, NULL, false)));
}

void
read_gate_init(void)
{
	DefineCustomIntVariable("run_ops_split.clock_skew_limit",
							"Maximum difference between the clocks of this server and a store.",
							NULL,
							&clock_skew_limit, 500, 0, INT_MAX, PGC_SUSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.swap_lock_timeout",
							"How long one attempt to switch the views waits for a lock.",
							"Queries that come after it wait for it that long.",
							&swap_lock_timeout, 100, 1, INT_MAX, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.swap_attempts",
							"Maximum number of attempts to switch the views.",
							NULL,
							&swap_attempts, 50, 1, INT_MAX, PGC_USERSET,
							0, NULL, NULL, NULL);
}

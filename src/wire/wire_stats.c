/*
 * wire_stats.c
 *		Counts what happens on the wires of all sessions: how long stores take to
 *		answer, connections, failures, and errors by SQLSTATE; and what each
 *		session has waited for last.
 *
 * The one idea: the counters are in shared memory of a fixed size, and only grow.
 * So a session adds to them without a lock, and whoever watches computes rates.
 * PostgreSQL gives an extension such memory only when the server starts: without
 * the library in shared_preload_libraries there are no counters.
 *
 * A slot belongs to the first store, or error of a store, that needs one.  When all
 * are in use, what else comes is not counted.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "wire/wire_stats.h"

PG_FUNCTION_INFO_V1(run_ops_wire_counters);
PG_FUNCTION_INFO_V1(run_ops_wire_error_counters);
PG_FUNCTION_INFO_V1(run_ops_wire_waits);

/* the upper ends of the buckets of answer times: 0.125 ms, 0.25 ms, ... 65,536 ms */
#define FIRST_BUCKET_US 125
#define BUCKETS 20

#define STORE_SLOTS 128
#define ERROR_SLOTS 512

/* Whose slot it is; never changed once it is set. */
typedef struct SlotOwner
{
	Oid			database;		/* InvalidOid: free */
	int			sqlerrcode;		/* 0: not of an error */
	char		store[NAMEDATALEN];
} SlotOwner;

typedef struct StoreSlot
{
	SlotOwner	owner;			/* must be first */
	pg_atomic_uint64 events[WIRE_EVENTS];
	pg_atomic_uint64 answer_us;
	pg_atomic_uint64 answers[BUCKETS + 1];	/* the last one has no end */
} StoreSlot;

typedef struct ErrorSlot
{
	SlotOwner	owner;			/* must be first */
	pg_atomic_uint64 errors;
} ErrorSlot;

/*
 * The last wait of a backend.  It is left there when the wait is over, because
 * pg_stat_activity says whether a session waits.
 */
typedef struct WaitSlot
{
	pg_atomic_uint32 pid;
	pg_atomic_uint32 wanted;	/* its StoreSlot, and in the lowest bits a WireWait */
	pg_atomic_uint64 since;
} WaitSlot;

#define WAIT_BITS 2

typedef struct WireCounters
{
	slock_t		mutex;			/* for a slot that is taken */
	StoreSlot	stores[STORE_SLOTS];
	ErrorSlot	errors[ERROR_SLOTS];
	WaitSlot	waits[FLEXIBLE_ARRAY_MEMBER];	/* one for each of MaxBackends */
} WireCounters;

static WireCounters *counters = NULL;

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;

/* The slot of a store, or of an error of it; NULL if all are in use. */
static void *
find_slot(void *slots, Size size, int nslots, const char *store, int sqlerrcode)
{
	for (int i = 0; i < nslots; i++)
	{
		SlotOwner  *owner = (SlotOwner *) ((char *) slots + i * size);

		if (owner->database == InvalidOid)
		{
			SpinLockAcquire(&counters->mutex);
			if (owner->database == InvalidOid)
			{
				owner->sqlerrcode = sqlerrcode;
				strlcpy(owner->store, store, NAMEDATALEN);
				pg_write_barrier();
				owner->database = MyDatabaseId;
			}
			SpinLockRelease(&counters->mutex);
		}
		pg_read_barrier();
		if (owner->database == MyDatabaseId && owner->sqlerrcode == sqlerrcode &&
			strcmp(owner->store, store) == 0)
			return owner;
	}
	return NULL;
}

static StoreSlot *
store_slot(const char *store)
{
	return counters ? find_slot(counters->stores, sizeof(StoreSlot), STORE_SLOTS, store, 0) : NULL;
}

void
wire_stats_event(const char *store, WireEvent event)
{
	StoreSlot  *slot = store_slot(store);

	if (slot)
		pg_atomic_fetch_add_u64(&slot->events[event], 1);
}

void
wire_stats_error(const char *store, int sqlerrcode)
{
	ErrorSlot  *slot = counters ? find_slot(counters->errors, sizeof(ErrorSlot), ERROR_SLOTS, store, sqlerrcode) : NULL;

	if (slot)
		pg_atomic_fetch_add_u64(&slot->errors, 1);
}

void
wire_stats_sent(instr_time *sent)
{
	if (counters)
		INSTR_TIME_SET_CURRENT(*sent);
}

void
wire_stats_answered(const char *store, instr_time *sent)
{
	instr_time	now;
	uint64		us;
	StoreSlot  *slot;
	int			bucket = 0;

	if (counters == NULL || INSTR_TIME_IS_ZERO(*sent))
		return;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, *sent);
	INSTR_TIME_SET_ZERO(*sent);
	us = INSTR_TIME_GET_MICROSEC(now);
	while (bucket < BUCKETS && us > (uint64) FIRST_BUCKET_US << bucket)
		bucket++;
	slot = store_slot(store);
	if (slot == NULL)
		return;
	pg_atomic_fetch_add_u64(&slot->answers[bucket], 1);
	pg_atomic_fetch_add_u64(&slot->answer_us, us);
}

void
wire_stats_wait(const char *store, WireWait what, TimestampTz since)
{
	StoreSlot  *slot = store_slot(store);
	int			n = MyProc - ProcGlobal->allProcs;
	WaitSlot   *wait;

	if (slot == NULL || n >= MaxBackends)
		return;
	wait = &counters->waits[n];
	pg_atomic_write_u32(&wait->wanted, (slot - counters->stores) << WAIT_BITS | what);
	pg_atomic_write_u64(&wait->since, since);
	pg_atomic_write_u32(&wait->pid, MyProcPid);
}

/* ----------------------------------------------------------------
 *		SQL
 * ----------------------------------------------------------------
 */

/*
 * wire_counters(out store text, out connections int8, out failures int8, out
 * pauses int8, out answers int8, out answer_seconds float8, out up_to float8[],
 * out answers_up_to int8[]) returns setof record
 *
 * One row for each store of this database that a session has asked since the
 * server started; see wire_stats.sql.  Errors: none.
 */
Datum
run_ops_wire_counters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; counters && i < STORE_SLOTS; i++)
	{
		StoreSlot  *slot = &counters->stores[i];
		Datum		values[8];
		bool		nulls[8] = {false};
		Datum		up_to[BUCKETS + 1];
		Datum		answers[BUCKETS + 1];
		uint64		sum = 0;

		if (slot->owner.database != MyDatabaseId)
			continue;
		pg_read_barrier();
		for (int bucket = 0; bucket <= BUCKETS; bucket++)
		{
			sum += pg_atomic_read_u64(&slot->answers[bucket]);
			up_to[bucket] = Float8GetDatum(bucket == BUCKETS ? get_float8_infinity() :
										   (FIRST_BUCKET_US << bucket) / 1e6);
			answers[bucket] = Int64GetDatum(sum);
		}
		values[0] = CStringGetTextDatum(slot->owner.store);
		for (int event = 0; event < WIRE_EVENTS; event++)
			values[1 + event] = Int64GetDatum(pg_atomic_read_u64(&slot->events[event]));
		values[4] = Int64GetDatum(sum);
		values[5] = Float8GetDatum(pg_atomic_read_u64(&slot->answer_us) / 1e6);
		values[6] = PointerGetDatum(construct_array(up_to, BUCKETS + 1, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		values[7] = PointerGetDatum(construct_array(answers, BUCKETS + 1, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * wire_error_counters(out store text, out sqlstate text, out errors int8)
 * returns setof record
 *
 * Errors: none.
 */
Datum
run_ops_wire_error_counters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; counters && i < ERROR_SLOTS; i++)
	{
		ErrorSlot  *slot = &counters->errors[i];
		Datum		values[3];
		bool		nulls[3] = {false};

		if (slot->owner.database != MyDatabaseId)
			continue;
		pg_read_barrier();
		values[0] = CStringGetTextDatum(slot->owner.store);
		values[1] = CStringGetTextDatum(unpack_sql_state(slot->owner.sqlerrcode));
		values[2] = Int64GetDatum(pg_atomic_read_u64(&slot->errors));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * wire_waits(out pid int, out store text, out waits_for text, out since
 * timestamptz) returns setof record
 *
 * Errors: none.
 */
Datum
run_ops_wire_waits(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"connection", "answer", "commit"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; counters && i < MaxBackends; i++)
	{
		WaitSlot   *wait = &counters->waits[i];
		uint32		pid = pg_atomic_read_u32(&wait->pid);
		uint32		wanted = pg_atomic_read_u32(&wait->wanted);
		SlotOwner  *owner = &counters->stores[wanted >> WAIT_BITS].owner;
		Datum		values[4];
		bool		nulls[4] = {false};

		if (pid == 0 || owner->database != MyDatabaseId)
			continue;
		values[0] = Int32GetDatum(pid);
		values[1] = CStringGetTextDatum(owner->store);
		values[2] = CStringGetTextDatum(names[wanted & ((1 << WAIT_BITS) - 1)]);
		values[3] = TimestampTzGetDatum(pg_atomic_read_u64(&wait->since));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		Shared memory
 * ----------------------------------------------------------------
 */

static Size
size_of_counters(void)
{
	return add_size(offsetof(WireCounters, waits), mul_size(sizeof(WaitSlot), MaxBackends));
}

static void
request_counters(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(MAXALIGN(size_of_counters()));
}

static void
start_counters(void)
{
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	counters = ShmemInitStruct("run_ops_split wire counters", size_of_counters(), &found);
	if (!found)
	{
		memset(counters, 0, size_of_counters());
		SpinLockInit(&counters->mutex);
		for (int i = 0; i < STORE_SLOTS; i++)
		{
			StoreSlot  *slot = &counters->stores[i];

			for (int event = 0; event < WIRE_EVENTS; event++)
				pg_atomic_init_u64(&slot->events[event], 0);
			pg_atomic_init_u64(&slot->answer_us, 0);
			for (int bucket = 0; bucket <= BUCKETS; bucket++)
				pg_atomic_init_u64(&slot->answers[bucket], 0);
		}
		for (int i = 0; i < ERROR_SLOTS; i++)
			pg_atomic_init_u64(&counters->errors[i].errors, 0);
		for (int i = 0; i < MaxBackends; i++)
		{
			pg_atomic_init_u32(&counters->waits[i].pid, 0);
			pg_atomic_init_u32(&counters->waits[i].wanted, 0);
			pg_atomic_init_u64(&counters->waits[i].since, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

void
wire_stats_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = request_counters;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_counters;
}

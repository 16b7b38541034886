/*
 * snapshot_key.c
 *		Whether the active snapshot sees the same as one before.
 *
 * A result that was computed from tables can be used again under a snapshot
 * that sees the same rows.  The one idea: a few numbers and the list of running
 * transactions identify what a snapshot sees, and it is cheap to compare them.
 *
 * Of other transactions, a snapshot sees those below its xmax that are not in
 * its list of running ones.  Comparing the lengths of two lists would not be
 * enough: a transaction that is being prepared is in the list twice until
 * synchronous standbys have confirmed it, while another one may have ended.
 *
 * Of the list of subtransactions the length is enough.  If xmax and the running
 * transactions are the same, subtransactions can be rolled back, but none can be
 * added: one that starts later is not below xmax.  During recovery that list has
 * all transactions, each of them once, so the same is true.
 *
 * Of its own transaction, a snapshot sees the commands before curcid, except
 * those of subtransactions that have been rolled back since.
 *
 * The transaction is compared as well, because the previous one may have been
 * prepared, and then its changes are not visible.  Table locks last until the
 * transaction ends or a subtransaction is rolled back; that span is called a
 * period.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/proc.h"
#include "utils/memutils.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "ground/snapshot_key.h"

static uint64 aborted_subxacts = 0;

static void
subxact_ended(SubXactEvent event, SubTransactionId my, SubTransactionId parent,
			  void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		aborted_subxacts++;
}

/* Do both have the same running transactions? */
static bool
same_running(const SnapshotKey *key, Snapshot snapshot)
{
	return key->xcnt == snapshot->xcnt &&
		(key->xcnt == 0 ||
		 memcmp(key->xip, snapshot->xip, key->xcnt * sizeof(TransactionId)) == 0);
}

/* If there is no memory for them, the key is what it was. */
static void
copy_running(SnapshotKey *key, Snapshot snapshot)
{
	if (snapshot->xcnt > key->room)
	{
		Size		size = snapshot->xcnt * sizeof(TransactionId);

		key->xip = key->xip ? repalloc(key->xip, size) :
			MemoryContextAlloc(TopMemoryContext, size);
		key->room = snapshot->xcnt;
	}
	if (snapshot->xcnt > 0)
		memcpy(key->xip, snapshot->xip, snapshot->xcnt * sizeof(TransactionId));
	key->xcnt = snapshot->xcnt;
}

SnapshotChange
snapshot_key_set(SnapshotKey *key, Snapshot snapshot)
{
	SnapshotChange change = SNAPSHOT_SAME;

	if (!(GUARD(1, key->lxid == compat_local_transaction_id()) &&
		  GUARD(2, key->aborted_subxacts == aborted_subxacts)))
		change = SNAPSHOT_NEW_PERIOD;
	else if (!(GUARD(3, key->xmax == snapshot->xmax) &&
			   GUARD(4, same_running(key, snapshot)) &&
			   GUARD(5, key->subxcnt == snapshot->subxcnt) &&
			   GUARD(6, key->curcid == snapshot->curcid)))
		change = SNAPSHOT_CHANGED;

	if (change == SNAPSHOT_SAME)
		return change;
	copy_running(key, snapshot);
	key->lxid = compat_local_transaction_id();
	key->aborted_subxacts = aborted_subxacts;
	key->xmax = snapshot->xmax;
	key->subxcnt = snapshot->subxcnt;
	key->curcid = snapshot->curcid;
	return change;
}

void
snapshot_key_init(void)
{
	RegisterSubXactCallback(subxact_ended, NULL);
}

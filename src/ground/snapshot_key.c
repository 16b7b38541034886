/*
 * snapshot_key.c
 *		Whether the active snapshot sees the same as one before.
 *
 * A result that was computed from tables can be used again under a snapshot
 * that sees the same rows.  The one idea: six numbers identify what a snapshot
 * sees, and it is cheap to compare them.
 *
 * Of other transactions, a snapshot sees those below its xmax that were not
 * running when it was taken.  As long as xmax is unchanged, running
 * transactions can end, but none can be added: a transaction that starts later
 * is not below xmax.  So two sets of running transactions of the same size are
 * the same set.  The size is xcnt, or subxcnt during recovery, when all
 * transactions are in one list.
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

SnapshotChange
snapshot_key_set(SnapshotKey *key, Snapshot snapshot)
{
	SnapshotChange change = SNAPSHOT_SAME;

	if (!(GUARD(1, key->lxid == compat_local_transaction_id()) &&
		  GUARD(2, key->aborted_subxacts == aborted_subxacts)))
		change = SNAPSHOT_NEW_PERIOD;
	else if (!(GUARD(3, key->xmax == snapshot->xmax) &&
			   GUARD(4, key->xcnt == snapshot->xcnt) &&
			   GUARD(5, key->subxcnt == snapshot->subxcnt) &&
			   GUARD(6, key->curcid == snapshot->curcid)))
		change = SNAPSHOT_CHANGED;

	key->lxid = compat_local_transaction_id();
	key->aborted_subxacts = aborted_subxacts;
	key->xmax = snapshot->xmax;
	key->xcnt = snapshot->xcnt;
	key->subxcnt = snapshot->subxcnt;
	key->curcid = snapshot->curcid;
	return change;
}

void
snapshot_key_init(void)
{
	RegisterSubXactCallback(subxact_ended, NULL);
}

/*
 * snapshot_key.c
 *		Whether the active snapshot sees the same as one before.
 *
 * Answers that were read from tables may be given again under a snapshot that
 * sees the same rows.  The one idea: six numbers identify what a snapshot
 * sees, and comparing them costs nothing.
 *
 * Of what others did, a snapshot sees the transactions below its xmax that
 * were not running when it was taken.  As long as xmax is unchanged, running
 * transactions can end, but none can be added: a transaction that starts later
 * is not below xmax.  So two sets of the same size are the same set.  The size
 * is xcnt, or subxcnt during recovery, when all transactions are in one list.
 *
 * Of what its own transaction did, a snapshot sees the commands before curcid,
 * except those of subtransactions that have been rolled back since.
 *
 * The transaction is compared as well.  What was a command of the previous
 * transaction may be prepared now.  And locks on tables last until the
 * transaction ends or a subtransaction is rolled back; such a span is called a
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

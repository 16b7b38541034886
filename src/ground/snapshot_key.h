/*
 * snapshot_key.h
 *		Whether the active snapshot sees the same as one before.
 */
#ifndef RUN_OPS_SNAPSHOT_KEY_H
#define RUN_OPS_SNAPSHOT_KEY_H

#include "utils/snapshot.h"

/* Identifies what a snapshot sees.  Zeroed: no snapshot yet. */
typedef struct SnapshotKey
{
	LocalTransactionId lxid;
	uint64		aborted_subxacts;
	TransactionId xmax;
	uint32		xcnt;
	TransactionId *xip;			/* as many as xcnt, in TopMemoryContext */
	uint32		room;			/* for as many it has been allocated */
	int32		subxcnt;
	CommandId	curcid;
} SnapshotKey;

typedef enum SnapshotChange
{
	SNAPSHOT_SAME,				/* it sees the same */
	SNAPSHOT_CHANGED,			/* it may see something else */
	SNAPSHOT_NEW_PERIOD			/* likewise, and locks may be released */
} SnapshotChange;

extern void snapshot_key_init(void);

/*
 * Compares an MVCC snapshot with the one for which the key was last set, and
 * sets the key for this one.
 */
extern SnapshotChange snapshot_key_set(SnapshotKey *key, Snapshot snapshot);

#endif							/* RUN_OPS_SNAPSHOT_KEY_H */

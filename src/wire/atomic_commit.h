/*
 * atomic_commit.h
 *		Transactions that write to several databases and commit in all of them
 *		or in none.
 */
#ifndef RUN_OPS_ATOMIC_COMMIT_H
#define RUN_OPS_ATOMIC_COMMIT_H

#include "libpq-fe.h"
#include "nodes/pg_list.h"

/* a name of a prepared transaction is at most that long, without its end */
#define PREPARED_NAME_SIZE 200

/*
 * The part of the names of this transaction that is the same in all stores.  It
 * has an ID that no other transaction is given, even after a crash, when this
 * returns; and its commit will be on disk when it has committed.
 */
extern void atomic_commit_begin(void);

/*
 * The name under which one store prepares its part; into a buffer of
 * PREPARED_NAME_SIZE + 1 bytes.
 */
extern void atomic_commit_name(char *name, Oid user_mapping);

/*
 * Takes a step where an error must not stop the caller.  The message of the
 * error, allocated; NULL if there was none.  That the store does not know the
 * prepared transaction is none: another session has finished it.  Errors: a
 * cancel.  Not where a transaction ends.
 */
extern char *atomic_commit_try(void (*step) (void *arg), void *arg);

/* What is left of a transaction, and what became of it. */
typedef struct PreparedTransaction
{
	char	   *name;
	char	   *since;			/* as timestamptz; when it was prepared */
	char	   *outcome;		/* NULL: it has not been tried */
} PreparedTransaction;

/* Runs a command in a store, outside a transaction.  Errors: those of the store. */
typedef PGresult *(*RunAlone) (void *store, const char *sql);

/*
 * The transactions that are prepared in a store, and that its user may finish.
 * Errors: those of the store.
 */
extern List *atomic_commit_left(RunAlone run, void *store);

/*
 * Finishes those that can be decided, and sets the outcome of all.  Failures of
 * the store are no errors.
 */
extern void atomic_commit_resolve(List *left, RunAlone run, void *store);

/* Does this server decide?  Not a standby, nor a copy that may not use the stores. */
extern bool atomic_commit_may_resolve(void);

#endif							/* RUN_OPS_ATOMIC_COMMIT_H */

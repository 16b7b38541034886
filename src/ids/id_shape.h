/*
 * id_shape.h
 *		Which store holds the row of an id: a function of the shape of the id.
 */
#ifndef RUN_OPS_ID_SHAPE_H
#define RUN_OPS_ID_SHAPE_H

#include "fmgr.h"
#include "nodes/primnodes.h"

/* The formats an id body can have; see id_shape.c for the rule. */
typedef enum IdKind
{
	ID_KIND_NONE,				/* unclassifiable */
	ID_KIND_CUID,				/* 25 characters, LEGACY */
	ID_KIND_KSUID,				/* 27 characters, NEW */
	ID_KIND_RUN_OPS				/* 26 characters, versioned, NEW */
} IdKind;

/* The labels of run_ops.id_kind, by IdKind. */
extern const char *const id_kind_names[];

/* Characters of a body of each kind. */
#define CUID_LENGTH 25
#define RUN_OPS_ID_LENGTH 26
#define KSUID_LENGTH 27

/* Number of base32hex characters of a runOpsId, before the region or shard. */
#define RUN_OPS_CORE_LENGTH 24

/*
 * The names of the two reserved stores.  They are longer than one character,
 * so no shard has such a name.
 */
#define STORE_LEGACY "legacy"
#define STORE_NEW "new"

typedef struct IdShape
{
	IdKind		kind;
	char		shard;			/* of a version-2 runOpsId, else '\0' */
} IdShape;

/* Can the character be a region or shard?  These are [a-z0-9]. */
static inline bool
id_is_shard_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* The offset of the body: after the first '_', or 0 if there is none. */
extern int	id_body_offset(const char *id, int len);

/* Classifies any bytes; never fails and never allocates; len is in bytes. */
extern IdShape id_shape(const char *id, int len);

/*
 * The same for a text datum, not NULL, in any storage form.  Allocates memory
 * only for a compressed or out-of-line value, and frees it again.
 */
extern IdShape id_shape_datum(Datum id);

/* Does the row of an id of this shape belong in the store?  Never fails. */
extern bool id_resides(IdShape shape, const char *store, int store_len);

/* resides(id text, store text[, same_shape text]); exported to recognize calls of it in a plan */
extern PGDLLEXPORT Datum run_ops_resides(PG_FUNCTION_ARGS);

/*
 * The condition resides(id, store) made of built-in functions, which a store
 * without this extension can evaluate.  It is NULL, and not false, for a NULL
 * id.  The result is NULL for "legacy", for a text that is not the name of a
 * store, and if the collation of the id is nondeterministic, because PostgreSQL
 * has no regular expressions for it.
 */
extern Node *id_residency_condition(Node *id, const char *store);

/*
 * The kind, which is not ID_KIND_NONE, as the result of a function that
 * returns run_ops.id_kind.
 */
extern Datum id_kind_datum(FunctionCallInfo fcinfo, IdKind kind);

/* Raises RO001 for this id. */
extern void id_report_unclassifiable(text *id);

#endif							/* RUN_OPS_ID_SHAPE_H */

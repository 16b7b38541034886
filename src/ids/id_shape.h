/*
 * id_shape.h
 *		Where the row of an id lives, told from the shape of the id alone.
 */
#ifndef RUN_OPS_ID_SHAPE_H
#define RUN_OPS_ID_SHAPE_H

#include "fmgr.h"

/* The formats an id body can have; see id_shape.c for the rule. */
typedef enum IdKind
{
	ID_KIND_NONE,				/* unclassifiable */
	ID_KIND_CUID,				/* 25 characters, LEGACY */
	ID_KIND_KSUID,				/* 27 characters, NEW */
	ID_KIND_RUN_OPS				/* 26 characters, versioned, NEW */
} IdKind;

/* By IdKind; what SQL calls them. */
extern const char *const id_kind_names[];

/* Characters of a body of each kind. */
#define CUID_LENGTH 25
#define RUN_OPS_ID_LENGTH 26
#define KSUID_LENGTH 27

/* Of a runOpsId: base32hex characters before the region or shard. */
#define RUN_OPS_CORE_LENGTH 24

/*
 * Names of stores as text: the two reserved ones are longer than one
 * character, so a shard character never collides with them.
 */
#define STORE_LEGACY "legacy"
#define STORE_NEW "new"

typedef struct IdShape
{
	IdKind		kind;
	char		shard;			/* of a version-2 runOpsId, else '\0' */
} IdShape;

/* What may name a region or a shard: [a-z0-9]. */
static inline bool
id_is_shard_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* Offset of the body: after the first '_', or 0 when there is none. */
extern int	id_body_offset(const char *id, int len);

/* Total over any bytes; len in bytes; never allocates. */
extern IdShape id_shape(const char *id, int len);

/*
 * The same for a text datum (not NULL) in whatever form it is stored.
 * Allocates only for a compressed or out-of-line value, and frees again.
 */
extern IdShape id_shape_datum(Datum id);

/* Does this store's name say it can hold the id?  Total. */
extern bool id_resides(IdShape shape, const char *store, int store_len);

/* resides(id text, store text), to recognise a call of it in a plan */
extern PGDLLEXPORT Datum run_ops_resides(PG_FUNCTION_ARGS);

/* A kind (not NONE) as the result of a function that returns run_ops.id_kind. */
extern Datum id_kind_datum(FunctionCallInfo fcinfo, IdKind kind);

/* Error RO001 about this id. */
extern void id_report_unclassifiable(text *id);

#endif							/* RUN_OPS_ID_SHAPE_H */

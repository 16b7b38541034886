/*
 * key_set.h
 *		A set of byte strings: keys of rows that a statement has changed.
 */
#ifndef RUN_OPS_KEY_SET_H
#define RUN_OPS_KEY_SET_H

#include "utils/hsearch.h"
#include "utils/palloc.h"

/* Lives, with what is added, in that memory context. */
extern HTAB *key_set_create(MemoryContext context);

/* False if the key was there already.  It is copied. */
extern bool key_set_add(HTAB *set, const char *bytes, int len);

#endif							/* RUN_OPS_KEY_SET_H */

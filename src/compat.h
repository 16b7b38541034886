/*
 * compat.h
 *		The differences between PostgreSQL versions, all of them, so that no
 *		other file asks for the version.
 */
#ifndef RUN_OPS_COMPAT_H
#define RUN_OPS_COMPAT_H

#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

#endif							/* RUN_OPS_COMPAT_H */

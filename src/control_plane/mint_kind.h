/*
 * mint_kind.h
 *		The kind of new ids of an environment.
 */
#ifndef RUN_OPS_MINT_KIND_H
#define RUN_OPS_MINT_KIND_H

extern void mint_kind_init(void);

#endif							/* RUN_OPS_MINT_KIND_H */

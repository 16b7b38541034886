/*
 * mint_kind.h
 *		Which kind of id an environment mints.
 */
#ifndef RUN_OPS_MINT_KIND_H
#define RUN_OPS_MINT_KIND_H

extern void mint_kind_init(void);

#endif							/* RUN_OPS_MINT_KIND_H */

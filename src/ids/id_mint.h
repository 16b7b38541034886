/*
 * id_mint.h
 *		Generates ids, and writes them into the caller's buffer without a
 *		terminating NUL.
 *
 * The functions raise an error if the system cannot generate random bytes, and
 * no other error.
 */
#ifndef RUN_OPS_ID_MINT_H
#define RUN_OPS_ID_MINT_H

/* CUID_LENGTH bytes */
extern void mint_cuid(char *out);

/* KSUID_LENGTH bytes */
extern void mint_ksuid(char *out);

/* RUN_OPS_ID_LENGTH bytes; the caller must have checked id_is_shard_char() */
extern void mint_run_ops_id(char *out, char region);
extern void mint_run_ops_id_v2(char *out, char shard);

#endif							/* RUN_OPS_ID_MINT_H */

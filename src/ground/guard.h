/*
 * guard.h
 *		Numbered conditions without which results would be wrong.
 *
 * In a test build with -DRUN_OPS_MUTANT=n, condition n is always true, and
 * then a test must fail; see scripts/check-mutants.
 */
#ifndef RUN_OPS_GUARD_H
#define RUN_OPS_GUARD_H

#ifdef RUN_OPS_MUTANT
#define GUARD(n, condition) (RUN_OPS_MUTANT == (n) || (condition))
#else
#define GUARD(n, condition) (condition)
#endif

#endif							/* RUN_OPS_GUARD_H */

/*
 * guard.h
 *		Conditions that right answers depend on, by number.
 *
 * A test build without one of them (-DRUN_OPS_MUTANT=n: it counts as true)
 * must fail a test; see scripts/check-mutants.
 */
#ifndef RUN_OPS_GUARD_H
#define RUN_OPS_GUARD_H

#ifdef RUN_OPS_MUTANT
#define GUARD(n, condition) (RUN_OPS_MUTANT == (n) || (condition))
#else
#define GUARD(n, condition) (condition)
#endif

#endif							/* RUN_OPS_GUARD_H */

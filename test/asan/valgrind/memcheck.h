/*
 * valgrind/memcheck.h
 *		In valgrind's place when PostgreSQL is built for scripts/check-assert.
 *
 * PostgreSQL takes memory from malloc() in blocks, where AddressSanitizer sees
 * no chunk, no context reset and no buffer that is no longer pinned.  What
 * PostgreSQL tells valgrind of them is told to AddressSanitizer here: what may
 * not be accessed is poisoned.
 */
#ifndef ASAN_MEMCHECK_H
#define ASAN_MEMCHECK_H

#include <sanitizer/asan_interface.h>

#define VALGRIND_MAKE_MEM_NOACCESS(addr, size)	__asan_poison_memory_region(addr, size)
#define VALGRIND_MAKE_MEM_UNDEFINED(addr, size)	__asan_unpoison_memory_region(addr, size)
#define VALGRIND_MAKE_MEM_DEFINED(addr, size)	__asan_unpoison_memory_region(addr, size)
#define VALGRIND_MEMPOOL_CHANGE(context, old, new, size)	__asan_unpoison_memory_region(new, size)

/* every allocation comes by here; test/inject_faults lets one fail */
__attribute__((weak)) void (*allocation_may_fail) (void *context);

#define VALGRIND_MEMPOOL_ALLOC(context, addr, size) \
	do { \
		__asan_unpoison_memory_region(addr, size); \
		if (allocation_may_fail) \
			allocation_may_fail(context); \
	} while (0)

/* freed chunks are poisoned when they are wiped */
#define VALGRIND_MEMPOOL_FREE(context, addr)	((void) 0)
#define VALGRIND_CREATE_MEMPOOL(context, redzones, zeroed)	((void) 0)
#define VALGRIND_DESTROY_MEMPOOL(context)	((void) 0)

/* unwritten bytes are not AddressSanitizer's */
#define VALGRIND_CHECK_MEM_IS_DEFINED(addr, size)	((void) 0)

#endif							/* ASAN_MEMCHECK_H */

/*
 * run_ops_split.c
 *		Module wiring: the list of what is initialised, and nothing else.
 *
 * Each module owns its settings, caches and callbacks; this file only calls
 * their init functions and closes the name prefix of the settings afterwards,
 * so that a misspelt one is reported instead of ignored.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "cache.h"
#include "cache_epoch.h"
#include "compat.h"
#include "connect_limit.h"
#include "rights.h"
#include "run_ops_split.h"
#include "seam_pruning.h"
#include "split_mode.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	rights_init();
	seam_pruning_init();
	write_frame_init();
	write_routing_init();
	cross_store_writes_init();
	split_mode_init();
	connect_limit_init();
	store_connection_init();
	leftovers_init();
	mint_kind_init();
	cache_init();
	cache_epoch_init();

	MarkGUCPrefixReserved("run_ops_split");
}

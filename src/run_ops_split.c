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

#include "control_plane/cache.h"
#include "control_plane/cache_epoch.h"
#include "control_plane/mint_kind.h"
#include "ground/compat.h"
#include "ground/rights.h"
#include "reads/seam_pruning.h"
#include "reads/seam_shortcut.h"
#include "stores/read_gate.h"
#include "switch/leftovers.h"
#include "wire/cross_store_writes.h"
#include "wire/wire.h"
#include "writes/write_frame.h"
#include "writes/write_routing.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	rights_init();
	wire_init();
	cross_store_writes_init();
	read_gate_init();
	seam_pruning_init();
	seam_shortcut_init();
	write_frame_init();
	write_routing_init();
	leftovers_init();
	mint_kind_init();
	cache_init();
	cache_epoch_init();

	MarkGUCPrefixReserved("run_ops_split");
}

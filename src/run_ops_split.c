/*
 * run_ops_split.c
 *		Calls the init function of each module, and nothing else.
 *
 * Each module owns its settings, caches and callbacks.  After the calls, the
 * name prefix of the settings is reserved, so that a misspelled setting is
 * reported and not ignored.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "control_plane/cache.h"
#include "control_plane/cache_epoch.h"
#include "control_plane/mint_kind.h"
#include "ground/compat.h"
#include "ground/rights.h"
#include "ground/server_identity.h"
#include "ground/snapshot_key.h"
#include "reads/assumed_statistics.h"
#include "reads/leaf_aggregates.h"
#include "reads/leaf_locks.h"
#include "reads/seam_pruning.h"
#include "reads/seam_shortcut.h"
#include "reads/startup_pruning.h"
#include "reads/store_anti_join.h"
#include "stores/foreign_scan.h"
#include "stores/gathered_changes.h"
#include "stores/read_gate.h"
#include "stores/read_replica.h"
#include "switch/kept_objects.h"
#include "wire/cross_store_writes.h"
#include "wire/wire.h"
#include "wire/wire_stats.h"
#include "writes/collected_rows.h"
#include "writes/conflict_clause.h"
#include "writes/leaf_plans.h"
#include "writes/write_routing.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	rights_init();
	server_identity_init();
	snapshot_key_init();
	wire_stats_init();
	wire_init();
	cross_store_writes_init();
	read_gate_init();
	read_replica_init();
	foreign_scan_init();
	gathered_changes_init();
	assumed_statistics_init();
	seam_pruning_init();
	leaf_locks_init();
	leaf_aggregates_init();
	seam_shortcut_init();
	startup_pruning_init();
	store_anti_join_init();
	collected_rows_init();
	conflict_clause_init();
	leaf_plans_init();
	write_routing_init();
	kept_objects_init();
	mint_kind_init();
	cache_init();
	cache_epoch_init();

	MarkGUCPrefixReserved("run_ops_split");
}

# run_ops_split: a PGXS Makefile, and the commands that bring their own servers.
#
#   make, make install, make installcheck    as every PostgreSQL extension has them
#   make demo [KEEP=1]                       the main job on two temporary servers
#   make test [REGRESS=...] [ISOLATION=...] [PROVE_TESTS=...]
#   make bench [BENCH=test/bench/reads.sql]  the ratio table, test/bench
#   make check-mutants                       the cache and the pruning without each of their guards
#   make check-versions [VERSIONS="17 18"]   the tests on other PostgreSQL versions
#   make check-package                       what is shipped, by make dist and as a Debian package
#   make check-docker, make check-new-user   the image; what README says, on an empty machine
#   make reference                           docs/reference.md from the catalog
#   make dist, make checkver                 the zip of a release; whether its version is one
#   make check-hard                          the tests that take long; among them
#   make check-faults                        every call that may fail, failing once
#   make check-ubsan, make check-valgrind    what C leaves undefined, invalid reads
#   make check-assert                        assertions, AddressSanitizer, caches that forget
#   make check-analyze                       gcc -fanalyzer, clang --analyze
#   make coverage                            lines of C that the tests run
#
# The second group installs what is missing and must work where no pg_config
# is yet, so nothing of PGXS is read for it.

SERVER_GOALS = demo test bench bench-large check-mutants check-versions check-hard check-package check-docker check-new-user reference dist checkver \
	check-faults check-ubsan check-valgrind check-assert check-analyze coverage

ifneq ($(filter $(SERVER_GOALS),$(MAKECMDGOALS)),)

.PHONY: $(SERVER_GOALS)
$(SERVER_GOALS):
	@scripts/$@

export KEEP VERSIONS BENCH
ifdef REGRESS
export REGRESS
endif
ifdef ISOLATION
export ISOLATION
endif
ifdef PROVE_TESTS
export PROVE_TESTS
endif

else

EXTENSION = run_ops_split
# the one place of the version is the control file
EXTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(EXTENSION).control)

MODULE_big = $(EXTENSION)
# By room, each after the rooms that it may use.
MODULES_C = \
	ground/library_version \
	ground/rights \
	ground/column_equality \
	ground/snapshot_key \
	ground/own_table \
	ground/key_set \
	ground/server_identity \
	ids/id_shape \
	ids/id_mint \
	ids/key_rule \
	wire/wire_stats \
	wire/connection \
	wire/cross_store_writes \
	wire/atomic_commit \
	wire/wire \
	wire/resolve_prepared \
	wire/ask_store \
	stores/read_gate \
	stores/read_replica \
	stores/remote_rows \
	stores/foreign_scan \
	stores/remote_change \
	stores/store_modify \
	stores/gathered_changes \
	stores/foreign_modify \
	stores/foreign_analyze \
	stores/foreign_import \
	reads/read_locks \
	reads/residency \
	reads/lookup_condition \
	reads/seam_pruning \
	reads/union_view \
	reads/view_definition \
	reads/leaf_locks \
	reads/leaf_aggregates \
	reads/startup_pruning \
	reads/seam_shortcut \
	reads/assumed_statistics \
	reads/store_order \
	reads/stand_ins \
	reads/foreign_plan \
	reads/store_anti_join \
	reads/run_ops_fdw \
	writes/routed_view \
	writes/write_routing \
	writes/collected_rows \
	writes/conflict_clause \
	writes/leaf_statements \
	writes/leaf_plans \
	writes/write_lock \
	switch/kept_objects \
	control_plane/cache_lookups \
	control_plane/cache \
	control_plane/cache_epoch \
	control_plane/control_plane \
	control_plane/mint_shard \
	control_plane/mint_kind \
	watch/contacts \
	run_ops_split
OBJS = $(MODULES_C:%=src/%.o)

# calls that may fail do, for scripts/check-faults
ifdef INJECT_FAULTS
OBJS += test/inject_faults/inject_faults.o
PG_CPPFLAGS += -include test/inject_faults/inject_faults.h
endif

# Parts of the install script, in the order of their dependencies.
SQL_PARTS = \
	ground/library_version \
	ground/rights \
	ground/column_equality \
	ids/id_shape \
	ids/id_mint \
	ids/key_rule \
	wire/wire_stats \
	wire/wire \
	wire/ask_store \
	wire/atomic_commit \
	wire/resolve_prepared \
	stores/read_gate \
	stores/stores \
	stores/read_replica \
	stores/both_sides \
	stores/routed_tables \
	stores/same_shape \
	stores/table_tree \
	stores/partitioned \
	reads/run_ops_fdw \
	reads/seam_pruning \
	reads/read_through \
	reads/read_locks \
	writes/write_routing \
	writes/in_doubt \
	switch/split_mode \
	switch/distinct_database \
	switch/kept_objects \
	switch/table_gates \
	switch/split_gates \
	switch/repatriate \
	switch/changed_rows \
	switch/leftovers \
	switch/new_rule \
	control_plane/known_tables \
	control_plane/mint_kind \
	control_plane/mint_shard \
	control_plane/cache \
	control_plane/cache_epoch \
	control_plane/control_plane \
	control_plane/cross_seam_guard \
	control_plane/cleanup \
	watch/stats \
	watch/next_step

# The script that updates the last release to this version is built, those of
# earlier versions are as they were released.
UPGRADES = $(wildcard upgrade/$(EXTENSION)--*--$(EXTVERSION).sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql $(notdir $(UPGRADES))
DATA = $(filter-out $(UPGRADES), $(wildcard upgrade/$(EXTENSION)--*--*.sql))
EXTRA_CLEAN = $(EXTENSION)--*.sql

REGRESS ?= \
	id_shape \
	id_mint \
	catalog \
	stores \
	attach_differences \
	collations \
	read_through \
	seam_pruning \
	same_shape \
	key_rules \
	read_locks \
	leaf_locks \
	read_fuzz \
	leaf_aggregates \
	shipped_conditions \
	lazy_fdw \
	estimates \
	store_anti_join \
	many_stores \
	write_routing \
	collected_rows \
	one_statement \
	leaf_statements \
	column_equality \
	cross_seam_guard \
	cross_store_writes \
	cleanup \
	life_of_a_run \
	run_store \
	shards \
	split_mode \
	gates \
	repatriate \
	unique_rules \
	leftovers \
	mint_kind \
	mint_kind_vectors \
	mint_shard \
	mint_shard_vectors \
	control_plane \
	cache \
	cache_epoch \
	privileges \
	owners \
	search_path \
	identifiers \
	row_security \
	security_invoker \
	traps \
	stats \
	discard_caches \
	clean_up
ISOLATION ?= \
	lazy_fdw_recheck \
	mint_kind_flip \
	write_races \
	row_recheck \
	leaf_locks \
	cache_snapshots \
	cache_definitions \
	cache_serializable \
	cache_epochs
ISOLATION_OPTS = --inputdir=test/isolation
TAP_TESTS = 1
PROVE_TESTS ?= $(wildcard test/t/*.pl)

# The headers of PostgreSQL 14 and 15 declare functions without parameters, which
# say something else in C23, the default of newer compilers.
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wno-cast-function-type
# Debian's PostgreSQL was built by gcc, and its flags and headers show it
ifneq ($(findstring clang,$(shell $(CC) --version 2>/dev/null)),)
PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-optimization-argument \
	-Wno-ignored-attributes
endif
SHLIB_LINK += $(libpq)
PG_CPPFLAGS += -I$(srcdir)/src -I$(shell $(PG_CONFIG) --includedir) -DRUN_OPS_VERSION='"$(EXTVERSION)"'

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*/*.h)
src/ground/library_version.o: $(EXTENSION).control

$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS:%=src/%.sql) $(EXTENSION).control
	{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION) CASCADE" to load this file. \quit'; \
	  cat $(SQL_PARTS:%=src/%.sql); } > $@

$(notdir $(UPGRADES)): $(EXTENSION)--%--$(EXTVERSION).sql: scripts/upgrade.awk upgrade/$(EXTENSION)--%--$(EXTVERSION).sql \
		test/released/$(EXTENSION)--%.sql $(EXTENSION)--$(EXTVERSION).sql
	awk -f $^ > $@ || { rm -f $@; exit 1; }

endif

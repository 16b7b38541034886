/*
 * kept_objects.c
 *		Prevents that the extension is dropped while split is on, or while local
 *		tables may have leftovers, which nothing could distinguish from other
 *		rows afterwards.
 *
 * Many commands drop an extension: DROP EXTENSION, dropping an extension or
 * schema that it needs, DROP OWNED, and each of them can run inside a
 * function.  An event trigger that is fired after the command does not help,
 * because it has been dropped by then.  The one idea: all of these commands
 * drop the tables run_ops.split_state and run_ops.leftover, which cannot be
 * dropped alone.  So the checks are done when these tables are dropped.  The
 * event trigger before such commands only makes sure that this library is
 * loaded.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "stores/read_gate.h"
#include "switch/kept_objects.h"

PG_FUNCTION_INFO_V1(run_ops_guard_drop);

static object_access_hook_type next_object_access = NULL;

/*
 * Event triggers are not fired in sessions of a replica, and this check goes
 * with the one of guard_routed_tables().
 */
static void
refuse_while_split(void)
{
	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA && split_enabled())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot drop extension run_ops_split while split is on"),
				 errdetail("The rows of the stores would disappear from the views."),
				 errhint("Switch split off first, with run_ops.disable_split().")));
}

static void
refuse_leftovers(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	bool		found = systable_getnext(scan) != NULL;

	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("rows that moved to a store are still in the local tables"),
				 errdetail("Without the extension, they cannot be distinguished from other rows."),
				 errhint("To remove them, repeat until done: SELECT * FROM run_ops.remove_leftovers(); If the stores are lost: SELECT run_ops.disable_split(force => true);")));
}

static void
watch_drop(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id,
		   void *arg)
{
	Oid			schema;

	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, arg);
	if (access != OAT_DROP || class_id != RelationRelationId || sub_id != 0)
		return;
	schema = get_namespace_oid("run_ops", true);
	if (object_id == get_relname_relid("split_state", schema))
		refuse_while_split();
	else if (object_id == get_relname_relid("leftover", schema))
		refuse_leftovers(object_id);
}

/*
 * guard_drop() returns event_trigger
 */
Datum
run_ops_guard_drop(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.guard_drop() must be called as an event trigger")));
	PG_RETURN_NULL();
}

void
kept_objects_init(void)
{
	next_object_access = object_access_hook;
	object_access_hook = watch_drop;
}

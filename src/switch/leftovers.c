/*
 * leftovers.c
 *		Prevents that the extension is dropped while local tables may have
 *		leftovers, which nothing could distinguish from other rows afterwards.
 *
 * Many commands drop an extension: DROP EXTENSION, dropping an extension or
 * schema that it needs, DROP OWNED, and each of them can run inside a
 * function.  The one idea: all of them drop the table run_ops.leftover, which
 * cannot be dropped alone.  So the check is done when that table is dropped.
 * The event trigger before such commands only makes sure that this library is
 * loaded.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "commands/event_trigger.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "switch/leftovers.h"

PG_FUNCTION_INFO_V1(run_ops_guard_drop);

static object_access_hook_type next_object_access = NULL;

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
	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, arg);
	if (access == OAT_DROP && class_id == RelationRelationId && sub_id == 0 &&
		object_id == get_relname_relid("leftover",
									   get_namespace_oid("run_ops", true)))
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
leftovers_init(void)
{
	next_object_access = object_access_hook;
	object_access_hook = watch_drop;
}

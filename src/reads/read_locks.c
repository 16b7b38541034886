/*
 * read_locks.c
 *		Locks one row behind the view of a routed table.
 *
 * run_ops.lock_row() locks the row in the table from which the view shows it,
 * also where SELECT ... FOR UPDATE is refused (leaf_locks.c).  A user who may write to
 * the view needs no privileges on that table; see rights.c.
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ground/compat.h"
#include "ground/rights.h"
#include "reads/read_locks.h"

PG_FUNCTION_INFO_V1(run_ops_lock_copy);
PG_FUNCTION_INFO_V1(run_ops_refuse_locks);

static const char *const lock_modes[] = {
	"update", "no key update", "share", "key share", NULL
};
static const char *const lock_waits[] = {"wait", "nowait", "skip locked", NULL};

static const char *
known_word(text *arg, const char *const *words, const char *what)
{
	char	   *word = text_to_cstring(arg);

	for (int i = 0; words[i]; i++)
	{
		if (strcmp(word, words[i]) == 0)
			return words[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid lock %s \"%s\"", what, word)));
}

static bool
has_any_privilege(Oid relid, AclMode mode)
{
	return pg_class_aclcheck(relid, GetUserId(), mode) == ACLCHECK_OK ||
		pg_attribute_aclcheck_all(relid, GetUserId(), mode,
								  ACLMASK_ANY) == ACLCHECK_OK;
}

/*
 * lock_copy(view regclass, relation regclass, id text, mode text, wait text)
 *		returns boolean
 *
 * Locks the row of a routed table in one of the tables behind its view until
 * the transaction ends; returns false if the table has no such row, or if "wait"
 * is "skip locked" and the row is locked.
 * run_ops.lock_row() calls it and chooses the table.  The current user needs
 * SELECT and UPDATE on the view, and also on the table if the view has
 * security_invoker.  Errors: 42501 without these privileges, 22023 for another
 * mode or wait, 55P03 if "wait" is "nowait" and the row is locked, 42809 for a
 * relation that is not behind the view.
 */
Datum
run_ops_lock_copy(PG_FUNCTION_ARGS)
{
	Oid			view = PG_GETARG_OID(0);
	Oid			relid = PG_GETARG_OID(1);
	const char *mode = known_word(PG_GETARG_TEXT_PP(3), lock_modes, "mode");
	const char *wait = known_word(PG_GETARG_TEXT_PP(4), lock_waits, "wait");
	Oid			argtypes[] = {OIDOID, OIDOID};
	Datum		args[] = {ObjectIdGetDatum(view), ObjectIdGetDatum(relid)};
	Oid			idtype = TEXTOID;
	Datum		id = PG_GETARG_DATUM(2);
	Relation	rel;
	Oid			owner;
	bool		security_invoker;
	char	   *lock;
	RightsStatement *statement;
	bool		locked;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT pg_catalog.format('x.%I %s', t.key_columns[1], run_ops.equals_text(t.legacy, t.key_columns[1], '$1')), "
							  "CASE WHEN t.routing OPERATOR(pg_catalog.=) 'anchor' AND run_ops.split_enabled() "
							  "THEN ' AND ' OPERATOR(pg_catalog.||) run_ops.in_store(t, pg_catalog.format('x.%I', t.route_column), c.store) ELSE '' END "
							  "FROM run_ops.routed_table AS t, LATERAL run_ops.copies(t) AS c "
							  "WHERE t.view OPERATOR(pg_catalog.=) $1 AND c.relation OPERATOR(pg_catalog.=) $2",
							  2, argtypes, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the registry");
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation %u is not behind view %u", relid, view)));
	lock = psprintf("SELECT FROM %s AS x WHERE %s%s FOR %s %s",
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
											   get_rel_name(relid)),
					SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
					SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2),
					mode, strcmp(wait, "wait") == 0 ? "" : wait);

	rel = table_open(view, AccessShareLock);
	owner = rel->rd_rel->relowner;
	security_invoker = compat_has_security_invoker(rel);
	table_close(rel, NoLock);
	if (!has_any_privilege(view, ACL_SELECT) || !has_any_privilege(view, ACL_UPDATE))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for view %s", get_rel_name(view)),
				 errdetail("Locking a row needs SELECT and UPDATE.")));

	statement = rights_prepare(lock, owner, security_invoker ? InvalidOid : owner,
							   1, &idtype, 0, CurrentMemoryContext);
	if (rights_execute(statement, &id, NULL, false, 1, NULL) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a row");
	locked = SPI_processed > 0;
	SPI_finish();
	PG_RETURN_BOOL(locked);
}

/*
 * refuse_locks("any") returns boolean
 *
 * True, also for NULL.  It is the filter of a view whose rows do not say in
 * which store they are; planner support of it refuses FOR UPDATE.
 */
Datum
run_ops_refuse_locks(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

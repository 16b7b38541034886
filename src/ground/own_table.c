/*
 * own_table.c
 *		Reads tables of the extension from C.
 *
 * They have a few rows, and are read with neither SPI nor the privileges of the
 * user.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/own_table.h"

Relation
own_table_open(const char *name)
{
	Oid			schema = get_namespace_oid("run_ops", true);
	Oid			table = OidIsValid(schema) ?
		get_relname_relid(name, schema) : InvalidOid;

	return OidIsValid(table) ? table_open(table, AccessShareLock) : NULL;
}

char *
own_table_lookup(const char *name, const char *key, const char *value,
				 const char *field)
{
	Relation	rel = own_table_open(name);
	TupleDesc	desc;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *result = NULL;

	if (rel == NULL)
		return NULL;
	desc = RelationGetDescr(rel);
	scan = systable_beginscan(rel, InvalidOid, false,
							  ActiveSnapshotSet() ? GetActiveSnapshot() : NULL,
							  0, NULL);
	while (result == NULL && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		char	   *found = SPI_getvalue(tuple, desc, SPI_fnumber(desc, key));

		if (found && strcmp(found, value) == 0)
			result = SPI_getvalue(tuple, desc, SPI_fnumber(desc, field));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

Oid
own_table_oid(const char *name, const char *key, Oid value, const char *field)
{
	Relation	rel = own_table_open(name);
	TupleDesc	desc;
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	Oid			result = InvalidOid;

	if (rel == NULL)
		return InvalidOid;
	desc = RelationGetDescr(rel);
	ScanKeyInit(&scankey, SPI_fnumber(desc, key), BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(value));
	scan = systable_beginscan(rel, InvalidOid, false,
							  ActiveSnapshotSet() ? GetActiveSnapshot() : NULL,
							  1, &scankey);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		result = DatumGetObjectId(SPI_getbinval(tuple, desc, SPI_fnumber(desc, field), &isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

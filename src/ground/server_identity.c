/*
 * server_identity.c
 *		What distinguishes this server from its copies, and whether it may use
 *		the stores.
 *
 * A physical copy has the same system identifier and timeline, and a promoted
 * standby cannot be distinguished from a promoted copy by them.  But host,
 * data directory and the inode of the data directory differ.  (The last two
 * are hashed, because any user may see the text.) A logical copy has another
 * system identifier, and a database created with this one as template has
 * another OID.  A setting replaces the name of the host, for containers that
 * get a new name each time.
 */
#include "postgres.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ground/own_table.h"
#include "ground/server_identity.h"

static char *server_name = NULL;

const char *
server_identity(void)
{
	static char *identity = NULL;
	static char *of_name = NULL;
	char		host[HOST_NAME_MAX + 1] = "";
	const char *name = server_name;
	struct stat dir;
	char	   *new_identity;
	char	   *new_name;

	if (name[0] == '\0')
	{
		gethostname(host, sizeof(host) - 1);
		name = host;
	}
	/* while the server runs, only the name can change */
	if (identity && strcmp(name, of_name) == 0)
		return identity;

	if (stat(DataDir, &dir) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat directory \"%s\": %m", DataDir)));
	new_identity = psprintf(UINT64_FORMAT "/%u@%s#%016llx",
							GetSystemIdentifier(), MyDatabaseId, name,
							(unsigned long long)
							hash_bytes_extended((unsigned char *) DataDir,
												strlen(DataDir), dir.st_ino));
	new_identity = MemoryContextStrdup(TopMemoryContext, new_identity);
	new_name = MemoryContextStrdup(TopMemoryContext, name);
	if (identity)
	{
		pfree(identity);
		pfree(of_name);
	}
	identity = new_identity;
	of_name = new_name;
	return identity;
}

bool
names_this_server(ArrayType *identities)
{
	const char *identity = server_identity();
	Datum	   *names;
	bool	   *nulls;
	int			n;

	deconstruct_array(identities, TEXTOID, -1, false, TYPALIGN_INT,
					  &names, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i] && strcmp(TextDatumGetCString(names[i]), identity) == 0)
			return true;
	return false;
}

bool
server_may_use_stores(void)
{
	Relation	rel = own_table_open("split_state");
	bool		result = false;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)			/* the extension is being dropped */
		return false;
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		identities = heap_getattr(tuple,
											  SPI_fnumber(RelationGetDescr(rel), "identities"),
											  RelationGetDescr(rel), &isnull);

		result = !isnull && names_this_server(DatumGetArrayTypeP(identities));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

void
server_identity_init(void)
{
	DefineCustomStringVariable("run_ops_split.server_name",
							   "Name that distinguishes this server from its copies.",
							   "Empty means the name of the host. Set it if the name of the host can change, as in containers, and to another value on a copy with the same host name.",
							   &server_name, "", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
}

/*
 * contacts.c
 *		Remembers when each store last answered this session.
 *
 * It is kept in the memory of the session: so a query of the monitoring views
 * writes no table, and the facts survive a rollback.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(run_ops_contact);
PG_FUNCTION_INFO_V1(run_ops_remember_contact);

/* When a server last answered and when it last failed; 0 means never. */
typedef struct Contact
{
	NameData	server;			/* hash key */
	TimestampTz answered_at;
	TimestampTz failed_at;
	char	   *error;			/* NULL until it first fails */
} Contact;

static HTAB *contacts = NULL;

static Contact *
contact_of(const char *server)
{
	NameData	key;
	Contact    *contact;
	bool		found;

	if (contacts == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(Contact);
		contacts = hash_create("run_ops contacts", 16, &ctl,
							   HASH_ELEM | HASH_STRINGS);
	}
	namestrcpy(&key, server);
	contact = hash_search(contacts, &key, HASH_ENTER, &found);
	if (!found)
	{
		contact->answered_at = contact->failed_at = 0;
		contact->error = NULL;
	}
	return contact;
}

/*
 * contact(server name, OUT answered_at timestamptz, OUT failed_at timestamptz,
 * OUT error text) returns record
 *
 * Strict.
 */
Datum
run_ops_contact(PG_FUNCTION_ARGS)
{
	Contact    *contact = contact_of(NameStr(*PG_GETARG_NAME(0)));
	Datum		values[3];
	bool		nulls[3];
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = TimestampTzGetDatum(contact->answered_at);
	nulls[0] = contact->answered_at == 0;
	values[1] = TimestampTzGetDatum(contact->failed_at);
	nulls[1] = contact->failed_at == 0;
	nulls[2] = contact->error == NULL;
	values[2] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(contact->error);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/*
 * remember_contact(server name, error text) returns void
 *
 * Remembers that the server has answered, or the error if it is not NULL.
 */
Datum
run_ops_remember_contact(PG_FUNCTION_ARGS)
{
	Contact    *contact;
	char	   *error;

	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	contact = contact_of(NameStr(*PG_GETARG_NAME(0)));
	if (PG_ARGISNULL(1))
	{
		contact->answered_at = GetCurrentTimestamp();
		PG_RETURN_VOID();
	}
	error = MemoryContextStrdup(TopMemoryContext,
								text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (contact->error)
		pfree(contact->error);
	contact->error = error;
	contact->failed_at = GetCurrentTimestamp();
	PG_RETURN_VOID();
}

/*
 * foreign_analyze.h
 *		ANALYZE of foreign tables.
 */
#ifndef RUN_OPS_FOREIGN_ANALYZE_H
#define RUN_OPS_FOREIGN_ANALYZE_H

#include "foreign/fdwapi.h"

/* Callback AnalyzeForeignTable. */
extern bool foreign_analyze(Relation rel, AcquireSampleRowsFunc *func,
							BlockNumber *totalpages);

#endif							/* RUN_OPS_FOREIGN_ANALYZE_H */

/*
 * seam_pruning.h
 *		Planner support of run_ops.resides: its settings.
 */
#ifndef RUN_OPS_SEAM_PRUNING_H
#define RUN_OPS_SEAM_PRUNING_H

extern void seam_pruning_init(void);

#endif							/* RUN_OPS_SEAM_PRUNING_H */

/* Best-fit of many tasks on identical CPUs by utilisation alone: what strict_place() does in that case, without
 * building a state that could be changed afterwards. */
#ifndef MGMT_KERNEL_PACK_H
#define MGMT_KERNEL_PACK_H

#include "kernel.h"

#define PACK_DONE SIZE_MAX

size_t pack_room(size_t tasks, size_t cpus);
/* By falling utilisation, equal ones in the order given, each on the CPU with least room and enough, ties on
 * the lower one; no CPU's exact sum of wcet / period passes 1. cpu[i] of every task; *failed is PACK_DONE, or
 * the first task without a CPU, and then cpu[] is of no meaning. wcet and period are at least 1. */
enum k_status pack_best_fit(size_t n, const int64_t *wcet, const int64_t *period, size_t cpus, struct k_arena arena,
                            int64_t *cpu, size_t *failed);

#endif

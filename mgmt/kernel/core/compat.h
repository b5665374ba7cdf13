/* The ancestor's three placement algorithms, bit for bit: double arithmetic in its order, partial results,
 * phantoms. Indexes instead of its scans; what they must find is what the scan would have found. */
#ifndef MGMT_KERNEL_COMPAT_H
#define MGMT_KERNEL_COMPAT_H

#include "kernel.h"

#define COMPAT_NO_AFFINITY INT64_MIN
#define COMPAT_UNSET (-1)   /* no target; no node; no CPU */

struct compat_tasks {
    size_t n;
    const uint64_t *period, *runtime;
    const int64_t *memory;   /* unused by target_node_priority */
    const int64_t *target;   /* node, COMPAT_UNSET, or less: unknown; unused by least_loaded */
    const int64_t *affinity; /* CPU id or COMPAT_NO_AFFINITY */
};

struct compat_nodes {
    size_t n;
    const int64_t *offset; /* [n + 1]: the CPU ids of node k are cpu[offset[k]] to cpu[offset[k + 1] - 1] */
    const int64_t *cpu;
    const int64_t *memory; /* [n] */
};

/* node[i], cpu[i] of every task: both COMPAT_UNSET when dropped; only the CPU: a phantom. K_OK or K_NOMEM. */
size_t compat_room(size_t tasks, size_t nodes, size_t cpus);
enum k_status compat_target_node_priority(const struct compat_tasks *tasks, const struct compat_nodes *nodes,
                                          struct k_arena arena, int64_t *node, int64_t *cpu);
enum k_status compat_best_fit_decreasing(const struct compat_tasks *tasks, const struct compat_nodes *nodes,
                                         struct k_arena arena, int64_t *node, int64_t *cpu);
enum k_status compat_least_loaded(const struct compat_tasks *tasks, const struct compat_nodes *nodes,
                                  struct k_arena arena, int64_t *node, int64_t *cpu);

/* Of distinct non-zero periods in ascending order, modulo 2^64; 0 for none. */
uint64_t compat_hyperperiod(const uint64_t *periods, size_t n);

#endif

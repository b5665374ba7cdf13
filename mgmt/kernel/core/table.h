/* Time-triggered tables: one hyperperiod of one CPU, worked out in advance, and its validator.
 *
 * Job k of a task is released at offset + k * period and due `deadline` later, but not after the hyperperiod's
 * end, so that tables follow each other without a carry. Of two tasks in a precedence, which have the same
 * period, job k of the second starts when job k of the first has ended. */
#ifndef MGMT_KERNEL_TABLE_H
#define MGMT_KERNEL_TABLE_H

#include "kernel.h"

#define K_TABLE_JOBS ((int64_t)1 << 24)

struct k_table_tasks {
    size_t n;
    const int64_t *wcet, *period, *deadline, *offset; /* wcet >= 1, deadline <= period, 0 <= offset < period */
    size_t edges;
    const int64_t *before, *after; /* of each edge: task indices */
};

/* Slices: task runs without a break in [start, end). */
struct k_slices {
    int64_t *start, *end, *task;
    size_t count;
};

enum k_table_input { K_TABLE_FINE, K_TABLE_WCET, K_TABLE_PERIOD, K_TABLE_DEADLINE, K_TABLE_OFFSET, K_TABLE_EDGE,
                     K_TABLE_EDGE_PERIODS, K_TABLE_CYCLE };

/* The first broken rule above and where: index of a task or an edge (K_TABLE_CYCLE: a task of a cycle). */
enum k_table_input k_table_check_input(const struct k_table_tasks *tasks, struct k_arena arena, size_t *index);

/* Arena bytes for any function here. */
size_t k_table_room(size_t n, size_t edges);

/* Hyperperiod and number of jobs; K_OVERFLOW when they pass int64 and K_TABLE_JOBS. A table has fewer than
 * 2 * jobs slices. */
enum k_status k_table_size(const struct k_table_tasks *tasks, int64_t *hyperperiod, int64_t *jobs);

struct k_table_miss {
    bool found;
    size_t task;
    int64_t job;
};

/* Fills slices in time order by EDF on deadlines and releases that hold the precedences, which finds a table
 * whenever there is one. Of equal deadlines the running job goes on, then the lower index comes first. */
enum k_status k_table_make(const struct k_table_tasks *tasks, int64_t hyperperiod, struct k_arena arena,
                           struct k_slices *slices, struct k_table_miss *miss);

enum k_table_fault {
    K_SOUND,
    K_WRONG_HYPERPERIOD, /* not the least common multiple of the periods */
    K_BAD_SLICE,         /* no such task, empty, or outside the hyperperiod */
    K_OVERLAP,           /* starts before the one before it ends */
    K_SPLIT,             /* goes on where the same job stopped: should be one slice */
    K_OUTSIDE,           /* not inside one window from release to deadline */
    K_WORK,              /* a job gets more or less than its WCET, or none */
    K_ORDER,             /* starts before a job that must precede it has ended */
};

/* The first fault in time order. *slice is the number of slices for what shows only at the end. */
enum k_status k_table_verify(const struct k_table_tasks *tasks, int64_t hyperperiod, const struct k_slices *slices,
                             struct k_arena arena, enum k_table_fault *fault, size_t *slice, size_t *task);

#endif

/* Placement under exact tests: tasks on CPUs that stay schedulable, one at a time or many at once.
 *
 * The state is the CPUs with the tasks on them and an index of the CPUs by what they can still take. Memory is
 * the caller's: an arena for the CPUs, an array for the tasks, an arena for the tests. */
#ifndef MGMT_KERNEL_STRICT_H
#define MGMT_KERNEL_STRICT_H

#include "kernel.h"
#include "ordered.h"

#define STRICT_NONE UINT32_MAX
#define STRICT_ONE ((uint64_t)1 << 62) /* utilisation 1 */
#define STRICT_PPM 1000000
#define STRICT_CANDIDATES 32 /* how many CPUs an explanation looks at */
#define STRICT_NEAR 32       /* tasks of a CPU that are found without a walk, so that they are fetched together */
#define STRICT_TRIES 3       /* failed tests after which one admission turns to the CPUs with most room */

enum strict_test { STRICT_UTILISATION, STRICT_FP, STRICT_EDF };
enum strict_choice {
    STRICT_BEST,  /* the CPU that has least room and enough */
    STRICT_LEAST, /* the CPU that has most room */
    STRICT_FIRST, /* the CPU of the lowest index */
};
enum strict_order { STRICT_BY_URGENCY, STRICT_BY_UTILISATION, STRICT_AS_GIVEN };

struct strict_task {
    int64_t wcet, period, deadline, jitter;
    int64_t rank;   /* lower is more urgent; of equals see strict.mutual */
    int64_t memory; /* of its node */
    uint64_t u;     /* floor(wcet * 2^62 / period); more than STRICT_ONE: above 1 */
    int64_t target; /* node or negative */
    uint32_t cpu;   /* STRICT_NONE: not placed */
    uint32_t previous, next; /* on the same CPU: in the order of urgency, of equals the lower number first */
    uint32_t left, right;    /* below it in the tree of that order */
    bool masked;    /* strict.mask has a row for it */
};

struct strict_cpu {
    int64_t id;        /* the bit of masks */
    int64_t reserve;   /* in millionths of the CPU, kept free */
    uint64_t capacity; /* floor of what the reserve leaves, STRICT_ONE for all */
    uint64_t load;     /* sum of u: the true sum is less than `count` units more */
    uint64_t ceiling;  /* what a failed test taught: at least this u is not tried, UINT64_MAX: nothing failed */
    uint64_t key;      /* of the index: min(capacity - load, ceiling) */
    double hyperbolic; /* at least the product of 1 + u, where only implicit deadlines are */
    int64_t work;      /* sum of wcet; INT64_MAX when that passes it */
    int64_t window;    /* at most the least min(deadline, period) - jitter: when `work` is done in it, all is */
    uint32_t head, root, count, node;
    uint32_t explicit_deadlines; /* tasks with a deadline other than the period, or jitter */
    uint64_t tested;             /* the admission in which it failed last */
};

struct strict_node {
    int64_t memory, free;
    uint32_t first, last; /* its CPUs: first to last - 1 */
    bool closed;          /* while many tasks are placed: no memory for any of them */
};

struct strict {
    enum strict_test test;
    enum strict_choice choice;
    bool mutual; /* priorities are given: tasks of equal rank delay each other; else the lower number goes first */
    uint32_t cpus, nodes, tasks, mask_words, lowered;
    uint64_t admission;
    struct strict_cpu *cpu;
    struct strict_node *node;
    uint32_t *near; /* [cpus][STRICT_NEAR]: the tasks of a CPU in the order of urgency, while they are so few */
    struct strict_task *task;
    uint64_t *mask; /* [tasks][mask_words] */
    struct ordered by_room; /* STRICT_BEST, STRICT_LEAST */
    uint64_t *most_room;    /* STRICT_FIRST: a tree of greatest keys, leaves from first_leaf */
    uint32_t first_leaf;
};

enum strict_reason {
    STRICT_FITS,
    STRICT_NO_CPU,     /* the target and the mask leave none */
    STRICT_NO_MEMORY,  /* needed; available on the node that has most */
    STRICT_NO_TIME,    /* `needed` millionths of utilisation, rounded up, of which the reserve leaves `available` */
    STRICT_LATE,       /* task `missing` would answer at `needed` (-1: not within 16 deadlines), due at `available` */
    STRICT_DEMAND,     /* within `available` units of time `needed` must be served */
    STRICT_UNDECIDED,  /* the test passes 64 bits or its limit of steps */
};

/* Why a task does not fit, on the CPU that comes closest. */
struct strict_refusal {
    enum strict_reason reason;
    uint32_t cpu, missing; /* STRICT_NONE where the reason has none */
    int64_t needed, available;
    int64_t largest_wcet; /* that would fit there, everything else unchanged; 0: none */
};

uint64_t strict_utilisation(int64_t wcet, int64_t period);

size_t strict_room(size_t cpus, size_t nodes);
/* cpu[i].node ascending from 0; cpu[i].id, cpu[i].reserve and node[k].memory are the caller's to set in the
 * arrays this makes, before strict_ready(). */
bool strict_make(struct strict *s, enum strict_test test, enum strict_choice choice, uint32_t cpus, uint32_t nodes,
                 struct k_arena *arena);
void strict_ready(struct strict *s);

/* Bytes of scratch for the functions below when no CPU has more than n tasks, the new one included. */
size_t strict_scratch(size_t n);

/* Places s->task[x], all fields but cpu and next set. *cpu is STRICT_NONE when no CPU passes its test. */
enum k_status strict_admit(struct strict *s, uint32_t x, struct k_arena scratch, uint32_t *cpu);
/* On this CPU or not at all. */
enum k_status strict_admit_on(struct strict *s, uint32_t x, uint32_t cpu, struct k_arena scratch, bool *fits);
void strict_remove(struct strict *s, uint32_t x);
/* Without a test: where x was before, with nothing admitted in between. */
void strict_put_back(struct strict *s, uint32_t x, uint32_t cpu);
/* Why strict_admit(x) fails, or strict_admit_on(x, only) where `only` is not STRICT_NONE. */
enum k_status strict_explain(const struct strict *s, uint32_t x, uint32_t only, struct k_arena scratch,
                             struct strict_refusal *refusal);

size_t strict_place_room(size_t n);
/* Places all of s->task[first .. first + n - 1], or none: then *failed is the first that found no CPU among those
 * placed before it, otherwise STRICT_NONE. */
enum k_status strict_place(struct strict *s, uint32_t first, uint32_t n, enum strict_order order, struct k_arena arena,
                           struct k_arena scratch, uint32_t *failed, struct strict_refusal *refusal);

struct strict_move {
    uint32_t task, from, to;
};

size_t strict_rebalance_room(const struct strict *s);
/* Up to `most` moves, one after the other admissible, that lower the greatest load; none where no single move
 * can. Each takes from the CPU of the greatest load (of equals the lowest) the task that evens it out best with the emptiest
 * CPU, to the emptiest CPU that passes. All is as it was afterwards. moves[most]. */
enum k_status strict_rebalance(struct strict *s, uint32_t most, struct k_arena arena, struct k_arena scratch,
                               struct strict_move *moves, uint32_t *count);

/* Worst response times of the tasks on a CPU in the order of urgency, -1 past the deadline; [count]. */
enum k_status strict_responses(const struct strict *s, uint32_t cpu, struct k_arena scratch, int64_t *response);

#endif

/* The tests of one CPU, for strict.c alone. */
#ifndef MGMT_KERNEL_STRICT_TESTS_H
#define MGMT_KERNEL_STRICT_TESTS_H

#include "strict.h"

/* The order on a CPU: rank, then number. */
static inline bool strict_before(const struct strict *s, uint32_t a, uint32_t b)
{
    int64_t x = s->task[a].rank, y = s->task[b].rank;
    return x < y || (x == y && a < b);
}

static inline bool strict_has_deadline(const struct strict_task *task)
{
    return task->deadline != task->period || task->jitter != 0;
}

static inline int64_t strict_window(const struct strict_task *task)
{
    return k_min(task->deadline, task->period) - task->jitter;
}

/* What the sound bounds are made of. */
static inline void strict_bound_clear(struct strict_cpu *cpu)
{
    cpu->hyperbolic = 1.0;
    cpu->work = 0;
    cpu->window = INT64_MAX;
}

/* The hyperbolic product is rounded up more than all roundings can have lost. */
static inline void strict_bound_add(struct strict_cpu *cpu, const struct strict_task *task)
{
    cpu->hyperbolic *= 1.0 + (double)task->u * 0x1p-62 + 0x1p-48;
    cpu->window = k_min(cpu->window, strict_window(task));
    if (!k_add(cpu->work, task->wcet, &cpu->work))
        cpu->work = INT64_MAX;
}

static inline uint64_t strict_room_left(const struct strict_cpu *cpu)
{
    return cpu->load < cpu->capacity ? cpu->capacity - cpu->load : 0;
}

/* Everything but time. */
static inline bool strict_allowed(const struct strict *s, uint32_t x, uint32_t q)
{
    const struct strict_task *task = &s->task[x];
    const struct strict_cpu *cpu = &s->cpu[q];
    if (task->target >= 0 && (uint64_t)task->target != cpu->node)
        return false;
    if (!task->masked)
        return true;
    return cpu->id >= 0 && (uint64_t)cpu->id < (uint64_t)s->mask_words * 64 &&
           (s->mask[(size_t)x * s->mask_words + (size_t)cpu->id / 64] >> (cpu->id & 63) & 1);
}

/* Into and out of the order of a CPU's tasks. */
void strict_link(struct strict *s, uint32_t q, uint32_t x);
void strict_unlink(struct strict *s, uint32_t q, uint32_t x);

/* Whether task x with the given WCET passes on CPU q; *time_left: it is not utilisation that refuses it. */
enum k_status strict_fits(const struct strict *s, uint32_t x, uint32_t q, int64_t wcet, struct k_arena scratch,
                          bool *fits, bool *time_left);

#endif

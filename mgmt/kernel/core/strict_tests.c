/* The tests of one CPU: utilisation as an exact fraction, response times, demand; and why a task fits nowhere. */
#include "strict_tests.h"

#include "analysis.h"

#define STEPS ((uint32_t)1 << 22) /* evaluations for one task before a test gives up */
#define SMALL ((int64_t)1 << 31)  /* below: 32-bit division */
#define FAR 16                    /* an explanation follows a late response over so many deadlines */

/* The tasks of a CPU and perhaps one more, in order of urgency, and the reserve as a last one. */
struct level {
    size_t n;
    int64_t *wcet, *period, *deadline, *jitter, *rank;
    uint32_t *number;
    bool small;
};

size_t strict_scratch(size_t n)
{
    return 5 * K_ROOM(n + 1, sizeof(int64_t)) + K_ROOM(n + 1, sizeof(uint32_t)) + k_analysis_room(n + 1);
}

static bool make_level(struct level *level, size_t n, struct k_arena *scratch)
{
    level->n = 0;
    level->small = true;
    level->wcet = k_take(scratch, (n + 1) * sizeof(int64_t));
    level->period = k_take(scratch, (n + 1) * sizeof(int64_t));
    level->deadline = k_take(scratch, (n + 1) * sizeof(int64_t));
    level->jitter = k_take(scratch, (n + 1) * sizeof(int64_t));
    level->rank = k_take(scratch, (n + 1) * sizeof(int64_t));
    level->number = k_take(scratch, (n + 1) * sizeof(uint32_t));
    return level->wcet && level->period && level->deadline && level->jitter && level->rank && level->number;
}

static void put(struct level *level, const struct strict *s, uint32_t y, int64_t wcet)
{
    const struct strict_task *task = &s->task[y];
    size_t i = level->n++;
    level->wcet[i] = wcet;
    level->period[i] = task->period;
    level->deadline[i] = task->deadline;
    level->jitter[i] = task->jitter;
    level->rank[i] = task->rank;
    level->number[i] = y;
    level->small &= task->period < SMALL / 2 && task->deadline < SMALL / 2 && task->jitter < SMALL / 2;
}

/* The tasks of CPU q with x, unless it is STRICT_NONE, among them. Returns the index of x. */
static size_t gather(struct level *level, const struct strict *s, uint32_t q, uint32_t x, int64_t wcet)
{
    size_t at = SIZE_MAX;
    const uint32_t *near = s->near + (size_t)q * STRICT_NEAR, count = s->cpu[q].count;
    const bool few = count <= STRICT_NEAR;
    for (uint32_t i = 0; few && i < count; i++) { /* all at once: a walk would wait for each */
        __builtin_prefetch(&s->task[near[i]].wcet);
        __builtin_prefetch(&s->task[near[i]].rank);
    }
    uint32_t y = s->cpu[q].head;
    for (uint32_t i = 0; i < count; i++) {
        y = few ? near[i] : y;
        if (x != STRICT_NONE && at == SIZE_MAX && strict_before(s, x, y)) {
            at = level->n;
            put(level, s, x, wcet);
        }
        put(level, s, y, s->task[y].wcet);
        y = few ? y : s->task[y].next;
    }
    if (x != STRICT_NONE && at == SIZE_MAX) {
        at = level->n;
        put(level, s, x, wcet);
    }
    return at;
}

/* How many tasks, from the front, can delay task i; itself is among them when priorities are shared. */
static size_t delaying(const struct level *level, size_t i, bool mutual)
{
    if (!mutual)
        return i;
    size_t count = i + 1;
    while (count < level->n && level->rank[count] == level->rank[i])
        count++;
    return count;
}

/* Least w = C + sum of ceil((w + J) / T) C over the tasks that delay i, or -1 once it passes `limit`;
 * K_OVERFLOW after too many steps. */
static enum k_status response(const struct level *level, size_t i, bool mutual, int64_t limit, int64_t *result)
{
    size_t count = delaying(level, i, mutual);
    const int64_t *wcet = level->wcet, *period = level->period, *jitter = level->jitter;
    uint64_t w = (uint64_t)wcet[i], end = limit < 0 ? 0 : (uint64_t)limit;
    double load = 0;
    *result = -1;
    if (limit < 0)
        return K_OK;
    for (size_t j = 0; j < count && w <= end; j++)
        if (j != i) {
            w += (uint64_t)wcet[j];
            load += (double)wcet[j] / (double)period[j];
        }
    if (w > end)
        return K_OK;
    /* Below w = C / (1 - U) no w is large enough; a little less, for the roundings. */
    double least = load < 1 - 0x1p-16 && count < 1 << 16 ? (double)wcet[i] / (1 - load) * (1 - 0x1p-20) : 0;
    if (least > (double)w && least < 0x1p62)
        w = (uint64_t)least;
    for (uint32_t step = 0; step < STEPS && w <= end; step++) {
        uint64_t next = (uint64_t)wcet[i];
        if (level->small && end < (uint64_t)SMALL / 2) {
            for (size_t j = 0; j < count; j++) {
                uint32_t t = (uint32_t)period[j], q = ((uint32_t)w + (uint32_t)jitter[j] + t - 1) / t;
                next += j == i ? 0 : (uint64_t)q * (uint64_t)wcet[j];
            }
        } else {
            for (size_t j = 0; j < count && next <= end; j++) {
                uint64_t reach = w + (uint64_t)jitter[j], t = (uint64_t)period[j], work;
                if (j != i && (__builtin_mul_overflow(reach / t + (reach % t != 0), (uint64_t)wcet[j], &work) ||
                               __builtin_add_overflow(next, work, &next)))
                    return K_OK;
            }
        }
        if (next <= w) {
            *result = (int64_t)w;
            return K_OK;
        }
        w = next;
    }
    return w > end ? K_OK : K_OVERFLOW;
}

/* The first task, in order of urgency, that task x on this level makes late; level->n when none is. */
static enum k_status late(const struct level *level, size_t at, bool mutual, bool least_urgent_first, size_t *missing)
{
    size_t from = at;
    while (mutual && from > 0 && level->rank[from - 1] == level->rank[at])
        from--;
    *missing = level->n;
    for (size_t k = from; k < level->n; k++) {
        size_t i = least_urgent_first ? level->n - 1 - (k - from) : k;
        int64_t w;
        enum k_status status = response(level, i, mutual, level->deadline[i] - level->jitter[i], &w);
        if (status != K_OK || w < 0)
            *missing = i;
        if (status != K_OK || w < 0)
            return status;
    }
    return K_OK;
}

static enum k_status has_capacity(const struct strict *s, uint32_t q, uint32_t x, int64_t wcet, struct k_arena scratch, bool *fits)
{
    const struct strict_cpu *cpu = &s->cpu[q];
    uint64_t load = cpu->load + strict_utilisation(wcet, s->task[x].period), doubt = (uint64_t)cpu->count + 1;
    *fits = load + doubt <= cpu->capacity;
    if (*fits || load > cpu->capacity)
        return K_OK;
    struct level level;
    int sign;
    if (!make_level(&level, (size_t)cpu->count + 1, &scratch))
        return K_NOMEM;
    gather(&level, s, q, x, wcet);
    if (cpu->reserve) {
        level.wcet[level.n] = cpu->reserve;
        level.period[level.n++] = STRICT_PPM;
    }
    enum k_status status = k_utilisation(level.n, level.wcet, level.period, scratch, &sign);
    *fits = status == K_OK && sign <= 0;
    return status;
}

static enum k_status edf(const struct level *level, struct k_arena scratch, bool *fits, int64_t *at, int64_t *demand)
{
    struct k_tasks tasks = {level->n, level->wcet, level->period, level->deadline, level->jitter, NULL};
    return k_edf_schedulable(&tasks, scratch, fits, at, demand);
}

enum k_status strict_fits(const struct strict *s, uint32_t x, uint32_t q, int64_t wcet, struct k_arena scratch,
                          bool *fits, bool *time_left)
{
    const struct strict_cpu *cpu = &s->cpu[q];
    const struct strict_task *task = &s->task[x];
    *time_left = false;
    enum k_status status = has_capacity(s, q, x, wcet, scratch, fits);
    if (status != K_OK || !*fits)
        return status;
    *time_left = true;
    bool implicit = !cpu->explicit_deadlines && !strict_has_deadline(task);
    if (s->test == STRICT_UTILISATION || (s->test == STRICT_EDF && implicit))
        return K_OK;
    /* Every task released at once, and all of it done before any deadline and before any is released again. */
    int64_t work;
    if (k_add(cpu->work, wcet, &work) && work <= k_min(cpu->window, strict_window(task)))
        return K_OK;
    if (s->test == STRICT_FP && !s->mutual && implicit) {
        double grown = 1.0 + (double)strict_utilisation(wcet, task->period) * 0x1p-62 + 0x1p-48;
        if (cpu->hyperbolic * grown <= 2.0)
            return K_OK;
    }
    struct level level;
    if (!make_level(&level, (size_t)cpu->count + 1, &scratch))
        return K_NOMEM;
    size_t at = gather(&level, s, q, x, wcet), missing;
    if (s->test == STRICT_FP) {
        status = late(&level, at, s->mutual, true, &missing);
        *fits = status == K_OK && missing == level.n;
    } else {
        int64_t interval, demand;
        status = edf(&level, scratch, fits, &interval, &demand);
        *fits = *fits && status == K_OK;
    }
    return status == K_OVERFLOW ? K_OK : status; /* not proven: not admitted */
}

enum k_status strict_responses(const struct strict *s, uint32_t cpu, struct k_arena scratch, int64_t *result)
{
    struct level level;
    if (!make_level(&level, (size_t)s->cpu[cpu].count + 1, &scratch))
        return K_NOMEM;
    gather(&level, s, cpu, STRICT_NONE, 0);
    for (size_t i = 0; i < level.n; i++) {
        int64_t w;
        enum k_status status = response(&level, i, s->mutual, level.deadline[i] - level.jitter[i], &w);
        if (status != K_OK)
            return status;
        result[i] = w < 0 ? -1 : w + level.jitter[i];
    }
    return K_OK;
}

/* The largest WCET below the asked one that passes on CPU q. */
static enum k_status largest(const struct strict *s, uint32_t x, uint32_t q, struct k_arena scratch, int64_t *wcet)
{
    int64_t low = 0, high = s->task[x].wcet;
    while (low + 1 < high) {
        int64_t middle = low + (high - low) / 2;
        bool fits, time_left;
        enum k_status status = strict_fits(s, x, q, middle, scratch, &fits, &time_left);
        if (status != K_OK)
            return status;
        if (fits)
            low = middle;
        else
            high = middle;
    }
    *wcet = low;
    return K_OK;
}

static enum k_status what_fails(const struct strict *s, uint32_t x, uint32_t q, struct k_arena scratch, struct strict_refusal *refusal)
{
    bool fits;
    int64_t wcet = s->task[x].wcet;
    enum k_status status = has_capacity(s, q, x, wcet, scratch, &fits);
    refusal->reason = STRICT_NO_TIME;
    if (status != K_OK || !fits) {
        k_uint128 load = (k_uint128)s->cpu[q].load + s->task[x].u;
        refusal->available = STRICT_PPM - s->cpu[q].reserve;
        refusal->needed = k_max((int64_t)((load * STRICT_PPM + STRICT_ONE - 1) / STRICT_ONE), refusal->available + 1);
        return status;
    }
    struct level level;
    if (!make_level(&level, (size_t)s->cpu[q].count + 1, &scratch))
        return K_NOMEM;
    size_t at = gather(&level, s, q, x, wcet), i;
    if (s->test == STRICT_EDF) {
        status = edf(&level, scratch, &fits, &refusal->available, &refusal->needed);
        refusal->reason = STRICT_DEMAND;
    } else {
        status = late(&level, at, s->mutual, false, &i);
        refusal->reason = STRICT_LATE;
        if (i < level.n) {
            int64_t deadline = level.deadline[i], limit, w = -1;
            if (!k_mul(deadline, FAR, &limit))
                limit = INT64_MAX;
            refusal->missing = level.number[i];
            refusal->available = deadline;
            if (status == K_OK && response(&level, i, s->mutual, limit - level.jitter[i], &w) != K_OK)
                w = -1;
            refusal->needed = w < 0 ? -1 : w + level.jitter[i];
        }
    }
    if (status == K_OVERFLOW)
        refusal->reason = STRICT_UNDECIDED;
    return status == K_OVERFLOW ? K_OK : status;
}

enum k_status strict_explain(const struct strict *s, uint32_t x, uint32_t only, struct k_arena scratch,
                             struct strict_refusal *refusal)
{
    const struct strict_task *task = &s->task[x];
    uint32_t roomy[STRICT_CANDIDATES], count = 0;
    *refusal = (struct strict_refusal){STRICT_NO_CPU, STRICT_NONE, STRICT_NONE, 0, 0, 0};
    for (uint32_t q = 0; q < s->cpus; q++) {
        if (!strict_allowed(s, x, q) || (only != STRICT_NONE && q != only))
            continue;
        int64_t free = s->node[s->cpu[q].node].free;
        if (task->memory > free) {
            if (!count && (refusal->reason == STRICT_NO_CPU || free > refusal->available)) {
                refusal->reason = STRICT_NO_MEMORY;
                refusal->cpu = q;
                refusal->needed = task->memory;
                refusal->available = free;
            }
            continue;
        }
        /* Kept in order: most room first, of equals the lower CPU. */
        uint64_t room = strict_room_left(&s->cpu[q]);
        uint32_t at = count < STRICT_CANDIDATES ? count++ : count;
        while (at > 0 && strict_room_left(&s->cpu[roomy[at - 1]]) < room) {
            if (at < STRICT_CANDIDATES)
                roomy[at] = roomy[at - 1];
            at--;
        }
        if (at < STRICT_CANDIDATES)
            roomy[at] = q;
    }
    if (!count)
        return K_OK;
    *refusal = (struct strict_refusal){STRICT_FITS, STRICT_NONE, STRICT_NONE, 0, 0, -1};
    for (uint32_t k = 0; k < count; k++) {
        int64_t wcet;
        enum k_status status = largest(s, x, roomy[k], scratch, &wcet);
        if (status != K_OK)
            return status;
        if (wcet > refusal->largest_wcet) {
            refusal->largest_wcet = wcet;
            refusal->cpu = roomy[k];
        }
    }
    return what_fails(s, x, refusal->cpu, scratch, refusal);
}

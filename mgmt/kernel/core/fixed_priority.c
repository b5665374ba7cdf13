/* Fixed priority: response times by fixed-point iteration, in two ways with the same results.
 *
 * Without blocking the solutions grow with the priority index: w[i] >= w[i-1] + wcet[i]. One sweep over time
 * then serves all tasks: every task waits in a bucket for the moment at which its next job adds to the
 * interference, and each step of an iteration touches only the tasks with such a moment in between.
 * Everything else (blocking, deadlines beyond the period, numbers near 2^63) evaluates the sum anew. */
#include "analysis.h"

#include <string.h>

#define NONE UINT32_MAX
#define SWEEP_MAX ((int64_t)1 << 61) /* keeps moment + period in int64 */

static inline int64_t jitter_of(const struct k_tasks *t, size_t i) { return t->jitter ? t->jitter[i] : 0; }
static inline int64_t blocking_of(const struct k_tasks *t, size_t i) { return t->blocking ? t->blocking[i] : 0; }

/* Sums of doubles below are off by at most this share. */
static inline double doubt(size_t n) { return (double)(n + 16) * 0x1p-51; }

/* ---- the sum anew ---- */

/* *sum = base + releases of `count` tasks in w; false when it passes `limit`. */
static bool requested(const struct k_tasks *tasks, const size_t *above, size_t count, int64_t w, int64_t base,
                      int64_t limit, int64_t *sum)
{
    int64_t total = base;
    for (size_t k = 0; k < count; k++) {
        size_t j = above ? above[k] : k;
        uint64_t x = (uint64_t)w + (uint64_t)jitter_of(tasks, j), period = (uint64_t)tasks->period[j];
        uint64_t jobs = x / period + (x % period != 0);
        int64_t work;
        if (__builtin_mul_overflow(jobs, tasks->wcet[j], &work) || !k_add(total, work, &total) || total > limit)
            return false;
    }
    *sum = total;
    return total <= limit;
}

/* Room for the terms of all tasks, for sums up to *until; false when doubles cannot hold them. */
static bool terms_fit(const struct k_tasks *tasks, struct k_arena *arena, struct k_terms *terms, double *until)
{
    double longest = 0, most = 0;
    for (size_t i = 0; i < tasks->n; i++) {
        double reach = (double)tasks->deadline[i] + (double)jitter_of(tasks, i) + (double)tasks->period[i];
        longest = reach > longest ? reach : longest;
    }
    longest *= 2;
    for (size_t i = 0; i < tasks->n; i++)
        most += ((longest + (double)jitter_of(tasks, i)) / (double)tasks->period[i] + 2) * (double)tasks->wcet[i];
    *until = longest;
    return longest < K_EXACT_DOUBLE / 4 && most < 0x1p51 && k_terms_take(terms, tasks->n, arena);
}

/* A lower bound of the solution without blocking: ceil(x) >= x turns the recurrence into an equation. */
static double linear_bound(double wcet, double share, double early, size_t n)
{
    double rest = 1 - share - doubt(n);
    return rest > doubt(n) * 64 ? (wcet + early) / (rest + 2 * doubt(n)) * (1 - 2 * doubt(n)) - 1 : 0;
}

/* Whether the first n tasks leave nothing to the others: U >= 1. `share` is U in doubles. */
static enum k_status saturated(const struct k_tasks *tasks, size_t n, double share, struct k_arena arena, bool *full)
{
    int sign = share > 1 ? 1 : -1;
    enum k_status status = K_OK;
    if (share > 1 - doubt(n) && share < 1 + doubt(n))
        status = k_utilisation(n, tasks->wcet, tasks->period, arena, &sign);
    *full = sign >= 0;
    return status;
}

/* Jobs after which the responses of one busy period cannot grow any more: those of a hyperperiod, where U <= 1. */
static int64_t repeating(const struct k_tasks *tasks, const size_t *above, size_t count, size_t i)
{
    int64_t all = tasks->period[i];
    for (size_t k = 0; k < count; k++) {
        const int64_t both[] = {all, tasks->period[above ? above[k] : k]};
        size_t index;
        if (k_hyperperiod(2, both, &all, &index) != K_OK)
            return INT64_MAX;
    }
    k_int128 work = (k_int128)(all / tasks->period[i]) * tasks->wcet[i];
    for (size_t k = 0; k < count && work <= all; k++) {
        size_t j = above ? above[k] : k;
        work += (k_int128)(all / tasks->period[j]) * tasks->wcet[j];
    }
    return work <= all ? all / tasks->period[i] : INT64_MAX;
}

/* The worst response of task i below `count` tasks, -1 past its deadline: jobs q = 0, 1, ... of one busy
 * period until it closes. `first` is a lower bound of the first job's solution; `terms` are those of `above`, or NULL. */
static enum k_status window(const struct k_tasks *tasks, const size_t *above, size_t count, size_t i,
                            const struct k_terms *terms, double until, int64_t first, int64_t *response)
{
    const int64_t wcet = tasks->wcet[i], period = tasks->period[i], jitter = jitter_of(tasks, i);
    const int64_t spare = tasks->deadline[i] - jitter;
    int64_t worst = 0, w = first, last = INT64_MAX;
    uint32_t steps = 0;
    *response = -1;
    for (int64_t q = 0; q < K_WINDOW_JOBS; q++) {
        int64_t shift, limit, base;
        if (!k_mul(q, period, &shift) || !k_add(spare, shift, &limit))
            return K_OVERFLOW;
        if (!k_mul(q + 1, wcet, &base) || !k_add(base, blocking_of(tasks, i), &base))
            return K_OK;
        w = k_max(w, base);
        for (;;) {
            if (w > limit)
                return K_OK;
            if (++steps > K_STEPS)
                return K_OVERFLOW;
            int64_t next;
            if (terms && (double)limit <= until) {
                next = base + (int64_t)k_demand(terms, (double)w);
                if (next > limit)
                    return K_OK;
            } else if (!requested(tasks, above, count, w, base, limit, &next)) {
                return K_OK;
            }
            if (next <= w)
                break;
            w = next;
        }
        worst = k_max(worst, w - shift + jitter);
        if (q == 1)
            last = repeating(tasks, above, count, i) - 1;
        if ((k_int128)w <= (k_int128)shift + period - jitter || q >= last) {
            *response = worst;
            return K_OK;
        }
        if (!k_add(w, wcet, &w)) /* the next job's limit may still be above: it says which */
            w = INT64_MAX;
    }
    return K_OVERFLOW;
}

enum k_status k_response_below(const struct k_tasks *tasks, const size_t *above, size_t count, size_t task,
                               int64_t *response)
{
    double share = 0, early = 0;
    for (size_t k = 0; k < count; k++) {
        double u = (double)tasks->wcet[above[k]] / (double)tasks->period[above[k]];
        share += u;
        early += u * (double)jitter_of(tasks, above[k]);
    }
    double first = linear_bound((double)tasks->wcet[task] + (double)blocking_of(tasks, task), share, early, count);
    return window(tasks, above, count, task, NULL, 0, first < 0x1p62 ? (int64_t)first : (int64_t)1 << 62, response);
}

/* ---- the sweep ---- */

struct node {
    int64_t moment; /* the largest w that its released jobs cover: beyond it, one more counts */
    int64_t period, wcet;
    uint32_t next;
};

struct sweep {
    struct node *nodes;
    uint32_t *heads; /* bucket -> first node */
    size_t buckets, at;
    unsigned shift;
    int64_t demand; /* of all nodes at the w last advanced to */
};

static inline size_t bucket(const struct sweep *s, int64_t moment)
{
    size_t b = (size_t)(moment >> s->shift);
    return b < s->buckets ? b : s->buckets - 1; /* the last one also holds all later moments */
}

static inline void put(struct sweep *s, uint32_t j)
{
    size_t b = bucket(s, s->nodes[j].moment);
    s->nodes[j].next = s->heads[b];
    s->heads[b] = j;
}

/* Brings `demand` to w; false when it passes int64. w never falls. */
static inline bool advance(struct sweep *s, int64_t w)
{
    size_t last = bucket(s, w);
    for (size_t b = s->at; b <= last; b++) {
        uint32_t j = s->heads[b];
        if (j == NONE)
            continue;
        s->heads[b] = NONE;
        while (j != NONE) {
            struct node *node = &s->nodes[j];
            uint32_t following = node->next;
            if (node->moment < w) {
                int64_t jobs = 1, work;
                node->moment += node->period;
                if (node->moment < w) {
                    int64_t more = (w - node->moment - 1) / node->period + 1;
                    node->moment += more * node->period;
                    jobs += more;
                }
                if (!k_mul(jobs, node->wcet, &work) || !k_add(s->demand, work, &s->demand))
                    return false;
            }
            put(s, j);
            j = following;
        }
    }
    s->at = last;
    return true;
}

static bool sweep_fits(const struct k_tasks *tasks, int64_t *longest)
{
    if (tasks->blocking || tasks->n >= NONE)
        return false;
    int64_t largest = 0, deadline = 0;
    for (size_t i = 0; i < tasks->n; i++) {
        largest = k_max(largest, k_max(tasks->period[i], jitter_of(tasks, i)));
        deadline = k_max(deadline, tasks->deadline[i]);
    }
    *longest = deadline;
    return largest < SWEEP_MAX && deadline < SWEEP_MAX;
}

static bool sweep_start(struct sweep *s, const struct k_tasks *tasks, int64_t longest, struct k_arena *arena)
{
    size_t n = tasks->n, buckets = 64;
    while (buckets < 2 * n)
        buckets *= 2;
    double share = 0, work = 0;
    for (size_t i = 0; i < n; i++) {
        double u = (double)tasks->wcet[i] / (double)tasks->period[i];
        share += u;
        work += (double)tasks->wcet[i] * (1 - u) + u * (double)jitter_of(tasks, i);
    }
    /* No w passes the upper bound below; a wrong guess costs time, not truth. */
    double guess = share < 1 ? work / (1 - share) : (double)longest;
    int64_t horizon = guess > 1 && guess < (double)longest ? (int64_t)guess : longest;
    *s = (struct sweep){.buckets = buckets};
    while (horizon >> s->shift >= (int64_t)buckets)
        s->shift++;
    s->nodes = k_take(arena, n * sizeof *s->nodes);
    s->heads = k_take(arena, buckets * sizeof *s->heads);
    if (!s->nodes || !s->heads)
        return false;
    memset(s->heads, 0xff, buckets * sizeof *s->heads);
    return true;
}

/* ---- both ---- */

/* The sweep over all tasks. With `verdict`, tasks that an upper bound accepts are not solved, and the first
 * miss ends it. */
static enum k_status by_sweep(const struct k_tasks *tasks, int64_t longest, struct k_arena arena, bool verdict,
                              int64_t *response, size_t *missing)
{
    struct sweep s;
    if (!sweep_start(&s, tasks, longest, &arena))
        return K_NOMEM;
    const size_t n = tasks->n;
    const double slack = doubt(n);
    double share = 0, early = 0, late = 0; /* sums of U, U * jitter, wcet * (1 - U) */
    int64_t low = 0;                       /* a lower bound of the last solution, reached by the sweep at most */
    bool full = false;                     /* the demand passes int64, and so every deadline from here on */
    for (size_t i = 0; i < n; i++) {
        const int64_t wcet = tasks->wcet[i], period = tasks->period[i], jitter = jitter_of(tasks, i);
        const int64_t limit = tasks->deadline[i] - jitter;
        const double u = (double)wcet / (double)period;
        bool solved = false;
        if (!full) {
            enum k_status status = saturated(tasks, i, share, arena, &full);
            if (status != K_OK)
                return status;
        }
        bool misses = full;
        if (!full) {
            if (!k_add(low, wcet, &low))
                low = INT64_MAX;
            if (verdict) {
                double rest = 1 - share - slack, most = (double)k_min(limit, period - jitter);
                solved = rest > 0 && ((double)wcet + late + early) * (1 + 4 * slack) + 1 <= most * rest;
            }
            if (!solved) {
                double bound = linear_bound((double)wcet, share, early, n);
                low = k_max(low, bound < 0x1p61 ? (int64_t)bound : (int64_t)1 << 61);
                for (uint32_t steps = 0;; steps++) {
                    int64_t next;
                    if (steps > K_STEPS)
                        return K_OVERFLOW;
                    if (low > limit) {
                        misses = true;
                        break;
                    }
                    if (!advance(&s, low) || !k_add(s.demand, wcet, &next)) {
                        misses = full = true;
                        break;
                    }
                    if (next <= low)
                        break;
                    low = next;
                }
                if (!misses) {
                    int64_t worst = low + jitter;
                    if (worst > period) { /* only with a deadline beyond the period */
                        enum k_status status = window(tasks, NULL, i, i, NULL, 0, low, &worst);
                        if (status != K_OK)
                            return status;
                        misses = worst < 0;
                    }
                    if (!verdict)
                        response[i] = worst;
                }
            }
        }
        if (misses) {
            if (verdict) {
                *missing = i;
                return K_OK;
            }
            response[i] = -1;
        }
        if (!full) {
            struct node *node = &s.nodes[i];
            int64_t jobs = jitter / period + 1, work;
            *node = (struct node){jobs * period - jitter, period, wcet, NONE};
            /* The sweep stands anywhere up to `low`: the next advance brings the node along. */
            full = !k_mul(jobs, wcet, &work) || !k_add(s.demand, work, &s.demand);
            size_t b = bucket(&s, node->moment);
            if (b < s.at)
                b = s.at;
            node->next = s.heads[b];
            s.heads[b] = (uint32_t)i;
            share += u;
            early += u * (double)jitter;
            late += (double)wcet * (1 - u);
        }
    }
    *missing = n;
    return K_OK;
}

static enum k_status by_windows(const struct k_tasks *tasks, struct k_arena arena, bool verdict, int64_t *response,
                                size_t *missing)
{
    double until, share = 0, early = 0, work = 0;
    struct k_terms terms;
    const bool quick = terms_fit(tasks, &arena, &terms, &until);
    for (size_t i = 0; i < tasks->n; i++) {
        terms.n = i;
        double own = (double)tasks->wcet[i] + (double)blocking_of(tasks, i);
        double first = linear_bound(own, share, early, i), once = (own + work) * (1 - doubt(i));
        first = first > once ? first : once;
        int64_t got = -1;
        bool full;
        enum k_status status = saturated(tasks, i, share, arena, &full);
        if (status == K_OK && !full)
            status = window(tasks, NULL, i, i, quick ? &terms : NULL, until,
                            first < 0x1p62 ? (int64_t)first : (int64_t)1 << 62, &got);
        if (status != K_OK)
            return status;
        if (!verdict) {
            response[i] = got;
        } else if (got < 0) {
            *missing = i;
            return K_OK;
        }
        double u = (double)tasks->wcet[i] / (double)tasks->period[i];
        share += u;
        early += u * (double)jitter_of(tasks, i);
        work += (double)tasks->wcet[i];
        if (quick)
            k_term(&terms, i, jitter_of(tasks, i) + tasks->period[i] - 1, tasks->period[i], tasks->wcet[i]);
    }
    *missing = tasks->n;
    return K_OK;
}

static enum k_status analyse(const struct k_tasks *tasks, struct k_arena arena, bool verdict, int64_t *response,
                             size_t *missing)
{
    int64_t longest;
    if (sweep_fits(tasks, &longest))
        return by_sweep(tasks, longest, arena, verdict, response, missing);
    return by_windows(tasks, arena, verdict, response, missing);
}

enum k_status k_response_times(const struct k_tasks *tasks, struct k_arena arena, int64_t *response)
{
    size_t missing;
    return analyse(tasks, arena, false, response, &missing);
}

/* Rate monotonic with deadlines not before the period's end: product of (U + 1) at most 2. */
static bool hyperbolic(const struct k_tasks *tasks)
{
    double product = 1;
    for (size_t i = 0; i < tasks->n; i++) {
        if (tasks->deadline[i] < tasks->period[i] || (i && tasks->period[i] < tasks->period[i - 1]) ||
            jitter_of(tasks, i) || blocking_of(tasks, i))
            return false;
        product *= 1 + (double)tasks->wcet[i] / (double)tasks->period[i];
    }
    return product <= 2 - 4 * doubt(tasks->n);
}

enum k_status k_fp_schedulable(const struct k_tasks *tasks, struct k_arena arena, bool *fits, size_t *missing)
{
    *missing = tasks->n;
    *fits = true;
    if (hyperbolic(tasks))
        return K_OK;
    enum k_status status = analyse(tasks, arena, true, NULL, missing);
    *fits = *missing == tasks->n;
    return status;
}

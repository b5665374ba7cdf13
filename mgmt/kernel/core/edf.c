/* Earliest deadline first: quick processor-demand analysis (QPA).
 *
 * Jitter shortens deadlines: a job may be released `jitter` late and is still due `deadline` after its arrival,
 * so the demand is that of tasks with D = deadline - jitter and no jitter. */
#include "analysis.h"

static inline int64_t due_of(const struct k_tasks *t, size_t i) { return t->deadline[i] - (t->jitter ? t->jitter[i] : 0); }

/* What one pass over the tasks finds. It also sets the terms of the demand, good or not. */
struct survey {
    double share, density; /* sums of C/T and of C/min(D, T) */
    double gap;            /* sum of (T - D) * C/T over D < T */
    double largest;        /* of T, |D| */
    int64_t least_due, past; /* min D; max D - T, at least 0 */
    bool early, impossible;  /* some D < T; some D < C */
};

static struct survey survey_of(const struct k_tasks *tasks, struct k_terms *terms)
{
    struct survey s = {.least_due = INT64_MAX};
    for (size_t i = 0; i < tasks->n; i++) {
        const int64_t due = due_of(tasks, i), period = tasks->period[i], wcet = tasks->wcet[i];
        s.least_due = k_min(s.least_due, due);
        if (due < wcet) {
            s.impossible = true;
            continue;
        }
        k_term(terms, i, period - due, period, wcet);
        const double u = terms->wcet[i] * terms->inverse[i];
        if (due < period) {
            s.early = true;
            s.gap += terms->offset[i] * u;
            s.density += (double)wcet / (double)due;
        } else {
            s.past = k_max(s.past, due - period);
            s.density += u;
        }
        s.share += u;
        double reach = (double)k_max(period, due);
        s.largest = reach > s.largest ? reach : s.largest;
    }
    return s;
}

/* ---- horizons: no first interval with too much demand is longer ---- */

/* max(D - T, sum (T - D) U / (1 - U)) from above, with U rounded up to 2^-62; INT64_MAX when it passes that. */
static int64_t linear_horizon(const struct k_tasks *tasks, int64_t past)
{
    const k_int128 one = (k_int128)1 << 62;
    k_int128 rest = one;
    k_uint128 gap = 0;
    for (size_t i = 0; i < tasks->n; i++) {
        const int64_t due = due_of(tasks, i), period = tasks->period[i];
        k_uint128 share = (((k_uint128)tasks->wcet[i] << 62) + (k_uint128)period - 1) / (k_uint128)period;
        rest -= (k_int128)share;
        if (due < period)
            gap += (((k_uint128)(period - due) * share) >> 62) + 1;
    }
    if (rest <= 0 || gap >> 64)
        return INT64_MAX;
    k_uint128 horizon = (gap << 62) / (k_uint128)rest + 1;
    return horizon >= INT64_MAX ? INT64_MAX : k_max(past, (int64_t)horizon);
}

/* The synchronous busy period, or `most` when it is longer; `terms`, unless NULL, hold the releases. */
static int64_t busy_period(const struct k_tasks *tasks, const struct k_terms *terms, int64_t most)
{
    int64_t w = 0;
    for (size_t i = 0; i < tasks->n; i++)
        if (!k_add(w, tasks->wcet[i], &w) || w >= most)
            return most;
    for (uint32_t steps = 0; steps < K_STEPS; steps++) {
        int64_t next = 0, work;
        if (terms && (double)w < K_EXACT_DOUBLE / 2)
            next = (int64_t)k_demand(terms, (double)w);
        else for (size_t i = 0; i < tasks->n; i++)
            if (!k_mul(k_ceil_div(w, tasks->period[i]), tasks->wcet[i], &work) || !k_add(next, work, &next) || next >= most)
                return most;
        if (next == w || next >= most)
            return next == w ? w : most;
        w = next;
    }
    return most;
}

/* ---- the walk from the horizon down, twice: in doubles, and in integers for large numbers ---- */

enum walk { FITS, FAILS, LASTS };

static enum walk walk_doubles(const struct k_terms *terms, double horizon, double least_due, int64_t *at, int64_t *demand)
{
    double t = k_last_step(terms, horizon);
    for (uint32_t steps = 0; t >= least_due; steps++) {
        if (steps > K_STEPS)
            return LASTS;
        double h = k_demand(terms, t);
        if (h > t) {
            *at = (int64_t)t;
            *demand = (int64_t)h;
            return FAILS;
        }
        if (h <= least_due)
            return FITS;
        t = h < t ? h : k_last_step(terms, t - 1);
    }
    return FITS;
}

static k_int128 demand_until(const struct k_tasks *tasks, int64_t t)
{
    k_int128 sum = 0;
    for (size_t i = 0; i < tasks->n; i++) {
        const int64_t due = due_of(tasks, i);
        if (due <= t)
            sum += ((k_int128)((t - due) / tasks->period[i]) + 1) * tasks->wcet[i];
    }
    return sum;
}

static int64_t last_due(const struct k_tasks *tasks, int64_t t)
{
    int64_t last = 0;
    for (size_t i = 0; i < tasks->n; i++) {
        const int64_t due = due_of(tasks, i);
        if (due <= t)
            last = k_max(last, t - (t - due) % tasks->period[i]);
    }
    return last;
}

static enum walk walk_integers(const struct k_tasks *tasks, int64_t horizon, int64_t least_due, int64_t *at, int64_t *demand)
{
    int64_t t = last_due(tasks, horizon);
    for (uint32_t steps = 0; t >= least_due; steps++) {
        if (steps > K_STEPS)
            return LASTS;
        k_int128 h = demand_until(tasks, t);
        if (h > t) {
            *at = t;
            *demand = h > INT64_MAX ? INT64_MAX : (int64_t)h;
            return FAILS;
        }
        if (h <= least_due)
            return FITS;
        t = h < t ? (int64_t)h : last_due(tasks, t - 1);
    }
    return FITS;
}

enum k_status k_edf_schedulable(const struct k_tasks *tasks, struct k_arena arena, bool *fits, int64_t *at,
                                int64_t *demand)
{
    const size_t n = tasks->n;
    *at = *demand = 0;
    *fits = true;
    struct k_terms terms;
    if (!k_terms_take(&terms, n, &arena))
        return K_NOMEM;
    const struct survey s = survey_of(tasks, &terms);
    const double doubt = (double)(n + 16) * 0x1p-50;
    if (s.impossible) {
        *fits = false;
        *at = s.least_due;
        for (size_t i = 0; i < n; i++)
            if (due_of(tasks, i) < tasks->wcet[i]) {
                *at = due_of(tasks, i);
                *demand = tasks->wcet[i];
                break;
            }
        return K_OK;
    }
    if (s.density <= 1 - doubt)
        return K_OK;
    int sign = s.share > 1 ? 1 : -1;
    if (s.share > 1 - doubt * 2 && s.share < 1 + doubt * 2) {
        enum k_status status = k_utilisation(n, tasks->wcet, tasks->period, arena, &sign);
        if (status != K_OK)
            return status;
    }
    *fits = sign <= 0;
    if (!*fits || !s.early)
        return K_OK;

    double guess = s.gap / (1 - s.share) * (1 + 0x1p-20) + 1;
    const bool quick = s.largest < K_EXACT_DOUBLE / 4 && (double)n * s.largest < K_EXACT_DOUBLE;
    int64_t horizon;
    /* Where 1 - U is far larger than what rounding may have done to it, the guess is above the bound. */
    if (1 - s.share > doubt * 0x1p22 && guess < K_EXACT_DOUBLE / 2) {
        horizon = k_max(s.past, (int64_t)guess);
    } else {
        for (size_t i = 0; quick && i < n; i++)
            terms.offset[i] = (double)(tasks->period[i] - 1);
        horizon = linear_horizon(tasks, s.past);
        horizon = k_min(horizon, busy_period(tasks, quick ? &terms : NULL, horizon));
        if (horizon == INT64_MAX)
            return K_OVERFLOW;
    }
    if (!quick || (double)horizon > K_EXACT_DOUBLE / 2) {
        enum walk end = walk_integers(tasks, horizon, s.least_due, at, demand);
        *fits = end == FITS;
        return end == LASTS ? K_OVERFLOW : K_OK;
    }
    for (size_t i = 0; i < n; i++)
        terms.offset[i] = (double)(tasks->period[i] - due_of(tasks, i));
    enum walk end = walk_doubles(&terms, (double)horizon, (double)s.least_due, at, demand);
    *fits = end == FITS;
    return end == LASTS ? K_OVERFLOW : K_OK;
}

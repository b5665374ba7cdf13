/* Exact schedulability analyses of periodic or sporadic tasks on one CPU.
 *
 * All inputs must have passed k_tasks_check(). Values of equal index belong to one task; for fixed priority
 * index 0 is the most urgent. Jitter delays a job's release after its arrival; deadlines and response times
 * count from the arrival. */
#ifndef MGMT_KERNEL_ANALYSIS_H
#define MGMT_KERNEL_ANALYSIS_H

#include "kernel.h"

struct k_tasks {
    size_t n;
    const int64_t *wcet, *period, *deadline; /* all >= 1 */
    const int64_t *jitter, *blocking;        /* all >= 0; NULL means all 0 */
};

enum k_column { K_WCET, K_PERIOD, K_DEADLINE, K_JITTER, K_BLOCKING };

/* K_INVALID with the first column, then the first index, that is out of range. */
enum k_status k_tasks_check(const struct k_tasks *tasks, enum k_column *column, size_t *index);

/* Jobs of one task that one busy period may hold before an analysis gives up with K_OVERFLOW. */
#define K_WINDOW_JOBS ((int64_t)1 << 16)
/* Evaluations of a sum over all tasks, for one task or one EDF test, before it gives up with K_OVERFLOW: these
 * analyses are pseudo-polynomial, and a hostile set must not hold a caller for hours. */
#define K_STEPS ((uint32_t)1 << 20)

/* Arena bytes that any function below may take for n tasks. */
size_t k_analysis_room(size_t n);

/* Sign of (sum of wcet/period) - 1, exactly. */
enum k_status k_utilisation(size_t n, const int64_t *wcet, const int64_t *period, struct k_arena arena, int *sign);

/* Least common multiple; K_INVALID for none (index n) or a period below 1 (its index). */
enum k_status k_hyperperiod(size_t n, const int64_t *period, int64_t *multiple, size_t *index);

/* Fixed priority: response[i] is the worst response time of task i, -1 when it passes its deadline.
 * Deadlines beyond the period are analysed over the whole busy period. */
enum k_status k_response_times(const struct k_tasks *tasks, struct k_arena arena, int64_t *response);

/* Fixed priority: *fits, and where it does not, the first task that misses. Sound bounds first. */
enum k_status k_fp_schedulable(const struct k_tasks *tasks, struct k_arena arena, bool *fits, size_t *missing);

/* One task at the lowest priority below `above` (count indices): its response time, -1 past its deadline.
 * The response of a task under all others does not depend on their order. */
enum k_status k_response_below(const struct k_tasks *tasks, const size_t *above, size_t count, size_t task,
                               int64_t *response);

/* EDF: *fits; where it does not for lack of time rather than of utilisation, an interval of length *at in
 * which *demand > *at must be served (otherwise both 0). blocking must be NULL. */
enum k_status k_edf_schedulable(const struct k_tasks *tasks, struct k_arena arena, bool *fits, int64_t *at,
                                int64_t *demand);

/* Audsley's assignment: order[] of task indices, most urgent first; *found false when there is none. Among the
 * tasks that fit a level the one with the largest deadline - jitter goes there, of equals the last. */
enum k_status k_audsley(const struct k_tasks *tasks, struct k_arena arena, bool *found, int64_t *order);

enum k_policy { K_FIXED_PRIORITY, K_EDF };

/* thousandths[i]: the largest k for which the set stays schedulable with wcet[i] := ceil(wcet[i] * (1000 + k) /
 * 1000) alone; all -1 when it is not schedulable as it is. */
enum k_status k_sensitivity(const struct k_tasks *tasks, enum k_policy policy, struct k_arena arena,
                            int64_t *thousandths);

/* Sums of floor((t + offset) / period) * wcet over all terms with a positive quotient: the work that must be
 * done by t, or is released before it. In doubles, which hold integers up to 2^53 exactly. */
enum k_simd { K_PLAIN, K_AVX2, K_AVX512 };

struct k_terms {
    size_t n; /* all columns reach to K_PADDED(n) */
    double *offset, *period, *inverse, *wcet;
    enum k_simd simd;
};

#define K_PADDED(n) (((n) + 15) & ~(size_t)15)
#define K_EXACT_DOUBLE 0x1p50 /* |t|, |offset|, period below this, and the result below 2^52 */

enum k_simd k_simd_best(void);

/* Columns for n terms, which add nothing until k_term() sets them; false when the arena is too small. */
bool k_terms_take(struct k_terms *terms, size_t n, struct k_arena *arena);

static inline void k_term(struct k_terms *terms, size_t i, int64_t offset, int64_t period, int64_t wcet)
{
    terms->offset[i] = (double)offset;
    terms->period[i] = (double)period;
    terms->inverse[i] = 1 / (double)period;
    terms->wcet[i] = (double)wcet;
}

double k_demand(const struct k_terms *terms, double t);
/* The largest value of quotient * period - offset over all terms with a positive quotient; 0 for none. */
double k_last_step(const struct k_terms *terms, double t);

#endif

/* Ranking: the offset of many candidates at once, and the best of them. */
#ifndef MGMT_KERNEL_SCORE_H
#define MGMT_KERNEL_SCORE_H

#include "analysis.h"
#include "kernel.h"

struct score_columns {
    size_t n;
    const double *value;         /* NaN: none, worth 1 and no bonus */
    const double *probability;   /* of success, 0 to 1 */
    const double *duration_us;   /* estimated, 0 or more */
    const double *previous_runs; /* NULL: all have run before */
    const double *codebase;      /* normalised value; NULL or NaN: SCORE_CODEBASE_DEFAULT */
};

#define SCORE_CODEBASE_DEFAULT 0.5
#define SCORE_CODEBASE_LEAST 0.1

struct score_rule {
    double first_run_bonus, minimum_cost_ms, default_offset;
    bool subsecond_twice; /* as the ancestor's cost has it */
    enum k_simd simd;
};

/* offset[i] = cost / (codebase * probability * value) + default: lower is better. NaN where an input is out of
 * range or nothing is expected. All variants agree to the bit. */
void k_score(const struct score_columns *columns, const struct score_rule *rule, double *offset);

size_t k_top_room(size_t n, size_t most);
/* The `most` smallest in ascending order, of equals the lower index first; NaN is left out. Returns how many. */
size_t k_top(size_t n, const double *score, size_t most, struct k_arena arena, int64_t *index);

#endif

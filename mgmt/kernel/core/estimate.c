/* What is expected of the next run of many candidates: see history.h. */
#include <math.h>

#include "history.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

/* A median of enough points is drawn toward the level below it, fewer points say nothing. Both are computed and
 * one is taken, so that there is no branch. */
#define LEVEL(count, x, next) ((count) >= least ? ((count) * (x) + shrink * (next)) / ((count) + shrink) : (next))

#define DEFINE(suffix, attribute)                                                                          \
    attribute static void estimate_##suffix(const struct estimate_columns *restrict c,                     \
                                            const struct estimate_rule *restrict rule, double *restrict out) \
    {                                                                                                      \
        size_t n = c->n, rows = c->series_n, others = c->codebase_n, q = rule->quantile;                   \
        double decay = rule->decay, k = rule->strength, explore = rule->explore;                           \
        double shrink = rule->shrink, least = rule->least, penalty = rule->penalty;                        \
        const double *success = c->of_series + FIELD_SUCCESS * rows;                                       \
        const double *failure = c->of_series + FIELD_FAILURE * rows;                                       \
        const double *nothing = c->of_series + FIELD_NOTHING * rows;                                       \
        const double *done_n = c->of_series + FIELD_DONE * rows, *done = c->of_series + (FIELD_DONE_P50 + q) * rows; \
        const double *lost_n = c->of_series + FIELD_LOST * rows, *lost = c->of_series + (FIELD_LOST_P50 + q) * rows; \
        const double *all_done_n = c->of_codebase + FIELD_DONE * others;                                   \
        const double *all_done = c->of_codebase + (FIELD_DONE_P50 + q) * others;                           \
        const double *all_lost_n = c->of_codebase + FIELD_LOST * others;                                   \
        const double *all_lost = c->of_codebase + (FIELD_LOST_P50 + q) * others;                           \
        const double *values = c->value, *chances = c->chance, *tried = c->tried;                             \
        const double *rate = c->rate, *campaign_done = c->done, *campaign_lost = c->lost;                  \
        const int64_t *series = c->series, *codebase = c->codebase, *campaign = c->campaign;               \
        double *probability = out, *duration = out + n, *worth = out + 2 * n;                              \
        for (size_t i = 0; i < n; i++) {                                                                   \
            int64_t r = series[i], b = codebase[i], g = campaign[i];                                       \
            double s = success[r] * decay, f = failure[r] * decay, z = nothing[r] * decay;                 \
            double chance = chances[i], usual = rate[g], value = values[i];                                \
            double mean = chance == chance ? chance : usual;                                               \
            double seen = k + (s + f);                                                                     \
            double p = (k * mean + s) / seen;                                                              \
            double of_done = LEVEL(all_done_n[b], all_done[b], campaign_done[g]);                          \
            double of_lost = LEVEL(all_lost_n[b], all_lost[b], campaign_lost[g]);                          \
            of_done = LEVEL(done_n[r], done[r], of_done);                                                  \
            of_lost = LEVEL(lost_n[r], lost[r], of_lost);                                                  \
            double again = tried[i] * decay;                                                               \
            again = again < 1.0 ? again : 1.0;                                                             \
            value = value == value ? value : 1.0;                                                          \
            probability[i] = p;                                                                            \
            duration[i] = p * of_done + (1.0 - p) * of_lost;                                               \
            worth[i] = value * (1.0 - penalty * again) * (1.0 - z / (seen + z)) * (1.0 + explore * (k / seen));        \
        }                                                                                                  \
    }

DEFINE(plain, )
#if defined __x86_64__ && defined __GNUC__
DEFINE(avx2, __attribute__((target("avx2"))))
#ifdef __clang__ /* which knows no preferred width */
DEFINE(avx512, __attribute__((target("avx512f,avx512dq"))))
#else
DEFINE(avx512, __attribute__((target("avx512f,avx512dq,prefer-vector-width=512"))))
#endif
#endif

void k_estimate(const struct estimate_columns *columns, const struct estimate_rule *rule, double *out)
{
    switch (rule->simd) {
#if defined __x86_64__ && defined __GNUC__
    case K_AVX512: estimate_avx512(columns, rule, out); break;
    case K_AVX2: estimate_avx2(columns, rule, out); break;
#endif
    default: estimate_plain(columns, rule, out);
    }
}

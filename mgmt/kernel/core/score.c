/* Ranking: see score.h. */
#include "score.h"

#include <math.h>
#include <string.h>

#include "sort.h"

/* One loop without branches for each set of columns, compiled for each instruction set. No multiplication is
 * fused with an addition, so that all round alike. */
#define LOOP(has_runs, has_codebase)                                                              \
    for (size_t i = 0; i < n; i++) {                                                              \
        double value = values[i], p = chances[i], us = durations[i];                              \
        double bonus = (has_runs) ? (runs[i] == 0 ? first_run : 0.0) : 0.0;                       \
        double worth = value == value ? value + bonus : 1.0;                                      \
        double base = (has_codebase) ? codebase[i] : SCORE_CODEBASE_DEFAULT;                      \
        base = base == base ? base : SCORE_CODEBASE_DEFAULT;                                      \
        base = base > SCORE_CODEBASE_LEAST ? base : SCORE_CODEBASE_LEAST;                         \
        double expected = base * p * worth;                                                       \
        double result = (least_cost + us / 1000.0) / expected + start;                            \
        bool fine = (p >= 0) & (p <= 1) & (expected > 0) & (us >= 0) & (us < (double)INFINITY);  \
        offset[i] = fine ? result : (double)NAN;                                                  \
    }

#define DEFINE(suffix, attribute)                                                                 \
    attribute static void score_##suffix(const struct score_columns *restrict columns,            \
                                         const struct score_rule *restrict rule, double *restrict offset) \
    {                                                                                             \
        size_t n = columns->n;                                                                    \
        const double *values = columns->value, *chances = columns->probability;                   \
        const double *durations = columns->duration_us, *runs = columns->previous_runs;           \
        const double *codebase = columns->codebase;                                               \
        /* Read before the loop: a load under a condition would keep it from being vectorised. */ \
        double first_run = rule->first_run_bonus, least_cost = rule->minimum_cost_ms, start = rule->default_offset; \
        if (runs && codebase) {                                                                   \
            LOOP(true, true)                                                                      \
        } else if (runs) {                                                                        \
            LOOP(true, false)                                                                     \
        } else if (codebase) {                                                                    \
            LOOP(false, true)                                                                     \
        } else {                                                                                  \
            LOOP(false, false)                                                                    \
        }                                                                                         \
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

/* The cost once more, with the part of a second counted again; rare, so that it may be slow. */
static void count_again(const struct score_columns *columns, const struct score_rule *rule, double *offset)
{
    for (size_t i = 0; i < columns->n; i++) {
        double us = columns->duration_us[i], value = columns->value[i];
        if (!(offset[i] == offset[i]))
            continue;
        double bonus = columns->previous_runs && columns->previous_runs[i] == 0 ? rule->first_run_bonus : 0.0;
        double worth = value == value ? value + bonus : 1.0;
        double base = columns->codebase ? columns->codebase[i] : SCORE_CODEBASE_DEFAULT;
        base = base == base ? base : SCORE_CODEBASE_DEFAULT;
        base = base > SCORE_CODEBASE_LEAST ? base : SCORE_CODEBASE_LEAST;
        double expected = base * columns->probability[i] * worth;
        double cost = rule->minimum_cost_ms + us / 1000.0 + fmod(us, 1e6) / 1000.0;
        offset[i] = cost / expected + rule->default_offset;
    }
}

void k_score(const struct score_columns *columns, const struct score_rule *rule, double *offset)
{
    switch (rule->simd) {
#if defined __x86_64__ && defined __GNUC__
    case K_AVX512: score_avx512(columns, rule, offset); break;
    case K_AVX2: score_avx2(columns, rule, offset); break;
#endif
    default: score_plain(columns, rule, offset);
    }
    if (rule->subsecond_twice)
        count_again(columns, rule, offset);
}

static size_t kept(size_t n, size_t most) { return n / 2 < most ? n : 2 * most + 64; }

size_t k_top_room(size_t n, size_t most) { return 2 * K_ROOM(kept(n, most) + 1, sizeof(struct k_pair)); }

/* Doubles in their order as unsigned integers; both zeros are one. */
static uint64_t order_of(double score)
{
    uint64_t bits;
    score += 0.0;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

size_t k_top(size_t n, const double *score, size_t most, struct k_arena arena, int64_t *index)
{
    size_t size = kept(n, most), count = 0;
    struct k_pair *best = k_take(&arena, (size + 1) * sizeof *best), *scratch = k_take(&arena, (size + 1) * sizeof *scratch);
    bool full = false;
    double worst = 0;
    if (!best || !scratch || most == 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        double x = score[i];
        if (full ? !(x < worst) : x != x)
            continue;
        best[count++] = (struct k_pair){order_of(x), (uint32_t)i};
        if (count < size || i + 1 == n)
            continue;
        /* Stable, and what comes later has the higher index: equals stay in order. */
        k_sort(best, scratch, count);
        if (count > most) {
            count = most;
            full = true;
            worst = score[best[most - 1].item];
        }
    }
    k_sort(best, scratch, count);
    count = count < most ? count : most;
    for (size_t i = 0; i < count; i++)
        index[i] = best[i].item;
    return count;
}

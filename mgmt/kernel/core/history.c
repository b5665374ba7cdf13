/* Statistics of runs: see history.h. */
#include "history.h"

#include <math.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define LN2 0.69314718055994530942
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: what is added and taken away again is rounded */

/* Without branches and conversions, so that a loop over it becomes vectors. */
static inline double power(double x)
{
    double cut = x > 1000 ? 1000 : x;
    cut = cut >= -1000 ? cut : -1000; /* NaN too */
    double shifted = cut + ROUNDER, f = (cut - (shifted - ROUNDER)) * LN2, sum = 1.0 / 6227020800.0, scale;
    sum = sum * f + 1.0 / 479001600.0;
    sum = sum * f + 1.0 / 39916800.0;
    sum = sum * f + 1.0 / 3628800.0;
    sum = sum * f + 1.0 / 362880.0;
    sum = sum * f + 1.0 / 40320.0;
    sum = sum * f + 1.0 / 5040.0;
    sum = sum * f + 1.0 / 720.0;
    sum = sum * f + 1.0 / 120.0;
    sum = sum * f + 1.0 / 24.0;
    sum = sum * f + 1.0 / 6.0;
    sum = sum * f + 0.5;
    sum = sum * f + 1.0;
    sum = sum * f + 1.0;
    uint64_t bits; /* its low bits are the whole number, which becomes the exponent */
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return x >= -1000 ? sum * scale : 0;
}

double k_exp2(double x) { return power(x); }

#define BLOCK 256

#define DEFINE(suffix, attribute)                                                                       \
    attribute static void weigh_##suffix(size_t n, const double *restrict ended, double reference,      \
                                         double half_life, double *restrict weight)                     \
    {                                                                                                   \
        for (size_t i = 0; i < n; i++)                                                                  \
            weight[i] = power((ended[i] - reference) / half_life);                                      \
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

static void weigh(size_t n, const double *ended, const struct history_rule *rule, double *weight)
{
    switch (rule->simd) {
#if defined __x86_64__ && defined __GNUC__
    case K_AVX512: weigh_avx512(n, ended, rule->reference, rule->half_life, weight); break;
    case K_AVX2: weigh_avx2(n, ended, rule->reference, rule->half_life, weight); break;
#endif
    default: weigh_plain(n, ended, rule->reference, rule->half_life, weight);
    }
}

/* The entry that sorting would put at `at`; what lies before is not greater afterwards, what lies behind not less. */
static double nth(double *x, size_t n, size_t at)
{
    size_t low = 0, high = n - 1;
    while (low < high) {
        double pivot = x[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) {
            while (x[i] < pivot)
                i++;
            while (pivot < x[j])
                j--;
            if (i >= j)
                break;
            double kept = x[i];
            x[i++] = x[j];
            x[j--] = kept;
        }
        /* x[low..j] <= pivot <= x[j+1..high], and j < high: a pivot in the middle, rounded down, sees to that */
        if (at <= j)
            high = j;
        else
            low = j + 1;
    }
    return x[at];
}

static void middle(double *x, size_t n, double *count, double *p50, double *p90)
{
    *count = (double)n;
    *p50 = *p90 = (double)NAN;
    if (!n)
        return;
    size_t half = n / 2, most = 9 * n / 10;
    *p50 = nth(x, n, half);
    *p90 = most == half ? *p50 : nth(x + half, n - half, most - half);
}

/* Durations of a row's successes and of its others have places of their own, one behind the other. */
struct place {
    uint32_t count, kept; /* all of them; those written, from the latest back */
    size_t at;
};

/* The latest durations of each, where there are `count` of them. */
static void keep(const struct history_runs *runs, size_t window, size_t rows, struct place *place, double *kept)
{
    const int64_t *key = runs->key, *group_of = runs->group_of;
    const double *duration = runs->duration;
    size_t at = 0;
    for (size_t k = 0; k < 2 * rows; k++) {
        place[k].at = at;
        place[k].count = place[k].count < window ? place[k].count : (uint32_t)window;
        at += place[k].count;
    }
    for (size_t i = runs->n; i-- > 0 && at;) {
        size_t outcome = (size_t)key[i] & 3, g = (size_t)(group_of ? group_of[key[i] >> 2] : key[i] >> 2);
        struct place *own = &place[2 * g + (outcome != HISTORY_SUCCESS)];
        if (outcome == HISTORY_TRANSIENT || own->kept == own->count || duration[i] != duration[i])
            continue;
        kept[own->at + own->kept++] = duration[i] + 0.0; /* one zero */
        at--; /* ends the loop when all have theirs */
    }
}

size_t history_room(size_t runs, size_t rows)
{
    return K_ROOM(2 * rows, sizeof(struct place)) + K_ROOM(runs, sizeof(double));
}

enum k_status k_history(const struct history_runs *runs, const struct history_rule *rule, size_t rows,
                        struct k_arena arena, double *matrix)
{
    struct place *place = k_take(&arena, 2 * rows * sizeof *place);
    double *kept = k_take(&arena, runs->n * sizeof *kept), weight[BLOCK];
    if (!place || !kept)
        return K_NOMEM;
    const int64_t *key = runs->key, *group_of = runs->group_of;
    const double *duration = runs->duration;
    memset(place, 0, 2 * rows * sizeof *place);
    memset(matrix, 0, HISTORY_FIELDS * rows * sizeof *matrix);
    for (size_t g = 0; g < rows; g++)
        matrix[FIELD_ENDED * rows + g] = -(double)INFINITY;
    for (size_t from = 0; from < runs->n; from += BLOCK) {
        size_t n = runs->n - from < BLOCK ? runs->n - from : BLOCK;
        if (rule->weights)
            weigh(n, runs->ended + from, rule, weight);
        for (size_t i = from; i < from + n; i++) {
            size_t outcome = (size_t)key[i] & 3, g = (size_t)(group_of ? group_of[key[i] >> 2] : key[i] >> 2);
            double *ended = &matrix[FIELD_ENDED * rows + g], *streak = &matrix[FIELD_STREAK * rows + g];
            *ended = runs->ended[i] > *ended ? runs->ended[i] : *ended;
            if (outcome == HISTORY_TRANSIENT) {
                *streak += 1;
                continue;
            }
            *streak = 0;
            matrix[FIELD_RUNS * rows + g] += 1;
            if (rule->weights)
                matrix[outcome * rows + g] += weight[i - from];
            place[2 * g + (outcome != HISTORY_SUCCESS)].count += duration[i] == duration[i];
        }
    }
    keep(runs, rule->window, rows, place, kept);
    for (size_t g = 0; g < rows; g++)
        for (size_t lost = 0; lost < 2; lost++) {
            const struct place *own = &place[2 * g + lost];
            double *of = matrix + (lost ? FIELD_LOST : FIELD_DONE) * rows + g;
            middle(kept + own->at, own->kept, of, of + rows, of + 2 * rows);
        }
    return K_OK;
}

enum k_status k_recent(const struct history_runs *runs, size_t window, size_t rows, struct k_arena arena, int64_t *starts,
                       double *kept)
{
    struct place *place = k_take(&arena, 2 * rows * sizeof *place);
    if (!place)
        return K_NOMEM;
    memset(place, 0, 2 * rows * sizeof *place);
    for (size_t i = 0; i < runs->n; i++) {
        size_t outcome = (size_t)runs->key[i] & 3, series = (size_t)runs->key[i] >> 2;
        size_t g = runs->group_of ? (size_t)runs->group_of[series] : series;
        if (outcome != HISTORY_TRANSIENT)
            place[2 * g + (outcome != HISTORY_SUCCESS)].count += runs->duration[i] == runs->duration[i];
    }
    keep(runs, window, rows, place, kept);
    starts[2 * rows] = 0;
    for (size_t k = 0; k < 2 * rows; k++) {
        starts[k] = (int64_t)place[k].at;
        starts[2 * rows] = (int64_t)(place[k].at + place[k].count);
    }
    return K_OK;
}

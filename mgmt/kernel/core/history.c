/* Statistics of runs: see history.h. */
#include "history.h"

#include <math.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define LN2 0.69314718055994530942
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: what is added and taken away again is rounded */

double k_exp2(double x)
{
    if (!(x >= -1000))
        return 0;
    x = x > 1000 ? 1000 : x;
    double whole = (x + ROUNDER) - ROUNDER, f = (x - whole) * LN2, sum = 1.0 / 6227020800.0, scale;
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
    uint64_t bits = (uint64_t)((int64_t)whole + 1023) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
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

size_t history_room(size_t runs, size_t rows, size_t window)
{
    return K_ROOM(rows + 1, sizeof(size_t)) + K_ROOM(runs, sizeof(uint32_t)) + 2 * K_ROOM(window, sizeof(double));
}

enum k_status k_history(const struct history_runs *runs, const struct history_rule *rule, size_t rows,
                        struct k_arena arena, double *matrix)
{
    size_t *start = k_take(&arena, (rows + 1) * sizeof *start), window = rule->window;
    uint32_t *order = k_take(&arena, runs->n * sizeof *order);
    double *done = k_take(&arena, window * sizeof *done), *lost = k_take(&arena, window * sizeof *lost);
    if (!start || !order || !done || !lost)
        return K_NOMEM;
    const int64_t *key = runs->key, *group_of = runs->group_of;
    memset(start, 0, (rows + 1) * sizeof *start);
#define ROW(i) ((size_t)(group_of ? group_of[key[i] >> 2] : key[i] >> 2))
    for (size_t i = 0; i < runs->n; i++)
        start[ROW(i)]++;
    size_t sum = 0;
    for (size_t g = 0; g <= rows; g++) { /* where each row ends; filled from behind it is where each begins */
        sum += start[g];
        start[g] = sum;
    }
    for (size_t i = runs->n; i-- > 0;)
        order[--start[ROW(i)]] = (uint32_t)i;
#undef ROW
    for (size_t g = 0; g < rows; g++) {
        size_t from = start[g], to = start[g + 1], done_n = 0, lost_n = 0, counted = 0, streak = 0;
        double weight[4] = {0, 0, 0, 0}, ended = -(double)INFINITY;
        for (size_t i = from; i < to; i++) {
            uint32_t run = order[i];
            unsigned outcome = (unsigned)(key[run] & 3);
            double end = runs->ended[run];
            ended = end > ended ? end : ended;
            streak = outcome == HISTORY_TRANSIENT ? streak + 1 : 0;
            counted += outcome != HISTORY_TRANSIENT;
            if (rule->weights)
                weight[outcome] += k_exp2((end - rule->reference) / rule->half_life);
        }
        for (size_t i = to; i > from && (done_n < window || lost_n < window); i--) {
            uint32_t run = order[i - 1];
            unsigned outcome = (unsigned)(key[run] & 3);
            double us = runs->duration[run] + 0.0; /* one zero */
            if (us != us || outcome == HISTORY_TRANSIENT)
                continue;
            if (outcome == HISTORY_SUCCESS && done_n < window)
                done[done_n++] = us;
            else if (outcome != HISTORY_SUCCESS && lost_n < window)
                lost[lost_n++] = us;
        }
        matrix[FIELD_SUCCESS * rows + g] = weight[HISTORY_SUCCESS];
        matrix[FIELD_FAILURE * rows + g] = weight[HISTORY_FAILURE];
        matrix[FIELD_NOTHING * rows + g] = weight[HISTORY_NOTHING];
        middle(done, done_n, &matrix[FIELD_DONE * rows + g], &matrix[FIELD_DONE_P50 * rows + g],
               &matrix[FIELD_DONE_P90 * rows + g]);
        middle(lost, lost_n, &matrix[FIELD_LOST * rows + g], &matrix[FIELD_LOST_P50 * rows + g],
               &matrix[FIELD_LOST_P90 * rows + g]);
        matrix[FIELD_RUNS * rows + g] = (double)counted;
        matrix[FIELD_STREAK * rows + g] = (double)streak;
        matrix[FIELD_ENDED * rows + g] = ended;
    }
    return K_OK;
}

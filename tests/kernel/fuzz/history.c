/* Statistics of runs: medians are those of a sorted list, sums those of the runs taken one by one, and adding a
 * run later changes what adding it at once would. Every variant of the estimates gives the same bits. */
#include "history.h"

#include <math.h>

#include "fuzz.h"

#define MOST 48
#define ROWS 5

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double number(struct input *in)
{
    static const double odd[] = {0, -0.0, 1, -1, 1e-300, 1e300, INFINITY, -INFINITY, NAN, 1e6};
    uint64_t kind = fuzz_byte(in);
    return kind < 10 ? odd[kind] : (double)fuzz_between(in, 0, 1000) / 4;
}

static bool same(double a, double b) { return a == b || (a != a && b != b); }

static void statistics(struct input *in, double *matrix, bool finite)
{
    size_t n = (size_t)fuzz_between(in, 0, MOST), window = (size_t)fuzz_between(in, 1, MOST), series = 2 * ROWS;
    int64_t *key = fuzz_memory(n * sizeof *key), group_of[2 * ROWS];
    double *ended = fuzz_memory(n * sizeof *ended), *duration = fuzz_memory(n * sizeof *duration);
    bool grouped = fuzz_byte(in) & 1;
    for (size_t s = 0; s < series; s++)
        group_of[s] = fuzz_between(in, 0, ROWS - 1);
    for (size_t i = 0; i < n; i++) {
        key[i] = fuzz_between(in, 0, (int64_t)(grouped ? series : ROWS) * 4 - 1);
        ended[i] = finite ? (double)fuzz_between(in, 0, 255) : number(in);
        duration[i] = finite ? (double)fuzz_between(in, 0, 255) : number(in);
    }
    struct history_runs runs = {n, key, ended, duration, grouped ? group_of : NULL};
    struct history_rule rule = {(double)fuzz_byte(in), 14, window, true, (enum k_simd)(fuzz_byte(in) % ((unsigned)k_simd_best() + 1))};
    size_t room = history_room(n, ROWS);
    void *memory = fuzz_memory(room);
    REQUIRE(k_history(&runs, &rule, ROWS, (struct k_arena){memory, room}, matrix) == K_OK);
    for (int64_t g = 0; g < ROWS; g++) {
        double sum[4] = {0, 0, 0, 0}, kept[2][MOST], streak = 0;
        size_t count[2] = {0, 0};
        for (size_t i = 0; i < n; i++) {
            int64_t row = grouped ? group_of[key[i] / 4] : key[i] / 4;
            if (row != g)
                continue;
            sum[key[i] % 4] += k_exp2((ended[i] - rule.reference) / 14);
            streak = key[i] % 4 == HISTORY_TRANSIENT ? streak + 1 : 0;
        }
        for (size_t i = n; i-- > 0;) {
            int64_t row = grouped ? group_of[key[i] / 4] : key[i] / 4, outcome = key[i] % 4;
            bool lost = outcome != HISTORY_SUCCESS;
            if (row == g && outcome != HISTORY_TRANSIENT && duration[i] == duration[i] && count[lost] < window)
                kept[lost][count[lost]++] = duration[i];
        }
        for (int k = 0; k < 3; k++)
            REQUIRE(same(matrix[k * ROWS + g], sum[k]));
        REQUIRE(matrix[FIELD_STREAK * ROWS + g] == streak);
        for (int lost = 0; lost < 2; lost++) {
            int field = lost ? FIELD_LOST : FIELD_DONE;
            qsort(kept[lost], count[lost], sizeof(double), by_size);
            REQUIRE(matrix[field * ROWS + g] == (double)count[lost]);
            double p50 = count[lost] ? kept[lost][count[lost] / 2] : NAN;
            double p90 = count[lost] ? kept[lost][9 * count[lost] / 10] : NAN;
            REQUIRE(same(matrix[(field + 1) * ROWS + g], p50) && same(matrix[(field + 2) * ROWS + g], p90));
        }
    }
    free(memory);
    free(key);
    free(ended);
    free(duration);
}

static void estimates(struct input *in, const double *of_series, const double *of_codebase)
{
    size_t n = (size_t)fuzz_between(in, 0, MOST);
    double *column[6];
    int64_t *row[3];
    for (int c = 0; c < 6; c++) {
        column[c] = fuzz_memory((n + ROWS) * sizeof(double));
        for (size_t i = 0; i < n + ROWS; i++)
            column[c][i] = number(in);
    }
    for (int c = 0; c < 3; c++) {
        row[c] = fuzz_memory(n * sizeof(int64_t));
        for (size_t i = 0; i < n; i++)
            row[c][i] = fuzz_between(in, 0, ROWS - 1);
    }
    struct estimate_columns given = {n, column[0], column[1], column[2], row[0], row[1], row[2],
                                     of_series, of_codebase, ROWS, ROWS, column[3], column[4], column[5]};
    struct estimate_rule rule = {0.75, 4, 0.25, 0.9, 5, 5, fuzz_byte(in) & 1, K_PLAIN};
    double *out[3];
    for (int simd = 0; simd <= (int)k_simd_best(); simd++) {
        rule.simd = (enum k_simd)simd;
        out[simd] = fuzz_memory(3 * n * sizeof(double));
        k_estimate(&given, &rule, out[simd]);
        for (size_t i = 0; i < 3 * n; i++)
            REQUIRE(memcmp(&out[0][i], &out[simd][i], sizeof(double)) == 0 || (isnan(out[0][i]) && isnan(out[simd][i])));
    }
    for (int simd = 0; simd <= (int)k_simd_best(); simd++)
        free(out[simd]);
    for (int c = 0; c < 6; c++)
        free(column[c]);
    for (int c = 0; c < 3; c++)
        free(row[c]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    double of_series[HISTORY_FIELDS * ROWS], of_codebase[HISTORY_FIELDS * ROWS];
    bool finite = fuzz_byte(&in) & 1;
    statistics(&in, of_series, finite);
    statistics(&in, of_codebase, !finite);
    estimates(&in, of_series, of_codebase);
    return 0;
}

/* Ranking and bulk packing: every variant of the loops gives the same bits, the best are those a search finds,
 * and packing at once is what placing one by one gives. */
#include "score.h"

#include <math.h>

#include "fuzz.h"
#include "pack.h"
#include "strict.h"

#define MOST 40

static double number(struct input *in)
{
    static const double odd[] = {0, -0.0, 1, -1, 0.5, 1e-300, 1e300, INFINITY, -INFINITY, NAN};
    uint64_t kind = fuzz_byte(in);
    return kind < 10 ? odd[kind] : (double)fuzz_between(in, 0, 1000) / (kind < 128 ? 1000 : 7);
}

static void ranking(struct input *in)
{
    size_t n = (size_t)fuzz_between(in, 0, MOST), most = (size_t)fuzz_between(in, 0, MOST);
    double *columns[5], *offset[3];
    for (int c = 0; c < 5; c++) {
        columns[c] = fuzz_memory(n * sizeof(double));
        for (size_t i = 0; i < n; i++)
            columns[c][i] = number(in);
    }
    uint64_t which = fuzz_byte(in);
    struct score_columns given = {n, columns[0], columns[1], columns[2], which & 1 ? columns[3] : NULL, which & 2 ? columns[4] : NULL};
    struct score_rule rule = {100, 20000, which & 8 ? 5 : 0, which & 4, K_PLAIN};
    for (int simd = 0; simd <= (int)k_simd_best(); simd++) {
        rule.simd = (enum k_simd)simd;
        offset[simd] = fuzz_memory(n * sizeof(double));
        k_score(&given, &rule, offset[simd]);
        for (size_t i = 0; i < n; i++)
            REQUIRE(memcmp(&offset[0][i], &offset[simd][i], sizeof(double)) == 0 || (isnan(offset[0][i]) && isnan(offset[simd][i])));
    }
    size_t room = k_top_room(n, most), count;
    void *memory = fuzz_memory(room);
    int64_t index[MOST];
    const double *score = which & 16 ? columns[0] : offset[0];
    count = k_top(n, score, most, (struct k_arena){memory, room}, index);
    bool taken[MOST] = {false};
    for (size_t k = 0; k <= count && k < most; k++) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!taken[i] && score[i] == score[i] && (best == n || score[i] < score[best]))
                best = i;
        REQUIRE(k < count ? best == (size_t)index[k] : best == n);
        if (best < n)
            taken[best] = true;
    }
    free(memory);
    for (int c = 0; c < 5; c++)
        free(columns[c]);
    for (int simd = 0; simd <= (int)k_simd_best(); simd++)
        free(offset[simd]);
}

static void packing(struct input *in)
{
    uint32_t n = (uint32_t)fuzz_between(in, 0, MOST), cpus = (uint32_t)fuzz_between(in, 1, 8), failed_one;
    int64_t wcet[MOST], period[MOST], cpu[MOST];
    struct strict_task task[MOST];
    int64_t scale = fuzz_byte(in) % 4 ? 1 : (int64_t)1 << fuzz_between(in, 1, 50);
    memset(task, 0, sizeof task);
    for (uint32_t i = 0; i < n; i++) {
        period[i] = fuzz_between(in, 1, 60) * scale;
        wcet[i] = fuzz_between(in, 1, k_max(1, period[i] / 2)); /* many fill a CPU to the last unit */
        task[i] = (struct strict_task){.wcet = wcet[i], .period = period[i], .deadline = period[i], .target = -1,
                                       .u = strict_utilisation(wcet[i], period[i]), .cpu = STRICT_NONE};
    }
    size_t room = pack_room(n, cpus), place_room = strict_place_room(n), state_room = strict_room(cpus, 1), failed;
    void *memory = fuzz_memory(room), *state = fuzz_memory(state_room), *more = fuzz_memory(place_room), *scratch = fuzz_memory(strict_scratch(n + 1));
    REQUIRE(pack_best_fit(n, wcet, period, cpus, (struct k_arena){memory, room}, cpu, &failed) == K_OK);
    struct strict s;
    struct strict_refusal why;
    struct k_arena arena = {state, state_room};
    REQUIRE(strict_make(&s, STRICT_UTILISATION, STRICT_BEST, cpus, 1, &arena));
    s.node[0].memory = INT64_MAX;
    strict_ready(&s);
    s.task = task;
    s.tasks = n;
    REQUIRE(strict_place(&s, 0, n, STRICT_BY_UTILISATION, (struct k_arena){more, place_room},
                         (struct k_arena){scratch, strict_scratch(n + 1)}, &failed_one, &why) == K_OK);
    REQUIRE((failed == PACK_DONE) == (failed_one == STRICT_NONE));
    for (uint32_t i = 0; failed == PACK_DONE && i < n; i++)
        REQUIRE(cpu[i] == task[i].cpu);
    free(memory);
    free(state);
    free(more);
    free(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    if (fuzz_byte(&in) & 1)
        ranking(&in);
    else
        packing(&in);
    return 0;
}

/* Time-triggered tables: what is made is found sound, what is spoilt is not, and none is made only where none is. */
#include "table.h"

#include "analysis.h"
#include "fuzz.h"

#define MOST 5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int64_t periods[] = {2, 3, 4, 6, 8, 12, 24, 48};
    struct input in = {data, size};
    int64_t wcet[MOST], period[MOST], deadline[MOST], offset[MOST], before[4], after[4], hyperperiod, jobs;
    size_t n = (size_t)fuzz_between(&in, 1, MOST), edges = (size_t)fuzz_between(&in, 0, 4), index, slice, task;
    int64_t scale = fuzz_byte(&in) % 4 ? 1 : (int64_t)1 << fuzz_between(&in, 0, 60);
    bool same = fuzz_byte(&in) & 1, aligned = fuzz_byte(&in) & 1;
    for (size_t i = 0; i < n; i++) {
        period[i] = periods[same ? 6 : fuzz_between(&in, 0, 7)];
        if (!k_mul(period[i], scale, &period[i]))
            period[i] = INT64_MAX;
        wcet[i] = fuzz_between(&in, 1, k_max(1, period[i] / 3));
        deadline[i] = fuzz_byte(&in) % 2 ? period[i] : fuzz_between(&in, 1, period[i]);
        offset[i] = aligned || fuzz_byte(&in) % 2 ? 0 : fuzz_between(&in, 0, period[i] - 1);
    }
    for (size_t e = 0; e < edges; e++) {
        before[e] = fuzz_between(&in, 0, MOST);
        after[e] = fuzz_between(&in, 0, MOST);
    }
    struct k_table_tasks tasks = {n, wcet, period, deadline, offset, edges, before, after};
    size_t room = k_table_room(n, edges);
    void *memory = fuzz_memory(room);
    struct k_arena arena = {memory, room};
    if (k_table_check_input(&tasks, arena, &index) != K_TABLE_FINE || k_table_size(&tasks, &hyperperiod, &jobs) != K_OK || jobs > 10000) {
        free(memory);
        return 0;
    }
    size_t most = 2 * (size_t)jobs;
    struct k_slices slices = {fuzz_memory(most * 8), fuzz_memory(most * 8), fuzz_memory(most * 8), 0};
    struct k_table_miss miss = {0};
    enum k_table_fault fault;
    REQUIRE(k_table_make(&tasks, hyperperiod, arena, &slices, &miss) == K_OK);
    if (!miss.found) {
        REQUIRE(slices.count <= most);
        REQUIRE(k_table_verify(&tasks, hyperperiod, &slices, arena, &fault, &slice, &task) == K_OK && fault == K_SOUND);
        if (slices.count) {
            size_t at = (size_t)fuzz_between(&in, 0, (int64_t)slices.count - 1);
            switch (fuzz_byte(&in) % 5) {
            case 0: slices.start[at]++; break;
            case 1: slices.end[at]--; break;
            case 2: slices.end[at]++; break;
            case 3: slices.task[at] = slices.task[at] + 1; break;
            default: slices.count--;
            }
            REQUIRE(k_table_verify(&tasks, hyperperiod, &slices, arena, &fault, &slice, &task) == K_OK && fault != K_SOUND);
        }
    } else if (aligned && !edges) {
        bool fits;
        int64_t interval, demand;
        struct k_tasks plain = {n, wcet, period, deadline, NULL, NULL};
        size_t more = k_analysis_room(n);
        void *spare = fuzz_memory(more);
        REQUIRE(k_edf_schedulable(&plain, (struct k_arena){spare, more}, &fits, &interval, &demand) != K_OK || !fits);
        free(spare);
    }
    free(slices.start);
    free(slices.end);
    free(slices.task);
    free(memory);
    return 0;
}

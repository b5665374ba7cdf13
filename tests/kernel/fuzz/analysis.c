/* Analyses of one CPU: against sums worked out unit by unit for small numbers, against each other for any. */
#include "analysis.h"
#include "fuzz.h"

#define MOST 6
#define HORIZON 400 /* beyond the hyperperiod (24) and every deadline (72) and jitter */

struct columns {
    int64_t wcet[MOST], period[MOST], deadline[MOST], jitter[MOST], blocking[MOST];
};

static int64_t naive_response(const struct columns *c, size_t i)
{
    int64_t w = c->wcet[i] + c->blocking[i];
    while (w + c->jitter[i] <= c->deadline[i]) {
        int64_t next = c->wcet[i] + c->blocking[i];
        for (size_t j = 0; j < i; j++)
            next += k_ceil_div(w + c->jitter[j], c->period[j]) * c->wcet[j];
        if (next == w)
            return w + c->jitter[i];
        w = next;
    }
    return -1;
}

static bool naive_edf(const struct columns *c, size_t n)
{
    int64_t share = 0; /* in 24ths, which all periods divide */
    for (size_t i = 0; i < n; i++)
        share += c->wcet[i] * (24 / c->period[i]);
    if (share > 24)
        return false;
    for (int64_t t = 0; t < HORIZON; t++) {
        int64_t demand = 0;
        for (size_t i = 0; i < n; i++) {
            int64_t slack = t - c->deadline[i] + c->jitter[i];
            demand += slack >= 0 ? (slack / c->period[i] + 1) * c->wcet[i] : 0;
        }
        if (demand > t)
            return false;
    }
    return true;
}

static void small(struct input *in)
{
    static const int64_t periods[] = {2, 3, 4, 6, 8, 12, 24};
    struct columns c;
    size_t n = (size_t)fuzz_between(in, 0, MOST);
    bool constrained = fuzz_byte(in) & 1, blocked = fuzz_byte(in) & 1;
    for (size_t i = 0; i < n; i++) {
        c.period[i] = periods[fuzz_between(in, 0, 6)];
        c.wcet[i] = fuzz_between(in, 1, c.period[i] / 2);
        c.deadline[i] = fuzz_between(in, 1, constrained ? c.period[i] : 3 * c.period[i]);
        c.jitter[i] = fuzz_between(in, 0, 3);
        c.blocking[i] = blocked ? fuzz_between(in, 0, 3) : 0;
    }
    struct k_tasks tasks = {n, c.wcet, c.period, c.deadline, c.jitter, blocked ? c.blocking : NULL};
    size_t room = k_analysis_room(n), missing;
    void *memory = fuzz_memory(room);
    struct k_arena arena = {memory, room};
    int64_t response[MOST], order[MOST], thousandths[MOST], at, demand;
    bool fits, edf, found, late = false;

    REQUIRE(k_response_times(&tasks, arena, response) == K_OK);
    for (size_t i = 0; i < n; i++) {
        late |= response[i] < 0;
        if (constrained)
            REQUIRE(response[i] == naive_response(&c, i));
    }
    REQUIRE(k_fp_schedulable(&tasks, arena, &fits, &missing) == K_OK);
    REQUIRE(fits == !late);

    REQUIRE(k_audsley(&tasks, arena, &found, order) == K_OK);
    REQUIRE(found || !fits);
    struct columns by_order;
    for (size_t i = 0; found && i < n; i++) {
        size_t from = (size_t)order[i];
        by_order.wcet[i] = c.wcet[from];
        by_order.period[i] = c.period[from];
        by_order.deadline[i] = c.deadline[from];
        by_order.jitter[i] = c.jitter[from];
        by_order.blocking[i] = c.blocking[from];
    }
    struct k_tasks ordered = {n, by_order.wcet, by_order.period, by_order.deadline, by_order.jitter, blocked ? by_order.blocking : NULL};
    REQUIRE(!found || (k_fp_schedulable(&ordered, arena, &fits, &missing) == K_OK && fits));

    tasks.blocking = NULL;
    REQUIRE(k_edf_schedulable(&tasks, arena, &edf, &at, &demand) == K_OK);
    REQUIRE(edf == naive_edf(&c, n));
    REQUIRE(edf || demand > at || (at == 0 && demand == 0));

    if (n && n <= 3 && k_sensitivity(&tasks, K_EDF, arena, thousandths) == K_OK)
        for (size_t i = 0; i < n; i++) {
            int64_t was = c.wcet[i];
            REQUIRE((thousandths[i] >= 0) == edf);
            for (int64_t more = 0; edf && more <= 1; more++) {
                c.wcet[i] = k_ceil_div(was * (1000 + thousandths[i] + more), 1000);
                REQUIRE(naive_edf(&c, n) == !more);
            }
            c.wcet[i] = was;
        }
    free(memory);
}

static int64_t any(struct input *in, int64_t least)
{
    static const int64_t most[] = {30, 1000, 1 << 20, (int64_t)1 << 40, INT64_MAX};
    return fuzz_between(in, least, most[fuzz_between(in, 0, 4)]);
}

/* Numbers up to the end of int64: an error or an answer that agrees with the others, never anything else. */
static void large(struct input *in)
{
    struct columns c;
    size_t n = (size_t)fuzz_between(in, 0, MOST), missing, index;
    for (size_t i = 0; i < n; i++) {
        c.period[i] = any(in, 1);
        c.wcet[i] = k_max(1, c.period[i] / fuzz_between(in, 1, 20));
        c.deadline[i] = any(in, 1);
        c.jitter[i] = any(in, 0);
        c.blocking[i] = any(in, 0);
        /* Periods of like size: how many steps a test may take is bounded, but a million of them are no fuzzing. */
        c.period[i] = k_max(c.period[i], c.period[0] / 64);
        c.deadline[i] = k_min(c.deadline[i], c.period[0] < INT64_MAX / 64 ? c.period[0] * 64 : INT64_MAX);
    }
    struct k_tasks tasks = {n, c.wcet, c.period, c.deadline, c.jitter, fuzz_byte(in) & 1 ? c.blocking : NULL};
    size_t room = k_analysis_room(n);
    void *memory = fuzz_memory(room);
    struct k_arena arena = {memory, room};
    int64_t response[MOST], at, demand, multiple;
    bool fits, late = false;
    int sign;
    enum k_status status = k_response_times(&tasks, arena, response);
    for (size_t i = 0; status == K_OK && i < n; i++)
        late |= response[i] < 0;
    if (k_fp_schedulable(&tasks, arena, &fits, &missing) == K_OK && status == K_OK)
        REQUIRE(fits == !late);
    tasks.blocking = NULL;
    status = k_edf_schedulable(&tasks, arena, &fits, &at, &demand);
    if (k_utilisation(n, c.wcet, c.period, arena, &sign) == K_OK && status == K_OK)
        REQUIRE(!fits || sign <= 0);
    if (k_hyperperiod(n, c.period, &multiple, &index) == K_OK)
        for (size_t i = 0; i < n; i++)
            REQUIRE(multiple % c.period[i] == 0);
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    if (fuzz_byte(&in) & 1)
        large(&in);
    else
        small(&in);
    return 0;
}

/* Placement under exact tests: a system is changed at random; whatever is on a CPU passes its analysis. */
#include "analysis.h"
#include "fuzz.h"
#include "strict.h"

#define CPUS 6
#define TASKS 48
#define OPERATIONS 60

struct system {
    struct strict s;
    struct strict_task task[TASKS];
    uint64_t mask[TASKS];
    void *memory, *scratch;
};

static struct k_arena scratch_of(const struct system *system)
{
    return (struct k_arena){system->scratch, strict_scratch(TASKS + 1)};
}

static void begin(struct system *system, struct input *in)
{
    struct strict *s = &system->s;
    uint32_t cpus = (uint32_t)fuzz_between(in, 1, CPUS), node = 0, of[CPUS];
    for (uint32_t q = 0; q < cpus; q++)
        of[q] = node += q && fuzz_byte(in) % 3 == 0;
    size_t room = strict_room(cpus, node + 1);
    system->memory = fuzz_memory(room);
    struct k_arena arena = {system->memory, room};
    REQUIRE(strict_make(s, (enum strict_test)fuzz_between(in, 0, 2), (enum strict_choice)fuzz_between(in, 0, 2), cpus, node + 1, &arena));
    s->mutual = fuzz_byte(in) % 4 == 0;
    for (uint32_t q = 0; q < cpus; q++) {
        s->cpu[q].node = of[q];
        s->cpu[q].id = fuzz_between(in, 0, 3);
        s->cpu[q].reserve = fuzz_byte(in) % 4 ? 0 : fuzz_between(in, 0, STRICT_PPM);
    }
    for (uint32_t k = 0; k <= node; k++)
        s->node[k].memory = fuzz_byte(in) % 2 ? 100 : INT64_MAX;
    strict_ready(s);
    s->tasks = TASKS;
    s->task = system->task;
    s->mask = system->mask;
    s->mask_words = 1;
    for (uint32_t x = 0; x < TASKS; x++)
        s->task[x].cpu = STRICT_NONE;
    system->scratch = fuzz_memory(strict_scratch(TASKS + 1));
}

static struct strict_task some_task(struct system *system, struct input *in, uint32_t x, int64_t scale)
{
    const struct strict *s = &system->s;
    struct strict_task task = {0};
    task.period = fuzz_between(in, 2, 40) * scale;
    task.wcet = fuzz_between(in, 1, k_max(1, task.period / (1 + (int64_t)fuzz_byte(in) % 8)));
    task.deadline = fuzz_byte(in) % 2 ? task.period : fuzz_between(in, 1, s->test == STRICT_FP ? task.period : 2 * task.period);
    task.jitter = fuzz_byte(in) % 4 ? 0 : fuzz_between(in, 0, 3);
    task.memory = fuzz_byte(in) % 4 ? 0 : fuzz_between(in, 0, 60);
    task.target = fuzz_byte(in) % 4 ? -1 : fuzz_between(in, 0, s->nodes - 1);
    task.rank = s->mutual ? fuzz_between(in, 0, 3) : task.deadline - task.jitter;
    task.u = strict_utilisation(task.wcet, task.period);
    task.cpu = STRICT_NONE;
    task.masked = fuzz_byte(in) % 4 == 0;
    system->mask[x] = fuzz_byte(in) & 15;
    return task;
}

/* From the tasks alone, without a bound or a sum of the placement. */
static void verify_cpu(const struct system *system, uint32_t q)
{
    const struct strict *s = &system->s;
    int64_t wcet[TASKS + 1], period[TASKS + 1], deadline[TASKS + 1], jitter[TASKS + 1], response[TASKS + 1], at, demand;
    size_t n = 0, room = k_analysis_room(TASKS + 1);
    uint32_t before = STRICT_NONE;
    for (uint32_t x = s->cpu[q].head; x != STRICT_NONE; before = x, x = s->task[x].next, n++) {
        const struct strict_task *task = &s->task[x];
        REQUIRE(n < TASKS && task->cpu == q);
        if (before != STRICT_NONE)
            REQUIRE(s->task[before].rank < task->rank || (s->task[before].rank == task->rank && before < x));
        REQUIRE(task->target < 0 || task->target == s->cpu[q].node);
        REQUIRE(!task->masked || system->mask[x] >> s->cpu[q].id & 1);
        wcet[n] = task->wcet;
        period[n] = task->period;
        deadline[n] = task->deadline;
        jitter[n] = task->jitter;
    }
    REQUIRE(n == s->cpu[q].count);
    void *memory = fuzz_memory(room);
    struct k_arena arena = {memory, room};
    struct k_tasks tasks = {n, wcet, period, deadline, jitter, NULL};
    bool fits;
    if (s->test == STRICT_FP && !s->mutual) {
        REQUIRE(k_response_times(&tasks, arena, response) == K_OK);
        for (size_t i = 0; i < n; i++)
            REQUIRE(response[i] >= 0);
    }
    if (s->test == STRICT_EDF)
        REQUIRE(k_edf_schedulable(&tasks, arena, &fits, &at, &demand) == K_OK && fits);
    int sign;
    wcet[n] = s->cpu[q].reserve;
    period[n] = STRICT_PPM;
    n += s->cpu[q].reserve > 0;
    REQUIRE(k_utilisation(n, wcet, period, arena, &sign) == K_OK && sign <= 0);
    free(memory);
}

static void verify(const struct system *system)
{
    const struct strict *s = &system->s;
    int64_t used[CPUS] = {0};
    uint32_t placed = 0, listed = 0;
    for (uint32_t q = 0; q < s->cpus; q++) {
        verify_cpu(system, q);
        listed += s->cpu[q].count;
    }
    for (uint32_t x = 0; x < TASKS; x++)
        if (s->task[x].cpu != STRICT_NONE) {
            placed++;
            used[s->cpu[s->task[x].cpu].node] += s->task[x].memory;
        }
    REQUIRE(placed == listed);
    for (uint32_t k = 0; k < s->nodes; k++)
        REQUIRE(used[k] <= s->node[k].memory && s->node[k].free == s->node[k].memory - used[k]);
}

/* After a refusal: nowhere would it pass, whatever the index says. */
static void verify_refusal(struct system *system, uint32_t x)
{
    struct strict_refusal why;
    bool fits;
    for (uint32_t q = 0; q < system->s.cpus; q++)
        REQUIRE(strict_admit_on(&system->s, x, q, scratch_of(system), &fits) == K_OK && !fits);
    REQUIRE(strict_explain(&system->s, x, STRICT_NONE, scratch_of(system), &why) == K_OK && why.reason != STRICT_FITS);
    if (why.largest_wcet > 0) {
        struct strict_task was = system->s.task[x];
        system->s.task[x].wcet = why.largest_wcet;
        system->s.task[x].u = strict_utilisation(why.largest_wcet, was.period);
        REQUIRE(strict_admit_on(&system->s, x, why.cpu, scratch_of(system), &fits) == K_OK && fits);
        strict_remove(&system->s, x);
        system->s.task[x] = was;
    }
}

static void place(struct system *system, struct input *in, int64_t scale)
{
    struct strict *s = &system->s;
    uint32_t first = (uint32_t)fuzz_between(in, 0, TASKS - 1), n = 0, failed;
    while (n < 12 && first + n < TASKS && s->task[first + n].cpu == STRICT_NONE && in->left) {
        s->task[first + n] = some_task(system, in, first + n, scale);
        n++;
    }
    size_t room = strict_place_room(n);
    void *memory = fuzz_memory(room);
    struct strict_refusal why;
    enum strict_order order = (enum strict_order)fuzz_between(in, 0, 2);
    REQUIRE(strict_place(s, first, n, order, (struct k_arena){memory, room}, scratch_of(system), &failed, &why) == K_OK);
    for (uint32_t i = 0; i < n; i++)
        REQUIRE((s->task[first + i].cpu == STRICT_NONE) == (failed != STRICT_NONE));
    free(memory);
}

static void rebalance(struct system *system, struct input *in)
{
    struct strict *s = &system->s;
    struct strict_move moves[8];
    uint32_t count, where[TASKS], most = (uint32_t)fuzz_between(in, 0, 8);
    uint64_t greatest = 0, after = 0;
    for (uint32_t x = 0; x < TASKS; x++)
        where[x] = s->task[x].cpu;
    for (uint32_t q = 0; q < s->cpus; q++)
        greatest = s->cpu[q].load > greatest ? s->cpu[q].load : greatest;
    size_t room = strict_rebalance_room(s);
    void *memory = fuzz_memory(room);
    REQUIRE(strict_rebalance(s, most, (struct k_arena){memory, room}, scratch_of(system), moves, &count) == K_OK);
    for (uint32_t x = 0; x < TASKS; x++)
        REQUIRE(s->task[x].cpu == where[x]);
    for (uint32_t i = 0; i < count; i++) {
        bool fits;
        REQUIRE(s->task[moves[i].task].cpu == moves[i].from);
        strict_remove(s, moves[i].task);
        REQUIRE(strict_admit_on(s, moves[i].task, moves[i].to, scratch_of(system), &fits) == K_OK && fits);
    }
    for (uint32_t q = 0; q < s->cpus; q++)
        after = s->cpu[q].load > after ? s->cpu[q].load : after;
    REQUIRE(count ? after < greatest : after == greatest);
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct system *system = fuzz_memory(sizeof *system);
    begin(system, &in);
    struct strict *s = &system->s;
    int64_t scale = fuzz_byte(&in) % 4 ? 1 : (int64_t)1 << fuzz_between(&in, 1, 55);
    for (int i = 0; i < OPERATIONS && in.left; i++) {
        uint32_t x = (uint32_t)fuzz_between(&in, 0, TASKS - 1), cpu;
        uint64_t kind = fuzz_byte(&in) % 8;
        if (kind == 0) {
            place(system, &in, scale);
        } else if (kind == 1) {
            rebalance(system, &in);
        } else if (s->task[x].cpu != STRICT_NONE) {
            strict_remove(s, x);
        } else {
            s->task[x] = some_task(system, &in, x, scale);
            REQUIRE(strict_admit(s, x, scratch_of(system), &cpu) == K_OK);
            REQUIRE(cpu == s->task[x].cpu);
            if (cpu == STRICT_NONE)
                verify_refusal(system, x);
        }
        verify(system);
    }
    free(system->memory);
    free(system->scratch);
    free(system);
    return 0;
}

/* Placement under exact tests: see strict.h. Here is the state and the choice of a CPU; the tests of one CPU are
 * in strict_tests.c. */
#include "strict.h"

#include <string.h>

#include "sort.h"
#include "strict_tests.h"

#define ROOM_BITS 62
#define AHEAD 8
#define FEW 64 /* tasks that a removal may walk over */
/* While many tasks are placed in the order of urgency a ceiling is lifted again when deadlines have grown by an
 * eighth, where it hides more room than this: less is not worth the tests. */
#define WORTH_LIFTING (STRICT_ONE / 32)

uint64_t strict_utilisation(int64_t wcet, int64_t period)
{
    if (wcet > period)
        return STRICT_ONE + 1;
    return (uint64_t)(((k_uint128)(uint64_t)wcet << 62) / (uint64_t)period);
}

static unsigned bucket_bits(size_t cpus)
{
    unsigned bits = 6;
    while (bits < ORDERED_BUCKET_BITS && ((size_t)1 << bits) < 4 * cpus)
        bits++;
    return bits;
}

size_t strict_room(size_t cpus, size_t nodes)
{
    return K_ROOM(cpus, sizeof(struct strict_cpu)) + K_ROOM(nodes, sizeof(struct strict_node)) +
           K_ROOM(cpus, STRICT_NEAR * sizeof(uint32_t)) +
           ordered_room(cpus, bucket_bits(cpus)) + K_ROOM(4 * cpus + 4, sizeof(uint64_t));
}

bool strict_make(struct strict *s, enum strict_test test, enum strict_choice choice, uint32_t cpus, uint32_t nodes,
                 struct k_arena *arena)
{
    memset(s, 0, sizeof *s);
    s->test = test;
    s->choice = choice;
    s->cpus = cpus;
    s->nodes = nodes;
    s->cpu = k_take(arena, cpus * sizeof *s->cpu);
    s->node = k_take(arena, nodes * sizeof *s->node);
    s->near = k_take(arena, cpus * STRICT_NEAR * sizeof *s->near);
    if (!s->cpu || !s->node || !s->near)
        return false;
    memset(s->cpu, 0, cpus * sizeof *s->cpu);
    memset(s->node, 0, nodes * sizeof *s->node);
    if (choice != STRICT_FIRST)
        return ordered_make(&s->by_room, cpus, bucket_bits(cpus), 0, ROOM_BITS + 1, arena);
    for (s->first_leaf = 1; s->first_leaf < cpus;)
        s->first_leaf *= 2;
    s->most_room = k_take(arena, 2 * (size_t)s->first_leaf * sizeof *s->most_room);
    if (s->most_room)
        memset(s->most_room, 0, 2 * (size_t)s->first_leaf * sizeof *s->most_room);
    return s->most_room != NULL;
}

static inline uint64_t key_of(const struct strict *s, const struct strict_cpu *cpu)
{
    uint64_t left = strict_room_left(cpu);
    if (s->node[cpu->node].closed)
        return 0;
    return left < cpu->ceiling ? left : cpu->ceiling;
}

static void reindex(struct strict *s, uint32_t q)
{
    struct strict_cpu *cpu = &s->cpu[q];
    uint64_t key = key_of(s, cpu);
    if (key == cpu->key)
        return;
    cpu->key = key;
    if (s->choice != STRICT_FIRST) {
        ordered_remove(&s->by_room, q);
        ordered_insert(&s->by_room, q, key);
        return;
    }
    size_t at = s->first_leaf + q;
    s->most_room[at] = key;
    for (at /= 2; at; at /= 2) {
        uint64_t a = s->most_room[2 * at], b = s->most_room[2 * at + 1], most = a > b ? a : b;
        if (s->most_room[at] == most)
            break;
        s->most_room[at] = most;
    }
}

void strict_ready(struct strict *s)
{
    for (uint32_t k = 0; k < s->nodes; k++)
        s->node[k].free = s->node[k].memory;
    for (uint32_t q = 0; q < s->cpus; q++) {
        struct strict_cpu *cpu = &s->cpu[q];
        struct strict_node *node = &s->node[cpu->node];
        if (node->first == node->last)
            node->first = q;
        node->last = q + 1;
        cpu->capacity = strict_utilisation(STRICT_PPM - cpu->reserve, STRICT_PPM);
        cpu->ceiling = UINT64_MAX;
        strict_bound_clear(cpu);
        cpu->head = cpu->root = STRICT_NONE;
        cpu->key = s->choice == STRICT_FIRST ? 0 : cpu->capacity;
        if (s->choice != STRICT_FIRST)
            ordered_insert(&s->by_room, q, cpu->key);
        else
            reindex(s, q);
    }
}

static void raise_ceiling(struct strict *s, uint32_t q)
{
    if (s->cpu[q].ceiling != UINT64_MAX) {
        s->cpu[q].ceiling = UINT64_MAX;
        s->lowered--;
        reindex(s, q);
    }
}

/* After a failed test: a CPU that lacks time takes nothing as large; one that fails by deadlines is given up for
 * tasks a sixteenth smaller too, so that few tests are lost on it. What this hides is looked at last. */
static void lower_ceiling(struct strict *s, uint32_t q, uint64_t u, bool time_left)
{
    uint64_t step = (time_left ? u / 16 : 0) + 1, ceiling = u < step ? 0 : u - step;
    struct strict_cpu *cpu = &s->cpu[q];
    cpu->tested = s->admission;
    if (ceiling >= cpu->ceiling)
        return;
    s->lowered += cpu->ceiling == UINT64_MAX;
    cpu->ceiling = ceiling;
    reindex(s, q);
}

static void insert(struct strict *s, uint32_t q, uint32_t x)
{
    struct strict_cpu *cpu = &s->cpu[q];
    struct strict_task *task = &s->task[x];
    strict_link(s, q, x);
    task->cpu = q;
    cpu->load += task->u;
    cpu->explicit_deadlines += strict_has_deadline(task);
    strict_bound_add(cpu, task);
    s->node[cpu->node].free -= task->memory;
    reindex(s, q);
}

void strict_put_back(struct strict *s, uint32_t x, uint32_t cpu) { insert(s, cpu, x); }

/* After task x has gone. What cannot be taken back stays, on the safe side, until the CPU is empty. */
static void bound_remove(struct strict *s, struct strict_cpu *cpu, const struct strict_task *task)
{
    if (!cpu->count) {
        strict_bound_clear(cpu);
        return;
    }
    /* u is rounded down, so that the quotient is too large; its own roundings are less than 2^-51. */
    cpu->hyperbolic = cpu->hyperbolic / (1.0 + (double)task->u * 0x1p-62) * (1.0 + 0x1p-50);
    if (cpu->work != INT64_MAX)
        cpu->work -= task->wcet;
    if (strict_window(task) > cpu->window || cpu->count > FEW)
        return;
    cpu->window = INT64_MAX;
    for (uint32_t y = cpu->head; y != STRICT_NONE; y = s->task[y].next)
        cpu->window = k_min(cpu->window, strict_window(&s->task[y]));
}

void strict_remove(struct strict *s, uint32_t x)
{
    struct strict_task *task = &s->task[x];
    uint32_t q = task->cpu;
    struct strict_cpu *cpu = &s->cpu[q];
    strict_unlink(s, q, x);
    task->cpu = STRICT_NONE;
    cpu->load -= task->u;
    cpu->explicit_deadlines -= strict_has_deadline(task);
    bound_remove(s, cpu, task);
    s->node[cpu->node].free += task->memory;
    if (cpu->ceiling != UINT64_MAX) {
        cpu->ceiling = UINT64_MAX;
        s->lowered--;
    }
    reindex(s, q);
}

static inline bool eligible(const struct strict *s, uint32_t x, uint32_t q)
{
    return s->task[x].memory <= s->node[s->cpu[q].node].free && strict_allowed(s, x, q);
}

/* A place in the order in which CPUs are tried. */
struct cursor {
    uint64_t key;
    uint32_t cpu; /* STRICT_NONE: before the first */
};

static inline bool comes_before(enum strict_choice choice, struct cursor a, struct cursor b)
{
    if (choice != STRICT_FIRST && a.key != b.key)
        return choice == STRICT_BEST ? a.key < b.key : a.key > b.key;
    return a.cpu < b.cpu;
}

/* Of the CPUs of one node; there are few. */
static struct cursor next_in_node(const struct strict *s, enum strict_choice choice, uint64_t u, struct cursor after,
                                  const struct strict_node *node)
{
    struct cursor best = {0, STRICT_NONE};
    for (uint32_t q = node->first; q < node->last; q++) {
        struct cursor here = {s->cpu[q].key, q};
        if (here.key >= u && (after.cpu == STRICT_NONE || comes_before(choice, after, here)) &&
            (best.cpu == STRICT_NONE || comes_before(choice, here, best)))
            best = here;
    }
    return best;
}

static uint32_t first_with_room(const struct strict *s, uint64_t u, uint32_t from)
{
    size_t at = s->first_leaf + (size_t)from;
    const uint64_t *most = s->most_room;
    if (from >= s->cpus)
        return STRICT_NONE;
    while (most[at] < u) {
        /* Up while on the right, then to the sibling on the right. */
        while (at & 1)
            at /= 2;
        if (at == 0)
            return STRICT_NONE;
        at++;
    }
    while (at < s->first_leaf)
        at = 2 * at + (most[2 * at] < u);
    uint32_t q = (uint32_t)(at - s->first_leaf);
    return q < s->cpus ? q : STRICT_NONE; /* u == 0 is met by the leaves behind the last CPU too */
}

static struct cursor next_anywhere(const struct strict *s, enum strict_choice choice, uint64_t u, struct cursor after)
{
    bool first = after.cpu == STRICT_NONE;
    uint32_t q;
    if (choice == STRICT_FIRST) {
        q = first_with_room(s, u, first ? 0 : after.cpu + 1);
    } else if (choice == STRICT_LEAST) {
        q = first ? ordered_floor(&s->by_room, STRICT_ONE) : ordered_before(&s->by_room, after.key, after.cpu);
        if (q != ORDERED_NONE && s->cpu[q].key < u)
            q = ORDERED_NONE;
    } else {
        q = first ? ORDERED_NONE : ordered_before(&s->by_room, after.key, after.cpu);
        if (q == ORDERED_NONE || s->cpu[q].key != after.key) {
            uint64_t key = first ? u : after.key + 1;
            q = key <= STRICT_ONE ? ordered_ceiling(&s->by_room, key) : ORDERED_NONE;
        }
    }
    return (struct cursor){q == STRICT_NONE ? 0 : s->cpu[q].key, q};
}

static struct cursor next_candidate(const struct strict *s, enum strict_choice choice, uint32_t x, struct cursor after)
{
    const struct strict_task *task = &s->task[x];
    do {
        after = task->target >= 0 ? next_in_node(s, choice, task->u, after, &s->node[task->target])
                                  : next_anywhere(s, choice, task->u, after);
    } while (after.cpu != STRICT_NONE && !eligible(s, x, after.cpu));
    return after;
}

static enum k_status try_on(struct strict *s, uint32_t x, uint32_t q, struct k_arena scratch, bool *fits)
{
    bool time_left;
    enum k_status status = strict_fits(s, x, q, s->task[x].wcet, scratch, fits, &time_left);
    if (status == K_OK && *fits)
        insert(s, q, x);
    else if (status == K_OK)
        lower_ceiling(s, q, s->task[x].u, time_left);
    return status;
}

enum k_status strict_admit_on(struct strict *s, uint32_t x, uint32_t cpu, struct k_arena scratch, bool *fits)
{
    bool time_left;
    *fits = false;
    if (!eligible(s, x, cpu))
        return K_OK;
    enum k_status status = strict_fits(s, x, cpu, s->task[x].wcet, scratch, fits, &time_left);
    if (status == K_OK && *fits)
        insert(s, cpu, x);
    return status;
}

/* At most `tries` tests by the choice of the placement, then those with most room. */
static enum k_status admit(struct strict *s, uint32_t x, uint32_t tries, struct k_arena scratch, uint32_t *cpu)
{
    const struct strict_task *task = &s->task[x];
    enum strict_choice choice = s->choice;
    bool fits = false;
    *cpu = STRICT_NONE;
    if (task->u > STRICT_ONE)
        return K_OK;
    s->admission++;
    struct cursor at = {0, STRICT_NONE};
    while ((at = next_candidate(s, choice, x, at)).cpu != STRICT_NONE) {
        if (s->cpu[at.cpu].tested == s->admission)
            continue;
        enum k_status status = try_on(s, x, at.cpu, scratch, &fits);
        if (fits)
            *cpu = at.cpu;
        if (fits || status != K_OK)
            return status;
        if (choice == STRICT_BEST && --tries == 0) {
            choice = STRICT_LEAST;
            at.cpu = STRICT_NONE;
        }
    }
    if (!s->lowered)
        return K_OK;
    /* Last, the CPUs that have time for it but are hidden by a ceiling from an earlier test. */
    uint32_t from = task->target < 0 ? 0 : s->node[task->target].first;
    uint32_t to = task->target < 0 ? s->cpus : s->node[task->target].last;
    for (uint32_t q = from; q < to; q++) {
        if (s->cpu[q].tested == s->admission || s->cpu[q].ceiling >= task->u || strict_room_left(&s->cpu[q]) < task->u ||
            !eligible(s, x, q))
            continue;
        enum k_status status = try_on(s, x, q, scratch, &fits);
        if (fits)
            *cpu = q;
        if (fits || status != K_OK)
            return status;
    }
    return K_OK;
}

enum k_status strict_admit(struct strict *s, uint32_t x, struct k_arena scratch, uint32_t *cpu)
{
    return admit(s, x, STRICT_TRIES, scratch, cpu);
}

size_t strict_place_room(size_t n) { return 2 * K_ROOM(n, sizeof(struct k_pair)); }

static void close_nodes(struct strict *s, uint32_t k, int64_t least_memory)
{
    if (s->node[k].closed || s->node[k].free >= least_memory)
        return;
    s->node[k].closed = true;
    for (uint32_t q = s->node[k].first; q < s->node[k].last; q++)
        reindex(s, q);
}

static void open_nodes(struct strict *s)
{
    for (uint32_t k = 0; k < s->nodes; k++) {
        bool was = s->node[k].closed;
        s->node[k].closed = false;
        for (uint32_t q = s->node[k].first; was && q < s->node[k].last; q++)
            reindex(s, q);
    }
}

/* Lifts the ceilings that hide more than this. */
static void lift(struct strict *s, uint64_t hidden)
{
    for (uint32_t q = 0; s->lowered && q < s->cpus; q++) {
        uint64_t left = strict_room_left(&s->cpu[q]);
        if (!hidden || (left >= hidden && s->cpu[q].ceiling < left - hidden))
            raise_ceiling(s, q);
    }
}

static void sort_tasks(const struct strict *s, uint32_t first, uint32_t n, enum strict_order order, struct k_pair *pairs,
                       struct k_pair *scratch)
{
    const uint64_t sign = (uint64_t)1 << 63;
    for (uint32_t i = 0; i < n; i++) {
        const struct strict_task *task = &s->task[first + i];
        uint64_t key = order == STRICT_BY_UTILISATION ? ~task->u
                       : order == STRICT_BY_URGENCY  ? (uint64_t)(task->deadline - task->jitter) ^ sign
                                                     : i;
        pairs[i] = (struct k_pair){key, first + i};
    }
    k_sort(pairs, scratch, n);
    if (order != STRICT_BY_URGENCY || !s->mutual)
        return;
    for (uint32_t i = 0; i < n; i++)
        pairs[i].key = (uint64_t)s->task[pairs[i].item].rank ^ sign;
    k_sort(pairs, scratch, n);
}

enum k_status strict_place(struct strict *s, uint32_t first, uint32_t n, enum strict_order order, struct k_arena arena,
                           struct k_arena scratch, uint32_t *failed, struct strict_refusal *refusal)
{
    struct k_pair *pairs = k_take(&arena, n * sizeof *pairs), *spare = k_take(&arena, n * sizeof *spare);
    *failed = STRICT_NONE;
    if (!pairs || !spare)
        return K_NOMEM;
    sort_tasks(s, first, n, order, pairs, spare);
    lift(s, 0);
    int64_t least_memory = INT64_MAX, horizon = 0;
    for (uint32_t i = 0; i < n; i++)
        least_memory = k_min(least_memory, s->task[first + i].memory);
    for (uint32_t k = 0; k < s->nodes; k++)
        close_nodes(s, k, least_memory);
    enum k_status status = K_OK;
    uint32_t i = 0;
    for (; i < n; i++) {
        uint32_t x = pairs[i].item, q;
        const struct strict_task *task = &s->task[x];
        const char *soon = (const char *)&s->task[pairs[i + AHEAD < n ? i + AHEAD : i].item];
        __builtin_prefetch(soon);
        __builtin_prefetch(soon + 64);
        if (s->test == STRICT_FP && order == STRICT_BY_URGENCY && task->deadline / 9 > horizon / 8) {
            /* Deadlines have grown by an eighth: what failed then may pass now. */
            horizon = task->deadline;
            lift(s, WORTH_LIFTING);
        }
        status = admit(s, x, UINT32_MAX, scratch, &q);
        if (status == K_OK && q == STRICT_NONE) {
            *failed = x;
            status = strict_explain(s, x, STRICT_NONE, scratch, refusal);
        }
        if (status != K_OK || q == STRICT_NONE)
            break;
        close_nodes(s, s->cpu[q].node, least_memory);
    }
    open_nodes(s);
    if (i < n) {
        while (i-- > 0)
            strict_remove(s, pairs[i].item);
        lift(s, 0);
    }
    return status;
}

/* The ancestor's placement: see compat.h. */
#include "compat.h"

#include <math.h>
#include <string.h>

#include "ordered.h"
#include "sort.h"

#define CPU_LIMIT 0.90
#define NODE_LIMIT 1.0
/* Loads are told apart from 1/128 to 2, eight powers of two; smaller ones share a bucket. */
#define LEAST_LOAD 0x1p-7
#define OCTAVES_BITS 3

static inline double utilisation(const struct compat_tasks *tasks, size_t i)
{
    return tasks->period[i] ? (double)tasks->runtime[i] / (double)tasks->period[i] : 0.0;
}

static inline uint64_t bits_of(double load)
{
    uint64_t bits;
    memcpy(&bits, &load, sizeof bits);
    return bits; /* of doubles that are not negative: the same order */
}

static inline double load_of(uint64_t bits)
{
    double load;
    memcpy(&load, &bits, sizeof load);
    return load;
}

/* The entries of each node's CPU list by id, equal ids in list order. */
static void entries_by_cpu(const struct compat_nodes *nodes, struct k_pair *entry, struct k_pair *scratch)
{
    for (size_t k = 0; k < nodes->n; k++) {
        size_t from = (size_t)nodes->offset[k], to = (size_t)nodes->offset[k + 1];
        for (size_t e = from; e < to; e++)
            entry[e] = (struct k_pair){(uint64_t)nodes->cpu[e] ^ (uint64_t)1 << 63, (uint32_t)e};
        k_sort(entry + from, scratch, to - from);
    }
}

/* The first of entry[from..to) whose CPU id is at least `cpu`. */
static size_t entry_of(const struct k_pair *entry, size_t from, size_t to, int64_t cpu)
{
    uint64_t key = (uint64_t)cpu ^ (uint64_t)1 << 63;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (entry[middle].key < key)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

struct cpu_tree {
    size_t size, distinct; /* leaves: a power of two */
    double *least;         /* [2 * size], root at 1 */
};

/* least_loaded keeps the loads nearly equal, the nearer the more tasks there are. */
static unsigned bucket_bits(size_t tasks)
{
    unsigned bits = 8;
    while (bits < ORDERED_BUCKET_BITS && (size_t)1 << bits < 4 * tasks)
        bits++;
    return bits;
}

size_t compat_room(size_t tasks, size_t nodes, size_t cpus)
{
    size_t larger = tasks > cpus ? tasks : cpus;
    return K_ROOM(larger, sizeof(struct k_pair)) + K_ROOM(tasks, sizeof(struct k_pair)) +
           2 * K_ROOM(cpus, sizeof(struct k_pair)) + 7 * K_ROOM(cpus, sizeof(uint32_t)) + K_ROOM(cpus, 1) +
           K_ROOM(4 * cpus + 2 * nodes, sizeof(double)) + 3 * K_ROOM(nodes + 1, sizeof(struct cpu_tree)) +
           ordered_room(nodes, bucket_bits(tasks));
}

/* target_node_priority: a node's distinct CPUs in descending order under a tree of least loads, in which the
 * first CPU that has room is a descent to the left. Adding u is monotone in the load, rounding included. */

static inline void add_load(const struct cpu_tree *tree, size_t leaf, double u)
{
    size_t at = tree->size + leaf;
    tree->least[at] += u;
    for (at /= 2; at >= 1; at /= 2) {
        double a = tree->least[2 * at], b = tree->least[2 * at + 1];
        tree->least[at] = a < b ? a : b;
    }
}

enum k_status compat_target_node_priority(const struct compat_tasks *tasks, const struct compat_nodes *nodes,
                                          struct k_arena arena, int64_t *node, int64_t *cpu)
{
    size_t cpus = (size_t)nodes->offset[nodes->n];
    struct k_pair *entry = k_take(&arena, cpus * sizeof *entry), *scratch = k_take(&arena, cpus * sizeof *scratch);
    struct cpu_tree *tree = k_take(&arena, nodes->n * sizeof *tree);
    double *least = k_take(&arena, (4 * cpus + 2 * nodes->n) * sizeof *least);
    if (!entry || !scratch || !tree || !least)
        return K_NOMEM;
    entries_by_cpu(nodes, entry, scratch);
    for (size_t k = 0; k < nodes->n; k++) {
        size_t from = (size_t)nodes->offset[k], to = (size_t)nodes->offset[k + 1], distinct = 0, size = 1;
        for (size_t e = from; e < to; e++)
            if (!distinct || entry[from + distinct - 1].key != entry[e].key)
                entry[from + distinct++] = entry[e];
        while (size < distinct)
            size *= 2;
        tree[k] = (struct cpu_tree){size, distinct, least};
        for (size_t at = 2 * size - 1; at >= 1; at--) /* from the leaves up: a subtree of padding has no room */
            least[at] = at >= size ? (at - size < distinct ? 0.0 : (double)INFINITY)
                        : least[2 * at] < least[2 * at + 1] ? least[2 * at] : least[2 * at + 1];
        least += 2 * size;
    }
    for (size_t i = 0; i < tasks->n; i++) {
        int64_t k = tasks->target[i];
        node[i] = cpu[i] = COMPAT_UNSET;
        if (k < 0 || !tree[k].distinct)
            continue;
        node[i] = k;
        const struct cpu_tree *of = &tree[k];
        size_t from = (size_t)nodes->offset[k], to = from + of->distinct, leaf = of->size;
        double u = utilisation(tasks, i);
        if (tasks->affinity[i] != COMPAT_NO_AFFINITY) {
            size_t e = entry_of(entry, from, to, tasks->affinity[i]);
            if (e < to && nodes->cpu[entry[e].item] == tasks->affinity[i] &&
                of->least[of->size + (to - 1 - e)] + u <= CPU_LIMIT)
                leaf = to - 1 - e;
        }
        if (leaf == of->size && of->least[1] + u <= CPU_LIMIT) {
            size_t at = 1;
            while (at < of->size)
                at = 2 * at + (of->least[2 * at] + u <= CPU_LIMIT ? 0 : 1);
            leaf = at - of->size;
        }
        if (leaf < of->size) {
            cpu[i] = nodes->cpu[entry[to - 1 - leaf].item];
            add_load(of, leaf, u);
        }
    }
    return K_OK;
}

/* best_fit_decreasing and least_loaded: the free entries of every node, the nodes with one by load, and for
 * each CPU id the nodes on which it is free. A run is the entries of one node with one CPU id; it is known by
 * the place of its first entry in `entry`. */

struct free_lists {
    const struct compat_nodes *nodes;
    struct k_pair *entry;  /* by CPU id, see entries_by_cpu */
    struct k_pair *member; /* the runs by CPU id: key the id, item the run; those of an id with free entries first */
    uint32_t *run_of;      /* by position in the configured lists */
    uint32_t *gone, *free; /* of a run: how many of its entries are passed for good, how many are free */
    uint32_t *place;       /* of a run: its index in `member` */
    uint32_t *live;        /* at the first member of an id: how many members have free entries */
    uint32_t *id_of;       /* of a run: the index of its id's first member */
    uint32_t *node_of;     /* of a member */
    size_t members;
    bool pinned;          /* some task names a CPU: without one, runs and members are not kept */
    unsigned char *taken; /* by position in the configured lists */
    size_t *front, *left; /* of each node: where its list begins, how many entries it has */
    double *load;
    struct ordered by_load; /* the nodes with a free entry */
};

static void make_runs(struct free_lists *lists)
{
    const struct compat_nodes *nodes = lists->nodes;
    for (size_t k = 0; k < nodes->n; k++) {
        size_t from = (size_t)nodes->offset[k], to = (size_t)nodes->offset[k + 1];
        for (size_t e = from, run = from; e < to; e++) {
            if (lists->entry[e].key != lists->entry[run].key)
                run = e;
            if (e == run) {
                lists->gone[run] = lists->free[run] = 0;
                lists->place[run] = (uint32_t)k; /* until the members are sorted */
                lists->member[lists->members++] = (struct k_pair){lists->entry[e].key, (uint32_t)run};
            }
            lists->free[run]++;
            lists->run_of[lists->entry[e].item] = (uint32_t)run;
        }
    }
}

static bool some_pinned(const struct compat_tasks *tasks)
{
    for (size_t i = 0; i < tasks->n; i++)
        if (tasks->affinity[i] != COMPAT_NO_AFFINITY)
            return true;
    return false;
}

static void make_members(struct free_lists *lists, struct k_pair *scratch)
{
    entries_by_cpu(lists->nodes, lists->entry, scratch);
    make_runs(lists);
    k_sort(lists->member, scratch, lists->members);
    for (size_t m = 0, id = 0; m < lists->members; m++) {
        if (lists->member[m].key != lists->member[id].key)
            id = m;
        if (m == id)
            lists->live[id] = 0;
        lists->live[id]++;
        lists->node_of[m] = lists->place[lists->member[m].item];
        lists->place[lists->member[m].item] = (uint32_t)m;
        lists->id_of[lists->member[m].item] = (uint32_t)id;
    }
}

static bool make_free_lists(struct free_lists *lists, const struct compat_tasks *tasks, const struct compat_nodes *nodes,
                            struct k_arena *arena)
{
    size_t cpus = (size_t)nodes->offset[nodes->n];
    lists->nodes = nodes;
    lists->members = 0;
    lists->entry = k_take(arena, cpus * sizeof *lists->entry);
    lists->member = k_take(arena, cpus * sizeof *lists->member);
    lists->run_of = k_take(arena, cpus * sizeof *lists->run_of);
    lists->gone = k_take(arena, cpus * sizeof *lists->gone);
    lists->free = k_take(arena, cpus * sizeof *lists->free);
    lists->place = k_take(arena, cpus * sizeof *lists->place);
    lists->live = k_take(arena, cpus * sizeof *lists->live);
    lists->id_of = k_take(arena, cpus * sizeof *lists->id_of);
    lists->node_of = k_take(arena, cpus * sizeof *lists->node_of);
    lists->taken = k_take(arena, cpus);
    lists->front = k_take(arena, nodes->n * sizeof *lists->front);
    lists->left = k_take(arena, nodes->n * sizeof *lists->left);
    lists->load = k_take(arena, nodes->n * sizeof *lists->load);
    bool room = ordered_make(&lists->by_load, nodes->n, bucket_bits(tasks->n), bits_of(LEAST_LOAD), 52 + OCTAVES_BITS, arena);
    struct k_arena rest = *arena;
    struct k_pair *scratch = k_take(&rest, cpus * sizeof *scratch);
    if (!room || !lists->entry || !lists->member || !lists->run_of || !lists->gone || !lists->free || !lists->place ||
        !lists->live || !lists->id_of || !lists->node_of || !lists->taken || !lists->front || !lists->left || !lists->load || !scratch)
        return false;
    lists->pinned = some_pinned(tasks);
    if (lists->pinned)
        make_members(lists, scratch);
    if (cpus)
        memset(lists->taken, 0, cpus);
    for (size_t k = 0; k < nodes->n; k++) {
        lists->front[k] = (size_t)nodes->offset[k];
        lists->left[k] = (size_t)(nodes->offset[k + 1] - nodes->offset[k]);
        lists->load[k] = 0.0;
        if (lists->left[k])
            ordered_insert(&lists->by_load, (uint32_t)k, 0);
    }
    return true;
}

/* The first free entry of node k with this CPU id, or SIZE_MAX. What it passes is passed for good. */
static size_t free_entry(struct free_lists *lists, size_t k, int64_t cpu)
{
    size_t to = (size_t)lists->nodes->offset[k + 1];
    size_t run = entry_of(lists->entry, (size_t)lists->nodes->offset[k], to, cpu);
    if (run == to || lists->nodes->cpu[lists->entry[run].item] != cpu || !lists->free[run])
        return SIZE_MAX;
    while (lists->taken[lists->entry[run + lists->gone[run]].item])
        lists->gone[run]++;
    return lists->entry[run + lists->gone[run]].item;
}

static size_t front_entry(struct free_lists *lists, size_t k)
{
    while (lists->taken[lists->front[k]])
        lists->front[k]++;
    return lists->front[k];
}

static bool eligible(struct free_lists *lists, const struct compat_tasks *tasks, size_t i, size_t k)
{
    return lists->left[k] && tasks->memory[i] <= lists->nodes->memory[k] &&
           (tasks->affinity[i] == COMPAT_NO_AFFINITY || free_entry(lists, k, tasks->affinity[i]) != SIZE_MAX);
}

static void leave_run(struct free_lists *lists, uint32_t run)
{
    if (--lists->free[run] != 0)
        return;
    /* The last member with free entries takes its place. */
    uint32_t id = lists->id_of[run], last = id + --lists->live[id], at = lists->place[run];
    struct k_pair swap = lists->member[at];
    uint32_t node = lists->node_of[at];
    lists->member[at] = lists->member[last];
    lists->member[last] = swap;
    lists->node_of[at] = lists->node_of[last];
    lists->node_of[last] = node;
    lists->place[lists->member[at].item] = at;
    lists->place[run] = last;
}

static int64_t take_entry(struct free_lists *lists, size_t k, size_t e, double u)
{
    if (lists->pinned)
        leave_run(lists, lists->run_of[e]);
    ordered_remove(&lists->by_load, (uint32_t)k);
    lists->taken[e] = 1;
    lists->load[k] += u;
    if (--lists->left[k])
        ordered_insert(&lists->by_load, (uint32_t)k, bits_of(lists->load[k]));
    return lists->nodes->cpu[e];
}

/* The members of the task's CPU id with a free entry: *count from the index returned. */
static size_t nodes_with(const struct free_lists *lists, int64_t cpu, size_t *count)
{
    size_t id = entry_of(lists->member, 0, lists->members, cpu);
    bool known = id < lists->members && lists->member[id].key == ((uint64_t)cpu ^ (uint64_t)1 << 63);
    *count = known ? lists->live[id] : 0;
    return id;
}

/* The greatest load to which u can be added without passing the limit, as the sum rounds; u is at most 1. */
static uint64_t greatest_load(double u)
{
    uint64_t fits = 0, fails = bits_of(NODE_LIMIT) + 1, near = bits_of(NODE_LIMIT - u);
    /* The answer is mostly within a few units in the last place of 1 - u: widen from there, then bisect. */
    for (uint64_t step = 1; step < near; step *= 2) {
        if (load_of(near - step) + u <= NODE_LIMIT) {
            fits = near - step;
            break;
        }
        fails = near - step;
    }
    for (uint64_t step = 1; near + step < fails; step *= 2) {
        if (!(load_of(near + step) + u <= NODE_LIMIT)) {
            fails = near + step;
            break;
        }
        fits = near + step;
    }
    while (fits + 1 < fails) {
        uint64_t middle = fits + (fails - fits) / 2;
        if (load_of(middle) + u <= NODE_LIMIT)
            fits = middle;
        else
            fails = middle;
    }
    return fits;
}

/* How many nodes a walk by load may find not eligible before it is faster to look through the `count` nodes
 * that have the task's CPU free, of which 16 take as long as one step of the walk. */
static size_t patience(const struct free_lists *lists, const struct compat_tasks *tasks, size_t i, size_t *id, size_t *count)
{
    *id = *count = 0;
    if (tasks->affinity[i] == COMPAT_NO_AFFINITY)
        return SIZE_MAX;
    *id = nodes_with(lists, tasks->affinity[i], count);
    return *count ? *count / 16 + 1 : 0;
}

/* The eligible node of the greatest load + u within the limit; the first of equal sums. */
static uint32_t fullest(struct free_lists *lists, const struct compat_tasks *tasks, size_t i, double u)
{
    const struct ordered *by_load = &lists->by_load;
    uint32_t best = ORDERED_NONE;
    double best_sum = -1.0;
    size_t id, count, left = patience(lists, tasks, i, &id, &count);
    if (!(u <= NODE_LIMIT) || left == 0)
        return best;
    uint32_t k = ordered_floor(by_load, greatest_load(u));
    while (k != ORDERED_NONE) {
        uint64_t key = by_load->node[k].key;
        double sum = lists->load[k] + u;
        if (best != ORDERED_NONE && sum < best_sum)
            return best;
        if (!eligible(lists, tasks, i, k)) {
            if (left-- == 0)
                break;
            k = ordered_before(by_load, key, k);
            continue;
        }
        if (best == ORDERED_NONE || k < best)
            best = k;
        best_sum = sum;
        /* The others of this load come later; a smaller load may still round to the same sum. */
        k = key ? ordered_floor(by_load, key - 1) : ORDERED_NONE;
    }
    if (k == ORDERED_NONE)
        return best;
    best = ORDERED_NONE;
    best_sum = -1.0;
    for (size_t m = id; m < id + count; m++) {
        uint32_t node = lists->node_of[m];
        double sum = lists->load[node] + u;
        if (tasks->memory[i] <= lists->nodes->memory[node] && sum <= NODE_LIMIT &&
            (sum > best_sum || (sum >= best_sum && node < best))) {
            best = node;
            best_sum = sum;
        }
    }
    return best;
}

/* The eligible node of the least load below the limit; the first of equal loads. */
static uint32_t emptiest(struct free_lists *lists, const struct compat_tasks *tasks, size_t i)
{
    const struct ordered *by_load = &lists->by_load;
    size_t id, count, left = patience(lists, tasks, i, &id, &count);
    if (left == 0)
        return ORDERED_NONE;
    uint32_t k = ordered_ceiling(by_load, 0), best = ORDERED_NONE;
    while (k != ORDERED_NONE && lists->load[k] < NODE_LIMIT) {
        if (eligible(lists, tasks, i, k))
            return k;
        if (left-- == 0)
            break;
        uint64_t key = by_load->node[k].key;
        k = ordered_before(by_load, key, k);
        if (k == ORDERED_NONE || by_load->node[k].key != key)
            k = ordered_ceiling(by_load, key + 1);
    }
    if (k == ORDERED_NONE || !(lists->load[k] < NODE_LIMIT))
        return ORDERED_NONE;
    double least = NODE_LIMIT;
    for (size_t m = id; m < id + count; m++) {
        uint32_t node = lists->node_of[m];
        if (tasks->memory[i] <= lists->nodes->memory[node] &&
            (lists->load[node] < least || (best != ORDERED_NONE && lists->load[node] <= least && node < best))) {
            best = node;
            least = lists->load[node];
        }
    }
    return best;
}

enum k_status compat_best_fit_decreasing(const struct compat_tasks *tasks, const struct compat_nodes *nodes,
                                         struct k_arena arena, int64_t *node, int64_t *cpu)
{
    struct free_lists lists = {0};
    struct k_pair *order = k_take(&arena, tasks->n * sizeof *order);
    if (!order || !make_free_lists(&lists, tasks, nodes, &arena))
        return K_NOMEM;
    struct k_arena rest = arena;
    struct k_pair *scratch = k_take(&rest, tasks->n * sizeof *scratch);
    if (!scratch)
        return K_NOMEM;
    for (size_t i = 0; i < tasks->n; i++)
        order[i] = (struct k_pair){~tasks->runtime[i], (uint32_t)i};
    k_sort(order, scratch, tasks->n);
    for (size_t at = 0; at < tasks->n; at++) {
        size_t i = order[at].item;
        double u = utilisation(tasks, i);
        int64_t target = tasks->target[i];
        uint32_t k = ORDERED_NONE;
        node[i] = cpu[i] = COMPAT_UNSET;
        if (target == COMPAT_UNSET)
            k = fullest(&lists, tasks, i, u);
        else if (target >= 0 && eligible(&lists, tasks, i, (size_t)target))
            k = (uint32_t)target;
        if (k == ORDERED_NONE)
            continue;
        size_t e = tasks->affinity[i] == COMPAT_NO_AFFINITY ? front_entry(&lists, k) : free_entry(&lists, k, tasks->affinity[i]);
        node[i] = k;
        cpu[i] = take_entry(&lists, k, e, u);
    }
    return K_OK;
}

enum k_status compat_least_loaded(const struct compat_tasks *tasks, const struct compat_nodes *nodes,
                                  struct k_arena arena, int64_t *node, int64_t *cpu)
{
    struct free_lists lists = {0};
    if (!make_free_lists(&lists, tasks, nodes, &arena))
        return K_NOMEM;
    for (size_t i = 0; i < tasks->n; i++) {
        uint32_t k = emptiest(&lists, tasks, i);
        node[i] = cpu[i] = COMPAT_UNSET;
        if (k == ORDERED_NONE)
            continue;
        node[i] = k;
        cpu[i] = take_entry(&lists, k, front_entry(&lists, k), utilisation(tasks, i));
    }
    return K_OK;
}

uint64_t compat_hyperperiod(const uint64_t *periods, size_t n)
{
    uint64_t h = n != 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t a = h, b = periods[i];
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        h = h / a * periods[i];
    }
    return h;
}

/* The ancestor's algorithms: the indexes find what its scans found. */
#include "compat.h"

#include "fuzz.h"

#define TASKS 40
#define NODES 6
#define CPUS 40

struct state {
    double load[NODES], cpu_load[CPUS];
    bool taken[CPUS], done[TASKS];
};

static double share(const struct compat_tasks *t, size_t i)
{
    return t->period[i] ? (double)t->runtime[i] / (double)t->period[i] : 0.0;
}

/* The first free entry of node k, of the task's CPU where `own`; -1 for none. */
static int64_t entry(const struct state *s, const struct compat_tasks *t, const struct compat_nodes *n, size_t i, size_t k, bool own)
{
    for (int64_t e = n->offset[k]; e < n->offset[k + 1]; e++)
        if (!s->taken[e] && (!own || t->affinity[i] == COMPAT_NO_AFFINITY || n->cpu[e] == t->affinity[i]))
            return e;
    return -1;
}

static bool eligible(const struct state *s, const struct compat_tasks *t, const struct compat_nodes *n, size_t i, size_t k)
{
    return t->memory[i] <= n->memory[k] && entry(s, t, n, i, k, true) >= 0;
}

static void scan_target(const struct compat_tasks *t, const struct compat_nodes *n, int64_t *node, int64_t *cpu)
{
    double load[NODES][256] = {{0}};
    for (size_t i = 0; i < t->n; i++) {
        int64_t k = t->target[i], best = -1;
        double u = share(t, i);
        node[i] = cpu[i] = COMPAT_UNSET;
        if (k < 0 || n->offset[k] == n->offset[k + 1])
            continue;
        node[i] = k;
        bool own = false;
        for (int64_t e = n->offset[k]; e < n->offset[k + 1]; e++) {
            int64_t id = n->cpu[e];
            if (!(load[k][id] + u <= 0.90))
                continue;
            own |= id == t->affinity[i];
            best = id > best ? id : best;
        }
        if (best < 0)
            continue;
        cpu[i] = own ? t->affinity[i] : best;
        load[k][cpu[i]] += u;
    }
}

static void scan_free(const struct compat_tasks *t, const struct compat_nodes *n, bool best_fit, int64_t *node, int64_t *cpu)
{
    struct state s = {0};
    for (size_t turn = 0; turn < t->n; turn++) {
        size_t i = turn;
        if (best_fit) { /* the longest runtime that is left, the first of equals */
            for (i = 0; s.done[i]; i++)
                ;
            for (size_t j = i + 1; j < t->n; j++)
                if (!s.done[j] && t->runtime[j] > t->runtime[i])
                    i = j;
        }
        s.done[i] = true;
        double u = share(t, i);
        int64_t k = -1;
        node[i] = cpu[i] = COMPAT_UNSET;
        if (best_fit && t->target[i] != COMPAT_UNSET) {
            if (t->target[i] >= 0 && eligible(&s, t, n, i, (size_t)t->target[i]))
                k = t->target[i];
        } else {
            for (size_t j = 0; j < n->n; j++) {
                if (!eligible(&s, t, n, i, j))
                    continue;
                if (best_fit ? s.load[j] + u <= 1.0 && (k < 0 || s.load[j] + u > s.load[k] + u)
                             : s.load[j] < 1.0 && (k < 0 || s.load[j] < s.load[k]))
                    k = (int64_t)j;
            }
        }
        if (k < 0)
            continue;
        int64_t e = entry(&s, t, n, i, (size_t)k, best_fit);
        s.taken[e] = true;
        s.load[k] += u;
        node[i] = k;
        cpu[i] = n->cpu[e];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t periods[] = {0, 1000, 3000, 7, UINT64_MAX};
    struct input in = {data, size};
    uint64_t period[TASKS], runtime[TASKS];
    int64_t memory[TASKS], target[TASKS], affinity[TASKS], offset[NODES + 1] = {0}, cpu[CPUS], limit[NODES];
    size_t n = (size_t)fuzz_between(&in, 0, TASKS), nodes = (size_t)fuzz_between(&in, 1, NODES), total = 0;
    for (size_t k = 0; k < nodes; k++) {
        size_t more = (size_t)fuzz_between(&in, 0, 6);
        for (size_t e = 0; e < more; e++)
            cpu[total++] = fuzz_between(&in, 0, 5);
        offset[k + 1] = (int64_t)total;
        limit[k] = fuzz_between(&in, 0, 200);
    }
    for (size_t i = 0; i < n; i++) {
        period[i] = periods[fuzz_between(&in, 0, 4)];
        runtime[i] = (uint64_t)fuzz_between(&in, 0, 1000);
        memory[i] = fuzz_between(&in, 0, 100);
        target[i] = fuzz_between(&in, -2, (int64_t)nodes - 1);
        affinity[i] = fuzz_byte(&in) % 2 ? COMPAT_NO_AFFINITY : fuzz_between(&in, 0, 6);
    }
    struct compat_tasks tasks = {n, period, runtime, memory, target, affinity};
    struct compat_nodes on = {nodes, offset, cpu, limit};
    for (int algorithm = 0; algorithm < 3; algorithm++) {
        int64_t node[TASKS], where[TASKS], scanned_node[TASKS], scanned[TASKS];
        size_t room = compat_room(n, nodes, total);
        void *block = fuzz_memory(room);
        struct k_arena arena = {block, room};
        enum k_status status = algorithm == 0   ? compat_target_node_priority(&tasks, &on, arena, node, where)
                               : algorithm == 1 ? compat_best_fit_decreasing(&tasks, &on, arena, node, where)
                                                : compat_least_loaded(&tasks, &on, arena, node, where);
        REQUIRE(status == K_OK);
        if (algorithm == 0)
            scan_target(&tasks, &on, scanned_node, scanned);
        else
            scan_free(&tasks, &on, algorithm == 1, scanned_node, scanned);
        for (size_t i = 0; i < n; i++)
            REQUIRE(node[i] == scanned_node[i] && where[i] == scanned[i]);
        free(block);
    }
    return 0;
}

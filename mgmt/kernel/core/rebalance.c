/* A proposal of moves that lower the greatest load: see strict.h. */
#include "sort.h"
#include "strict_tests.h"

static size_t placed(const struct strict *s)
{
    size_t count = 0;
    for (uint32_t q = 0; q < s->cpus; q++)
        count += s->cpu[q].count;
    return count;
}

size_t strict_rebalance_room(const struct strict *s)
{
    return 2 * K_ROOM(s->cpus, sizeof(struct k_pair)) + 2 * K_ROOM(placed(s), sizeof(struct k_pair));
}

struct workspace {
    struct k_pair *cpus, *tasks, *spare_cpus, *spare_tasks;
};

static void shift(struct strict *s, uint32_t x, uint32_t to)
{
    strict_remove(s, x);
    strict_put_back(s, x, to);
}

static bool may_move(const struct strict *s, uint32_t x, uint32_t from, uint32_t to)
{
    const struct strict_node *node = &s->node[s->cpu[to].node];
    bool same = s->cpu[from].node == s->cpu[to].node;
    return strict_allowed(s, x, to) && (same || s->task[x].memory <= node->free);
}

/* The tasks of CPU q, first those that leave the lower maximum of q and the emptiest other CPU; of equals the lower number. */
static uint32_t movable(const struct strict *s, uint32_t q, uint64_t least, const struct workspace *w)
{
    uint32_t n = 0;
    for (uint32_t x = s->cpu[q].head; x != STRICT_NONE; x = s->task[x].next)
        w->tasks[n++] = (struct k_pair){x, x};
    k_sort(w->tasks, w->spare_tasks, n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t u = s->task[w->tasks[i].item].u, here = s->cpu[q].load - u, there = least + u;
        w->tasks[i].key = here > there ? here : there;
    }
    k_sort(w->tasks, w->spare_tasks, n);
    return n;
}

/* One move away from q, or *task is STRICT_NONE. */
static enum k_status relieve(struct strict *s, uint32_t q, const struct workspace *w, struct k_arena scratch, struct strict_move *move)
{
    for (uint32_t p = 0; p < s->cpus; p++)
        w->cpus[p] = (struct k_pair){s->cpu[p].load, p};
    k_sort(w->cpus, w->spare_cpus, s->cpus);
    uint32_t n = movable(s, q, w->cpus[0].key, w);
    move->task = STRICT_NONE;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t x = w->tasks[i].item;
        for (uint32_t k = 0; k < s->cpus && w->cpus[k].key + s->task[x].u < s->cpu[q].load; k++) {
            uint32_t p = w->cpus[k].item;
            bool fits, time_left;
            if (p == q || !may_move(s, x, q, p))
                continue;
            enum k_status status = strict_fits(s, x, p, s->task[x].wcet, scratch, &fits, &time_left);
            if (status != K_OK)
                return status;
            if (!fits)
                continue;
            *move = (struct strict_move){x, q, p};
            return K_OK;
        }
    }
    return K_OK;
}

enum k_status strict_rebalance(struct strict *s, uint32_t most, struct k_arena arena, struct k_arena scratch,
                               struct strict_move *moves, uint32_t *count)
{
    size_t all = placed(s);
    struct workspace w;
    w.cpus = k_take(&arena, s->cpus * sizeof *w.cpus);
    w.spare_cpus = k_take(&arena, s->cpus * sizeof *w.spare_cpus);
    w.tasks = k_take(&arena, all * sizeof *w.tasks);
    w.spare_tasks = k_take(&arena, all * sizeof *w.spare_tasks);
    *count = 0;
    if (!w.cpus || !w.spare_cpus || !w.tasks || !w.spare_tasks)
        return K_NOMEM;
    enum k_status status = K_OK;
    uint64_t lowest = UINT64_MAX;
    uint32_t done = 0;
    while (s->cpus > 1) {
        uint32_t q = 0;
        for (uint32_t p = 1; p < s->cpus; p++)
            q = s->cpu[p].load > s->cpu[q].load ? p : q;
        if (s->cpu[q].load < lowest) {
            lowest = s->cpu[q].load;
            *count = done; /* what came after the last gain is left out */
        }
        if (done == most || (status = relieve(s, q, &w, scratch, &moves[done])) != K_OK || moves[done].task == STRICT_NONE)
            break;
        shift(s, moves[done].task, moves[done].to);
        done++;
    }
    while (done-- > 0)
        shift(s, moves[done].task, moves[done].from);
    return status;
}

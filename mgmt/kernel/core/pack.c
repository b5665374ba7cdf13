/* Best-fit by utilisation: see pack.h. */
#include "pack.h"

#include "analysis.h"
#include "ordered.h"
#include "sort.h"
#include "strict.h"

#define NONE UINT32_MAX

struct opened {
    uint64_t left;        /* STRICT_ONE less the sum of u, each rounded down */
    uint32_t count, last; /* tasks on it, and the last of them in the sorted order */
};

static unsigned bucket_bits(size_t cpus)
{
    unsigned bits = 6;
    while (bits < ORDERED_BUCKET_BITS && ((size_t)1 << bits) < 4 * cpus)
        bits++;
    return bits;
}

size_t pack_room(size_t tasks, size_t cpus)
{
    return 2 * K_ROOM(tasks + 1, sizeof(struct k_pair)) + K_ROOM(tasks + 1, sizeof(uint32_t)) +
           K_ROOM(cpus + 1, sizeof(struct opened)) + 3 * K_ROOM(tasks + 1, sizeof(int64_t)) + ordered_room(cpus, bucket_bits(cpus));
}

struct packing {
    const int64_t *wcet, *period;
    const struct k_pair *sorted;
    uint32_t *before; /* of a task in the sorted order: the one before it on its CPU */
    struct opened *opened;
    struct k_arena spare;
};

/* Whether the task fits exactly, where the rounded sums leave it open. */
static enum k_status fits_exactly(const struct packing *p, uint32_t q, uint32_t at, bool *fits)
{
    struct k_arena arena = p->spare;
    size_t n = (size_t)p->opened[q].count + 1, i = 0;
    int64_t *wcet = k_take(&arena, n * sizeof *wcet), *period = k_take(&arena, n * sizeof *period);
    int sign = 1;
    if (!wcet || !period)
        return K_NOMEM;
    p->before[at] = p->opened[q].last;
    for (uint32_t t = at; t != NONE; t = p->before[t], i++) {
        wcet[i] = p->wcet[p->sorted[t].item];
        period[i] = p->period[p->sorted[t].item];
    }
    enum k_status status = k_utilisation(n, wcet, period, arena, &sign);
    *fits = sign <= 0;
    return status;
}

enum k_status pack_best_fit(size_t n, const int64_t *wcet, const int64_t *period, size_t cpus, struct k_arena arena,
                            int64_t *cpu, size_t *failed)
{
    struct k_pair *pairs = k_take(&arena, (n + 1) * sizeof *pairs), *scratch = k_take(&arena, (n + 1) * sizeof *scratch);
    uint32_t *before = k_take(&arena, (n + 1) * sizeof *before);
    struct opened *opened = k_take(&arena, (cpus + 1) * sizeof *opened);
    struct ordered by_room;
    *failed = PACK_DONE;
    if (!pairs || !scratch || !before || !opened || !ordered_make(&by_room, cpus, bucket_bits(cpus), 0, 63, &arena))
        return K_NOMEM;
    for (size_t i = 0; i < n; i++)
        pairs[i] = (struct k_pair){~strict_utilisation(wcet[i], period[i]), (uint32_t)i};
    k_sort(pairs, scratch, n);
    struct packing packing = {wcet, period, pairs, before, opened, arena};
    uint64_t smallest = n ? ~pairs[n - 1].key : 0;
    uint32_t used = 0;
    for (uint32_t at = 0; at < n; at++) {
        uint64_t u = ~pairs[at].key;
        uint32_t q;
        if (u > STRICT_ONE) {
            *failed = pairs[at].item;
            return K_OK;
        }
        for (;;) {
            q = ordered_ceiling(&by_room, u);
            if (q == ORDERED_NONE)
                break;
            ordered_remove(&by_room, q);
            if (opened[q].left >= u + opened[q].count + 1)
                break;
            bool fits;
            enum k_status status = fits_exactly(&packing, q, at, &fits);
            if (status != K_OK)
                return status;
            if (fits)
                break;
            /* What is left is less than u: of smaller tasks nothing is lost. */
            if (u > smallest)
                ordered_insert(&by_room, q, u - 1);
        }
        if (q == ORDERED_NONE) {
            if (used == cpus) {
                *failed = pairs[at].item;
                return K_OK;
            }
            q = used++;
            opened[q] = (struct opened){STRICT_ONE, 0, NONE};
        }
        struct opened *on = &opened[q];
        on->left -= u;
        on->count++;
        before[at] = on->last;
        on->last = at;
        cpu[pairs[at].item] = q;
        if (on->left >= smallest)
            ordered_insert(&by_room, q, on->left);
    }
    return K_OK;
}

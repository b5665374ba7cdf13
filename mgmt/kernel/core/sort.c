/* Radix sort of the upper key bits, most of what tells keys apart, and insertion where they were not enough. */
#include "sort.h"

#include <string.h>

#define DIGIT 11
#define RADIX (1U << DIGIT)
#define SHORT_RUN 24 /* a longer run of equal upper bits: sort by the lower bits too */

/* One stable pass by the digit at `shift`; false and nothing moved when all keys share it. */
static bool pass(const struct k_pair *from, struct k_pair *to, size_t n, unsigned shift)
{
    uint32_t start[RADIX];
    memset(start, 0, sizeof start);
    for (size_t i = 0; i < n; i++)
        start[(from[i].key >> shift) & (RADIX - 1)]++;
    if (start[(from[0].key >> shift) & (RADIX - 1)] == n)
        return false;
    uint32_t sum = 0;
    for (unsigned d = 0; d < RADIX; d++) {
        uint32_t count = start[d];
        start[d] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        to[start[(from[i].key >> shift) & (RADIX - 1)]++] = from[i];
    return true;
}

static void passes(struct k_pair **pairs, struct k_pair **scratch, size_t n, unsigned from, unsigned to)
{
    for (unsigned shift = from; shift < to; shift += DIGIT)
        if (pass(*pairs, *scratch, n, shift)) {
            struct k_pair *swap = *pairs;
            *pairs = *scratch;
            *scratch = swap;
        }
}

static bool runs_are_short(const struct k_pair *pairs, size_t n, unsigned shift)
{
    size_t run = 0;
    bool mixed = false;
    for (size_t i = 1; i < n; i++) {
        bool same = pairs[i].key >> shift == pairs[i - 1].key >> shift;
        run = same ? run + 1 : 0;
        mixed = same && (mixed || pairs[i].key != pairs[i - 1].key);
        if (mixed && run > SHORT_RUN)
            return false;
    }
    return true;
}

static void insertion(struct k_pair *pairs, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct k_pair mine = pairs[i];
        size_t at = i;
        for (; at > 0 && pairs[at - 1].key > mine.key; at--)
            pairs[at] = pairs[at - 1];
        pairs[at] = mine;
    }
}

void k_sort(struct k_pair *pairs, struct k_pair *scratch, size_t n)
{
    struct k_pair *a = pairs, *b = scratch;
    if (n >= 64) {
        uint64_t all = 0;
        for (size_t i = 0; i < n; i++)
            all |= pairs[i].key ^ pairs[0].key;
        unsigned used = all ? 64 - (unsigned)__builtin_clzll(all) : 0;
        unsigned upper = used > 3 * DIGIT ? used - 3 * DIGIT : 0;
        passes(&a, &b, n, upper, used);
        if (upper && !runs_are_short(a, n, upper))
            passes(&a, &b, n, 0, used);
    }
    if (a != pairs)
        memcpy(pairs, a, n * sizeof *pairs);
    insertion(pairs, n);
}

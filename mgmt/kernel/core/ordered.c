/* Ordered sets: see ordered.h. */
#include "ordered.h"

#include <string.h>

size_t ordered_room(size_t n, unsigned bits)
{
    size_t buckets = (size_t)1 << bits;
    return K_ROOM(n, sizeof(struct ordered_node)) + K_ROOM(buckets, sizeof(uint32_t)) +
           K_ROOM(buckets / 64 + 1, sizeof(uint64_t)) + K_ROOM(buckets / 4096 + 1, sizeof(uint64_t)) +
           K_ROOM(1, sizeof(uint64_t));
}

bool ordered_make(struct ordered *set, size_t n, unsigned bits, uint64_t base, unsigned key_bits, struct k_arena *arena)
{
    size_t buckets = (size_t)1 << bits;
    set->bits = bits;
    set->base = base;
    set->shift = key_bits > bits ? key_bits - bits : 0;
    set->node = k_take(arena, n * sizeof *set->node);
    set->root = k_take(arena, buckets * sizeof *set->root);
    size_t words = buckets;
    for (int i = 0; i < 3; i++) {
        words = words / 64 + (i < 2);
        set->level[i] = k_take(arena, (i < 2 ? words : 1) * sizeof(uint64_t));
        if (set->level[i])
            memset(set->level[i], 0, (i < 2 ? words : 1) * sizeof(uint64_t));
    }
    if (!set->node || !set->root || !set->level[0] || !set->level[1] || !set->level[2])
        return false;
    memset(set->root, 0xff, buckets * sizeof *set->root);
    return true;
}

static inline uint32_t bucket_of(const struct ordered *set, uint64_t key)
{
    uint64_t bucket = key > set->base ? (key - set->base) >> set->shift : 0, last = ((uint64_t)1 << set->bits) - 1;
    return (uint32_t)(bucket < last ? bucket : last);
}

/* Treap priorities: a fixed mixing of the item number, so that the same calls build the same tree. */
static inline uint32_t priority(uint32_t item)
{
    item = (item ^ (item >> 16)) * 0x7feb352dU;
    item = (item ^ (item >> 15)) * 0x846ca68bU;
    return item ^ (item >> 16);
}

static inline bool before(uint64_t key_a, uint32_t a, uint64_t key_b, uint32_t b)
{
    return key_a < key_b || (key_a == key_b && a > b);
}

static inline void mark(struct ordered *set, uint32_t bucket)
{
    for (int i = 0; i < 3; i++, bucket >>= 6) {
        uint64_t *word = &set->level[i][bucket >> 6], was = *word;
        *word |= (uint64_t)1 << (bucket & 63);
        if (was)
            return;
    }
}

static inline void unmark(struct ordered *set, uint32_t bucket)
{
    for (int i = 0; i < 3; i++, bucket >>= 6) {
        uint64_t *word = &set->level[i][bucket >> 6];
        *word &= ~((uint64_t)1 << (bucket & 63));
        if (*word)
            return;
    }
}

/* The last marked bucket below `bucket`, or ORDERED_NONE. */
static inline uint32_t bucket_below(const struct ordered *set, uint32_t bucket)
{
    for (int i = 0; i < 3; i++, bucket >>= 6) {
        uint64_t word = set->level[i][bucket >> 6] & (((uint64_t)1 << (bucket & 63)) - 1);
        if (!word)
            continue;
        bucket = (bucket & ~63U) | (uint32_t)(63 - __builtin_clzll(word));
        while (i-- > 0)
            bucket = bucket << 6 | (uint32_t)(63 - __builtin_clzll(set->level[i][bucket]));
        return bucket;
    }
    return ORDERED_NONE;
}

static inline uint32_t bucket_above(const struct ordered *set, uint32_t bucket)
{
    for (int i = 0; i < 3; i++, bucket >>= 6) {
        uint64_t word = set->level[i][bucket >> 6] & ~(((uint64_t)2 << (bucket & 63)) - 1);
        if (!word)
            continue;
        bucket = (bucket & ~63U) | (uint32_t)__builtin_ctzll(word);
        while (i-- > 0)
            bucket = bucket << 6 | (uint32_t)__builtin_ctzll(set->level[i][bucket]);
        return bucket;
    }
    return ORDERED_NONE;
}

void ordered_insert(struct ordered *set, uint32_t item, uint64_t key)
{
    struct ordered_node *node = set->node;
    uint32_t bucket = bucket_of(set, key), *link = &set->root[bucket], at = *link;
    node[item].key = key;
    if (at == ORDERED_NONE) {
        node[item].left = node[item].right = ORDERED_NONE;
        *link = item;
        mark(set, bucket);
        return;
    }
    uint32_t mine = priority(item);
    while (at != ORDERED_NONE && priority(at) >= mine) {
        link = before(key, item, node[at].key, at) ? &node[at].left : &node[at].right;
        at = *link;
    }
    /* Split what hangs here into the halves before and behind the item. */
    *link = item;
    uint32_t *left = &node[item].left, *right = &node[item].right;
    while (at != ORDERED_NONE) {
        if (before(node[at].key, at, key, item)) {
            *left = at;
            left = &node[at].right;
            at = *left;
        } else {
            *right = at;
            right = &node[at].left;
            at = *right;
        }
    }
    *left = *right = ORDERED_NONE;
}

void ordered_remove(struct ordered *set, uint32_t item)
{
    struct ordered_node *node = set->node;
    uint64_t key = node[item].key;
    uint32_t bucket = bucket_of(set, key), *link = &set->root[bucket];
    while (*link != item)
        link = before(key, item, node[*link].key, *link) ? &node[*link].left : &node[*link].right;
    uint32_t a = node[item].left, b = node[item].right;
    while (a != ORDERED_NONE && b != ORDERED_NONE) {
        if (priority(a) >= priority(b)) {
            *link = a;
            link = &node[a].right;
            a = *link;
        } else {
            *link = b;
            link = &node[b].left;
            b = *link;
        }
    }
    *link = a != ORDERED_NONE ? a : b;
    if (set->root[bucket] == ORDERED_NONE)
        unmark(set, bucket);
}

static uint32_t last(const struct ordered *set, uint32_t at)
{
    while (set->node[at].right != ORDERED_NONE)
        at = set->node[at].right;
    return at;
}

uint32_t ordered_floor(const struct ordered *set, uint64_t key)
{
    const struct ordered_node *node = set->node;
    uint32_t bucket = bucket_of(set, key), found = ORDERED_NONE;
    for (uint32_t at = set->root[bucket]; at != ORDERED_NONE;) {
        if (node[at].key <= key) {
            found = at;
            at = node[at].right;
        } else {
            at = node[at].left;
        }
    }
    if (found != ORDERED_NONE)
        return found;
    bucket = bucket_below(set, bucket);
    return bucket == ORDERED_NONE ? ORDERED_NONE : last(set, set->root[bucket]);
}

uint32_t ordered_before(const struct ordered *set, uint64_t key, uint32_t item)
{
    const struct ordered_node *node = set->node;
    uint32_t bucket = bucket_of(set, key), found = ORDERED_NONE;
    for (uint32_t at = set->root[bucket]; at != ORDERED_NONE;) {
        if (before(node[at].key, at, key, item)) {
            found = at;
            at = node[at].right;
        } else {
            at = node[at].left;
        }
    }
    if (found != ORDERED_NONE)
        return found;
    bucket = bucket_below(set, bucket);
    return bucket == ORDERED_NONE ? ORDERED_NONE : last(set, set->root[bucket]);
}

uint32_t ordered_ceiling(const struct ordered *set, uint64_t key)
{
    const struct ordered_node *node = set->node;
    uint32_t bucket = bucket_of(set, key), found = ORDERED_NONE;
    for (uint32_t at = set->root[bucket]; at != ORDERED_NONE;) {
        /* Greater keys bound the search; among equal keys the last one is the lowest item. */
        if (node[at].key < key) {
            at = node[at].right;
        } else if (found == ORDERED_NONE || node[at].key < node[found].key) {
            found = at;
            at = node[at].left;
        } else {
            at = node[at].left;
        }
    }
    if (found == ORDERED_NONE) {
        bucket = bucket_above(set, bucket);
        if (bucket == ORDERED_NONE)
            return ORDERED_NONE;
        found = set->root[bucket];
        while (node[found].left != ORDERED_NONE)
            found = node[found].left;
    }
    if (node[found].right == ORDERED_NONE && set->root[bucket] == found)
        return found;
    return ordered_floor(set, node[found].key); /* of equal keys the lowest item */
}

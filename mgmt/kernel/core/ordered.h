/* Ordered sets over the items 0..n-1, each with a 64-bit key: buckets of the upper key bits, found through a
 * bitmap of three levels, and a treap inside each bucket. With keys spread over the buckets every operation
 * is a few memory accesses; with all keys in one bucket it is logarithmic, never linear.
 *
 * Order: key ascending, then item descending, so that a walk downward meets equal keys lowest item first. */
#ifndef MGMT_KERNEL_ORDERED_H
#define MGMT_KERNEL_ORDERED_H

#include "kernel.h"

#define ORDERED_NONE UINT32_MAX
#define ORDERED_BUCKET_BITS 18 /* the most: three levels of 64 */

struct ordered_node {
    uint64_t key;
    uint32_t left, right;
};

struct ordered {
    struct ordered_node *node; /* [n]; key is valid while the item is in the set */
    uint32_t *root;            /* [1 << bits] */
    uint64_t *level[3];        /* bitmaps: buckets, words of buckets, words of those */
    uint64_t base;             /* bucket = (key - base) >> shift, below and above those the first and the last */
    unsigned bits, shift;
};

size_t ordered_room(size_t n, unsigned bits);
/* Keys of any size; most should be from `base` to less than 2^key_bits more. False when the arena is too small. */
bool ordered_make(struct ordered *set, size_t n, unsigned bits, uint64_t base, unsigned key_bits, struct k_arena *arena);

void ordered_insert(struct ordered *set, uint32_t item, uint64_t key);
void ordered_remove(struct ordered *set, uint32_t item);
/* The last item whose key is at most `key`, or ORDERED_NONE: of the greatest such key the lowest item. */
uint32_t ordered_floor(const struct ordered *set, uint64_t key);
/* The last before (key, item) in the order, whether that is in the set or not: the next higher item of the same
 * key, else the floor below the key. */
uint32_t ordered_before(const struct ordered *set, uint64_t key, uint32_t item);
/* The lowest item of the smallest key that is at least `key`. */
uint32_t ordered_ceiling(const struct ordered *set, uint64_t key);

#endif

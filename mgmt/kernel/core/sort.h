/* Stable sorting of items by a 64-bit key. */
#ifndef MGMT_KERNEL_SORT_H
#define MGMT_KERNEL_SORT_H

#include "kernel.h"

struct k_pair {
    uint64_t key;
    uint32_t item;
};

/* Ascending by key, equal keys in the order given. `scratch` has n entries; the result is in `pairs`. */
void k_sort(struct k_pair *pairs, struct k_pair *scratch, size_t n);

#endif

/* What the fuzz targets share: numbers from the input, memory of exactly the size asked for, invariants. */
#ifndef KERNEL_FUZZ_H
#define KERNEL_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint64_t fuzz_byte(struct input *in)
{
    if (!in->left)
        return 0;
    in->left--;
    return *in->at++;
}

static inline int64_t fuzz_between(struct input *in, int64_t least, int64_t most)
{
    uint64_t span = (uint64_t)(most - least), value = fuzz_byte(in);
    for (uint64_t rest = span >> 8; rest; rest >>= 8)
        value = value << 8 | fuzz_byte(in);
    return least + (int64_t)(span == UINT64_MAX ? value : value % (span + 1));
}

#define REQUIRE(condition)                                                              \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);     \
            abort();                                                                    \
        }                                                                               \
    } while (0)

/* Of its own block, so that a sanitizer sees what passes its end. Free memory.at yourself: an arena moves. */
static inline void *fuzz_memory(size_t size)
{
    void *memory = malloc(size ? size : 1);
    REQUIRE(memory);
    memset(memory, 0xa5, size);
    return memory;
}

#endif

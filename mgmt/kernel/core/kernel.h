/* What all files of the kernel share: status codes, wide integers, checked arithmetic, an arena.
 *
 * Rules of core/: C11, no Python, no globals, no callbacks, no hidden allocation (callers pass an arena or
 * arrays). Times are int64_t in any one unit. Results are exact or not given. */
#ifndef MGMT_KERNEL_H
#define MGMT_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

__extension__ typedef __int128 k_int128;
__extension__ typedef unsigned __int128 k_uint128;

enum k_status {
    K_OK = 0,
    K_OVERFLOW, /* a result or a step on the way to it passes int64 */
    K_NOMEM,    /* the arena is too small */
    K_INVALID,  /* an input breaks a rule; the function says which and where */
};

static inline bool k_add(int64_t a, int64_t b, int64_t *sum) { return !__builtin_add_overflow(a, b, sum); }
static inline bool k_mul(int64_t a, int64_t b, int64_t *product) { return !__builtin_mul_overflow(a, b, product); }

/* ceil(a / b) for a >= 0, b > 0, without the overflow of a + b - 1. */
static inline int64_t k_ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

static inline int64_t k_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t k_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* Memory handed in by the caller: taken from the front, aligned to 64 bytes, never given back one by one. */
struct k_arena {
    unsigned char *at;
    size_t left;
};

/* What k_take(…, count * size) takes at most; callers add these up. */
#define K_ROOM(count, size) ((size_t)(count) * (size) + 127)

static inline void *k_take(struct k_arena *arena, size_t bytes)
{
    size_t skip = (size_t)(-(uintptr_t)arena->at & 63), whole = (bytes + 63) & ~(size_t)63;
    if (arena->left < skip || arena->left - skip < whole)
        return NULL;
    void *taken = arena->at + skip;
    arena->at += skip + whole;
    arena->left -= skip + whole;
    return taken;
}

#endif

/* The tasks of one CPU in the order of urgency: a list to walk, over it a treap that finds a task's place, and
 * while they are few an array too. */
#include "strict_tests.h"

#include <string.h>

/* Treap priorities: a fixed mixing of the number, so that the same calls build the same tree. */
static inline uint32_t mixed(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352dU;
    x = (x ^ (x >> 15)) * 0x846ca68bU;
    return x ^ (x >> 16);
}

static void put_near(struct strict *s, uint32_t q, uint32_t x)
{
    struct strict_cpu *cpu = &s->cpu[q];
    uint32_t *near = s->near + (size_t)q * STRICT_NEAR, at = 0, previous = s->task[x].previous;
    if (cpu->count >= STRICT_NEAR)
        return;
    if (previous != STRICT_NONE) {
        at = cpu->count;
        while (near[at - 1] != previous)
            at--;
    }
    memmove(near + at + 1, near + at, (cpu->count - at) * sizeof *near);
    near[at] = x;
}

static void take_near(struct strict *s, uint32_t q, uint32_t x)
{
    struct strict_cpu *cpu = &s->cpu[q];
    uint32_t *near = s->near + (size_t)q * STRICT_NEAR, at = 0;
    if (cpu->count > STRICT_NEAR + 1)
        return;
    if (cpu->count == STRICT_NEAR + 1) {
        for (uint32_t y = cpu->head; y != STRICT_NONE; y = s->task[y].next)
            near[at++] = y;
        return;
    }
    while (near[at] != x)
        at++;
    memmove(near + at, near + at + 1, (cpu->count - 1 - at) * sizeof *near);
}

void strict_link(struct strict *s, uint32_t q, uint32_t x)
{
    struct strict_cpu *cpu = &s->cpu[q];
    struct strict_task *task = s->task;
    uint32_t *link = &cpu->root, mine = mixed(x), previous = STRICT_NONE;
    uint32_t at = *link;
    while (at != STRICT_NONE && mixed(at) >= mine) {
        bool before = strict_before(s, x, at);
        previous = before ? previous : at;
        link = before ? &task[at].left : &task[at].right;
        at = *link;
    }
    /* Split what hangs here into the halves before and behind x. */
    *link = x;
    uint32_t *left = &task[x].left, *right = &task[x].right;
    while (at != STRICT_NONE) {
        if (strict_before(s, at, x)) {
            previous = at;
            *left = at;
            left = &task[at].right;
            at = *left;
        } else {
            *right = at;
            right = &task[at].left;
            at = *right;
        }
    }
    *left = *right = STRICT_NONE;

    uint32_t next = previous == STRICT_NONE ? cpu->head : task[previous].next;
    task[x].previous = previous;
    task[x].next = next;
    *(previous == STRICT_NONE ? &cpu->head : &task[previous].next) = x;
    if (next != STRICT_NONE)
        task[next].previous = x;
    put_near(s, q, x);
    cpu->count++;
}

void strict_unlink(struct strict *s, uint32_t q, uint32_t x)
{
    struct strict_cpu *cpu = &s->cpu[q];
    struct strict_task *task = s->task;
    uint32_t *link = &cpu->root;
    while (*link != x)
        link = strict_before(s, x, *link) ? &task[*link].left : &task[*link].right;
    uint32_t a = task[x].left, b = task[x].right;
    while (a != STRICT_NONE && b != STRICT_NONE) {
        if (mixed(a) >= mixed(b)) {
            *link = a;
            link = &task[a].right;
            a = *link;
        } else {
            *link = b;
            link = &task[b].left;
            b = *link;
        }
    }
    *link = a != STRICT_NONE ? a : b;

    uint32_t previous = task[x].previous, next = task[x].next;
    *(previous == STRICT_NONE ? &cpu->head : &task[previous].next) = next;
    if (next != STRICT_NONE)
        task[next].previous = previous;
    take_near(s, q, x);
    cpu->count--;
}

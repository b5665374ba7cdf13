/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The part of mgmt-observer that the kernel runs: at each switch of a watched process' threads it adds up what they
 * did. Nothing leaves the kernel by itself, so nobody has to keep up with it. Needs Linux 5.18 with BTF; fields of
 * the kernel's structures are found by name when it is loaded (CO-RE), so one build serves all kernels.
 */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32, __wsum;

#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "observer.h"

/* Of the kernel's own headers, which are not needed to build this. */
enum { ANY = 0, HASH = 1, ARRAY = 2, HASH_OF_MAPS = 13, MMAPABLE = 1 << 10 };
enum { TASK_DEAD = 0x80 };
struct task_struct {
    int pid, tgid;
} __attribute__((preserve_access_index));

/* A task's own map, made when it is watched and mapped by its reader. */
struct task_map {
    __uint(type, ARRAY);
    __uint(map_flags, MMAPABLE);
    __uint(max_entries, 1);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, sizeof(struct observer_task));
};

/* By process: what is not in here is passed over. */
struct {
    __uint(type, HASH_OF_MAPS);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __array(values, struct task_map);
} tasks SEC(".maps");

/* By thread, of watched processes. All of its memory is there from the start: this runs in the midst of a switch. */
struct {
    __uint(type, HASH);
    __uint(max_entries, 4096);
    __type(key, __u32);
    __type(value, struct observer_thread);
} threads SEC(".maps");

static __always_inline struct observer_task *watched(__u32 process)
{
    __u32 first = 0;
    void *map = process ? bpf_map_lookup_elem(&tasks, &process) : 0;
    return map ? bpf_map_lookup_elem(map, &first) : 0;
}

static __always_inline void add(observer_u64 *value, __u64 more)
{
    __sync_fetch_and_add(value, more);
}

/* mgmt_rt_bucket(), without an instruction that counts zeros. */
static __always_inline __u32 bucket(__u64 value)
{
    __u32 octave = 0;
    if (value < 16)
        return (__u32)value;
    for (__u32 half = 32; half; half /= 2)
        if (value >> (octave + half))
            octave += half;
    return (octave - 3) * 16 + ((value >> (octave - 4)) & 15);
}

/* The largest may be missed when two CPUs find one at once. */
static __always_inline void count(struct observer_histogram *histogram, __u64 value)
{
    __u32 at = bucket(value);
    if (at >= OBSERVER_BUCKETS)
        at = OBSERVER_BUCKETS - 1;
    add(&histogram->counts[at], 1);
    add(&histogram->sum_ns, value);
    if (value > histogram->max_ns)
        histogram->max_ns = value;
}

static __always_inline void meet(struct observer_task *task, __u32 tid, const struct observer_thread *found)
{
    if (bpf_map_update_elem(&threads, &tid, found, ANY) == 0)
        add(&task->threads, 1);
    else
        add(&task->lost, 1);
}

static __always_inline void leave(struct task_struct *who, bool slept, bool dead, __u64 now_ns)
{
    __u32 process = (__u32)who->tgid, tid = (__u32)who->pid;
    struct observer_task *task = watched(process);
    if (!task)
        return;
    add(slept ? &task->voluntary : &task->involuntary, 1);
    struct observer_thread *thread = bpf_map_lookup_elem(&threads, &tid);
    if (!thread) {
        struct observer_thread found = {.process = process, .cpu = bpf_get_smp_processor_id(), .out_ns = now_ns, .asleep = slept};
        if (!dead)
            meet(task, tid, &found);
        return;
    }
    if (thread->run_ns) {
        __u64 number = __sync_fetch_and_add(&task->n_slices, 1);
        struct observer_slice *slice = &task->slices[number & (OBSERVER_SLICES - 1)];
        slice->number = number + 1;
        slice->start_ns = thread->run_ns;
        slice->end_ns = now_ns;
        slice->where = tid | (__u64)thread->cpu << 32 | (__u64)slept << 63;
        add(&task->cpu_ns, now_ns - thread->run_ns);
        thread->spent_ns += now_ns - thread->run_ns;
    }
    if (dead) {
        bpf_map_delete_elem(&threads, &tid);
        add(&task->threads, (__u64)-1);
        return;
    }
    if (slept) {
        if (thread->began_ns) {
            add(&task->activations, 1);
            count(&task->on_cpu, thread->spent_ns);
            count(&task->response, now_ns - thread->began_ns);
        }
        thread->began_ns = 0;
    }
    thread->asleep = slept;
    thread->run_ns = 0;
    thread->out_ns = now_ns;
}

static __always_inline void enter(struct task_struct *who, __u64 now_ns)
{
    __u32 process = (__u32)who->tgid, tid = (__u32)who->pid, cpu = bpf_get_smp_processor_id();
    struct observer_task *task = watched(process);
    if (!task)
        return;
    struct observer_thread *thread = bpf_map_lookup_elem(&threads, &tid);
    if (!thread) {
        struct observer_thread found = {.process = process, .cpu = cpu, .run_ns = now_ns};
        meet(task, tid, &found);
        return;
    }
    __u64 since_ns = thread->out_ns;
    if (thread->asleep) {
        /* A waking on another CPU may be told a moment before the sleep that it ends. */
        if (thread->woken_ns > since_ns)
            since_ns = thread->woken_ns;
        count(&task->wakeup, now_ns - since_ns);
        thread->began_ns = since_ns;
        thread->spent_ns = 0;
    }
    add(&task->waited_ns, now_ns - since_ns);
    if (cpu != thread->cpu)
        add(&task->migrations, 1);
    thread->cpu = cpu;
    thread->asleep = 0;
    thread->run_ns = now_ns;
}

/* preempt, previous, next, state of the previous */
SEC("tp_btf/sched_switch")
int on_switch(__u64 *arguments)
{
    __u64 now_ns = bpf_ktime_get_ns();
    bool slept = !arguments[0] && (__u32)arguments[3];
    leave((struct task_struct *)arguments[1], slept, arguments[3] & TASK_DEAD, now_ns);
    enter((struct task_struct *)arguments[2], now_ns);
    return 0;
}

/* Of a thread that does not sleep it tells nothing: the next sleep has a waking of its own, later. */
SEC("tp_btf/sched_waking")
int on_waking(__u64 *arguments)
{
    struct task_struct *who = (struct task_struct *)arguments[0];
    __u32 tid = (__u32)who->pid;
    struct observer_thread *thread = bpf_map_lookup_elem(&threads, &tid);
    if (thread)
        thread->woken_ns = bpf_ktime_get_ns();
    return 0;
}

/* The kernel shows its structures only to programs that say so. */
char licence[] SEC("license") = "GPL";

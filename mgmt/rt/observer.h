/*
 * What mgmt-observer's program in the kernel writes of a task, and observer.py reads: 64-bit words only, in this order.
 * The memory is mapped by its readers. Counts are added to atomically, from the CPUs of all threads of the task; a
 * reader sees each word whole, though not all words of one instant. Times are CLOCK_MONOTONIC nanoseconds.
 */
#ifndef MGMT_OBSERVER_H
#define MGMT_OBSERVER_H

enum {
    OBSERVER_BUCKETS = 528,  /* as in mgmt_rt.h, so that both are read and compared alike */
    OBSERVER_SLICES = 256, /* the last ones; a power of two */
};
typedef unsigned long long observer_u64;

struct observer_histogram {
    observer_u64 sum_ns, max_ns;
    observer_u64 counts[OBSERVER_BUCKETS];
};

/* One slice of a CPU. Who reads it copies it twice and keeps it when both copies are the same. */
struct observer_slice {
    observer_u64 number; /* + 1; 0: none yet */
    observer_u64 start_ns, end_ns;
    observer_u64 where; /* thread | CPU << 32 | 1 << 63 when it ended by going to sleep */
};

/* An activation of a thread is from its waking to its going to sleep, however often it is preempted in between. */
struct observer_task {
    observer_u64 activations; /* complete, and seen from their beginning */
    observer_u64 voluntary, involuntary; /* switches away: went to sleep; was preempted, or yielded */
    observer_u64 migrations;
    observer_u64 cpu_ns;    /* on a CPU, up to the last switch */
    observer_u64 waited_ns; /* ready to run, without a CPU */
    observer_u64 threads;   /* seen and not ended */
    observer_u64 lost;      /* switches of threads that found no room in the table */
    observer_u64 n_slices;
    struct observer_histogram wakeup;   /* waking to running */
    struct observer_histogram on_cpu;   /* of an activation */
    struct observer_histogram response; /* waking to going to sleep */
    struct observer_slice slices[OBSERVER_SLICES]; /* number n at n % OBSERVER_SLICES */
};

/* What is kept of a thread between two switches. */
struct observer_thread {
    observer_u64 woken_ns; /* the last waking; it may come just before the sleep that it ends */
    observer_u64 began_ns; /* of the running activation; 0: not seen */
    observer_u64 run_ns;   /* since when it has a CPU; 0: it has none, or since when is not known */
    observer_u64 out_ns;   /* when it lost it */
    observer_u64 spent_ns; /* on CPUs in this activation */
    observer_u64 asleep;
    unsigned process, cpu;
};

#endif

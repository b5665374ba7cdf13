/*
 * mgmt_rt.h: periodic real-time tasks in C11. Header only; include it first, or compile with -D_GNU_SOURCE.
 *
 *     struct mgmt_rt_task task;
 *     if (mgmt_rt_open(&task, NULL) < 0)                         // NULL: the segment that $MGMT_RT names
 *         err(1, "mgmt_rt_open: %s", mgmt_rt_explain(errno));
 *     while (mgmt_rt_wait_next_period(&task) >= 0)
 *         work();
 *
 * Compile: cc -std=c11 -I$(python -c 'import mgmt.rt; print(mgmt.rt.include_dir())') program.c
 *
 * A segment is a file of fixed size, mapped by its task and by the node's executive (mgmt-executive). It has a plan,
 * complete before the file gets its name and never changed, and two parts with one writer each: the executive and
 * the task. Everything written later is a 64-bit atomic, so a reader sees each value whole, though not all values
 * of one instant. All times are CLOCK_MONOTONIC nanoseconds: stepping the wall clock changes nothing.
 *
 * Jobs are numbered by the grid: job k is released at T0 + (k / n) * cycle + offset[k % n], where n is the number of
 * releases in a cycle. A periodic task has n = 1. Numbers of releases that were skipped are not used again.
 * A job is complete when its record is published by the next call of mgmt_rt_wait_next_period().
 */
#ifndef MGMT_RT_H
#define MGMT_RT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if ATOMIC_LLONG_LOCK_FREE != 2
#error "mgmt_rt.h shares 64-bit atomics between processes: they must be lock-free here"
#endif

#define MGMT_RT_MAGIC "mgmt-rt"
enum {
    MGMT_RT_VERSION = 1,
    MGMT_RT_RELEASES = 1024, /* at most, in a cycle */
    MGMT_RT_RECORDS = 256,   /* of the last jobs */
    MGMT_RT_BUCKETS = 528,
    MGMT_RT_MIN_GAP_NS = 100000, /* between releases: an executive of highest priority must not eat a CPU */
};
#define MGMT_RT_MAX_CYCLE_NS UINT64_C(86400000000000) /* a day */

/* What happens when a job is not complete at the next release, and when misses reach max_dmiss. */
enum mgmt_rt_overrun {
    MGMT_RT_LOG,     /* late releases are made up for, one after the other; faults are reported */
    MGMT_RT_SKIP,    /* releases already past are left out and counted, here and below; faults are reported */
    MGMT_RT_KILL,    /* at a fault the executive kills the process */
    MGMT_RT_RESTART, /* at a fault the supervisor is asked to restart it */
};
enum {
    MGMT_RT_MEMORY_LOCKED = 1, /* mlockall() before the first wait */
    /* The process does not use this library: SIGRTMIN+2 at each release, from T0 on, ready or not. When its jobs
     * end is not known, so it has no deadline. */
    MGMT_RT_BY_SIGNAL = 2,
};

typedef _Atomic uint64_t mgmt_rt_u64;

struct mgmt_rt_plan {
    char magic[8]; /* MGMT_RT_MAGIC */
    uint32_t version, size_bytes;
    uint64_t task; /* who this is, in reports */
    char name[64]; /* NUL-terminated */
    uint64_t cycle_ns;
    uint64_t hyperperiod_ns; /* a multiple of cycle_ns: who comes late enters at T0 + k * hyperperiod_ns */
    uint64_t deadline_ns;    /* after each release; 0: none. At most MGMT_RT_RECORDS / 2 of the smallest gap */
    uint64_t overrun;        /* enum mgmt_rt_overrun */
    uint64_t flags;
    uint64_t max_dmiss;   /* misses that make a fault; 0: misses are only counted */
    uint64_t window_jobs; /* among so many last jobs, at most 64; 0: in a row */
    uint64_t n_releases;
    uint64_t offsets_ns[MGMT_RT_RELEASES]; /* ascending, below cycle_ns */
};

/* Written by the executive, which goes on from here when it is started anew. */
struct mgmt_rt_watch {
    mgmt_rt_u64 t0_ns;
    _Atomic uint32_t started; /* futex: 1 once t0_ns is set */
    uint32_t unused;
    mgmt_rt_u64 next_job;            /* the first whose deadline has not been looked at, or not been signalled */
    mgmt_rt_u64 misses;              /* jobs not complete at their deadlines */
    mgmt_rt_u64 unchecked;           /* jobs whose records were overwritten while no executive was there */
    mgmt_rt_u64 faults;
    mgmt_rt_u64 history, run;        /* misses of the last 64 jobs as bits, the youngest lowest; in a row */
    mgmt_rt_u64 ended_joins;         /* the life (number of joins) that has ended or is left to its supervisor */
    mgmt_rt_u64 ended_job;           /* the first job that is not due from that life */
    mgmt_rt_u64 signals;             /* releases told by signal */
};

/*
 * Values by 16 buckets an octave: below 16 one each; from there bucket i holds [(16 + i % 16) << (i / 16 - 1), ...).
 * A bucket is 6 % wide; the last takes all beyond 68 s.
 */
struct mgmt_rt_histogram {
    mgmt_rt_u64 sum_ns, max_ns;
    mgmt_rt_u64 counts[MGMT_RT_BUCKETS];
};

/* One job. Who reads it copies it, and keeps the copy when `job` is the same afterwards. */
struct mgmt_rt_record {
    mgmt_rt_u64 job; /* + 1; 0: none yet, or just being written. Published last */
    mgmt_rt_u64 start_ns, end_ns;
    mgmt_rt_u64 execution_ns; /* CPU time of the thread since its last job ended: its waking is part of it */
};

/* Written by the task. */
struct mgmt_rt_progress {
    mgmt_rt_u64 joins;     /* processes that have used the segment: the number of the present life */
    mgmt_rt_u64 first_job; /* of the present life */
    mgmt_rt_u64 pid, tid;  /* what it says of itself */
    mgmt_rt_u64 released;  /* number of the last job released, + 1 */
    mgmt_rt_u64 start_ns;  /* of that job */
    mgmt_rt_u64 done;      /* number of the last job completed, + 1 */
    mgmt_rt_u64 completed; /* how many jobs were */
    mgmt_rt_u64 late;      /* how many of them after their deadlines */
    mgmt_rt_u64 skipped;   /* releases left out */
    struct mgmt_rt_histogram jitter;    /* start - release */
    struct mgmt_rt_histogram execution; /* execution_ns of the records */
    struct mgmt_rt_histogram response;  /* end - release */
    struct mgmt_rt_record records[MGMT_RT_RECORDS]; /* job k at k % MGMT_RT_RECORDS */
};

struct mgmt_rt_segment {
    struct mgmt_rt_plan plan;
    _Alignas(64) struct mgmt_rt_watch watch;
    _Alignas(64) struct mgmt_rt_progress progress;
};

/* A thread's hold on its segment. */
struct mgmt_rt_task {
    struct mgmt_rt_segment *segment;
    int file;
    bool joined, running; /* running: a job was begun and its end not yet noted */
    uint64_t job;         /* the next one, or the running one */
    uint64_t release_ns, start_ns, cpu_ns;
};

/* ---- the pieces that the executive shares --------------------------------------------------------------------- */

static inline uint64_t mgmt_rt_load(const mgmt_rt_u64 *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static inline void mgmt_rt_store(mgmt_rt_u64 *value, uint64_t to)
{
    atomic_store_explicit(value, to, memory_order_relaxed);
}

/* By its only writer: no locked instruction. */
static inline void mgmt_rt_add(mgmt_rt_u64 *value, uint64_t more)
{
    mgmt_rt_store(value, mgmt_rt_load(value) + more);
}

static inline uint64_t mgmt_rt_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static inline uint64_t mgmt_rt_release_ns(const struct mgmt_rt_plan *plan, uint64_t t0_ns, uint64_t job)
{
    return t0_ns + job / plan->n_releases * plan->cycle_ns + plan->offsets_ns[job % plan->n_releases];
}

/* The first job released at `from_ns` or later. */
static inline uint64_t mgmt_rt_first_job(const struct mgmt_rt_plan *plan, uint64_t t0_ns, uint64_t from_ns)
{
    if (from_ns <= t0_ns)
        return 0;
    uint64_t cycle = (from_ns - t0_ns) / plan->cycle_ns, rest = (from_ns - t0_ns) % plan->cycle_ns;
    uint64_t low = 0, high = plan->n_releases;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (plan->offsets_ns[middle] < rest)
            low = middle + 1;
        else
            high = middle;
    }
    return cycle * plan->n_releases + low;
}

/* NULL, or the first field of the plan that cannot be. */
static inline const char *mgmt_rt_refusal(const struct mgmt_rt_plan *plan)
{
    if (memcmp(plan->magic, MGMT_RT_MAGIC, sizeof plan->magic) != 0)
        return "magic";
    if (plan->version != MGMT_RT_VERSION)
        return "version";
    if (plan->size_bytes != sizeof(struct mgmt_rt_segment))
        return "size_bytes";
    if (!plan->name[0] || !memchr(plan->name, 0, sizeof plan->name))
        return "name";
    if (plan->cycle_ns < MGMT_RT_MIN_GAP_NS || plan->cycle_ns > MGMT_RT_MAX_CYCLE_NS)
        return "cycle_ns";
    if (!plan->hyperperiod_ns || plan->hyperperiod_ns > INT64_MAX || plan->hyperperiod_ns % plan->cycle_ns)
        return "hyperperiod_ns";
    if (!plan->n_releases || plan->n_releases > MGMT_RT_RELEASES)
        return "n_releases";
    uint64_t gap = plan->offsets_ns[0] + plan->cycle_ns - plan->offsets_ns[plan->n_releases - 1];
    if (plan->offsets_ns[plan->n_releases - 1] >= plan->cycle_ns || gap < MGMT_RT_MIN_GAP_NS)
        return "offsets_ns";
    for (uint64_t i = 1; i < plan->n_releases; i++) {
        if (plan->offsets_ns[i] < plan->offsets_ns[i - 1]
            || plan->offsets_ns[i] - plan->offsets_ns[i - 1] < MGMT_RT_MIN_GAP_NS)
            return "offsets_ns";
        if (plan->offsets_ns[i] - plan->offsets_ns[i - 1] < gap)
            gap = plan->offsets_ns[i] - plan->offsets_ns[i - 1];
    }
    bool by_signal = plan->flags & MGMT_RT_BY_SIGNAL;
    if (plan->flags & ~(uint64_t)(MGMT_RT_MEMORY_LOCKED | MGMT_RT_BY_SIGNAL))
        return "flags";
    if (plan->deadline_ns > MGMT_RT_RECORDS / 2 * gap || (by_signal && plan->deadline_ns))
        return "deadline_ns"; /* whether a job released by signal is done is not known */
    if (plan->max_dmiss > INT32_MAX || (plan->max_dmiss && !plan->deadline_ns))
        return "max_dmiss";
    if (plan->window_jobs > 64 || (plan->window_jobs && plan->window_jobs < plan->max_dmiss))
        return "window_jobs";
    if (plan->overrun > MGMT_RT_RESTART || (plan->overrun >= MGMT_RT_KILL && !plan->max_dmiss))
        return "overrun"; /* without max_dmiss there is no fault to act on */
    return NULL;
}

/* One user of each kind a segment: byte 0 is the executive's, byte 1 the task's. -1 with EBUSY when it is taken. */
static inline int mgmt_rt_claim(int file, off_t byte)
{
    struct flock claim = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(file, F_OFD_SETLK, &claim) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        errno = EBUSY;
    return -1;
}

/* Maps the segment of an open file, whose plan is still to be checked. NULL with errno, EPROTO for another size. */
static inline struct mgmt_rt_segment *mgmt_rt_map(int file)
{
    struct stat status;
    if (fstat(file, &status) < 0)
        return NULL;
    if (!S_ISREG(status.st_mode) || status.st_size != (off_t)sizeof(struct mgmt_rt_segment)) {
        errno = EPROTO;
        return NULL;
    }
    void *mapped =
        mmap(NULL, sizeof(struct mgmt_rt_segment), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

/* ---- the client's side ---------------------------------------------------------------------------------------- */

static inline size_t mgmt_rt_bucket(uint64_t value)
{
    if (value < 16)
        return (size_t)value;
    unsigned octave = 63u - (unsigned)__builtin_clzll(value);
    size_t bucket = (octave - 3) * 16 + ((value >> (octave - 4)) & 15);
    return bucket < MGMT_RT_BUCKETS ? bucket : MGMT_RT_BUCKETS - 1;
}

static inline void mgmt_rt_count(struct mgmt_rt_histogram *histogram, uint64_t value)
{
    mgmt_rt_add(&histogram->counts[mgmt_rt_bucket(value)], 1);
    mgmt_rt_add(&histogram->sum_ns, value);
    if (value > mgmt_rt_load(&histogram->max_ns))
        mgmt_rt_store(&histogram->max_ns, value);
}

/* What an errno of mgmt_rt_open() means. */
static inline const char *mgmt_rt_explain(int error)
{
    switch (error) {
    case ENOTCONN: return "MGMT_RT is not set: start the program as a real-time task of mgmt";
    case EPROTO: return "not a segment of this version of mgmt_rt.h: compile against the header of the running mgmt";
    case EBUSY: return "another process uses this segment already";
    case EOPNOTSUPP: return "this task is released by SIGRTMIN+2: wait for that with sigwaitinfo()";
    default: return strerror(error);
    }
}

static inline void mgmt_rt_close(struct mgmt_rt_task *task)
{
    if (task->segment)
        munmap(task->segment, sizeof *task->segment);
    if (task->file >= 0)
        close(task->file);
    *task = (struct mgmt_rt_task){.file = -1};
}

/*
 * Attaches the calling thread to the segment at `path`, NULL for the one that $MGMT_RT names. A process may hold
 * several, one a thread. Returns 0, or -1 with errno; see mgmt_rt_explain().
 */
static inline int mgmt_rt_open(struct mgmt_rt_task *task, const char *path)
{
    *task = (struct mgmt_rt_task){.file = -1};
    if (!path && !(path = getenv("MGMT_RT"))) {
        errno = ENOTCONN;
        return -1;
    }
    task->file = open(path, O_RDWR | O_CLOEXEC);
    if (task->file >= 0 && mgmt_rt_claim(task->file, 1) == 0 && (task->segment = mgmt_rt_map(task->file))) {
        const struct mgmt_rt_plan *plan = &task->segment->plan;
        errno = mgmt_rt_refusal(plan) ? EPROTO : plan->flags & MGMT_RT_BY_SIGNAL ? EOPNOTSUPP : 0;
        if (!errno)
            return 0;
    }
    int error = errno;
    mgmt_rt_close(task);
    errno = error;
    return -1;
}

/* The first wait: until T0 is known, then the first job that this life can do. */
static inline int mgmt_rt_join(struct mgmt_rt_task *task)
{
    const struct mgmt_rt_plan *plan = &task->segment->plan;
    struct mgmt_rt_watch *watch = &task->segment->watch;
    struct mgmt_rt_progress *progress = &task->segment->progress;
    if (plan->flags & MGMT_RT_MEMORY_LOCKED && mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        return -1;
    while (!atomic_load_explicit(&watch->started, memory_order_acquire))
        if (syscall(SYS_futex, &watch->started, FUTEX_WAIT, 0, NULL, NULL, 0) < 0 && errno != EAGAIN)
            return -1;
    uint64_t t0_ns = mgmt_rt_load(&watch->t0_ns), now_ns = mgmt_rt_clock_ns(CLOCK_MONOTONIC);
    task->job = 0;
    if (now_ns > mgmt_rt_release_ns(plan, t0_ns, 0)) {
        uint64_t turn = (now_ns - t0_ns + plan->hyperperiod_ns - 1) / plan->hyperperiod_ns;
        task->job = mgmt_rt_first_job(plan, t0_ns, t0_ns + turn * plan->hyperperiod_ns);
    }
    task->cpu_ns = mgmt_rt_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    mgmt_rt_store(&progress->pid, (uint64_t)getpid());
    mgmt_rt_store(&progress->tid, (uint64_t)syscall(SYS_gettid));
    mgmt_rt_store(&progress->first_job, task->job);
    atomic_store_explicit(&progress->joins, mgmt_rt_load(&progress->joins) + 1, memory_order_release);
    task->joined = true;
    return 0;
}

/* Notes the end of the running job and chooses the next one. */
static inline void mgmt_rt_finish(struct mgmt_rt_task *task)
{
    const struct mgmt_rt_plan *plan = &task->segment->plan;
    struct mgmt_rt_progress *progress = &task->segment->progress;
    struct mgmt_rt_record *record = &progress->records[task->job % MGMT_RT_RECORDS];
    uint64_t end_ns = mgmt_rt_clock_ns(CLOCK_MONOTONIC), cpu_ns = mgmt_rt_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    mgmt_rt_store(&record->job, 0);
    atomic_thread_fence(memory_order_release);
    mgmt_rt_store(&record->start_ns, task->start_ns);
    mgmt_rt_store(&record->end_ns, end_ns);
    mgmt_rt_store(&record->execution_ns, cpu_ns - task->cpu_ns);
    atomic_store_explicit(&record->job, task->job + 1, memory_order_release);
    atomic_store_explicit(&progress->done, task->job + 1, memory_order_release);
    mgmt_rt_add(&progress->completed, 1);
    mgmt_rt_count(&progress->execution, cpu_ns - task->cpu_ns);
    mgmt_rt_count(&progress->response, end_ns - task->release_ns);
    if (plan->deadline_ns && end_ns - task->release_ns > plan->deadline_ns)
        mgmt_rt_add(&progress->late, 1);
    task->cpu_ns = cpu_ns;
    task->running = false;
    task->job++;
    if (plan->overrun != MGMT_RT_LOG) {
        uint64_t t0_ns = mgmt_rt_load(&task->segment->watch.t0_ns);
        uint64_t next = end_ns <= task->release_ns ? task->job : mgmt_rt_first_job(plan, t0_ns, end_ns);
        if (next > task->job) {
            mgmt_rt_add(&progress->skipped, next - task->job);
            task->job = next;
        }
    }
}

/*
 * Ends the running job and sleeps until the release of the next one, whose number it returns. The first call waits
 * for T0. -1 with errno: EINTR after a signal handler (call again: the wait goes on), or why memory cannot be locked.
 * Allocates nothing; its system calls are the sleep and the reading of the thread's CPU clock.
 */
static inline int64_t mgmt_rt_wait_next_period(struct mgmt_rt_task *task)
{
    struct mgmt_rt_progress *progress = &task->segment->progress;
    if (task->running)
        mgmt_rt_finish(task);
    else if (!task->joined && mgmt_rt_join(task) < 0)
        return -1;
    task->release_ns =
        mgmt_rt_release_ns(&task->segment->plan, mgmt_rt_load(&task->segment->watch.t0_ns), task->job);
    const struct timespec at = {.tv_sec = (time_t)(task->release_ns / 1000000000),
                                .tv_nsec = (long)(task->release_ns % 1000000000)};
    int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    if (error) {
        errno = error;
        return -1;
    }
    task->start_ns = mgmt_rt_clock_ns(CLOCK_MONOTONIC);
    mgmt_rt_store(&progress->start_ns, task->start_ns);
    atomic_store_explicit(&progress->released, task->job + 1, memory_order_release);
    mgmt_rt_count(&progress->jitter, task->start_ns - task->release_ns);
    task->running = true;
    return (int64_t)task->job;
}

#endif

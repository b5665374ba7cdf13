/*
 * mgmt-executive: looks at the deadlines of a node's real-time tasks, and acts on misses.
 *
 *   mgmt-executive --fd N [--priority 1..99]
 *
 * N is one end of a SOCK_SEQPACKET pair; when the other end closes, this program ends. The tasks go on by themselves
 * (see mgmt_rt.h), and the next executive reads their segments on. Packets are ASCII lines, `word key=value ...`;
 * a packet to the executive is one line, a packet from it holds as many as were waiting. Every number is decimal.
 *
 *   to it    add n= path=                  watch the segment at this (percent-encoded) path, a file of the agent's
 *            bind n= task= pid= start=     the process behind it; start: field 22 of /proc/PID/stat
 *            start n= task= t0=            release it from T0 on; a task that has started keeps its T0
 *            remove n= task=               watch it no longer; it goes on
 *   from it  hello version= policy=fifo|other priority= errno=    first; errno: why not fifo
 *            ok n= | refused n= errno= [at=]    every request has one answer
 *            miss task= job= deadline= seen= running= misses=  once for a job, running=1 when it had been released
 *            fault task= job= deadline= seen= misses= action=log|skip|kill|restart errno=
 *            gone task= job= seen=         the process has ended; job: the first that is not due from it
 *            lost task=                    the segment was cut or damaged: it is no longer watched
 *            dropped count=                so many of `miss` found no room, since the last time this was said
 *
 * Reports wait in a ring while the reader does not read, and leave together once it does; nothing here ever waits for
 * it. Misses may take three quarters of the ring, so that faults find room; requests are not read meanwhile. Jobs are looked at in their order, each once, when its deadline has passed.
 *
 * A plan is copied when it is added: a task can spoil its own figures, not the executive. Whom to kill is told by
 * the agent alone, never by the segment.
 */
#define _GNU_SOURCE
#include "mgmt_rt.h"

#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum {
    PROTOCOL_VERSION = 1,
    MAX_TASKS = 1024,
    MAX_REPORTS = 2048,
    MISSES_AT_MOST = MAX_REPORTS / 4 * 3,
    REQUESTS_PER_TURN = 64,
    PACKET_BYTES = 16384,
    LINE_BYTES = 192,
    EXIT_USAGE = 64,
};
static const uint64_t never = UINT64_MAX;

struct watched {
    struct mgmt_rt_segment *segment; /* NULL: a free place */
    struct mgmt_rt_plan *plan;       /* our copy */
    int file, pidfd;
    uint64_t pid, t0_ns, next_job;
    volatile sig_atomic_t cut; /* its pages are gone */
};

static struct watched tasks[MAX_TASKS];
static uint64_t due_ns[MAX_TASKS]; /* when to look at it next; kept together, they are read at every turn */
static int n_tasks;                /* places in use are below this */

static const char *const actions[] = {"log", "skip", "kill", "restart"};
enum kind { OK, REFUSED, MISS, FAULT, GONE, LOST };
struct report {
    enum kind kind;
    int error;
    const char *at; /* of static life */
    uint64_t id;    /* of the request, or of the task */
    uint64_t job, deadline_ns, seen_ns, misses, action;
};
static struct report reports[MAX_REPORTS];
static unsigned first_report, n_reports;
static uint64_t dropped;

static int control, epoll, timer;

/* ---- reports -------------------------------------------------------------------------------------------------- */

static void report(struct report r)
{
    if (n_reports >= (r.kind == MISS ? MISSES_AT_MOST : MAX_REPORTS)) {
        dropped++;
        return;
    }
    reports[(first_report + n_reports++) % MAX_REPORTS] = r;
}

static int write_line(char *line, const struct report *r)
{
    typedef unsigned long long u;
    u id = r->id, job = r->job, deadline = r->deadline_ns, seen = r->seen_ns, misses = r->misses;
    switch (r->kind) {
    case OK: return snprintf(line, LINE_BYTES, "ok n=%llu\n", id);
    case REFUSED:
        return snprintf(line, LINE_BYTES, "refused n=%llu errno=%d%s%s\n", id, r->error, r->at ? " at=" : "",
                        r->at ? r->at : "");
    case MISS:
        return snprintf(line, LINE_BYTES, "miss task=%llu job=%llu deadline=%llu seen=%llu running=%d misses=%llu\n",
                        id, job, deadline, seen, r->action != 0, misses);
    case FAULT:
        return snprintf(line, LINE_BYTES, "fault task=%llu job=%llu deadline=%llu seen=%llu misses=%llu action=%s errno=%d\n",
                        id, job, deadline, seen, misses, actions[r->action], r->error);
    case GONE: return snprintf(line, LINE_BYTES, "gone task=%llu job=%llu seen=%llu\n", id, job, seen);
    case LOST: return snprintf(line, LINE_BYTES, "lost task=%llu\n", id);
    }
    return 0;
}

/* Sends what waits, as far as the reader takes it. False: the reader is gone. */
static bool flush_reports(void)
{
    static bool waiting;
    static char packet[PACKET_BYTES];
    bool full = false;
    while (n_reports && !full) {
        size_t bytes = 0;
        unsigned taken = 0;
        if (dropped)
            bytes = (size_t)snprintf(packet, LINE_BYTES, "dropped count=%llu\n", (unsigned long long)dropped);
        while (taken < n_reports && bytes + LINE_BYTES <= sizeof packet)
            bytes += (size_t)write_line(packet + bytes, &reports[(first_report + taken++) % MAX_REPORTS]);
        if (send(control, packet, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            first_report = (first_report + taken) % MAX_REPORTS;
            n_reports -= taken;
            dropped = 0;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            full = true;
        } else if (errno != EINTR) {
            return false;
        }
    }
    if (full != waiting) {
        struct epoll_event event = {.events = full ? EPOLLOUT : EPOLLIN, .data.u64 = (uint64_t)control};
        epoll_ctl(epoll, EPOLL_CTL_MOD, control, &event);
        waiting = full;
    }
    return true;
}

/* ---- jobs ----------------------------------------------------------------------------------------------------- */

/* A task that cuts its file would kill us by SIGBUS: its pages are replaced by empty ones, and it is dropped. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (int i = 0; i < n_tasks; i++) {
        uintptr_t from = (uintptr_t)tasks[i].segment;
        if (!from || at < from || at - from >= sizeof *tasks[i].segment)
            continue;
        tasks[i].cut = 1;
        if (mmap(tasks[i].segment, sizeof *tasks[i].segment, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
            return;
    }
    signal(number, SIG_DFL); /* a fault of our own */
}

static void plan_next(int i)
{
    const struct watched *w = &tasks[i];
    const struct mgmt_rt_plan *p = w->plan;
    if (!w->t0_ns || !(p->deadline_ns || p->flags & MGMT_RT_BY_SIGNAL))
        due_ns[i] = never;
    else
        due_ns[i] = mgmt_rt_release_ns(p, w->t0_ns, w->next_job) + p->deadline_ns;
}

static void drop(int i)
{
    struct watched *w = &tasks[i];
    munmap(w->segment, sizeof *w->segment);
    free(w->plan);
    close(w->file);
    if (w->pidfd >= 0)
        close(w->pidfd);
    *w = (struct watched){.pidfd = -1};
    due_ns[i] = never;
    while (n_tasks && !tasks[n_tasks - 1].segment)
        n_tasks--;
}

/* The present life is over, or left to its supervisor: what it has not begun is not due from it. */
static void end_life(struct watched *w)
{
    const struct mgmt_rt_progress *progress = &w->segment->progress;
    if (mgmt_rt_load(&progress->joins) == mgmt_rt_load(&w->segment->watch.ended_joins))
        return;
    mgmt_rt_store(&w->segment->watch.ended_job, mgmt_rt_load(&progress->released));
    mgmt_rt_store(&w->segment->watch.ended_joins, mgmt_rt_load(&progress->joins));
}

static int send_signal(const struct watched *w, int number)
{
    if (w->pidfd < 0)
        return ESRCH;
    return syscall(SYS_pidfd_send_signal, w->pidfd, number, NULL, 0) < 0 ? errno : 0;
}

static void fault(struct watched *w, struct report r)
{
    mgmt_rt_add(&w->segment->watch.faults, 1);
    r.kind = FAULT;
    r.action = w->plan->overrun;
    r.error = r.action == MGMT_RT_KILL ? send_signal(w, SIGKILL) : 0;
    if (r.action >= MGMT_RT_KILL && !r.error)
        end_life(w);
    report(r);
}

/* The deadline of a job has passed: one place where a miss is found, however late we are. */
static void check(struct watched *w, uint64_t job, uint64_t seen_ns)
{
    const struct mgmt_rt_plan *plan = w->plan;
    const struct mgmt_rt_progress *progress = &w->segment->progress;
    struct mgmt_rt_watch *watch = &w->segment->watch;
    uint64_t joins = atomic_load_explicit(&progress->joins, memory_order_acquire);
    bool over = joins == mgmt_rt_load(&watch->ended_joins);
    if (!joins || job < mgmt_rt_load(&progress->first_job) || (over && job >= mgmt_rt_load(&watch->ended_job)))
        return; /* nobody was to do it */
    const struct mgmt_rt_record *record = &progress->records[job % MGMT_RT_RECORDS];
    uint64_t recorded = atomic_load_explicit(&record->job, memory_order_acquire);
    uint64_t end_ns = mgmt_rt_load(&record->end_ns);
    uint64_t deadline_ns = mgmt_rt_release_ns(plan, w->t0_ns, job) + plan->deadline_ns;
    atomic_thread_fence(memory_order_acquire);
    if (recorded > job + 1 || (recorded == job + 1 && mgmt_rt_load(&record->job) != recorded)) {
        mgmt_rt_add(&watch->unchecked, 1);
        return;
    }
    bool missed = recorded != job + 1 || end_ns > deadline_ns;
    uint64_t history = mgmt_rt_load(&watch->history) << 1 | missed, run = missed ? mgmt_rt_load(&watch->run) + 1 : 0;
    if (missed) {
        uint64_t window = plan->window_jobs == 64 ? ~UINT64_C(0) : (UINT64_C(1) << plan->window_jobs) - 1;
        uint64_t misses = plan->window_jobs ? (uint64_t)__builtin_popcountll(history & window) : run;
        bool running = mgmt_rt_load(&progress->released) == job + 1 && recorded != job + 1;
        struct report r = {.kind = MISS, .id = plan->task, .job = job, .deadline_ns = deadline_ns,
                           .seen_ns = seen_ns, .misses = misses, .action = running};
        mgmt_rt_add(&watch->misses, 1);
        report(r);
        if (plan->max_dmiss && misses >= plan->max_dmiss) {
            history = run = 0; /* the next fault needs as many again */
            fault(w, r);
        }
    }
    mgmt_rt_store(&watch->history, history);
    mgmt_rt_store(&watch->run, run);
}

static void signal_release(struct watched *w, uint64_t now_ns)
{
    uint64_t next = mgmt_rt_first_job(w->plan, w->t0_ns, now_ns + 1); /* releases that we slept through are left out */
    if (send_signal(w, SIGRTMIN + 2) == 0)
        mgmt_rt_add(&w->segment->watch.signals, 1);
    w->next_job = next;
}

/* No executive was here for long: of jobs before `end` there are no records. */
static void leave_out(struct watched *w, uint64_t end)
{
    const struct mgmt_rt_progress *progress = &w->segment->progress;
    uint64_t first = mgmt_rt_load(&progress->first_job);
    if (first < w->next_job)
        first = w->next_job;
    if (first < end && mgmt_rt_load(&progress->joins) != mgmt_rt_load(&w->segment->watch.ended_joins))
        mgmt_rt_add(&w->segment->watch.unchecked, end - first);
    w->next_job = end;
}

static void look_at(int i, uint64_t now_ns)
{
    struct watched *w = &tasks[i];
    const struct mgmt_rt_plan *p = w->plan;
    if (p->flags & MGMT_RT_BY_SIGNAL) {
        signal_release(w, now_ns);
    } else {
        uint64_t end = now_ns < w->t0_ns + p->deadline_ns ? 0 : /* the first job whose deadline is ahead */
            mgmt_rt_first_job(p, w->t0_ns, now_ns - p->deadline_ns + 1);
        if (end - w->next_job > MGMT_RT_RECORDS)
            leave_out(w, end - MGMT_RT_RECORDS);
        for (; w->next_job < end; w->next_job++)
            check(w, w->next_job, now_ns);
    }
    mgmt_rt_store(&w->segment->watch.next_job, w->next_job);
    if (w->cut) {
        report((struct report){.kind = LOST, .id = p->task});
        drop(i);
        return;
    }
    plan_next(i);
}

/* Looks at every task that is due. Returns when the next one is. */
static uint64_t look_at_all(void)
{
    uint64_t now_ns = mgmt_rt_clock_ns(CLOCK_MONOTONIC), next_ns = never;
    for (int i = 0; i < n_tasks; i++) {
        if (due_ns[i] <= now_ns)
            look_at(i, now_ns);
        if (due_ns[i] < next_ns)
            next_ns = due_ns[i];
    }
    return next_ns;
}

static void see_end(int i)
{
    struct watched *w = &tasks[i];
    close(w->pidfd);
    w->pidfd = -1;
    if (mgmt_rt_load(&w->segment->progress.pid) == w->pid) /* else the next process has joined already */
        end_life(w);
    report((struct report){.kind = GONE, .id = w->plan->task, .job = mgmt_rt_load(&w->segment->watch.ended_job),
                           .seen_ns = mgmt_rt_clock_ns(CLOCK_MONOTONIC)});
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

/* The text behind ` key=` in a line, NULL when there is none. */
static const char *field(const char *line, const char *key)
{
    size_t length = strlen(key);
    for (const char *at = line; (at = strchr(at, ' ')); )
        if (strncmp(++at, key, length) == 0 && at[length] == '=')
            return at + length + 1;
    return NULL;
}

static bool number_field(const char *line, const char *key, uint64_t *value)
{
    const char *text = field(line, key);
    char *end;
    if (!text || *text < '0' || *text > '9')
        return false;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return !errno && (*end == ' ' || !*end);
}

static bool path_field(const char *line, const char *key, char path[PATH_MAX])
{
    const char *text = field(line, key);
    size_t n = 0;
    if (!text)
        return false;
    for (; *text && *text != ' ' && n < PATH_MAX - 1; text++) {
        unsigned byte = (unsigned char)*text;
        if (byte == '%') {
            if (sscanf(text + 1, "%2x", &byte) != 1 || !byte || !text[1] || !text[2])
                return false;
            text += 2;
        }
        path[n++] = (char)byte;
    }
    path[n] = 0;
    return n && (!*text || *text == ' ');
}

/* The place of a task, or -1. */
static int find(uint64_t task)
{
    for (int i = 0; i < n_tasks; i++)
        if (tasks[i].segment && tasks[i].plan->task == task)
            return i;
    return -1;
}

static uint64_t start_ticks(pid_t pid)
{
    char path[32], text[1024];
    unsigned long long start = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    text[n < 0 ? 0 : n] = 0;
    const char *rest = strrchr(text, ')'); /* the command name before it may hold anything */
    if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                        &start) != 1)
        return 0;
    return start;
}

/* A request returns 0 or an errno; `at` may name what is wrong. */
static int add(const char *line, const char **at)
{
    char path[PATH_MAX];
    struct watched w = {.pidfd = -1};
    int i = 0;
    *at = "path";
    if (!path_field(line, "path", path))
        return EINVAL;
    while (i < n_tasks && tasks[i].segment)
        i++;
    if (i == MAX_TASKS) {
        *at = "tasks";
        return ENOSPC;
    }
    w.file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (w.file < 0)
        return errno;
    int error = 0;
    *at = NULL;
    if (mgmt_rt_claim(w.file, 0) < 0 || !(w.plan = malloc(sizeof *w.plan)))
        error = errno;
    else if (pread(w.file, w.plan, sizeof *w.plan, 0) != (ssize_t)sizeof *w.plan)
        *at = "size_bytes", error = EPROTO;
    else if ((*at = mgmt_rt_refusal(w.plan)))
        error = EPROTO;
    else if (find(w.plan->task) >= 0)
        *at = "task", error = EEXIST;
    else if (!(w.segment = mgmt_rt_map(w.file)))
        error = errno;
    if (error) {
        free(w.plan);
        close(w.file);
        return error;
    }
    tasks[i] = w; /* first of all: on_bus_error() knows of it now */
    n_tasks = i < n_tasks ? n_tasks : i + 1;
    mlock(w.segment, sizeof *w.segment); /* without it the first look is slower */
    const struct mgmt_rt_watch *watch = &w.segment->watch;
    if (atomic_load_explicit(&watch->started, memory_order_acquire)) {
        uint64_t t0_ns = mgmt_rt_load(&watch->t0_ns);
        uint64_t newest = mgmt_rt_first_job(w.plan, t0_ns, mgmt_rt_clock_ns(CLOCK_MONOTONIC));
        uint64_t next_job = mgmt_rt_load(&watch->next_job);
        tasks[i].t0_ns = t0_ns;
        tasks[i].next_job = next_job < newest ? next_job : newest;
    }
    plan_next(i);
    return 0;
}

static int bind_process(const char *line, const char **at)
{
    uint64_t task, pid, start;
    *at = NULL;
    if (!number_field(line, "task", &task) || !number_field(line, "pid", &pid) || !number_field(line, "start", &start)
        || !pid || pid > INT_MAX)
        return EINVAL;
    int i = find(task);
    *at = "task";
    if (i < 0)
        return ENOENT;
    *at = "pid";
    int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    int error = pidfd < 0 ? errno : start_ticks((pid_t)pid) == start ? 0 : ESRCH; /* pinned first, then compared */
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)pidfd};
    if (!error && epoll_ctl(epoll, EPOLL_CTL_ADD, pidfd, &event) < 0)
        error = errno;
    if (error) {
        if (pidfd >= 0)
            close(pidfd);
        if (error == ESRCH && mgmt_rt_load(&tasks[i].segment->progress.pid) == pid)
            end_life(&tasks[i]);
        return error;
    }
    if (tasks[i].pidfd >= 0)
        close(tasks[i].pidfd);
    tasks[i].pidfd = pidfd;
    tasks[i].pid = pid;
    return 0;
}

static int start(const char *line, const char **at)
{
    uint64_t task, t0_ns;
    *at = NULL;
    if (!number_field(line, "task", &task) || !number_field(line, "t0", &t0_ns) || !t0_ns || t0_ns > INT64_MAX)
        return EINVAL;
    int i = find(task);
    *at = "task";
    if (i < 0)
        return ENOENT;
    struct watched *w = &tasks[i];
    struct mgmt_rt_watch *watch = &w->segment->watch;
    if (w->t0_ns) {
        *at = "t0";
        return w->t0_ns == t0_ns ? 0 : EALREADY;
    }
    w->t0_ns = t0_ns;
    w->next_job = mgmt_rt_first_job(w->plan, t0_ns, mgmt_rt_clock_ns(CLOCK_MONOTONIC)); /* T0 may have passed */
    mgmt_rt_store(&watch->next_job, w->next_job);
    mgmt_rt_store(&watch->t0_ns, t0_ns);
    atomic_store_explicit(&watch->started, 1, memory_order_release);
    syscall(SYS_futex, &watch->started, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    plan_next(i);
    return 0;
}

static int remove_task(const char *line, const char **at)
{
    uint64_t task;
    *at = NULL;
    if (!number_field(line, "task", &task))
        return EINVAL;
    int i = find(task);
    *at = "task";
    if (i < 0)
        return ENOENT;
    drop(i);
    return 0;
}

/* False: the agent is gone. */
static bool read_requests(void)
{
    static const struct { const char *word; int (*run)(const char *line, const char **at); } verbs[] = {
        {"add ", add}, {"bind ", bind_process}, {"start ", start}, {"remove ", remove_task}};
    static char line[PACKET_BYTES];
    for (int turn = 0; turn < REQUESTS_PER_TURN && n_reports < MAX_REPORTS; turn++) {
        ssize_t n = recv(control, line, sizeof line - 1, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        if (n == 0)
            return false;
        line[n < (ssize_t)sizeof line ? n : 0] = 0;
        struct report answer = {.kind = REFUSED, .error = EINVAL};
        number_field(line, "n", &answer.id);
        for (size_t k = 0; k < sizeof verbs / sizeof *verbs; k++)
            if (strncmp(line, verbs[k].word, strlen(verbs[k].word)) == 0)
                answer.error = verbs[k].run(line, &answer.at);
        if (!answer.error)
            answer.kind = OK;
        report(answer);
    }
    return true;
}

/* ---- the loop and its start ----------------------------------------------------------------------------------- */

/* Takes the highest priority it may have, and says what that was. */
static bool rise(int wanted)
{
    struct sched_param param = {.sched_priority = wanted};
    int error = sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) < 0 ? errno : 0;
    while (error == EPERM && --param.sched_priority > 0) /* RLIMIT_RTPRIO may allow less */
        if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) == 0)
            error = 0;
    if (error) {
        param.sched_priority = 0;
        prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);
    }
    mlockall(MCL_CURRENT);
    char line[LINE_BYTES];
    int n = snprintf(line, sizeof line, "hello version=%d policy=%s priority=%d errno=%d\n", PROTOCOL_VERSION,
                     error ? "other" : "fifo", param.sched_priority, error);
    return send(control, line, (size_t)n, MSG_NOSIGNAL) == n;
}

static void watch_events(const struct epoll_event *events, int n, bool *asked)
{
    for (int k = 0; k < n; k++) {
        if (events[k].data.u64 == (uint64_t)control)
            *asked = events[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR);
        for (int i = 0; i < n_tasks; i++)
            if (tasks[i].pidfd >= 0 && (uint64_t)tasks[i].pidfd == events[k].data.u64)
                see_end(i);
    }
}

static void run_loop(void)
{
    struct epoll_event events[64];
    uint64_t armed_ns = never;
    for (;;) {
        uint64_t next_ns = look_at_all();
        if (!flush_reports())
            return;
        if (next_ns != armed_ns) { /* also takes back an expiry not read */
            struct itimerspec at = {0}; /* zero: not at all */
            if (next_ns != never) {
                at.it_value.tv_sec = (time_t)(next_ns / 1000000000);
                at.it_value.tv_nsec = (long)(next_ns % 1000000000);
            }
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
            armed_ns = next_ns;
        }
        bool asked = false;
        int n = epoll_wait(epoll, events, sizeof events / sizeof *events, -1);
        watch_events(events, n, &asked);
        if (asked && !read_requests())
            return;
    }
}

int main(int argc, char **argv)
{
    struct sigaction bus = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    uint64_t priority = 99;
    char *end;
    for (int k = 1; k < argc; k += 2) {
        long value = k + 1 < argc ? strtol(argv[k + 1], &end, 10) : -1;
        if (strcmp(argv[k], "--fd") == 0 && value > 2 && value <= INT_MAX && !*end)
            control = (int)value;
        else if (strcmp(argv[k], "--priority") == 0 && value >= 1 && value <= 99 && !*end)
            priority = (uint64_t)value;
        else
            control = -1;
        if (control < 0)
            break;
    }
    struct epoll_event event = {.events = EPOLLIN};
    if (control <= 2 || fcntl(control, F_SETFD, FD_CLOEXEC) < 0) {
        fputs("usage: mgmt-executive --fd N [--priority 1..99]; N: a SOCK_SEQPACKET socket above 2\n", stderr);
        return EXIT_USAGE;
    }
    sigaction(SIGBUS, &bus, NULL);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    event.data.u64 = (uint64_t)control;
    if (epoll < 0 || timer < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, control, &event) < 0
        || (event.data.u64 = (uint64_t)timer, epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) < 0)
        || !rise((int)priority)) {
        fprintf(stderr, "mgmt-executive: cannot start: %s\n", strerror(errno));
        return EXIT_FAILURE;
    }
    run_loop();
    return 0;
}

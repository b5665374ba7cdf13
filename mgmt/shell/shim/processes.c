/*
 * Which processes are ours, and signals to them. Shared by the shim and the worker.
 *
 * Ours are the descendants of this process (it is a subreaper: an orphan comes back to it) and, for the shim, the
 * members of control groups that were empty before the unit joined them (groups.c). A process is shown to be ours
 * while it is pinned, so that a pid used again is never hit.
 */

enum {
    MAX_SWEEP = 16384,     /* processes seen by one pass; the next pass sees the rest */
    MAX_STOP_PASSES = 32,  /* a fork loop is frozen when a pass finds nobody running */
    KILL_RETRY_MAX_MS = 250,
    FORKED_NO_EXEC = 0x40, /* PF_FORKNOEXEC, in field 9 of /proc/PID/stat */
};

static pid_t self;
static bool has_children_files; /* /proc/PID/task/TID/children: a kernel option; without it, all of /proc is read */

/* From here on orphans among our descendants become our children. */
static bool adopt_descendants(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)self, (int)self);
    has_children_files = access(path, R_OK) == 0;
    return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
}

/* A descriptor that can be read when children have ended, which is blocked as a signal. */
static int open_child_signals(void)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    return signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void drain_signals(int fd)
{
    struct signalfd_siginfo ended[8];
    while (read(fd, ended, sizeof ended) > 0)
        ;
}

struct proc { char state; pid_t ppid; unsigned flags; long threads; unsigned long long start; };

static bool read_proc(pid_t pid, struct proc *p)
{
    char path[32], b[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_file(path, b, sizeof b) <= 0)
        return false;
    const char *rest = strrchr(b, ')'); /* the command name before it may hold anything */
    int ppid;
    if (!rest || sscanf(rest + 1, " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu",
                        &p->state, &ppid, &p->flags, &p->threads, &p->start) != 5)
        return false;
    p->ppid = ppid;
    return true;
}

/* A process whose first thread has ended shows as a zombie while the others run on. */
static bool is_dead(const struct proc *p)
{
    return (p->state == 'Z' || p->state == 'X') && p->threads <= 1;
}

static uint64_t chain_to_self(pid_t pid)
{
    uint64_t hash = 1469598103934665603u;
    struct proc p;
    for (int depth = 0; depth < MAX_SWEEP && pid > 1; depth++) {
        if (pid == self)
            return hash;
        if (!read_proc(pid, &p))
            return 0;
        hash = (hash ^ (uint64_t)pid) * 1099511628211u;
        pid = p.ppid;
    }
    return 0;
}

/* True when the chain of parents leads here. Read twice: a pid recycled in between would change the chain. */
static bool is_descendant(pid_t pid)
{
    uint64_t first = chain_to_self(pid);
    return pid != self && first && first == chain_to_self(pid);
}

typedef bool visitor(pid_t pid, void *context); /* false ends the walk */

/* Calls visit for each number in a file of pids. Returns how many there were, -1 when it cannot be read. */
static long each_pid(const char *path, visitor *visit, void *context)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    char b[4096];
    long count = 0;
    pid_t pid = 0;
    bool inside = false, more = true;
    ssize_t n;
    while (more && (n = read(fd, b, sizeof b)) > 0)
        for (ssize_t i = 0; i < n && more; i++) {
            if (b[i] >= '0' && b[i] <= '9') {
                pid = pid * 10 + (b[i] - '0');
                inside = true;
            } else if (inside) {
                count++;
                more = visit(pid, context);
                pid = 0;
                inside = false;
            }
        }
    close(fd);
    return count; /* the kernel ends every pid with a blank or a newline */
}

/* Calls visit for each entry of a directory whose name is a number. */
static void each_number(const char *path, visitor *visit, void *context)
{
    struct entry { uint64_t ino; int64_t off; unsigned short reclen; unsigned char type; char name[]; };
    _Alignas(struct entry) char b[4096];
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    bool more = true;
    long n;
    while (more && (n = syscall(SYS_getdents64, fd, b, sizeof b)) > 0)
        for (long at = 0; at < n && more;) {
            struct entry *e = (struct entry *)(void *)(b + at);
            if (e->name[0] >= '1' && e->name[0] <= '9')
                more = visit(atoi(e->name), context);
            at += e->reclen;
        }
    close(fd);
}

static struct { pid_t pids[MAX_SWEEP]; int n; } sweep;

static bool sweep_add(pid_t pid, void *context)
{
    (void)context;
    if (sweep.n < MAX_SWEEP && pid > 1 && pid != self)
        sweep.pids[sweep.n++] = pid;
    return sweep.n < MAX_SWEEP;
}

static bool sweep_add_proven(pid_t pid, void *context)
{
    return is_descendant(pid) ? sweep_add(pid, context) : true;
}

static bool sweep_add_of_thread(pid_t tid, void *context)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", *(pid_t *)context, (int)tid);
    each_pid(path, sweep_add, NULL);
    return true;
}

struct proof { const char *procs_path; pid_t pid; bool found; };

static bool match_pid(pid_t pid, void *context)
{
    struct proof *p = context;
    p->found = p->found || pid == p->pid;
    return !p->found;
}

/*
 * Signals a process that is shown to be ours after it was pinned, so that a recycled pid is never hit: it
 * descends from this process, or (procs_path given) it is a member of a control group of ours.
 */
static void signal_proven(pid_t pid, int sig, const char *procs_path)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno == ESRCH)
        return;
    bool proven = is_descendant(pid);
    if (!proven && procs_path) {
        struct proof p = {procs_path, pid, false};
        each_pid(procs_path, match_pid, &p);
        proven = p.found;
    }
    if (proven && fd >= 0)
        syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0);
    else if (proven) /* a kernel without pidfd */
        kill(pid, sig);
    if (fd >= 0)
        close(fd);
}

/*
 * Sends sig to every living descendant, parents before children; 0 only counts them. For SIGSTOP the answer
 * counts those that were not stopped yet, and each is stopped before its children are listed: a process with
 * a signal waiting cannot fork any more.
 */
static int signal_descendants(int sig)
{
    sweep.n = 0;
    int direct = 0, count = 0;
    if (has_children_files) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)self, (int)self);
        each_pid(path, sweep_add, NULL);
        direct = sweep.n; /* our own children: their pids are ours until we reap them */
    } else {
        each_number("/proc", sweep_add_proven, NULL);
    }
    for (int round = 0; round < 2; round++) /* the first lists (and stops), the second signals */
        for (int i = 0; i < sweep.n; i++) {
            pid_t pid = sweep.pids[i];
            struct proc p;
            if ((round == 0) == (sig == SIGSTOP) && read_proc(pid, &p) && !is_dead(&p)
                && !(sig == SIGSTOP && (p.state == 'T' || p.state == 't'))) {
                count++;
                if (sig && i < direct)
                    kill(pid, sig);
                else if (sig)
                    signal_proven(pid, sig, NULL);
            }
            if (round == 0 && has_children_files) {
                char path[32];
                snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
                each_number(path, sweep_add_of_thread, &sweep.pids[i]);
            }
        }
    return count;
}

/* Freezes all descendants before it kills them: a fork loop is faster than one pass. Repeat until none is left. */
static void kill_descendants(void)
{
    for (int pass = 0; pass < MAX_STOP_PASSES && signal_descendants(SIGSTOP) > 0; pass++)
        ;
    signal_descendants(SIGKILL);
}

/* What is still there cannot die yet (a system call that does not return): ask less and less often. */
static int kill_again_after_ms(int after_ms, bool some_ended)
{
    after_ms = some_ended ? 1 : 2 * after_ms + 1;
    return after_ms < KILL_RETRY_MAX_MS ? after_ms : KILL_RETRY_MAX_MS;
}

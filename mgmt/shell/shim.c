/*
 * mgmt-shim: the parent of one supervised unit. It outlives the daemon.
 *
 *   mgmt-shim --dir DIR [--fd N] [--log FILE] [--log-max-bytes N] [--log-keep K] [--cwd D] [--shim-cgroup PATH]...
 *     [--cgroup PATH]... [--cpus 0-3,8] [--memory-nodes 0,1]
 *     [--policy other|batch|idle|fifo:P|rr:P|deadline:RUNTIME:DEADLINE:PERIOD] [--nice N]
 *     [--rlimit NAME=SOFT:HARD]... [--oom-score-adj N] [--umask 022] [--user UID] [--group GID] [--groups A,B]
 *     [--timer-slack-ns N] [--mlock] [--lease MONO_NS] [--gated] -- PROGRAM ARG...
 *
 * It prepares and executes PROGRAM, owns the pipe of its output, reaps every descendant (it is a subreaper,
 * so double forks and new sessions come back to it), and answers on two kinds of SOCK_SEQPACKET connections:
 * the descriptor of --fd, and whoever connects to DIR/ctl. Packets are ASCII, `word key=value ...`; values
 * that may hold any byte are percent-encoded.
 *
 *   to the daemon    state phase=starting|running|exited|empty|failed shim= shim_start= pid= start= boot= dropped=
 *                      [the fields of `exited` or `failed`]    first packet of a connection, answer to `state`
 *                    started pid= start=                       the exec has succeeded
 *                    failed stage= errno= [at=]                nothing was executed; the shim ends
 *                    exited code=|signal= core= utime_us= stime_us= maxrss_kb= mono_ns= real_ns= left= [empty=1]
 *                    empty                                     no descendant is left; the shim ends
 *                    refused errno=                            the packet before was not a valid command
 *   from the daemon  go                                       with --gated, before anything else: execute PROGRAM
 *                    signal N | signal-leader N | kill | reopen | rotate | state
 *                    lease MONO_NS                            at this instant it is killed, unless a later one is
 *                                                             named before: 0: never
 *
 * Files in DIR: `shim` (identity: shim= start= boot=, then pid= pid_start=), `ctl`, and `exit`, the record that
 * is on disk before `exited` or `failed` is sent. Its last field, empty=0, becomes 1 when the tree is empty.
 * A start time is field 22 of /proc/PID/stat: with the boot id it tells a process from a later one of that pid.
 *
 * shim/command.c has its other mode, for commands that are no units: mgmt-shim --command ...
 *
 * One thread, one poll loop, no memory allocation, nothing to do while nothing happens.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

#include "shim/text.c"

#include "shim/processes.c"

#include "shim/groups.c"

#include "shim/output.c"

#include "shim/options.c"

#include "shim/inherited.c"

#include "shim/child.c"

#include "shim/command.c"

enum {
    MAX_CONNECTIONS = 4,
    MAX_PACKETS_PER_TURN = 16,
    PIPE_BYTES = 1 << 20,
    CHUNKS_PER_TURN = 16, /* then the other descriptors are served */
    CHUNKS_AT_END = 64,   /* more than a pipe can hold */
    RECORD_BYTES = 4096,
    EXIT_USAGE = 64,
};

/* The life of a unit as a table. An event that has no cell there changes nothing. */
enum phase { STARTING, RUNNING, EXITED, EMPTY, FAILED, PHASES };
enum event { EXECUTED, REFUSED, LEADER_GONE, TREE_GONE, EVENTS };
static const char *const phase_names[PHASES] = {"starting", "running", "exited", "empty", "failed"};
static const enum phase next_phase[PHASES][EVENTS] = {
    /*              EXECUTED  REFUSED   LEADER_GONE  TREE_GONE */
    [STARTING] = {  RUNNING,  FAILED,   EXITED,      STARTING },
    [RUNNING]  = {  RUNNING,  RUNNING,  EXITED,      RUNNING  },
    [EXITED]   = {  EXITED,   EXITED,   EXITED,      EMPTY    },
    [EMPTY]    = {  EMPTY,    EMPTY,    EMPTY,       EMPTY    },
    [FAILED]   = {  FAILED,   FAILED,   FAILED,      FAILED   },
};

static struct {
    enum phase phase;
    pid_t pid;
    unsigned long long self_start, pid_start;
    char boot[40];
    int dir_fd, listen_fd, signal_fd, exec_fd, pipe_fd, record_fd;
    int conns[MAX_CONNECTIONS];
    off_t empty_at;  /* where the 0 of empty=0 stands in the record */
    struct text end; /* the fields of `exited` or `failed` */
    bool leader_reaped, childless, killing, recorded;
    int retry_ms;
} shim = {.dir_fd = -1, .listen_fd = -1, .signal_fd = -1, .exec_fd = -1, .pipe_fd = -1, .record_fd = -1,
          .conns = {-1, -1, -1, -1}};

/* ---- connections -------------------------------------------------------------------------------------------- */

/* A connection that is full is dropped: its daemon connects again and gets the state. */
static void send_text(int i, const struct text *t)
{
    if (shim.conns[i] >= 0 && send(shim.conns[i], t->b, t->n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        close_fd(&shim.conns[i]);
}

static void send_state(int i)
{
    struct text t = {0};
    put(&t, "state phase=%s shim=%d shim_start=%llu pid=%d start=%llu boot=%s dropped=%lld%s",
        phase_names[shim.phase], (int)self, shim.self_start, (int)shim.pid, shim.pid_start, shim.boot,
        (long long)out.dropped, shim.end.n ? shim.end.b : "");
    send_text(i, &t);
}

static void announce(const char *word, const char *fields)
{
    struct text t = {0};
    put(&t, "%s%s", word, fields);
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        send_text(i, &t);
}

static void accept_all(void)
{
    int fd;
    while ((fd = accept4(shim.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        int i = 0;
        while (i < MAX_CONNECTIONS && shim.conns[i] >= 0)
            i++;
        if (i == MAX_CONNECTIONS) {
            close(fd);
            continue;
        }
        shim.conns[i] = fd;
        send_state(i);
    }
}

/* Listens on DIR/ctl, which appears when it can be connected to. A socket with a living owner is not taken. */
static bool listen_ctl(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX}; /* through the descriptor: DIR may be longer than sun_path */
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/ctl", shim.dir_fd);
    int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return false;
    bool taken = connect(probe, (struct sockaddr *)&at, sizeof at) == 0 || errno == EAGAIN;
    close(probe);
    if (taken) {
        errno = EADDRINUSE;
        return false;
    }
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/ctl.tmp", shim.dir_fd);
    unlinkat(shim.dir_fd, "ctl.tmp", 0);
    shim.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    umask(0177);
    bool done = shim.listen_fd >= 0 && bind(shim.listen_fd, (struct sockaddr *)&at, sizeof at) == 0
        && listen(shim.listen_fd, 16) == 0 && renameat(shim.dir_fd, "ctl.tmp", shim.dir_fd, "ctl") == 0;
    int err = errno;
    umask(0);
    if (!done)
        close_fd(&shim.listen_fd);
    errno = err;
    return done;
}

/* ---- files in DIR ------------------------------------------------------------------------------------------- */

static bool write_identity(void)
{
    struct text t = {0};
    put(&t, "shim=%d start=%llu boot=%s", (int)self, shim.self_start, shim.boot);
    if (shim.pid)
        put(&t, " pid=%d pid_start=%llu", (int)shim.pid, shim.pid_start);
    put(&t, "\n");
    int fd = openat(shim.dir_fd, "shim.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return false;
    bool done = write_all(fd, t.b, t.n);
    int err = errno;
    close(fd);
    errno = err;
    return done && renameat(shim.dir_fd, "shim.tmp", shim.dir_fd, "shim") == 0;
}

/* Takes the space of the record while there is some. */
static bool reserve_record(void)
{
    unlinkat(shim.dir_fd, "exit", 0); /* of an earlier life */
    shim.record_fd = openat(shim.dir_fd, "exit.tmp", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (shim.record_fd < 0)
        return false;
    if (fallocate(shim.record_fd, 0, 0, RECORD_BYTES) == 0)
        return true;
    memset(chunk, '\n', RECORD_BYTES);
    return errno == EOPNOTSUPP && write_all(shim.record_fd, chunk, RECORD_BYTES);
}

static void write_record(const char *why, bool empty)
{
    struct text t = {0};
    if (shim.record_fd < 0)
        return;
    put(&t, "shim=%d start=%llu boot=%s pid=%d pid_start=%llu", (int)self, shim.self_start, shim.boot,
        (int)shim.pid, shim.pid_start);
    put_encoded(&t, "argv0", opt.argv[0]);
    put(&t, " why=%s%s dropped=%lld empty=", why, shim.end.b, (long long)out.dropped);
    shim.empty_at = (off_t)t.n;
    put(&t, "%d\n", empty);
    if (pwrite(shim.record_fd, t.b, t.n, 0) != (ssize_t)t.n || ftruncate(shim.record_fd, (off_t)t.n) < 0)
        return; /* the packet still tells */
    fsync(shim.record_fd);
    shim.recorded = renameat(shim.dir_fd, "exit.tmp", shim.dir_fd, "exit") == 0;
    fsync(shim.dir_fd);
    if (empty)
        close_fd(&shim.record_fd);
}

/* ---- what happens ------------------------------------------------------------------------------------------- */

static void pipe_read(int chunks)
{
    while (shim.pipe_fd >= 0 && chunks-- > 0) {
        ssize_t n = read(shim.pipe_fd, chunk, sizeof chunk);
        if (n > 0)
            log_write(chunk, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            close_fd(&shim.pipe_fd); /* nobody is left who could write */
        else if (errno == EAGAIN)
            return;
    }
}

/* To the group of the leader; when that is gone its number may belong to others, so to the descendants. */
static void signal_unit(int sig)
{
    if (shim.leader_reaped)
        signal_descendants(sig);
    else if (shim.pid > 0 && kill(-shim.pid, sig) < 0)
        kill(shim.pid, sig); /* before its setsid there is no group yet */
}

static bool cgroups_are_empty(void)
{
    for (int i = 0; i < opt.n_cgroups; i++)
        if (opt.cgroups[i].ours && !cgroup_is_empty(&opt.cgroups[i]))
            return false;
    return true;
}

static void kill_everything(void)
{
    for (int i = 0; i < opt.n_cgroups; i++)
        if (opt.cgroups[i].ours)
            cgroup_kill(&opt.cgroups[i]);
    if (!shim.leader_reaped)
        signal_unit(SIGKILL);
    kill_descendants();
}

static void take_event(enum event e)
{
    shim.phase = next_phase[shim.phase][e];
}

/* Nothing of PROGRAM was executed, or will be. */
static void fail(const char *stage, int err, const char *at)
{
    put(&shim.end, " stage=%s errno=%d", stage, err);
    if (at)
        put_encoded(&shim.end, "at", at);
    take_event(REFUSED);
    write_record("exec-failed", true);
    announce("failed", shim.end.b);
}

/* The pipe of the child's refusals has something to say: a refusal, or the end, which is the exec. */
static void exec_ready(void)
{
    struct refusal r;
    struct proc p;
    ssize_t n = read(shim.exec_fd, &r, sizeof r);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    close_fd(&shim.exec_fd);
    if (n == sizeof r) {
        kill(shim.pid, SIGKILL); /* it is ending itself; nobody may hold it up */
        while (waitpid(shim.pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        shim.leader_reaped = shim.childless = true;
        fail(r.stage, r.err, r.at);
    } else if (!read_proc(shim.pid, &p) || !(p.flags & FORKED_NO_EXEC)) {
        struct text t = {0};
        take_event(EXECUTED);
        put(&t, " pid=%d start=%llu", (int)shim.pid, shim.pid_start);
        announce("started", t.b);
    } /* else it was killed in the middle of its steps: reaping tells */
}

static void leader_gone(int status, const struct rusage *used)
{
    struct text *t = &shim.end;
    bool exited = WIFEXITED(status);
    int left = shim.childless ? 0 : signal_descendants(0);
    if (!shim.childless && left == 0)
        left = 1; /* whoever forks and ends all the time may be missed, but there is somebody */
    if (exited)
        put(t, " code=%d", WEXITSTATUS(status));
    else
        put(t, " signal=%d core=%d", WTERMSIG(status), WCOREDUMP(status) ? 1 : 0);
    put(t, " utime_us=%lld stime_us=%lld maxrss_kb=%ld mono_ns=%lld real_ns=%lld left=%d",
        (long long)used->ru_utime.tv_sec * 1000000 + used->ru_utime.tv_usec,
        (long long)used->ru_stime.tv_sec * 1000000 + used->ru_stime.tv_usec, used->ru_maxrss,
        (long long)clock_ns(CLOCK_MONOTONIC), (long long)clock_ns(CLOCK_REALTIME), left);
    take_event(LEADER_GONE);
    pipe_read(CHUNKS_AT_END); /* whoever hears `exited` may read its last words in the log */
    bool empty = shim.childless && !(shim.killing && !cgroups_are_empty());
    write_record(exited ? "exited" : "signalled", empty);
    size_t n = t->n;
    if (empty) /* said at once: a successor need not wait for another packet */
        put(t, " empty=1");
    announce("exited", t->b);
    t->b[t->n = n] = 0;
}

static void reap(void)
{
    struct rusage used, leader_used = {0};
    int status, leader_status = 0;
    bool leader = false;
    pid_t pid;
    if (shim.exec_fd >= 0) { /* whether it had executed is only known while it is not reaped */
        siginfo_t ended = {0};
        if (waitid(P_PID, (id_t)shim.pid, &ended, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || !ended.si_pid)
            return;
        exec_ready();
    }
    while ((pid = wait4(-1, &status, WNOHANG | __WALL, &used)) > 0)
        if (pid == shim.pid && !shim.leader_reaped) {
            shim.leader_reaped = leader = true;
            leader_status = status;
            leader_used = used;
        }
    shim.childless = pid < 0 && errno == ECHILD;
    if (leader)
        leader_gone(leader_status, &leader_used);
}

/* ---- commands of the daemon --------------------------------------------------------------------------------- */

static void refuse_packet(int i, int err)
{
    struct text t = {0};
    put(&t, "refused errno=%d", err);
    send_text(i, &t);
}

static void on_signal(int i, long sig)
{
    (void)i;
    signal_unit((int)sig);
}

static void on_signal_leader(int i, long sig)
{
    if (shim.leader_reaped || kill(shim.pid, (int)sig) < 0)
        refuse_packet(i, ESRCH);
}

static void on_lease(int i, long until_ns)
{
    (void)i;
    opt.lease_ns = until_ns;
}

static void on_kill(int i, long none)
{
    (void)i, (void)none;
    shim.killing = true;
    shim.retry_ms = 0;
    setpriority(PRIO_PROCESS, 0, -20); /* where allowed: to be faster than a fork loop */
}

static void on_reopen(int i, long none)
{
    (void)i, (void)none;
    log_reopen();
}

static void on_rotate(int i, long none)
{
    (void)i, (void)none;
    if (out.path && log_ready() && out.size)
        log_rotate();
}

static void on_state(int i, long none)
{
    (void)none;
    send_state(i);
}

static const struct command {
    const char *word;
    long least, most; /* of its argument; 0, 0: it has none */
    void (*act)(int connection, long argument);
} commands[] = {
    {"signal", 1, 64, on_signal}, {"signal-leader", 1, 64, on_signal_leader}, {"kill", 0, 0, on_kill},
    {"reopen", 0, 0, on_reopen}, {"rotate", 0, 0, on_rotate}, {"state", 0, 0, on_state},
    {"lease", 0, LONG_MAX, on_lease},
};

static bool run_command(int i, char *packet)
{
    long value = 0;
    char *argument = strchr(packet, ' ');
    if (argument)
        *argument++ = 0;
    for (size_t k = 0; k < sizeof commands / sizeof commands[0]; k++) {
        const struct command *c = &commands[k];
        if (strcmp(packet, c->word) != 0 || (c->most > 0) != (argument != NULL))
            continue;
        if (argument && !number(argument, 10, c->least, c->most, &value))
            return false;
        c->act(i, value);
        return true;
    }
    return false;
}

static void connection_read(int i)
{
    char b[128];
    for (int k = 0; k < MAX_PACKETS_PER_TURN && shim.conns[i] >= 0; k++) {
        ssize_t n = recv(shim.conns[i], b, sizeof b - 1, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) { /* the peer is gone */
            close_fd(&shim.conns[i]);
            return;
        }
        b[n < (ssize_t)sizeof b ? n : 0] = 0;
        if (!run_command(i, b))
            refuse_packet(i, EINVAL);
    }
}

/* ---- the loop, start and end -------------------------------------------------------------------------------- */

static bool is_over(void)
{
    return shim.phase == FAILED
        || (shim.phase == EXITED && shim.childless && (!shim.killing || cgroups_are_empty()));
}

/* How long poll may sleep, in ms; -1: until something happens. A lease that has ended is acted on here. */
static int sleep_ms(void)
{
    if (opt.lease_ns && !shim.killing) {
        long long left_ns = opt.lease_ns - (long long)clock_ns(CLOCK_MONOTONIC);
        if (left_ns > 0)
            return left_ns / 1000000 >= INT_MAX ? INT_MAX : (int)(left_ns / 1000000) + 1;
        on_kill(-1, 0); /* nobody who could say otherwise was heard in time: it may be running elsewhere by now */
    }
    return shim.killing ? shim.retry_ms : -1;
}

static void run_loop(void)
{
    enum { SIGNALS, CALLERS, EXEC, OUTPUT, CONNECTIONS, ALL = CONNECTIONS + MAX_CONNECTIONS };
    struct pollfd on[ALL] = {[SIGNALS] = {.fd = shim.signal_fd}, [CALLERS] = {.fd = shim.listen_fd}};
    while (!is_over()) {
        on[EXEC].fd = shim.exec_fd;
        on[OUTPUT].fd = shim.pipe_fd;
        for (int i = 0; i < MAX_CONNECTIONS; i++)
            on[CONNECTIONS + i].fd = shim.conns[i];
        for (int i = 0; i < ALL; i++)
            on[i].events = POLLIN;
        if (poll(on, ALL, sleep_ms()) < 0)
            continue;
        if (on[EXEC].revents)
            exec_ready();
        if (on[SIGNALS].revents)
            drain_signals(shim.signal_fd);
        if (on[EXEC].revents || on[SIGNALS].revents)
            reap();
        if (on[OUTPUT].revents)
            pipe_read(CHUNKS_PER_TURN);
        for (int i = 0; i < MAX_CONNECTIONS; i++)
            if (on[CONNECTIONS + i].revents)
                connection_read(i);
        if (on[CALLERS].revents)
            accept_all();
        if (shim.killing && !is_over()) {
            kill_everything();
            reap();
            shim.retry_ms = kill_again_after_ms(shim.retry_ms, on[SIGNALS].revents);
        }
    }
}

/* The rest of the output, the last field of the record, the last packet. */
static void finish(void)
{
    char b[128];
    accept_all();
    pipe_read(CHUNKS_AT_END);
    if (out.path && out.unreported && log_ready())
        log_report_dropped();
    if (shim.record_fd >= 0 && shim.phase == EXITED && pwrite(shim.record_fd, "1", 1, shim.empty_at) == 1)
        fdatasync(shim.record_fd);
    if (shim.phase == EXITED) {
        take_event(TREE_GONE);
        announce("empty", "");
    }
    if (shim.listen_fd >= 0)
        unlinkat(shim.dir_fd, "ctl", 0);
    for (int i = 0; i < MAX_CONNECTIONS; i++) /* unread packets would turn the end into a reset */
        while (shim.conns[i] >= 0 && recv(shim.conns[i], b, sizeof b, MSG_DONTWAIT) > 0)
            ;
}

/* Out of the daemon's group, which its service manager empties when the daemon ends. */
static bool join_own_cgroups(const char **at)
{
    char path[PATH_MAX];
    for (int i = 0; i < opt.n_own_cgroups; i++) {
        snprintf(path, sizeof path, "%s/cgroup.procs", opt.own_cgroups[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        bool done = fd >= 0 && write(fd, "0", 1) == 1;
        *at = opt.own_cgroups[i];
        if (!done)
            return false;
        close(fd);
    }
    return true;
}

/* Everything before the fork. Returns the name of the step that failed, with errno and *at. */
static const char *prepare(int pipe_write[1], const char **at)
{
    struct proc p;
    int ends[2];
    *at = opt.dir;
    shim.dir_fd = open(opt.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (shim.dir_fd < 0)
        return "dir";
    if (!listen_ctl()) /* first: it is refused when another shim lives in DIR */
        return "ctl";
    if (!reserve_record())
        return "record";
    if (!join_own_cgroups(at))
        return "shim-cgroup";
    *at = NULL;
    if (!adopt_descendants())
        return "subreaper";
    if (read_file("/proc/sys/kernel/random/boot_id", shim.boot, 37) < 36 || !read_proc(self, &p))
        return "proc";
    shim.self_start = p.start;
    if (!write_identity())
        return "identity";
    for (int i = 0; i < opt.n_cgroups; i++)
        opt.cgroups[i].ours = cgroup_is_empty(&opt.cgroups[i]);
    if ((shim.signal_fd = open_child_signals()) < 0)
        return "signalfd";
    if (pipe2(ends, O_CLOEXEC) < 0)
        return "pipe";
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    fcntl(ends[0], F_SETPIPE_SZ, PIPE_BYTES); /* as large as allowed */
    shim.pipe_fd = ends[0];
    *pipe_write = ends[1];
    *at = out.path;
    if (out.path && !log_ready()) {
        errno = out.err;
        return "log";
    }
    *at = NULL;
    if (opt.mlock && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        return "mlock";
    return NULL;
}

/*
 * The daemon died before it could know that we are here. The next one may have looked for us already and found
 * nothing: it starts the unit again, so we must not. Asked after the identity is on disk: a daemon that dies
 * later leaves a successor that finds it. With --gated the daemon still writes down that it starts us, and says
 * go when that is done: until then we are nobody.
 */
static bool is_orphaned(void)
{
    struct pollfd daemon = {.fd = opt.fd, .events = opt.gated ? POLLIN : 0};
    char b[4];
    if (opt.fd < 0)
        return false;
    while (poll(&daemon, 1, opt.gated ? -1 : 0) < 0 && errno == EINTR)
        ;
    if (daemon.revents & POLLIN)
        return recv(opt.fd, b, sizeof b, MSG_DONTWAIT) != 2 || memcmp(b, "go", 2) != 0;
    return daemon.revents & (POLLHUP | POLLERR);
}

static const char *spawn(int pipe_write)
{
    int ends[2], null, born_in;
    struct proc p;
    if ((null = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
        return "stdio";
    for (int fd = 0; fd <= 2; fd++) /* the daemon's terminal or pipe would be held otherwise */
        dup2(null, fd);
    close(null);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return "pipe";
    shim.pid = fork_into_cgroup(&born_in);
    if (shim.pid < 0) {
        shim.pid = 0;
        return "fork";
    }
    if (shim.pid == 0) {
        refusal_fd = ends[1];
        run_child(pipe_write, born_in);
    }
    close(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    shim.exec_fd = ends[0];
    if (read_proc(shim.pid, &p))
        shim.pid_start = p.start;
    write_identity(); /* the shim itself tells the same */
    return NULL;
}

int main(int argc, char **argv)
{
    self = getpid();
    if (argc > 3 && strcmp(argv[1], "--command") == 0)
        return serve_command(argv + 2);
    bool fd_given = find_control_fd(argv);
    const char *at = fd_given ? parse_options(argv) : "--fd", *stage = at ? "args" : NULL;
    int err = EINVAL, pipe_write = -1;

    inherited_umask = umask(0);
    shim.conns[0] = opt.fd;
    close_others(opt.fd, opt.fd);
    detach();
    if (!stage) {
        stage = prepare(&pipe_write, &at);
        err = errno;
    }
    if (!stage && is_orphaned()) {
        stage = "orphaned";
        err = EPIPE;
    }
    if (!stage) {
        send_state(0);
        stage = spawn(pipe_write);
        err = errno;
    }
    close_fd(&pipe_write);
    if (stage) {
        struct text t = {0};
        put(&t, "mgmt-shim: %s%s%s: %s\n", stage, at ? " " : "", at ? at : "", strerror(err));
        write_all(2, t.b, t.n);
        fail(stage, err, at);
    } else {
        run_loop();
    }
    finish();
    return opt.argv == NULL ? EXIT_USAGE : shim.recorded ? 0 : EXIT_FAILURE;
}

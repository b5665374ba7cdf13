/*
 * mgmt-worker: runs tasks one after the other, each as a process of its own with all that it starts.
 *
 *   mgmt-worker --socket PATH --unit NAME --incarnation N [--token TOKEN]
 *     [--managed] [--manager-uuid UUID] [--worker-id 0..255]
 *
 * The token is better given in the environment, MGMT_TOKEN, where other users do not see it. The last three
 * say the same as the unit's name does and are accepted for the sake of old scripts. What it says to its crew and
 * hears is specified in wire.py, what its tasks find in folders.c. CPUs, policy and limits are inherited: its
 * parent, mgmt-shim, has set them.
 *
 * A task has its own session, stdin from /dev/null, and one pipe for its output. The worker is a subreaper: after the
 * task's first process, all that is left of it is killed until there is no child any more. Exit status: 0 stopped,
 * 1 the machine failed it, 2 wrong arguments, or the crew broke the rules or refused it.
 *
 * One thread and one poll loop. Memory is bounded by the limits of wire.py.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/prctl.h>
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
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#include "../shell/shim/text.c"

#include "../shell/shim/processes.c"

#include "worker/pack.c"

#include "worker/messages.c"

#include "worker/folders.c"

#include "worker/start.c"

#include "worker/output.c"

enum {
    EXIT_MALFORMED = 2,
    MAX_QUEUED = 4096,
    MAX_QUEUED_BYTES = 16 << 20,
    MAX_UNTAKEN = 1024,
    MAX_UNTAKEN_BYTES = 1 << 20,
    EXEC_SPAWNED = 11,
    RECEIVE_BYTES = 64 << 10,
    RECONNECT_FIRST_MS = 10,
    RECONNECT_MAX_MS = 1000,
    FORK_TRIES = 100,
    FORK_RETRY_MS = 50,
};

static const int64_t NEVER = INT64_MAX, MS = 1000000, STATE_AFTER_NS = 200000000, LEAVE_AFTER_NS = 2000000000;

static struct {
    const char *socket, *unit, *token;
    long incarnation;
} opt = {.incarnation = -1};

/* The connection, and what the crew has not taken yet: whole DONEs, one behind the other. */
static struct {
    int fd;
    bool welcomed;
    struct bytes in, out;
    struct bytes box;
    size_t boxed, taken; /* DONEs in the box; taken of this connection */
    int64_t retry_at;
    int retry_ms;
} crew = {.fd = -1, .retry_ms = RECONNECT_FIRST_MS};

static struct {
    struct job *first, **end;
    size_t n, bytes;
} queue = {.end = &queue.first};

/* What a crew has told once and for all tasks. */
static struct {
    struct texts env;
    int64_t grace_ns, output_limit;
    bool paused, stopping;
    int64_t leave_at;
} rule = {.leave_at = NEVER};

/* The task that runs, or is about to: its process could not be started for want of room. */
static struct {
    struct job *job;
    struct spec spec;
    pid_t pid; /* 0: the first process is reaped, or was never started */
    int status, fork_tries;
    const char *message; /* why it is being ended, or "" */
    int64_t start_ns, end_ns;
    int64_t timeout_at, kill_at, state_at, retry_at; /* CLOCK_MONOTONIC, NEVER */
    int retry_ms;
    bool killing, forget;
} run;

static int signal_fd;

static int64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

__attribute__((format(printf, 2, 3))) _Noreturn static void leave(int status, const char *format, ...)
{
    va_list args;
    fputs("mgmt-worker: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\n", stderr);
    exit(status);
}

/* ---- to the crew -------------------------------------------------------------------------------------------- */

static size_t begin_message(struct bytes *to)
{
    grow(to, 4);
    to->n += 4;
    return to->n;
}

static void end_message(struct bytes *to, size_t from)
{
    size_t n = to->n - from;
    for (unsigned k = 0; k < 4; k++)
        to->b[from - 4 + k] = (uint8_t)(n >> (8 * k));
}

static size_t message_bytes(const uint8_t *b)
{
    return b[0] | (size_t)b[1] << 8 | (size_t)b[2] << 16 | (size_t)b[3] << 24;
}

static void disconnect(void)
{
    close_fd(&crew.fd);
    crew.welcomed = false;
    crew.in.n = crew.out.n = 0;
}

static void flush(void)
{
    size_t sent = 0;
    while (crew.fd >= 0 && sent < crew.out.n) {
        ssize_t n = send(crew.fd, crew.out.b + sent, crew.out.n - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0)
            sent += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR) {
            disconnect();
            return;
        }
    }
    drop_front(&crew.out, sent);
}

static void write_held(const struct job *j)
{
    write_array(&crew.out, 2);
    write_int(&crew.out, j->task);
    write_int(&crew.out, j->attempt);
}

static void say_hello(void)
{
    size_t from = begin_message(&crew.out);
    write_array(&crew.out, 5);
    write_int(&crew.out, HELLO);
    write_text(&crew.out, opt.unit);
    write_text(&crew.out, opt.token);
    write_int(&crew.out, opt.incarnation);
    write_array(&crew.out, crew.boxed + (run.job && !run.forget) + queue.n);
    for (size_t at = 0; at < crew.box.n;) {
        size_t n = message_bytes(crew.box.b + at);
        struct reader r = {crew.box.b + at + 4, crew.box.b + at + 4 + n};
        struct item head, task, attempt;
        if (!read_item(&r, &head) || !read_item(&r, &head) || !read_item(&r, &task) || !read_item(&r, &attempt))
            abort(); /* we wrote it */
        write_array(&crew.out, 2);
        write_int(&crew.out, task.integer);
        write_int(&crew.out, attempt.integer);
        at += 4 + n;
    }
    if (run.job && !run.forget)
        write_held(run.job);
    for (const struct job *j = queue.first; j; j = j->next)
        write_held(j);
    end_message(&crew.out, from);
    flush();
}

static void say_state(void)
{
    if (!crew.welcomed)
        return;
    size_t from = begin_message(&crew.out);
    write_array(&crew.out, 4);
    write_int(&crew.out, STATE);
    write_int(&crew.out, run.job->task);
    write_int(&crew.out, run.job->attempt);
    write_int(&crew.out, EXEC_SPAWNED);
    end_message(&crew.out, from);
    flush();
}

struct done {
    int status;
    const char *message;
    int64_t start_ns, end_ns;
    const char *results, *exec_log; /* "" for none */
    const struct bytes *new_task; /* or NULL */
};

static void say_done(const struct job *j, const struct done *d, const struct output *o)
{
    size_t at = crew.box.n, from = begin_message(&crew.box);
    struct bytes *to = &crew.box;
    write_array(to, 9);
    write_int(to, DONE);
    write_int(to, j->task);
    write_int(to, j->attempt);
    write_int(to, d->status);
    write_text(to, d->message);
    write_int(to, d->start_ns);
    write_int(to, d->end_ns);
    write_binary(to, o ? o->tail : "", o ? o->tail_bytes : 0);
    bool log = o && o->log_path[0];
    write_map(to, (unsigned)((d->new_task != NULL) + (d->results[0] != 0) + (d->exec_log[0] != 0)
                             + (log ? 2 + o->truncated : 0)));
    if (d->new_task) {
        write_text(to, "new_task");
        write_binary(to, d->new_task->b, d->new_task->n);
    }
    if (d->results[0]) {
        write_text(to, "results");
        write_text(to, d->results);
    }
    if (d->exec_log[0]) {
        write_text(to, "exec_log");
        write_text(to, d->exec_log);
    }
    if (log) {
        write_text(to, "log");
        write_text(to, o->log_path);
        write_text(to, "log_bytes");
        write_int(to, o->log_bytes);
        if (o->truncated) {
            write_text(to, "truncated");
            write_bool(to, true);
        }
    }
    end_message(to, from);
    crew.boxed++;
    if (crew.welcomed) {
        append(&crew.out, crew.box.b + at, crew.box.n - at);
        flush();
    }
}

/* ---- one task ------------------------------------------------------------------------------------------------ */

static void refuse_task(const struct job *j, int status, const char *message)
{
    struct done d = {.status = status, .message = message, .results = "", .exec_log = ""};
    say_done(j, &d, NULL);
}

static struct job *unlink_job(struct job **at)
{
    struct job *j = *at;
    *at = j->next;
    if (!*at)
        queue.end = at;
    queue.n--;
    queue.bytes -= j->n;
    return j;
}

static void remove_resources(void)
{
    if (run.spec.has_resources)
        remove_inputs(run.job);
}

static void clear_run(void)
{
    free(run.job);
    free_spec(&run.spec);
    memset(&run, 0, sizeof run);
    run.timeout_at = run.kill_at = run.state_at = run.retry_at = NEVER;
    run.message = "";
    if (rule.stopping)
        rule.leave_at = now_ns() + LEAVE_AFTER_NS;
}

/* Everything of the task has ended. */
static void finish_task(void)
{
    static struct bytes new_task;
    char results[PATH_MAX], exec_log[PATH_MAX] = "", said[256];
    struct done d = {run.status, run.message, run.start_ns, run.end_ns, results, exec_log, NULL};
    output_end(&output);
    remove_resources();
    if (!keep_folder(place.result, run.job, "", results)
        || (run.spec.exec_log && !keep_folder(place.exec, run.job, ".exec", exec_log))) {
        snprintf(said, sizeof said, "its results cannot be kept in %.100s: %s", place.out, strerror(errno));
        d.message = run.message[0] ? run.message : said;
        results[0] = exec_log[0] = 0;
    }
    new_task.n = 0;
    switch (read_new_task(&new_task)) {
    case NEW_TASK:
        d.new_task = &new_task;
        break;
    case BAD_NEW_TASK:
        d.message = d.message[0] ? d.message : "SubmitNewTaskFailed";
        break;
    case NO_NEW_TASK:
        break;
    }
    if (!run.forget)
        say_done(run.job, &d, &output);
    clear_run();
}

static void refuse_run(int status, const char *message)
{
    output_end(&output);
    remove_resources();
    refuse_task(run.job, status, message);
    clear_run();
}

/* Starts the process of run.job. Memory or processes may be short for a moment: that is tried again. */
static void start_run(void)
{
    char resources[PATH_MAX], message[PATH_MAX + 256];
    const char *wrong;
    struct stat s;
    run.retry_at = NEVER;
    if ((wrong = clear_folders()) != NULL) {
        snprintf(message, sizeof message, "cannot empty the folder %s: %s", wrong, strerror(errno));
        refuse_run(NOT_EXECUTABLE, message);
        return;
    }
    if (run.spec.has_resources) {
        task_path(resources, place.in, run.job, "");
        if (stat(resources, &s) < 0) {
            refuse_run(NOT_EXECUTABLE, "ResourceNotFound");
            return;
        }
    }
    if (!output_begin(&output, run.job, run.spec.terminal_output, rule.output_limit)) {
        snprintf(message, sizeof message, "cannot open %s: %s", output.log_path[0] ? output.log_path : "a pipe", strerror(errno));
        output.log_path[0] = 0;
        refuse_run(NOT_EXECUTABLE, message);
        return;
    }
    char **env = make_env(&run.spec.envs, &rule.env, run.job, run.spec.has_resources ? resources : place.resource);
    struct start how = {run.spec.args.at, env, run.spec.cwd, env_value(env, "PATH", "/usr/local/bin:/usr/bin:/bin"),
                        output.write_fd, 0, false};
    run.start_ns = clock_ns(CLOCK_REALTIME);
    run.pid = start_process(&how);
    int err = errno;
    free(env);
    if (run.pid < 0) {
        run.pid = 0;
        output_end(&output);
        if (++run.fork_tries < FORK_TRIES) {
            run.retry_at = now_ns() + FORK_RETRY_MS * MS;
            return;
        }
        snprintf(message, sizeof message, "no process can be started: %s", strerror(err));
        refuse_run(NOT_EXECUTABLE, message);
    } else if (how.err) {
        waitpid(run.pid, NULL, __WALL);
        run.pid = 0;
        int status = refusal(&how, message, sizeof message);
        refuse_run(status, message);
    } else {
        int64_t now = now_ns();
        run.state_at = now + STATE_AFTER_NS;
        if (run.spec.timeout_ns)
            run.timeout_at = now + run.spec.timeout_ns;
    }
}

static void start_next(void)
{
    while (!run.job && queue.n && !rule.paused && !rule.stopping && crew.boxed < MAX_UNTAKEN
           && crew.box.n < MAX_UNTAKEN_BYTES) {
        run.job = unlink_job(&queue.first);
        const char *wrong = read_spec(run.job->spec, run.job->n, &run.spec);
        if (wrong) {
            char message[128];
            snprintf(message, sizeof message, "its spec cannot be run: %s", wrong);
            refuse_run(NOT_EXECUTABLE, message);
        } else {
            start_run();
        }
    }
}

/* TERM to all of it now, KILL after the grace; `message` says why. */
static void end_run(const char *message, int64_t grace_ns)
{
    if (run.killing)
        return;
    if (!run.message[0])
        run.message = message;
    run.timeout_at = NEVER;
    int64_t at = now_ns() + grace_ns;
    run.kill_at = at < run.kill_at ? at : run.kill_at;
    if (grace_ns)
        signal_descendants(SIGTERM);
}

/* Reaps what has ended; after the first process, the rest is killed. */
static void reap(void)
{
    int status;
    pid_t pid;
    bool before = run.killing;
    if (!run.job || run.retry_at != NEVER)
        return;
    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
        if (pid == run.pid) {
            run.pid = 0;
            run.end_ns = clock_ns(CLOCK_REALTIME);
            run.status = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
            run.killing = true;
            run.state_at = run.timeout_at = NEVER;
        }
    if (pid < 0 && errno == ECHILD) {
        finish_task();
    } else if (run.killing && !before) {
        run.kill_at = now_ns();
        run.retry_ms = 0;
    }
}

/* What is still there cannot die yet, or was born meanwhile: ask less and less often. */
static void kill_run(void)
{
    run.killing = true;
    run.timeout_at = run.state_at = NEVER;
    kill_descendants();
    run.retry_ms = kill_again_after_ms(run.retry_ms, false);
    run.kill_at = now_ns() + run.retry_ms * MS;
    reap();
}

/* ---- from the crew ------------------------------------------------------------------------------------------- */

static void stop(bool graceful)
{
    rule.stopping = true;
    rule.leave_at = now_ns() + LEAVE_AFTER_NS;
    if (run.job && !graceful) {
        run.forget = true;
        run.kill_at = now_ns();
        if (run.retry_at != NEVER) {
            remove_resources();
            clear_run();
        }
    }
}

static void on_cancel(const struct message *m)
{
    if (run.job && run.job->task == m->task && run.job->attempt == m->attempt) {
        if (run.retry_at != NEVER)
            refuse_run(-SIGTERM, "UserCancellation");
        else
            end_run("UserCancellation", m->grace_ns);
        return;
    }
    for (struct job **at = &queue.first; *at; at = &(*at)->next)
        if ((*at)->task == m->task && (*at)->attempt == m->attempt) {
            struct job *j = unlink_job(at);
            remove_inputs(j);
            refuse_task(j, -SIGTERM, "UserCancellation");
            free(j);
            return;
        }
}

static const char *on_taken(int64_t count)
{
    size_t at = 0;
    if (count < (int64_t)crew.taken || (uint64_t)count - crew.taken > crew.boxed)
        return "TAKEN counts more DONEs than were sent, or fewer than before";
    for (; crew.taken < (size_t)count; crew.taken++, crew.boxed--)
        at += 4 + message_bytes(crew.box.b + at);
    drop_front(&crew.box, at);
    return NULL;
}

static const char *on_welcome(struct message *m)
{
    if (place.top[0] && strcmp(place.top, m->folder) != 0)
        return "WELCOME names another folder than before";
    if (!place.top[0] && !use_place(m->folder))
        leave(EXIT_FAILURE, "cannot use the folder %s: %s; is its parent there, and writable?", m->folder, strerror(errno));
    free_texts(&rule.env);
    rule.env = m->env;
    m->env = (struct texts){0};
    drop_own(&rule.env);
    rule.grace_ns = m->grace_ns;
    rule.output_limit = m->output_limit;
    rule.paused = false;
    crew.welcomed = true;
    crew.retry_ms = RECONNECT_FIRST_MS;
    crew.taken = 0;
    append(&crew.out, crew.box.b, crew.box.n);
    flush();
    return NULL;
}

/* NULL, or how it breaks the rules. */
static const char *on_message(struct message *m)
{
    if (m->kind == REFUSED)
        leave(EXIT_MALFORMED, "the crew at %s refuses this worker (unit %s): %s", opt.socket, opt.unit, m->why);
    if (m->kind == WELCOME)
        return crew.welcomed ? "WELCOME came twice" : on_welcome(m);
    if (!crew.welcomed)
        return "WELCOME must come first";
    switch (m->kind) {
    case RUN:
        if (queue.n >= MAX_QUEUED || queue.bytes + m->job->n > MAX_QUEUED_BYTES)
            return "more tasks wait here than a worker takes";
        *queue.end = m->job;
        queue.end = &m->job->next;
        queue.n++;
        queue.bytes += m->job->n;
        m->job = NULL;
        break;
    case CANCEL:
        on_cancel(m);
        break;
    case PAUSE: case RESUME:
        rule.paused = m->kind == PAUSE;
        break;
    case STOP:
        stop(m->graceful);
        break;
    default:
        return on_taken(m->count);
    }
    return NULL;
}

static void receive(void)
{
    ssize_t n = recv(crew.fd, grow(&crew.in, RECEIVE_BYTES), RECEIVE_BYTES, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        disconnect();
        return;
    }
    crew.in.n += (size_t)n;
    size_t at = 0;
    while (crew.fd >= 0 && crew.in.n - at >= 4) {
        struct message m;
        size_t length = message_bytes(crew.in.b + at);
        if (length > MAX_MESSAGE_BYTES)
            leave(EXIT_MALFORMED, "the crew sends a message of %zu bytes, the limit is %d", length, MAX_MESSAGE_BYTES);
        if (crew.in.n - at - 4 < length)
            break;
        const char *wrong = read_message(crew.in.b + at + 4, length, &m);
        int kind = m.kind;
        wrong = wrong ? wrong : on_message(&m);
        if (wrong)
            leave(EXIT_MALFORMED, "the crew breaks the rules: %s (kind %d, %zu bytes)", wrong, kind, length);
        free_message(&m);
        at += 4 + length;
    }
    if (crew.fd >= 0)
        drop_front(&crew.in, at);
}

/* A path longer than a socket address holds is taken by way of its folder. */
static bool connect_to(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char folder[PATH_MAX];
    int via = -1, n = snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    const char *name = strrchr(path, '/');
    if (n >= (int)sizeof to.sun_path && name) {
        snprintf(folder, sizeof folder, "%.*s", (int)(name - path), path);
        via = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
        snprintf(to.sun_path, sizeof to.sun_path, "/proc/self/fd/%d/%.64s", via, name + 1);
    }
    bool done = connect(crew.fd, (struct sockaddr *)&to, sizeof to) == 0;
    close_fd(&via);
    return done;
}

static void reconnect(void)
{
    crew.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int64_t now = now_ns(), wait = crew.retry_ms * MS;
    if (crew.fd >= 0 && connect_to(opt.socket))
        say_hello();
    else
        close_fd(&crew.fd);
    crew.retry_at = now + wait - (now / 1000 % 32) * wait / 128; /* not all workers at once */
    crew.retry_ms = 2 * crew.retry_ms < RECONNECT_MAX_MS ? 2 * crew.retry_ms : RECONNECT_MAX_MS;
}

/* ---- the loop, start and end --------------------------------------------------------------------------------- */

static int64_t earliest(void)
{
    int64_t at = NEVER;
    const int64_t times[] = {run.timeout_at, run.kill_at, run.state_at, run.retry_at,
                             crew.fd < 0 ? crew.retry_at : NEVER, run.job ? NEVER : rule.leave_at};
    for (size_t k = 0; k < sizeof times / sizeof times[0]; k++)
        at = times[k] < at ? times[k] : at;
    return at;
}

static void run_timers(void)
{
    int64_t now = now_ns();
    if (crew.fd < 0 && crew.retry_at <= now)
        reconnect();
    if (run.state_at <= now) {
        run.state_at = NEVER;
        say_state();
    }
    if (run.timeout_at <= now)
        end_run("ExecTimeout", rule.grace_ns);
    if (run.kill_at <= now)
        kill_run();
    if (run.retry_at <= now)
        start_run();
}

static void read_signals(bool *child)
{
    struct signalfd_siginfo got[8];
    ssize_t n;
    while ((n = read(signal_fd, got, sizeof got)) > 0) {
        for (size_t k = 0; k < (size_t)n / sizeof got[0]; k++)
            if (got[k].ssi_signo == SIGCHLD)
                *child = true;
            else
                stop(!rule.stopping); /* the second time in earnest */
        if ((size_t)n < sizeof got)
            break;
    }
}

/* With nothing left to do, when the crew has all, or does not say so in time. */
static bool is_over(void)
{
    return rule.stopping && !run.job && ((!crew.boxed && !crew.out.n) || now_ns() >= rule.leave_at);
}

static void run_loop(void)
{
    enum { CREW, SIGNALS, OUTPUT, ALL };
    while (!is_over()) {
        struct pollfd on[ALL] = {
            [CREW] = {.fd = crew.fd, .events = (short)(crew.out.n ? POLLIN | POLLOUT : POLLIN)},
            [SIGNALS] = {.fd = signal_fd, .events = POLLIN},
            [OUTPUT] = {.fd = output.read_fd, .events = POLLIN}};
        int64_t at = earliest(), left = at == NEVER ? 0 : at - now_ns();
        struct timespec wait = {left > 0 ? left / 1000000000 : 0, left > 0 ? left % 1000000000 : 0};
        if (ppoll(on, ALL, at == NEVER ? NULL : &wait, NULL) < 0 && errno != EINTR)
            leave(EXIT_FAILURE, "poll: %s", strerror(errno));
        bool child = false;
        if (on[SIGNALS].revents)
            read_signals(&child);
        if (on[OUTPUT].revents)
            output_read(&output, CHUNKS_PER_TURN);
        if (child)
            reap();
        if (on[CREW].revents & ~POLLOUT)
            receive();
        if (on[CREW].revents & POLLOUT)
            flush();
        if (earliest() != NEVER)
            run_timers();
        start_next();
    }
}

static void prepare(void)
{
    static const unsigned long normal[8]; /* by the system call: the C library keeps 32 and 33 to itself */
    struct sigaction ended = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP};
    sigset_t all, wanted;
    int null;
    do /* 0, 1 and 2 are something, or a later descriptor would become one of them */
        null = open("/dev/null", O_RDWR);
    while (null >= 0 && null <= 2);
    dup2(null, 0);
    syscall(SYS_close_range, 3u, ~0u, 0);
    for (int s = 1; s <= SIGRTMAX; s++) /* what is ignored here would be ignored in every task */
        syscall(SYS_rt_sigaction, s, normal, NULL, 8);
    sigaction(SIGCHLD, &ended, NULL);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    signal_fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    self = getpid();
    if (signal_fd < 0 || !adopt_descendants())
        leave(EXIT_FAILURE, "cannot start: %s", strerror(errno));
}

static bool whole_number(const char *text, long most, long *value)
{
    char *end;
    errno = 0;
    *value = strtol(text, &end, 10);
    return *text && !*end && !errno && *value >= 0 && *value <= most;
}

/* NULL, or the argument that is wrong. */
static const char *read_arguments(char **argv)
{
    long ignored;
    /* As the supervisor of units tells each of them who it is; a token has no place among arguments. */
    const char *incarnation = getenv("MGMT_INCARNATION");
    opt.token = getenv("MGMT_TOKEN");
    opt.unit = getenv("MGMT_UNIT");
    opt.socket = getenv("MGMT_WORKER_SOCKET");
    if (incarnation && !whole_number(incarnation, LONG_MAX, &opt.incarnation))
        return "MGMT_INCARNATION";
    for (argv++; *argv; argv++) {
        const char *name = *argv;
        if (strcmp(name, "--managed") == 0)
            continue;
        const char *value = *++argv;
        if (!value)
            return name;
        if (strcmp(name, "--socket") == 0)
            opt.socket = value;
        else if (strcmp(name, "--unit") == 0)
            opt.unit = value;
        else if (strcmp(name, "--token") == 0)
            opt.token = value;
        else if (strcmp(name, "--incarnation") == 0) {
            if (!whole_number(value, LONG_MAX, &opt.incarnation))
                return name;
        } else if (strcmp(name, "--worker-id") == 0) {
            if (!whole_number(value, 255, &ignored))
                return name;
        } else if (strcmp(name, "--manager-uuid") != 0)
            return name;
    }
    return !opt.socket ? "--socket" : !opt.unit ? "--unit" : opt.incarnation < 0 ? "--incarnation" : NULL;
}

int main(int argc, char **argv)
{
    (void)argc;
    const char *wrong = read_arguments(argv);
    if (wrong)
        leave(EXIT_MALFORMED, "%s is missing, unknown or has no good value\nusage: mgmt-worker --socket PATH --unit NAME "
                          "--incarnation N [--token TOKEN] [--managed] [--manager-uuid UUID] [--worker-id 0..255]", wrong);
    if (!opt.token)
        opt.token = "";
    prepare();
    clear_run();
    run_loop();
    return EXIT_SUCCESS;
}

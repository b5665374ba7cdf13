/*
 * mgmt-observer: has the kernel add up what the threads of processes do (observer.bpf.c, loaded by libbpf).
 *
 *   mgmt-observer --fd N | --probe
 *
 * N is one end of a SOCK_SEQPACKET pair; when the other end closes, this program ends, and the kernel forgets all that
 * was loaded. Packets are ASCII lines, `word key=value ...`, every number decimal; each request has one answer. Between
 * requests this program sleeps: figures are read from the memory that an answer brings, by whoever has it.
 *
 *   to it    watch pid=  + a pidfd of it    add up what its threads do, until it ends
 *            unwatch pid=
 *   from it  hello version= task_bytes=     first, or:
 *            failed errno= at=open|load|attach|blind
 *            ok | ok + a map, of one struct observer_task, to be mapped
 *            refused errno=
 *
 * --probe loads all, looks at itself, prints `ok` or `failed ...`, with libbpf's own words on stderr. `blind`: it did
 * not see itself, because the kernel knows it by another number than it does: in a PID namespace.
 */
#define _GNU_SOURCE
#include "observer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PROTOCOL_VERSION = 1, MAX_TASKS = 1024, PACKET_BYTES = 256, LOOKS = 20, EXIT_USAGE = 64 };

/* What observer.bpf.c was compiled to. */
__asm__(".section .rodata\n.balign 8\nobject_start:\n.incbin \"" OBSERVER_OBJECT "\"\nobject_end:\n.previous");
extern const char object_start[], object_end[];

static struct { uint32_t pid; int pidfd; } watched[MAX_TASKS]; /* pid 0: a free place */
static int control, epoll, tasks, threads;
static bool talkative;

static int say(enum libbpf_print_level level, const char *format, va_list arguments)
{
    return talkative && level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

/* A map for the process; -1 with errno. The kernel keeps it while it is in `tasks` or somebody has it mapped. */
static int add(uint32_t pid)
{
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_MMAPABLE);
    int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "mgmt_task", sizeof(uint32_t), sizeof(struct observer_task), 1, &options);
    if (map < 0)
        return -1;
    if (bpf_map_update_elem(tasks, &pid, &map, BPF_ANY) < 0) {
        int error = errno;
        close(map);
        errno = error;
        return -1;
    }
    return map;
}

/* Takes it out, and what is kept of its threads. */
static void take_out(uint32_t pid)
{
    uint32_t tid, next;
    struct observer_thread thread;
    bpf_map_delete_elem(tasks, &pid);
    for (bool more = bpf_map_get_next_key(threads, NULL, &next) == 0; more;) {
        tid = next;
        more = bpf_map_get_next_key(threads, &tid, &next) == 0;
        if (bpf_map_lookup_elem(threads, &tid, &thread) == 0 && thread.process == pid)
            bpf_map_delete_elem(threads, &tid);
    }
}

/* Whether the kernel knows us by the number that we have: sleeps until its own sleeps are counted. */
static bool sees_itself(void)
{
    uint32_t self = (uint32_t)getpid();
    int map = add(self);
    if (map < 0)
        return false;
    volatile struct observer_task *task = mmap(NULL, sizeof *task, PROT_READ, MAP_SHARED, map, 0);
    int error = errno;
    bool mapped = (void *)(uintptr_t)task != MAP_FAILED, seen = false;
    for (int look = 0; mapped && !seen && look < LOOKS; look++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        seen = task->activations > 0;
    }
    if (mapped)
        munmap((void *)(uintptr_t)task, sizeof *task);
    close(map);
    take_out(self);
    errno = mapped ? 0 : error;
    return seen;
}

/* NULL, or at what it failed, with errno. */
static const char *load(void)
{
    libbpf_set_print(say);
    struct bpf_object *object = bpf_object__open_mem(object_start, (size_t)(object_end - object_start), NULL);
    if (!object)
        return "open";
    if (bpf_object__load(object) < 0)
        return "load";
    struct bpf_program *program;
    bpf_object__for_each_program(program, object)
        if (!bpf_program__attach(program))
            return "attach";
    tasks = bpf_object__find_map_fd_by_name(object, "tasks");
    threads = bpf_object__find_map_fd_by_name(object, "threads");
    return sees_itself() ? NULL : "blind";
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void unwatch(int i)
{
    take_out(watched[i].pid);
    close(watched[i].pidfd);
    watched[i].pid = 0;
}

static int find(uint32_t pid)
{
    for (int i = 0; i < MAX_TASKS; i++)
        if (watched[i].pid == pid)
            return i;
    return -1;
}

/* The map of a process, which is watched from now on, anew when it was already; -1 with errno. Keeps `pidfd` then. */
static int watch(uint32_t pid, int pidfd)
{
    int i = find(pid);
    if (i >= 0)
        unwatch(i);
    else if ((i = find(0)) < 0)
        return errno = ENOSPC, -1;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = pid};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, pidfd, &event) < 0)
        return -1;
    int map = add(pid);
    if (map < 0) {
        int error = errno;
        epoll_ctl(epoll, EPOLL_CTL_DEL, pidfd, NULL);
        errno = error;
        return -1;
    }
    watched[i].pid = pid;
    watched[i].pidfd = pidfd;
    return map;
}

union space {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
};

/* False: the other end is gone. */
static bool answer(const char *line, int file)
{
    union space space = {0};
    struct iovec text = {.iov_base = (void *)(uintptr_t)line, .iov_len = strlen(line)};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1};
    if (file >= 0) {
        message.msg_control = &space;
        message.msg_controllen = sizeof space;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof file);
        memcpy(CMSG_DATA(head), &file, sizeof file);
    }
    return sendmsg(control, &message, MSG_NOSIGNAL) >= 0;
}

static bool refuse(int error)
{
    char line[PACKET_BYTES];
    snprintf(line, sizeof line, "refused errno=%d", error);
    return answer(line, -1);
}

/* One request; false: the other end is gone. */
static bool serve(void)
{
    char line[PACKET_BYTES];
    union space space;
    struct iovec text = {.iov_base = line, .iov_len = sizeof line - 1};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = &space, .msg_controllen = sizeof space};
    ssize_t n = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    line[n] = 0;
    int pidfd = -1;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(sizeof pidfd))
        memcpy(&pidfd, CMSG_DATA(head), sizeof pidfd);
    unsigned pid = 0;
    int end = 0;
    if (sscanf(line, "watch pid=%u%n", &pid, &end) == 1 && end == n && pid && pidfd >= 0) {
        int map = watch(pid, pidfd);
        if (map >= 0) {
            bool there = answer("ok", map);
            close(map);
            return there;
        }
        int error = errno;
        close(pidfd);
        return refuse(error);
    }
    if (pidfd >= 0)
        close(pidfd);
    if (sscanf(line, "unwatch pid=%u%n", &pid, &end) != 1 || end != n || !pid)
        return refuse(EINVAL);
    int i = find(pid);
    if (i >= 0)
        unwatch(i);
    return answer("ok", -1);
}

static void run_loop(void)
{
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, -1) < 1)
            continue;
        if (!event.data.u32) {
            if (!serve())
                return;
            continue;
        }
        int i = find(event.data.u32); /* it has ended; its number may be given away */
        if (i >= 0)
            unwatch(i);
    }
}

int main(int argc, char **argv)
{
    char line[PACKET_BYTES] = "ok", *end;
    talkative = argc == 2 && strcmp(argv[1], "--probe") == 0;
    long number = argc == 3 && strcmp(argv[1], "--fd") == 0 ? strtol(argv[2], &end, 10) : -1;
    if (!talkative && (number <= 2 || number > INT_MAX || *end || fcntl((int)number, F_SETFD, FD_CLOEXEC) < 0)) {
        fputs("usage: mgmt-observer --fd N | --probe; N: a SOCK_SEQPACKET socket above 2\n", stderr);
        return EXIT_USAGE;
    }
    control = (int)number;
    const char *failed = load();
    if (failed)
        snprintf(line, sizeof line, "failed errno=%d at=%s", errno, failed);
    else if (!talkative)
        snprintf(line, sizeof line, "hello version=%d task_bytes=%zu", PROTOCOL_VERSION, sizeof(struct observer_task));
    if (talkative)
        return puts(line), failed ? EXIT_FAILURE : EXIT_SUCCESS;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 0};
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!answer(line, -1) || failed || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, control, &event) < 0)
        return EXIT_FAILURE;
    run_loop();
    return EXIT_SUCCESS;
}

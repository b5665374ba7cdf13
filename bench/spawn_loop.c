/*
 * The floor of processes per second: posix_spawn and waitpid, nothing else.
 *
 *   spawn_loop COUNT IN_FLIGHT PROGRAM ARG...      prints processes per second
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void start(char **argv)
{
    pid_t pid;
    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) != 0) {
        fprintf(stderr, "spawn_loop: cannot start %s\n", argv[0]);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fputs("usage: spawn_loop COUNT IN_FLIGHT PROGRAM ARG...\n", stderr);
        return 2;
    }
    long count = atol(argv[1]), in_flight = atol(argv[2]), started = 0, ended = 0;
    double from = now_s();
    while (started < in_flight && started < count) {
        start(argv + 3);
        started++;
    }
    for (; ended < count && waitpid(-1, NULL, 0) > 0; ended++)
        if (started < count) {
            start(argv + 3);
            started++;
        }
    printf("%.1f\n", (double)ended / (now_s() - from));
    return 0;
}

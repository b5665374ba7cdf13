/*
 * A task for tests: client [--fifo P] [--jobs N] [--burn-us U] [--overrun-us U --overrun-jobs A,B-C,...] [--stop-at J]
 * Says `ready` once attached. An overrun sleeps; --stop-at hangs in that job for good. With --signals N it waits for
 * N times SIGRTMIN+2 instead, and says when each came.
 */
#include "mgmt_rt.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static void burn(uint64_t us)
{
    uint64_t end_ns = mgmt_rt_clock_ns(CLOCK_THREAD_CPUTIME_ID) + us * 1000;
    while (mgmt_rt_clock_ns(CLOCK_THREAD_CPUTIME_ID) < end_ns)
        ;
}

static bool among(const char *jobs, int64_t job)
{
    while (*jobs) {
        char *end;
        int64_t first = strtoll(jobs, &end, 10), last = *end == '-' ? strtoll(end + 1, &end, 10) : first;
        if (job >= first && job <= last)
            return true;
        jobs = *end ? end + 1 : end;
    }
    return false;
}

static int wait_for_signals(long count)
{
    sigset_t release;
    sigemptyset(&release);
    sigaddset(&release, SIGRTMIN + 2);
    sigprocmask(SIG_BLOCK, &release, NULL);
    puts("ready");
    fflush(stdout);
    while (count-- > 0 && sigwaitinfo(&release, NULL) > 0)
        printf("%llu\n", (unsigned long long)mgmt_rt_clock_ns(CLOCK_MONOTONIC));
    return 0;
}

int main(int argc, char **argv)
{
    struct mgmt_rt_task task;
    uint64_t burn_us = 0, overrun_us = 0;
    alarm(120); /* whoever killed the test does not pay for this for ever */
    int64_t jobs = INT64_MAX - 1, stop_at = -1, job;
    long signals = 0;
    const char *overrun_jobs = "";
    for (int k = 1; k + 1 < argc; k += 2) {
        long value = atol(argv[k + 1]);
        struct sched_param param = {.sched_priority = (int)value};
        if (!strcmp(argv[k], "--fifo") && sched_setscheduler(0, SCHED_FIFO, &param) < 0)
            return perror("fifo"), 2;
        if (!strcmp(argv[k], "--jobs"))
            jobs = value;
        if (!strcmp(argv[k], "--burn-us"))
            burn_us = (uint64_t)value;
        if (!strcmp(argv[k], "--overrun-us"))
            overrun_us = (uint64_t)value;
        if (!strcmp(argv[k], "--overrun-jobs"))
            overrun_jobs = argv[k + 1];
        if (!strcmp(argv[k], "--stop-at"))
            stop_at = value;
        if (!strcmp(argv[k], "--signals"))
            signals = value;
    }
    if (signals)
        return wait_for_signals(signals);
    if (mgmt_rt_open(&task, NULL) < 0)
        return fprintf(stderr, "%s\n", mgmt_rt_explain(errno)), 3;
    puts("ready");
    fflush(stdout);
    for (int64_t n = 0; (job = mgmt_rt_wait_next_period(&task)) >= 0 && n < jobs; n++) {
        burn(burn_us);
        if (job == stop_at)
            for (;;)
                pause();
        if (among(overrun_jobs, job)) {
            struct timespec pause_for = {.tv_sec = (time_t)(overrun_us / 1000000),
                                         .tv_nsec = (long)(overrun_us % 1000000) * 1000};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause_for, NULL);
        }
    }
    mgmt_rt_close(&task);
    return job < 0 ? 4 : 0;
}

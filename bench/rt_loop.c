/*
 * rt_loop bare|library PERIOD_NS JOBS PRIORITY CPU: wakes JOBS times at absolute instants under FIFO on one CPU, then
 * writes how late each waking was, as 64-bit nanoseconds. Both kinds read the clock themselves, after the call.
 */
#include "mgmt_rt.h"

#include <sched.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct mgmt_rt_task task;
    struct sched_param param;
    cpu_set_t cpus;
    if (argc != 6)
        return 64;
    bool bare = strcmp(argv[1], "bare") == 0;
    uint64_t period_ns = strtoull(argv[2], NULL, 10), jobs = strtoull(argv[3], NULL, 10);
    uint64_t *late_ns = calloc(jobs, sizeof *late_ns);
    param.sched_priority = atoi(argv[4]);
    CPU_ZERO(&cpus);
    CPU_SET((size_t)atoi(argv[5]), &cpus);
    if (!late_ns || sched_setaffinity(0, sizeof cpus, &cpus) < 0 || sched_setscheduler(0, SCHED_FIFO, &param) < 0
        || mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        return perror("rt_loop"), 1;
    if (!bare && mgmt_rt_open(&task, NULL) < 0)
        return fprintf(stderr, "rt_loop: %s\n", mgmt_rt_explain(errno)), 1;
    puts("ready");
    fflush(stdout);
    uint64_t next_ns = mgmt_rt_clock_ns(CLOCK_MONOTONIC) + 10 * period_ns;
    for (uint64_t i = 0; i < jobs; i++) {
        if (bare) {
            const struct timespec at = {.tv_sec = (time_t)(next_ns / 1000000000), .tv_nsec = (long)(next_ns % 1000000000)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
            late_ns[i] = mgmt_rt_clock_ns(CLOCK_MONOTONIC) - next_ns;
            next_ns += period_ns;
        } else {
            mgmt_rt_wait_next_period(&task);
            late_ns[i] = mgmt_rt_clock_ns(CLOCK_MONOTONIC) - task.release_ns;
        }
    }
    fwrite(late_ns, sizeof *late_ns, jobs, stdout);
    return 0;
}

/* Preloaded: a process that reads, waits by or arms the wall clock aborts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <sys/timerfd.h>

#define NEXT(name, type) \
    __typeof__(type) next; \
    void *found = dlsym(RTLD_NEXT, name); \
    memcpy(&next, &found, sizeof next)

static void forbid(clockid_t clock)
{
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI || clock == CLOCK_REALTIME_ALARM)
        abort();
}

int clock_gettime(clockid_t clock, struct timespec *to)
{
    NEXT("clock_gettime", int (*)(clockid_t, struct timespec *));
    forbid(clock);
    return next(clock, to);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *at, struct timespec *rest)
{
    NEXT("clock_nanosleep", int (*)(clockid_t, int, const struct timespec *, struct timespec *));
    forbid(clock);
    return next(clock, flags, at, rest);
}

int timerfd_create(clockid_t clock, int flags)
{
    NEXT("timerfd_create", int (*)(clockid_t, int));
    forbid(clock);
    return next(clock, flags);
}

int gettimeofday(struct timeval *to, void *zone)
{
    (void)to, (void)zone;
    abort();
}

time_t time(time_t *to)
{
    (void)to;
    abort();
}

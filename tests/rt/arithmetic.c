/* arithmetic SEGMENT T0: for each number on standard input, its first job, that job's release, and its bucket. */
#include "mgmt_rt.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    typedef unsigned long long u;
    u value;
    int file = argc == 3 ? open(argv[1], O_RDWR) : -1;
    struct mgmt_rt_segment *segment = file < 0 ? NULL : mgmt_rt_map(file);
    if (!segment || mgmt_rt_refusal(&segment->plan))
        return 1;
    uint64_t t0_ns = strtoull(argv[2], NULL, 10);
    while (scanf("%llu", &value) == 1) {
        uint64_t job = mgmt_rt_first_job(&segment->plan, t0_ns, value);
        printf("%llu %llu %zu\n", (u)job, (u)mgmt_rt_release_ns(&segment->plan, t0_ns, job), mgmt_rt_bucket(value));
    }
    return 0;
}

/* Without libFuzzer: driver SECONDS FILE... replays the files and then random changes of them. */
#include <time.h>

#include "fuzz.h"

#define LONGEST 4096

static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static size_t read_file(const char *name, uint8_t *into)
{
    FILE *file = fopen(name, "rb");
    if (!file) {
        perror(name);
        exit(2);
    }
    size_t size = fread(into, 1, LONGEST, file);
    fclose(file);
    return size;
}

static size_t change(uint8_t *data, size_t size)
{
    for (uint64_t times = 1 + next() % 8; times > 0; times--)
        switch (next() % 4) {
        case 0: /* longer */
            for (uint64_t more = next() % 32; more > 0 && size < LONGEST; more--)
                data[size++] = (uint8_t)next();
            break;
        case 1: /* shorter */
            size -= size ? next() % size / 4 : 0;
            break;
        default:
            if (size)
                data[next() % size] = next() % 2 ? (uint8_t)next() : (uint8_t)(next() % 4);
        }
    return size;
}

int main(int count, char **names)
{
    static uint8_t seed[LONGEST], data[LONGEST];
    if (count < 3) {
        fprintf(stderr, "usage: %s SECONDS FILE...\n", names[0]);
        return 2;
    }
    time_t end = time(NULL) + strtol(names[1], NULL, 10);
    long run = 0;
    for (int i = 2; i < count; i++)
        LLVMFuzzerTestOneInput(data, read_file(names[i], data));
    for (; run % 64 || time(NULL) < end; run++) {
        size_t size = read_file(names[2 + next() % (uint64_t)(count - 2)], seed);
        memcpy(data, seed, size);
        size = change(data, size);
        /* Of its own block, so that reading past the input is seen. */
        uint8_t *exact = malloc(size ? size : 1);
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%d files, %ld changed\n", count - 2, run);
    return 0;
}

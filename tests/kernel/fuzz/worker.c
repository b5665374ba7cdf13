/* What mgmt-worker reads: messages and specs from anywhere are taken whole or refused, and never read beyond. */
#define _GNU_SOURCE
#include <limits.h>
#include <stdbool.h>
#include <unistd.h>

#include "fuzz.h"

#include "../../../mgmt/worker/worker/pack.c"

#include "../../../mgmt/worker/worker/messages.c"

static void check_texts(const struct texts *t, bool environment)
{
    if (!t->at)
        return;
    REQUIRE(t->at[t->n] == NULL);
    for (size_t k = 0; k < t->n; k++)
        REQUIRE(!environment || strchr(t->at[k], '=') > t->at[k]);
}

static void check_spec(const uint8_t *data, size_t size)
{
    struct spec s;
    if (read_spec(data, size, &s) == NULL) {
        REQUIRE(s.args.n > 0 && s.args.at[0][0]);
        REQUIRE(s.timeout_ns >= 0);
        check_texts(&s.args, false);
        check_texts(&s.envs, true);
    }
    free_spec(&s);
}

static void check_message(const uint8_t *data, size_t size)
{
    struct message m;
    if (read_message(data, size, &m) == NULL) {
        REQUIRE(m.kind >= WELCOME && m.kind <= REFUSED);
        REQUIRE((m.kind == RUN) == (m.job != NULL) && (m.kind == WELCOME) == (m.folder != NULL));
        REQUIRE(m.task >= 0 && m.attempt >= 0 && m.grace_ns >= 0 && m.count >= 0 && m.output_limit >= 0);
        check_texts(&m.env, true);
        if (m.job)
            check_spec(m.job->spec, m.job->n);
    }
    free_message(&m);
}

/* Whatever is written can be read again, to its end. */
static void check_writing(const uint8_t *data, size_t size)
{
    struct bytes out = {0};
    struct item i;
    int64_t number = 0;
    char *text = fuzz_memory(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    memcpy(&number, data, size < sizeof number ? size : sizeof number);
    write_array(&out, 4 + size % 20);
    write_map(&out, 1);
    write_text(&out, text);
    write_bool(&out, size & 1);
    write_int(&out, number);
    write_binary(&out, data, size);
    for (size_t k = 0; k < 1 + size % 20; k++)
        write_int(&out, -(int64_t)k);
    struct reader r = {out.b, out.b + out.n};
    REQUIRE(skip_item(&r) && r.at == r.end);
    r.at = out.b;
    REQUIRE(read_type(&r, ARRAY, &i) && read_type(&r, MAP, &i) && read_type(&r, TEXT, &i) && i.n == strlen(text));
    REQUIRE(read_type(&r, BOOL, &i) && i.integer == (int64_t)(size & 1));
    REQUIRE(read_type(&r, INTEGER, &i) && i.integer == number);
    REQUIRE(read_type(&r, BINARY, &i) && i.n == size && memcmp(i.bytes, data, size) == 0);
    drop_front(&out, out.n / 2);
    free(out.b);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = {data, data + size};
    while (skip_item(&r))
        ;
    check_message(data, size);
    check_spec(data, size);
    check_writing(data, size);
    return 0;
}

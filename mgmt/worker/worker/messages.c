/* What a crew may say, and the spec of a task: read, checked, copied into memory of their own. */

enum {
    HELLO = 1, DONE = 2, STATE = 3,
    WELCOME = 16, RUN = 17, CANCEL = 18, PAUSE = 19, RESUME = 20, STOP = 21, TAKEN = 22, REFUSED = 23,
};

enum {
    MAX_MESSAGE_BYTES = 1 << 20,
    MAX_UUID_BYTES = 64,
    MAX_SECONDS = 1000000000,
};

/* Texts in one block: n pointers into it, NULL, and the block itself. */
struct texts { char **at; size_t n; };

struct job { /* a task that waits */
    struct job *next;
    int64_t task, attempt;
    char uuid[MAX_UUID_BYTES], upstream[MAX_UUID_BYTES];
    size_t n;
    uint8_t spec[];
};

struct message {
    int kind;
    struct job *job;           /* RUN */
    int64_t task, attempt;     /* CANCEL */
    int64_t grace_ns;          /* CANCEL, WELCOME */
    bool graceful;             /* STOP */
    int64_t count;             /* TAKEN */
    struct texts env;          /* WELCOME: NAME=value */
    char *folder;              /* WELCOME */
    int64_t output_limit;      /* WELCOME, bytes */
    char why[256];             /* REFUSED */
};

struct spec {
    struct texts args, envs;
    char *cwd; /* or NULL */
    int64_t timeout_ns; /* 0: none */
    bool terminal_output, exec_log, has_resources;
};

static void free_texts(struct texts *t)
{
    if (t->at)
        free(t->at[t->n + 1]); /* the block */
    free(t->at);
    *t = (struct texts){0};
}

/* Room for n texts of together at most `bytes` bytes, each with its NUL. */
static char *texts_room(struct texts *t, size_t n, size_t bytes)
{
    t->at = calloc(n + 2, sizeof *t->at);
    char *block = malloc(bytes + 1);
    if (!t->at || !block)
        out_of_memory();
    t->n = n;
    t->at[n + 1] = block;
    return block;
}

static bool plain_text(const struct item *i)
{
    return i->type == TEXT && !memchr(i->bytes, 0, i->n);
}

static char *put_item(char *to, const struct item *i, char end)
{
    if (i->n)
        memcpy(to, i->bytes, i->n);
    to[i->n] = end;
    return to + i->n + 1;
}

static char *copy_text(const struct item *i)
{
    char *text = malloc((size_t)i->n + 1);
    if (!text)
        out_of_memory();
    put_item(text, i, 0);
    return text;
}

/* The head of each text takes a byte, which pays for its NUL: the input's length is room enough. */
static bool read_args(struct reader *r, struct texts *into)
{
    struct item list, i;
    if (into->at || !read_type(r, ARRAY, &list))
        return false;
    char *to = texts_room(into, list.n, (size_t)(r->end - r->at));
    for (uint32_t k = 0; k < list.n; k++) {
        if (!read_item(r, &i) || !plain_text(&i))
            return false;
        into->at[k] = to;
        to = put_item(to, &i, 0);
    }
    return true;
}

static bool read_env(struct reader *r, struct texts *into)
{
    struct item map, key, value;
    if (into->at || !read_type(r, MAP, &map))
        return false;
    char *to = texts_room(into, map.n, (size_t)(r->end - r->at));
    for (uint32_t k = 0; k < map.n; k++) {
        if (!read_item(r, &key) || !plain_text(&key) || !key.n || memchr(key.bytes, '=', key.n)
            || !read_item(r, &value) || !plain_text(&value))
            return false;
        into->at[k] = to;
        to = put_item(put_item(to, &key, '='), &value, 0);
    }
    return true;
}

/* Seconds, whole or not, not below 0. */
static bool read_seconds(struct reader *r, int64_t *ns)
{
    struct item i;
    if (!read_item(r, &i))
        return false;
    double s = i.type == INTEGER ? (double)i.integer : i.number;
    if ((i.type != INTEGER && i.type != NUMBER) || !(s >= 0 && s <= MAX_SECONDS))
        return false;
    *ns = (int64_t)(s * 1e9);
    return true;
}

static bool read_number(struct reader *r, int64_t least, int64_t *value)
{
    struct item i;
    bool good = read_type(r, INTEGER, &i) && i.integer >= least;
    *value = good ? i.integer : 0;
    return good;
}

/* nil is the empty text. */
static bool read_uuid(struct reader *r, char into[MAX_UUID_BYTES])
{
    struct item i;
    if (!read_item(r, &i))
        return false;
    into[0] = 0;
    if (i.type == NIL)
        return true;
    if (!plain_text(&i) || i.n >= MAX_UUID_BYTES)
        return false;
    put_item(into, &i, 0);
    return true;
}

static void free_spec(struct spec *s)
{
    free_texts(&s->args);
    free_texts(&s->envs);
    free(s->cwd);
    *s = (struct spec){0};
}

/* True when the next item is nil, which is then read: a field that is not there. */
static bool read_nil(struct reader *r)
{
    bool nil = r->at < r->end && *r->at == 0xc0;
    r->at += nil;
    return nil;
}

/* NULL, or what is wrong with it. Call free_spec either way. */
static const char *read_spec(const uint8_t *b, size_t n, struct spec *s)
{
    struct reader r = {b, b + n};
    struct item map, key, i;
    *s = (struct spec){0};
    if (!read_type(&r, MAP, &map))
        return "it is not a map";
    for (uint32_t k = 0; k < map.n; k++) {
        if (!read_type(&r, TEXT, &key))
            return "a key is not text";
        if (read_nil(&r))
            continue;
        if (item_is(&key, "args")) {
            if (!read_args(&r, &s->args))
                return "args is not a list of texts without NUL, given once";
        } else if (item_is(&key, "envs")) {
            if (!read_env(&r, &s->envs))
                return "envs is not a map of names to texts without NUL, given once";
        } else if (item_is(&key, "timeout_s")) {
            if (!read_seconds(&r, &s->timeout_ns))
                return "timeout_s is not a number of seconds from 0 to 1e9";
        } else if (item_is(&key, "terminal_output")) {
            if (!read_type(&r, BOOL, &i))
                return "terminal_output is not true or false";
            s->terminal_output = i.integer;
        } else if (item_is(&key, "exec_log")) {
            if (!read_type(&r, BOOL, &i))
                return "exec_log is not true or false";
            s->exec_log = i.integer;
        } else if (item_is(&key, "cwd")) {
            if (s->cwd || !read_item(&r, &i) || !plain_text(&i))
                return "cwd is not a text without NUL, given once";
            s->cwd = copy_text(&i);
        } else if (item_is(&key, "resources")) {
            struct reader list = r;
            if (!read_type(&list, ARRAY, &i) || !skip_item(&r))
                return "resources is not a list";
            s->has_resources = i.n > 0;
        } else if (item_is(&key, "function")) {
            return "a function needs a resident worker";
        } else if (!skip_item(&r)) {
            return "it is damaged";
        }
    }
    if (r.at != r.end)
        return "there is something behind it";
    return s->args.n && s->args.at[0][0] ? NULL : "args does not name a program";
}

static const char *read_run(struct reader *r, struct message *m)
{
    struct job head = {0};
    struct item spec;
    if (!read_number(r, 0, &head.task) || !read_number(r, 0, &head.attempt) || !read_type(r, BINARY, &spec)
        || !read_uuid(r, head.uuid) || !read_uuid(r, head.upstream))
        return "RUN is not [RUN, task, attempt, spec, uuid, upstream uuid]";
    m->job = malloc(sizeof head + spec.n);
    if (!m->job)
        out_of_memory();
    memcpy(m->job, &head, sizeof head);
    m->job->n = spec.n;
    if (spec.n)
        memcpy(m->job->spec, spec.bytes, spec.n);
    return NULL;
}

static const char *read_welcome(struct reader *r, struct message *m)
{
    struct item map, key, i;
    if (!read_type(r, MAP, &map))
        return "WELCOME has no map";
    for (uint32_t k = 0; k < map.n; k++) {
        if (!read_type(r, TEXT, &key))
            return "a key of WELCOME is not text";
        if (item_is(&key, "env")) {
            if (!read_env(r, &m->env))
                return "env of WELCOME is not a map of names to texts without NUL";
        } else if (item_is(&key, "folder")) {
            if (m->folder || !read_item(r, &i) || !plain_text(&i) || !i.n || i.bytes[0] != '/' || i.n > PATH_MAX / 2)
                return "folder of WELCOME is not an absolute path";
            m->folder = copy_text(&i);
        } else if (item_is(&key, "grace_s")) {
            if (!read_seconds(r, &m->grace_ns))
                return "grace_s of WELCOME is not a number of seconds";
        } else if (item_is(&key, "output_limit_bytes")) {
            if (!read_number(r, 0, &m->output_limit))
                return "output_limit_bytes of WELCOME is not a number";
        } else if (!skip_item(r)) {
            return "WELCOME is damaged";
        }
    }
    return m->folder ? NULL : "WELCOME names no folder";
}

static void free_message(struct message *m)
{
    free(m->job);
    free(m->folder);
    free_texts(&m->env);
    *m = (struct message){0};
}

/* One message without its length. NULL, or what is wrong with it. Call free_message either way. */
static const char *read_message(const uint8_t *b, size_t n, struct message *m)
{
    struct reader r = {b, b + n};
    struct item list, i;
    int64_t kind;
    const char *wrong = NULL;
    *m = (struct message){0};
    if (!read_type(&r, ARRAY, &list) || list.n < 1 || !read_number(&r, 0, &kind))
        return "it is not an array that starts with a kind";
    m->kind = kind <= REFUSED ? (int)kind : 0;
    static const uint32_t items[REFUSED + 1] = { /* with the kind */
        [WELCOME] = 2, [RUN] = 6, [CANCEL] = 4, [PAUSE] = 1, [RESUME] = 1, [STOP] = 2, [TAKEN] = 2, [REFUSED] = 2};
    if (!items[m->kind])
        return "its kind is not one that a crew sends";
    if (list.n != items[m->kind])
        return "it has too many or too few items for its kind";
    switch (m->kind) {
    case WELCOME:
        wrong = read_welcome(&r, m);
        break;
    case RUN:
        wrong = read_run(&r, m);
        break;
    case CANCEL:
        if (!read_number(&r, 0, &m->task) || !read_number(&r, 0, &m->attempt) || !read_seconds(&r, &m->grace_ns))
            wrong = "CANCEL is not [CANCEL, task, attempt, grace_s]";
        break;
    case STOP:
        if (!read_type(&r, BOOL, &i))
            wrong = "STOP is not [STOP, graceful]";
        else
            m->graceful = i.integer;
        break;
    case TAKEN:
        if (!read_number(&r, 0, &m->count))
            wrong = "TAKEN is not [TAKEN, count]";
        break;
    case REFUSED:
        if (!read_item(&r, &i) || !plain_text(&i))
            wrong = "REFUSED is not [REFUSED, why]";
        else
            snprintf(m->why, sizeof m->why, "%.*s", (int)(i.n < sizeof m->why ? i.n : sizeof m->why - 1), (const char *)i.bytes);
        break;
    default:
        break;
    }
    return wrong ? wrong : r.at == r.end ? NULL : "there is something behind it";
}

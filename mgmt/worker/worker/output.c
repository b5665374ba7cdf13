/* What a task prints: the last of it is kept, all of it goes into a file where that was asked for. */

enum { TAIL_BYTES = 4096, CHUNK_BYTES = 64 << 10, CHUNKS_PER_TURN = 16, CHUNKS_AT_END = 64 /* more than a pipe holds */ };

struct output {
    int read_fd, write_fd, log_fd; /* the worker keeps the writing end: no wake-up for its closing */
    char tail[TAIL_BYTES];
    size_t tail_bytes;
    char log_path[PATH_MAX]; /* "": none */
    int64_t log_bytes, log_limit;
    bool truncated;
};

static struct output output = {.read_fd = -1, .write_fd = -1, .log_fd = -1};

/* False with errno. */
static bool output_begin(struct output *o, const struct job *j, bool log, int64_t limit)
{
    int ends[2];
    o->tail_bytes = 0;
    o->log_path[0] = 0;
    o->log_bytes = 0;
    o->log_limit = limit;
    o->truncated = false;
    if (log) {
        task_path(o->log_path, place.out, j, ".log");
        o->log_fd = open(o->log_path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (o->log_fd < 0)
            return false;
    }
    if (pipe2(ends, O_CLOEXEC) < 0) {
        close_fd(&o->log_fd);
        o->log_path[0] = 0;
        return false;
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    o->read_fd = ends[0];
    o->write_fd = ends[1];
    return true;
}

static void output_log(struct output *o, const char *b, size_t n)
{
    size_t room = (size_t)(o->log_limit - o->log_bytes);
    o->truncated = o->truncated || n > room;
    for (n = n < room ? n : room; n > 0 && o->log_fd >= 0;) {
        ssize_t w = write(o->log_fd, b, n);
        if (w <= 0) { /* the disk is full */
            o->truncated = true;
            close_fd(&o->log_fd);
            return;
        }
        o->log_bytes += w;
        b += w;
        n -= (size_t)w;
    }
}

static void output_tail(struct output *o, const char *b, size_t n)
{
    if (n >= TAIL_BYTES) {
        memcpy(o->tail, b + n - TAIL_BYTES, TAIL_BYTES);
        o->tail_bytes = TAIL_BYTES;
        return;
    }
    size_t keep = o->tail_bytes + n <= TAIL_BYTES ? o->tail_bytes : TAIL_BYTES - n;
    memmove(o->tail, o->tail + o->tail_bytes - keep, keep);
    memcpy(o->tail + keep, b, n);
    o->tail_bytes = keep + n;
}

static void output_read(struct output *o, int chunks)
{
    static char chunk[CHUNK_BYTES];
    ssize_t n;
    for (; chunks > 0 && (n = read(o->read_fd, chunk, sizeof chunk)) > 0; chunks--) {
        output_tail(o, chunk, (size_t)n);
        if (o->log_fd >= 0)
            output_log(o, chunk, (size_t)n);
        if (n < (ssize_t)sizeof chunk)
            break; /* a pipe gives all it has */
    }
}

/* The rest, after the last process that could write. */
static void output_end(struct output *o)
{
    if (o->read_fd >= 0)
        output_read(o, CHUNKS_AT_END);
    close_fd(&o->read_fd);
    close_fd(&o->write_fd);
    close_fd(&o->log_fd);
}

/* msgpack, as much as the wire and a spec need. Reading never leaves the input, whatever it holds. */

enum item_type { NIL, BOOL, INTEGER, NUMBER, TEXT, BINARY, ARRAY, MAP, OTHER };

struct item {
    enum item_type type;
    int64_t integer; /* BOOL, too; an unsigned one beyond INT64_MAX is OTHER */
    double number;
    const uint8_t *bytes; /* of TEXT, BINARY */
    uint32_t n;           /* bytes, or items of ARRAY, or pairs of MAP */
};

struct reader { const uint8_t *at, *end; };

static bool read_uint(struct reader *r, unsigned width, uint64_t *value)
{
    if ((size_t)(r->end - r->at) < width)
        return false;
    for (*value = 0; width > 0; width--)
        *value = *value << 8 | *r->at++;
    return true;
}

static bool read_bytes(struct reader *r, enum item_type type, uint64_t n, struct item *into)
{
    if ((uint64_t)(r->end - r->at) < n)
        return false;
    *into = (struct item){.type = type, .bytes = r->at, .n = (uint32_t)n};
    r->at += n;
    return true;
}

/* Each item takes a byte at least: a count beyond what is left is a lie, and no memory is asked for it. */
static bool read_count(struct reader *r, enum item_type type, uint64_t n, struct item *into)
{
    if ((uint64_t)(r->end - r->at) < (type == MAP ? 2 * n : n))
        return false;
    *into = (struct item){.type = type, .n = (uint32_t)n};
    return true;
}

/* The next item; of an array or a map only its head. False at the end of the input and when it is damaged. */
static bool read_item(struct reader *r, struct item *into)
{
    uint64_t v = 0;
    if (r->at >= r->end)
        return false;
    uint8_t head = *r->at++;
    if (head <= 0x7f || head >= 0xe0) {
        *into = (struct item){.type = INTEGER, .integer = head <= 0x7f ? head : head - 256};
        return true;
    }
    if (head <= 0x8f)
        return read_count(r, MAP, head & 15, into);
    if (head <= 0x9f)
        return read_count(r, ARRAY, head & 15, into);
    if (head <= 0xbf)
        return read_bytes(r, TEXT, head & 31, into);
    switch (head) {
    case 0xc0:
        *into = (struct item){.type = NIL};
        return true;
    case 0xc2: case 0xc3:
        *into = (struct item){.type = BOOL, .integer = head & 1};
        return true;
    case 0xc4: case 0xc5: case 0xc6:
        return read_uint(r, 1u << (head - 0xc4), &v) && read_bytes(r, BINARY, v, into);
    case 0xd9: case 0xda: case 0xdb:
        return read_uint(r, 1u << (head - 0xd9), &v) && read_bytes(r, TEXT, v, into);
    case 0xc7: case 0xc8: case 0xc9: /* an extension: its type is one byte more */
        return read_uint(r, 1u << (head - 0xc7), &v) && read_bytes(r, OTHER, v + 1, into);
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8:
        return read_bytes(r, OTHER, (1u << (head - 0xd4)) + 1, into);
    case 0xca: case 0xcb: {
        float single;
        uint32_t bits;
        *into = (struct item){.type = NUMBER};
        if (!read_uint(r, head == 0xca ? 4 : 8, &v))
            return false;
        bits = (uint32_t)v;
        memcpy(&single, &bits, sizeof single);
        memcpy(&into->number, &v, sizeof v);
        if (head == 0xca)
            into->number = (double)single;
        return true;
    }
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        if (!read_uint(r, 1u << (head - 0xcc), &v))
            return false;
        *into = (struct item){.type = v > INT64_MAX ? OTHER : INTEGER, .integer = v > INT64_MAX ? 0 : (int64_t)v};
        return true;
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: {
        unsigned width = 1u << (head - 0xd0);
        if (!read_uint(r, width, &v))
            return false;
        uint64_t sign = 1ull << (8 * width - 1);
        *into = (struct item){.type = INTEGER, .integer = (int64_t)((v ^ sign) - sign)};
        return true;
    }
    case 0xdc: case 0xdd:
        return read_uint(r, head == 0xdc ? 2 : 4, &v) && read_count(r, ARRAY, v, into);
    case 0xde: case 0xdf:
        return read_uint(r, head == 0xde ? 2 : 4, &v) && read_count(r, MAP, v, into);
    default: /* 0xc1 */
        return false;
    }
}

/* Past one whole item, however deep: without recursion, so that no nesting exhausts the stack. */
static bool skip_item(struct reader *r)
{
    struct item i;
    for (uint64_t left = 1; left > 0; left--) {
        if (!read_item(r, &i))
            return false;
        left += i.type == ARRAY ? i.n : i.type == MAP ? 2 * (uint64_t)i.n : 0;
    }
    return true;
}

static bool read_type(struct reader *r, enum item_type type, struct item *into)
{
    return read_item(r, into) && into->type == type;
}

static bool item_is(const struct item *i, const char *text)
{
    return i->type == TEXT && i->n == strlen(text) && memcmp(i->bytes, text, i->n) == 0;
}

/* ---- writing: a buffer that grows --------------------------------------------------------------------------- */

struct bytes { uint8_t *b; size_t n, cap; };

_Noreturn static void out_of_memory(void)
{
    static const char said[] = "mgmt-worker: out of memory\n";
    if (write(2, said, sizeof said - 1) < 0)
        _exit(EXIT_FAILURE);
    _exit(EXIT_FAILURE);
}

/* Room for `more` bytes behind what is there. */
static uint8_t *grow(struct bytes *to, size_t more)
{
    if (to->cap - to->n < more) {
        size_t cap = 2 * to->cap > to->n + more ? 2 * to->cap : to->n + more + 1024;
        uint8_t *b = realloc(to->b, cap);
        if (!b)
            out_of_memory();
        to->b = b;
        to->cap = cap;
    }
    return to->b + to->n;
}

static void append(struct bytes *to, const void *b, size_t n)
{
    if (n)
        memcpy(grow(to, n), b, n);
    to->n += n;
}

/* The first n bytes are no longer needed. */
static void drop_front(struct bytes *from, size_t n)
{
    memmove(from->b, from->b + n, from->n - n);
    from->n -= n;
}

static void write_head(struct bytes *to, uint8_t head, uint64_t value, unsigned width)
{
    uint8_t *b = grow(to, 1 + width);
    *b++ = head;
    for (unsigned shift = 8 * width; shift > 0; shift -= 8)
        *b++ = (uint8_t)(value >> (shift - 8));
    to->n += 1 + width;
}

static void write_int(struct bytes *to, int64_t v)
{
    if (v >= -32 && v <= 127)
        write_head(to, (uint8_t)v, 0, 0);
    else if (v >= 0 && v <= UINT32_MAX)
        write_head(to, 0xce, (uint64_t)v, 4);
    else
        write_head(to, 0xd3, (uint64_t)v, 8);
}

static void write_array(struct bytes *to, size_t n)
{
    if (n <= 15)
        write_head(to, (uint8_t)(0x90 | n), 0, 0);
    else
        write_head(to, 0xdd, n, 4);
}

static void write_map(struct bytes *to, unsigned pairs) /* at most 15 */
{
    write_head(to, (uint8_t)(0x80 | pairs), 0, 0);
}

static void write_bool(struct bytes *to, bool v)
{
    write_head(to, v ? 0xc3 : 0xc2, 0, 0);
}

static void write_binary(struct bytes *to, const void *b, size_t n)
{
    write_head(to, n <= 255 ? 0xc4 : 0xc6, n, n <= 255 ? 1 : 4);
    append(to, b, n);
}

/* How many bytes the UTF-8 character at `b` has; 0 when it is none. */
static size_t character(const uint8_t *b, size_t left)
{
    if (b[0] < 0x80)
        return 1;
    size_t n = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    if (b[0] < 0xc2 || b[0] > 0xf4 || n > left)
        return 0;
    for (size_t k = 1; k < n; k++)
        if ((b[k] & 0xc0) != 0x80)
            return 0;
    bool good = !(b[0] == 0xe0 && b[1] < 0xa0) && !(b[0] == 0xed && b[1] > 0x9f) /* too long; a surrogate */
             && !(b[0] == 0xf0 && b[1] < 0x90) && !(b[0] == 0xf4 && b[1] > 0x8f);
    return good ? n : 0;
}

/* Text is UTF-8 on the wire; what is not becomes '?'. */
static void write_text(struct bytes *to, const char *text)
{
    size_t n = strlen(text);
    if (n <= 31)
        write_head(to, (uint8_t)(0xa0 | n), 0, 0);
    else
        write_head(to, 0xdb, n, 4);
    append(to, text, n);
    uint8_t *b = to->b + to->n - n;
    for (size_t at = 0; at < n;) {
        size_t length = character(b + at, n - at);
        if (!length)
            b[at] = '?';
        at += length ? length : 1;
    }
}

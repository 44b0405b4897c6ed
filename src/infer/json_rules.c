#include "infer/json_rules.h"

#include <stdio.h>
#include <string.h>

/* ---- strings --------------------------------------------------------------------------------- */

static int32_t put_escape(ds_rules *r, uint32_t c, int32_t next) {
    static const struct {
        uint32_t c;
        const char *text;
    } shorts[] = {{'\b', "\\b"}, {'\t', "\\t"}, {'\n', "\\n"}, {'\f', "\\f"},
                  {'\r', "\\r"}, {'"', "\\\""}, {'\\', "\\\\"}};
    for (size_t i = 0; i < sizeof shorts / sizeof *shorts; i++)
        if (shorts[i].c == c)
            return ds_rules_text(r, shorts[i].text, next);
    char text[8];
    snprintf(text, sizeof text, "\\u%04x", (unsigned)(c & 0xFFFF));
    return ds_rules_text(r, text, next);
}

int32_t ds_json_chars(ds_rules *r, const ds_char_range *ranges, size_t n, int32_t next) {
    int32_t at = DS_RULES_NOTHING;
    for (size_t i = 0; i < n; i++) {
        uint32_t from = ranges[i].low > 0 ? ranges[i].low : 1;
        const uint32_t to = ranges[i].high;
        for (; from < ' ' && from <= to; from++)
            at = ds_rules_fork(r, at, put_escape(r, from, next));
        for (uint32_t special = '"'; from <= to && special; special = special == '"' ? '\\' : 0) {
            if (special < from || special > to)
                continue;
            if (special > from)
                at = ds_rules_fork(r, at, ds_rules_chars(r, from, special - 1, next));
            at = ds_rules_fork(r, at, put_escape(r, special, next));
            from = special + 1;
        }
        if (from <= to)
            at = ds_rules_fork(r, at, ds_rules_chars(r, from, to, next));
    }
    return at;
}

static int32_t hex(ds_rules *r, unsigned from, int32_t next) {
    int32_t at = ds_rules_bytes(r, '0' + from, '9', next);
    at = ds_rules_fork(r, at, ds_rules_bytes(r, 'a', 'f', next));
    return ds_rules_fork(r, at, ds_rules_bytes(r, 'A', 'F', next));
}

/* The four digits after \u: neither U+0000 nor half of a surrogate pair. */
static int32_t escape_digits(ds_rules *r, int32_t next) {
    const int32_t one = hex(r, 0, next), two = hex(r, 0, one), three = hex(r, 0, two);
    int32_t zeros = ds_rules_text(r, "0", hex(r, 1, next));
    zeros = ds_rules_text(r, "0", ds_rules_fork(r, zeros, hex(r, 1, one)));
    int32_t at = ds_rules_text(r, "0", ds_rules_fork(r, zeros, hex(r, 1, two)));
    at = ds_rules_fork(r, at, ds_rules_bytes(r, '1', '9', three));
    for (unsigned letter = 'a'; letter <= 'f'; letter++) {
        const int32_t rest = letter == 'd' ? ds_rules_bytes(r, '0', '7', two) : three;
        at = ds_rules_fork(r, at, ds_rules_bytes(r, letter, letter, rest));
        at = ds_rules_fork(r, at, ds_rules_bytes(r, letter - 32, letter - 32, rest));
    }
    return at;
}

static int32_t make_character(ds_rules *r) {
    int32_t escaped = ds_rules_text(r, "u", escape_digits(r, DS_RULES_END));
    for (const char *c = "\"\\/bfnrt"; *c; c++)
        escaped = ds_rules_fork(r, escaped, ds_rules_literal(r, c, 1, DS_RULES_END));
    int32_t at = ds_rules_text(r, "\\", escaped);
    at = ds_rules_fork(r, at, ds_rules_chars(r, 0x5D, 0x10FFFF, DS_RULES_END));
    at = ds_rules_fork(r, at, ds_rules_chars(r, 0x23, 0x5B, DS_RULES_END));
    at = ds_rules_fork(r, at, ds_rules_chars(r, 0x20, 0x21, DS_RULES_END));
    return ds_rules_make(r, at);
}

/* ---- numbers --------------------------------------------------------------------------------- */

static int32_t digits(ds_rules *r, int64_t least, int64_t most, int32_t next) {
    const int32_t digit = ds_rules_make(r, ds_rules_bytes(r, '0', '9', DS_RULES_END));
    return ds_rules_repeat(r, (ds_rule_item){digit, least, most}, next);
}

/* Numbers of as many digits as low and high have, from the digit i on; NULL: no bound any more. */
static int32_t between(ds_rules *r, const char *low, const char *high, size_t i, size_t n,
                       int32_t next) {
    if (i == n)
        return next;
    if (!low && !high)
        return digits(r, (int64_t)(n - i), (int64_t)(n - i), next);
    char from = low ? low[i] : '0', to = high ? high[i] : '9';
    const bool together = low && high && from == to;
    int32_t at = DS_RULES_NOTHING;
    if (together)
        return ds_rules_literal(r, &from, 1, between(r, low, high, i + 1, n, next));
    if (low) {
        at = ds_rules_literal(r, &from, 1, between(r, low, NULL, i + 1, n, next));
        from++;
    }
    if (high) {
        at = ds_rules_fork(r, at,
                           ds_rules_literal(r, &to, 1, between(r, NULL, high, i + 1, n, next)));
        to--;
    }
    if (from > to)
        return at;
    const int32_t rest = between(r, NULL, NULL, i + 1, n, next);
    return ds_rules_fork(r, at, ds_rules_bytes(r, (unsigned char)from, (unsigned char)to, rest));
}

/* From low to high, both 0 or more. */
static int32_t natural(ds_rules *r, uint64_t low, uint64_t high, int32_t next) {
    int32_t at = DS_RULES_NOTHING;
    uint64_t begin = 0, end = 9; /* of the numbers of so many digits */
    for (size_t n = 1; n <= 19 && low <= high; n++) {
        const uint64_t from = low > begin ? low : begin, to = high < end ? high : end;
        char first[24], last[24];
        if (from <= to) {
            snprintf(first, sizeof first, "%llu", (unsigned long long)from);
            snprintf(last, sizeof last, "%llu", (unsigned long long)to);
            at = ds_rules_fork(r, at, between(r, first, last, 0, n, next));
        }
        begin = end + 1;
        end = end * 10 + 9;
    }
    return at;
}

int32_t ds_json_integer(ds_rules *r, int64_t low, int64_t high, int32_t next) {
    int32_t at = DS_RULES_NOTHING;
    if (high >= 0)
        at = natural(r, low > 0 ? (uint64_t)low : 0, (uint64_t)high, next);
    if (low < 0 && low <= high) {
        const uint64_t least = high < 0 ? 0 - (uint64_t)high : 1;
        at =
            ds_rules_fork(r, at, ds_rules_text(r, "-", natural(r, least, 0 - (uint64_t)low, next)));
    }
    return at;
}

int32_t ds_json_number(ds_rules *r, bool negative, int32_t next) {
    int32_t sign = digits(r, 1, 2, next);
    sign = ds_rules_fork(r, ds_rules_fork(r, ds_rules_text(r, "+", sign), sign),
                         ds_rules_text(r, "-", sign));
    const int32_t power =
        ds_rules_fork(r, ds_rules_text(r, "e", sign), ds_rules_text(r, "E", sign));
    const int32_t after = ds_rules_fork(r, power, next);
    const int32_t fraction = ds_rules_text(r, ".", digits(r, 1, DS_JSON_DIGITS, after));
    const int32_t tail = ds_rules_fork(r, fraction, after);
    int32_t at = ds_rules_bytes(r, '1', '9', digits(r, 0, DS_JSON_DIGITS - 1, tail));
    at = ds_rules_fork(r, at, ds_rules_text(r, "0", tail));
    return negative ? ds_rules_fork(r, at, ds_rules_text(r, "-", at)) : at;
}

/* ---- any value ------------------------------------------------------------------------------- */

/* What begins with `open`: nothing, or items with commas between them, then `close`. */
static int32_t list(ds_json_rules *j, const char *open, int32_t item, const char *close) {
    ds_rules *r = j->rules;
    const int32_t end = ds_rules_call(r, j->space, ds_rules_text(r, close, DS_RULES_END));
    const int32_t more = ds_rules_make(
        r, ds_rules_text(r, ",", ds_rules_call(r, j->space, ds_rules_call(r, item, DS_RULES_END))));
    const int32_t rest = ds_rules_repeat(r, (ds_rule_item){more, 0, DS_RULES_UNBOUNDED}, end);
    const int32_t full = ds_rules_call(r, j->space, ds_rules_call(r, item, rest));
    return ds_rules_text(r, open, ds_rules_fork(r, full, end));
}

static void define_value(ds_json_rules *j) {
    ds_rules *r = j->rules;
    const int32_t member = ds_rules_make(
        r, ds_rules_call(
               r, j->string,
               ds_rules_text(r, ":",
                             ds_rules_call(r, j->gap, ds_rules_call(r, j->value, DS_RULES_END)))));
    int32_t at = ds_rules_fork(r, list(j, "{", member, "}"), list(j, "[", j->value, "]"));
    at = ds_rules_fork(r, at, ds_rules_call(r, j->string, DS_RULES_END));
    at = ds_rules_fork(r, at, ds_json_number(r, true, DS_RULES_END));
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < 3; i++)
        at = ds_rules_fork(r, at, ds_rules_text(r, words[i], DS_RULES_END));
    ds_rules_define(r, j->value, at);
}

void ds_json_rules_init(ds_json_rules *j, ds_rules *r) {
    enum { DEEPEST_INDENT = 20 };
    *j = (ds_json_rules){.rules = r};
    const int32_t indent = ds_rules_make(r, ds_rules_fork(r, ds_rules_text(r, " ", DS_RULES_END),
                                                          ds_rules_text(r, "\t", DS_RULES_END)));
    const int32_t line = ds_rules_text(
        r, "\n", ds_rules_repeat(r, (ds_rule_item){indent, 0, DEEPEST_INDENT}, DS_RULES_END));
    const int32_t blank = ds_rules_text(r, " ", DS_RULES_END);
    j->gap = ds_rules_make(r, ds_rules_fork(r, blank, DS_RULES_END));
    j->space = ds_rules_make(r, ds_rules_fork(r, line, ds_rules_fork(r, blank, DS_RULES_END)));
    j->character = make_character(r);
    const int32_t inside = ds_rules_repeat(r, (ds_rule_item){j->character, 0, DS_RULES_UNBOUNDED},
                                           ds_rules_text(r, "\"", DS_RULES_END));
    j->string = ds_rules_make(r, ds_rules_text(r, "\"", inside));
    j->value = ds_rules_new(r);
    define_value(j);
}

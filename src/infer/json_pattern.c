/* Regular expressions as rules (Thompson 1968: each is an automaton with ways that read nothing).
 * What is parsed is what schemas use of ECMA-262: characters, classes, groups, alternatives,
 * counts, and ^ and $ at the ends. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/tokenizer.h"
#include "infer/json_rules.h"

enum { DEEPEST = 64, HIGHEST_COUNT = 100000 };

typedef struct parser {
    ds_rules *rules;
    const char *begin, *at; /* UTF-8, zero-terminated */
    int depth;              /* of groups */
    ds_status status;
} parser;

typedef struct range_list {
    ds_char_range *items;
    size_t n, capacity;
} range_list;

static void fail(parser *p, ds_status status, const char *what) {
    if (p->status == DS_OK)
        p->status = ds_fail(status, "%s at %d", what, (int)(p->at - p->begin));
}

static void add(parser *p, range_list *list, uint32_t low, uint32_t high) {
    ds_char_range *grown = ds_grow(list->items, &list->capacity, list->n + 2, sizeof *grown);
    if (!grown) {
        fail(p, DS_OUT_OF_MEMORY, "out of memory");
        return;
    }
    list->items = grown;
    list->items[list->n++] = (ds_char_range){low, high};
}

/* ---- characters and classes ------------------------------------------------------------------ */

static const ds_char_range digit_class[] = {{'0', '9'}};
static const ds_char_range word_class[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const ds_char_range space_class[] = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},
                                            {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                            {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
static const ds_char_range line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

#define CLASS(letter, ranges)                                                                      \
    { letter, ranges, sizeof(ranges) / sizeof *(ranges) }
static const struct named_class {
    char letter; /* its capital stands for all others */
    const ds_char_range *ranges;
    size_t n;
} named_classes[] = {CLASS('d', digit_class), CLASS('w', word_class), CLASS('s', space_class)};

static void add_class(parser *p, range_list *list, const ds_char_range *ranges, size_t n,
                      bool negate) {
    ds_char_range sorted[16], closed[17];
    memcpy(sorted, ranges, n * sizeof *ranges);
    const size_t n_closed = ds_char_ranges_close(sorted, n, negate, closed);
    for (size_t i = 0; i < n_closed; i++)
        add(p, list, closed[i].low, closed[i].high);
}

/* Hexadecimal digits, exactly n. */
static uint32_t hex_number(parser *p, int n) {
    uint32_t value = 0;
    for (int i = 0; i < n; i++, p->at++) {
        const char *found = *p->at ? strchr("0123456789abcdefABCDEF", *p->at) : NULL;
        if (!found) {
            fail(p, DS_INVALID, "a hexadecimal digit is missing");
            return 0;
        }
        const uint32_t digit = (uint32_t)(found - "0123456789abcdefABCDEF");
        value = value * 16 + (digit > 15 ? digit - 6 : digit);
    }
    return value;
}

/* After a backslash. Adds a class and returns true, or *c is the character. */
static bool read_escape(parser *p, range_list *list, uint32_t *c) {
    static const char names[] = "tnrfv0", values[] = "\t\n\r\f\v";
    const char letter = *p->at;
    for (size_t i = 0; i < sizeof named_classes / sizeof *named_classes; i++) {
        const struct named_class *k = &named_classes[i];
        if (letter != k->letter && letter != k->letter - 32)
            continue;
        p->at++;
        add_class(p, list, k->ranges, k->n, letter != k->letter);
        return true;
    }
    *c = (unsigned char)letter;
    if (!letter)
        fail(p, DS_INVALID, "nothing after the backslash");
    else if (letter == 'u' || letter == 'x') {
        p->at++;
        *c = hex_number(p, letter == 'u' ? 4 : 2);
        return false;
    } else if (strchr(names, letter))
        *c = (unsigned char)values[strchr(names, letter) - names];
    else if ((letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
             (letter >= 'A' && letter <= 'Z') || (letter & 0x80))
        fail(p, DS_UNSUPPORTED, "this escape is not supported");
    p->at += letter != '\0';
    return false;
}

/* One character of a class or of the expression itself; true: a class was added instead. */
static bool read_char(parser *p, range_list *list, uint32_t *c) {
    size_t length = 1;
    if (*p->at == '\\') {
        p->at++;
        return read_escape(p, list, c);
    }
    *c = ds_utf8_char(p->at, &length);
    p->at += length;
    return false;
}

static void read_class(parser *p, range_list *list, bool *negate) {
    *negate = *p->at == '^';
    p->at += *negate;
    while (*p->at != ']' && p->status == DS_OK) {
        uint32_t low = 0, high = 0;
        if (!*p->at)
            fail(p, DS_INVALID, "the class is not closed");
        if (p->status != DS_OK || read_char(p, list, &low))
            continue;
        high = low;
        if (p->at[0] == '-' && p->at[1] && p->at[1] != ']') {
            p->at++;
            if (read_char(p, list, &high) || high < low)
                fail(p, DS_INVALID, "the range runs backwards or has no end");
        }
        add(p, list, low, high);
    }
    p->at += *p->at == ']';
}

/* A rule for one character of the list. */
static int32_t char_rule(parser *p, range_list *list, bool negate) {
    int32_t rule = -1;
    ds_char_range *closed = ds_malloc((list->n + 1) * sizeof *closed);
    if (!closed)
        fail(p, DS_OUT_OF_MEMORY, "out of memory");
    if (p->status == DS_OK) {
        const size_t n = ds_char_ranges_close(list->items, list->n, negate, closed);
        rule = ds_rules_make(p->rules, ds_json_chars(p->rules, closed, n, DS_RULES_END));
    }
    free(closed);
    free(list->items);
    return rule;
}

/* ---- expressions ----------------------------------------------------------------------------- */

static int32_t alternatives(parser *p);

static int32_t group(parser *p) {
    if (p->at[0] == '?') {
        if (p->at[1] == ':')
            p->at += 2;
        else
            fail(p, DS_UNSUPPORTED, "of groups that begin with (? only (?: is supported");
    }
    if (p->depth == DEEPEST)
        fail(p, DS_UNSUPPORTED, "groups stand too deep in each other");
    if (p->status != DS_OK)
        return -1;
    p->depth++;
    const int32_t rule = alternatives(p);
    p->depth--;
    if (*p->at != ')')
        fail(p, DS_INVALID, "a group is not closed");
    p->at += *p->at == ')';
    return rule;
}

static int32_t atom(parser *p) {
    range_list list = {0};
    bool negate = false;
    uint32_t c = 0;
    if (strchr("*+?{}^$)]", *p->at)) {
        fail(p, DS_UNSUPPORTED, "an unexpected character");
        return -1;
    }
    if (*p->at == '(') {
        p->at++;
        return group(p);
    }
    if (*p->at == '.') {
        p->at++;
        add_class(p, &list, line_ends, sizeof line_ends / sizeof *line_ends, true);
    } else if (*p->at == '[') {
        p->at++;
        read_class(p, &list, &negate);
    } else if (!read_char(p, &list, &c)) {
        add(p, &list, c, c);
    }
    return char_rule(p, &list, negate);
}

static int64_t count(parser *p, int64_t without) {
    int64_t value = 0;
    if (*p->at < '0' || *p->at > '9')
        return without;
    for (; *p->at >= '0' && *p->at <= '9'; p->at++)
        value = value > HIGHEST_COUNT ? value : value * 10 + (*p->at - '0');
    if (value > HIGHEST_COUNT)
        fail(p, DS_UNSUPPORTED, "a count is too high");
    return value;
}

static void quantify(parser *p, ds_rule_item *item) {
    const char sign = *p->at;
    if (!sign || !strchr("*+?{", sign))
        return;
    p->at++;
    item->least = sign == '+';
    item->most = sign == '?' ? 1 : DS_RULES_UNBOUNDED;
    if (sign == '{') {
        item->least = count(p, -1);
        item->most = item->least;
        if (*p->at == ',') {
            p->at++;
            item->most = count(p, DS_RULES_UNBOUNDED);
        }
        if (*p->at != '}' || item->least < 0 ||
            (item->most != DS_RULES_UNBOUNDED && item->most < item->least))
            fail(p, DS_INVALID, "a count must be {n}, {n,} or {n,m}");
        p->at += *p->at == '}';
    }
    p->at += *p->at == '?'; /* the shortest match first: the same texts */
}

/* Any characters at all, for an end that is not held by ^ or $. */
static ds_rule_item anything(parser *p) {
    const ds_char_range all = {1, 0x10FFFF};
    return (ds_rule_item){ds_rules_make(p->rules, ds_json_chars(p->rules, &all, 1, DS_RULES_END)),
                          0, DS_RULES_UNBOUNDED};
}

static int32_t sequence(parser *p) {
    ds_rule_item *items = NULL;
    size_t n = 0, capacity = 0;
    const bool outer = p->depth == 0, held_left = outer && *p->at == '^';
    bool held_right = false;
    p->at += held_left;
    for (bool first = true; p->status == DS_OK; first = false) {
        ds_rule_item *grown = ds_grow(items, &capacity, n + 2, sizeof *grown);
        if (!grown) {
            fail(p, DS_OUT_OF_MEMORY, "out of memory");
            break;
        }
        items = grown;
        if (first && outer && !held_left)
            items[n++] = anything(p);
        held_right = outer && *p->at == '$';
        p->at += held_right;
        if (!*p->at || *p->at == '|' || *p->at == ')')
            break;
        if (held_right) {
            fail(p, DS_UNSUPPORTED, "$ stands inside");
            break;
        }
        items[n] = (ds_rule_item){atom(p), 1, 1};
        quantify(p, &items[n++]);
    }
    if (p->status == DS_OK && outer && !held_right)
        items[n++] = anything(p);
    const int32_t start =
        p->status == DS_OK ? ds_rules_sequence(p->rules, items, n, DS_RULES_END) : DS_RULES_NOTHING;
    free(items);
    return start;
}

static int32_t alternatives(parser *p) {
    int32_t at = sequence(p);
    while (*p->at == '|' && p->status == DS_OK) {
        p->at++;
        at = ds_rules_fork(p->rules, at, sequence(p));
    }
    return ds_rules_make(p->rules, at);
}

ds_status ds_json_pattern(ds_rules *r, const char *pattern, int32_t next, int32_t *out) {
    parser p = {.rules = r, .begin = pattern, .at = pattern};
    const int32_t rule = alternatives(&p);
    if (*p.at)
        fail(&p, DS_INVALID, "a ) too many");
    *out = ds_rules_call(r, rule, next);
    return p.status;
}

/* GBNF, the notation of grammars that llama.cpp made known: rules `name ::= …` of literals, classes
 * of characters, other rules, groups, alternatives and counts. Names may be used before they are
 * defined. `root` is the whole. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"
#include "data/tokenizer.h"
#include "infer/grammar.h"

enum { DEEPEST = 64, HIGHEST_COUNT = 100000, MOST_RULES = 4096 };

typedef struct name {
    const char *text;
    size_t length;
    int32_t rule;
    bool defined;
} name;

typedef struct reader {
    ds_rules *rules;
    const char *begin, *at; /* UTF-8, zero-terminated */
    name *names;
    size_t n_names, capacity;
    int depth; /* of groups */
    ds_status status;
} reader;

static DS_PRINTF(2, 3) void fail(reader *r, const char *fmt, ...) {
    if (r->status != DS_OK)
        return;
    int line = 1, column = 1;
    for (const char *s = r->begin; s < r->at; s++) {
        column = *s == '\n' ? 1 : column + 1;
        line += *s == '\n';
    }
    va_list ap;
    va_start(ap, fmt);
    r->status = ds_vfail(DS_INVALID, fmt, ap);
    va_end(ap);
    r->status = ds_fail_within(r->status, "grammar: line %d, column %d", line, column);
}

static void no_memory(reader *r) {
    if (r->status == DS_OK)
        r->status = ds_fail(DS_OUT_OF_MEMORY, "out of memory for a grammar");
}

/* Blanks and comments; line breaks too where a rule surely goes on. */
static void skip(reader *r, bool lines) {
    for (;; r->at++) {
        if (*r->at == '#')
            r->at += strcspn(r->at, "\r\n");
        if (*r->at != ' ' && *r->at != '\t' && !(lines && (*r->at == '\n' || *r->at == '\r')))
            return;
    }
}

static size_t name_length(const char *s) {
    size_t n = 0;
    while ((s[n] >= 'a' && s[n] <= 'z') || (s[n] >= 'A' && s[n] <= 'Z') ||
           (s[n] >= '0' && s[n] <= '9') || s[n] == '-' || s[n] == '_')
        n++;
    return n;
}

static name *find(reader *r, const char *text, size_t length) {
    for (size_t i = 0; i < r->n_names; i++)
        if (r->names[i].length == length && memcmp(r->names[i].text, text, length) == 0)
            return &r->names[i];
    if (r->n_names == MOST_RULES) {
        fail(r, "there are more than %d rules", MOST_RULES);
        return NULL;
    }
    name *grown = ds_grow(r->names, &r->capacity, r->n_names + 1, sizeof *grown);
    if (!grown) {
        no_memory(r);
        return NULL;
    }
    r->names = grown;
    r->names[r->n_names] = (name){.text = text, .length = length, .rule = ds_rules_new(r->rules)};
    return &r->names[r->n_names++];
}

/* ---- characters ------------------------------------------------------------------------------ */

static uint32_t escaped(reader *r) {
    static const char names[] = "nrt\\\"[]-^", values[] = "\n\r\t\\\"[]-^";
    const char letter = *r->at;
    const char *known = letter ? strchr(names, letter) : NULL;
    const int n = letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
    uint32_t value = 0;
    if (!known && n == 0) {
        fail(r, "an unknown escape: \\%.1s", r->at);
        return 0;
    }
    r->at++;
    if (known)
        return (unsigned char)values[known - names];
    for (int i = 0; i < n; i++, r->at++) {
        const char *found = *r->at ? strchr("0123456789abcdefABCDEF", *r->at) : NULL;
        if (!found) {
            fail(r, "a hexadecimal digit is missing");
            return 0;
        }
        const uint32_t digit = (uint32_t)(found - "0123456789abcdefABCDEF");
        value = value << 4 | (digit > 15 ? digit - 6 : digit);
    }
    if (value > 0x10FFFF)
        fail(r, "there is no such character");
    return value;
}

static uint32_t character(reader *r) {
    size_t length = 1;
    if (*r->at == '\\') {
        r->at++;
        return escaped(r);
    }
    const uint32_t c = ds_utf8_char(r->at, &length);
    r->at += length;
    return c;
}

/* A string's characters, each a rule of its own in the sequence that grows. */
typedef struct sequence {
    ds_rule_item *items;
    size_t n, capacity;
} sequence;

static void push(reader *r, sequence *s, int32_t rule) {
    ds_rule_item *grown = ds_grow(s->items, &s->capacity, s->n + 1, sizeof *grown);
    if (!grown) {
        no_memory(r);
        return;
    }
    s->items = grown;
    s->items[s->n++] = (ds_rule_item){rule, 1, 1};
}

/* A string is one item: a count after it means all of it. */
static void literal(reader *r, sequence *s) {
    sequence letters = {0};
    while (*r->at != '"' && r->status == DS_OK) {
        if (!*r->at || *r->at == '\n') {
            fail(r, "a string is not closed");
            break;
        }
        const uint32_t c = character(r);
        push(r, &letters, ds_rules_make(r->rules, ds_rules_chars(r->rules, c, c, DS_RULES_END)));
    }
    r->at += *r->at == '"';
    push(r, s,
         ds_rules_make(r->rules,
                       ds_rules_sequence(r->rules, letters.items, letters.n, DS_RULES_END)));
    free(letters.items);
}

static int32_t chars_of(reader *r, ds_char_range *ranges, size_t n, bool negate) {
    ds_char_range *closed = ds_malloc((n + 1) * sizeof *closed);
    int32_t at = DS_RULES_NOTHING;
    if (!closed) {
        no_memory(r);
        return at;
    }
    n = ds_char_ranges_close(ranges, n, negate, closed);
    for (size_t i = 0; i < n; i++)
        at = ds_rules_fork(r->rules, at,
                           ds_rules_chars(r->rules, closed[i].low, closed[i].high, DS_RULES_END));
    free(closed);
    return at;
}

static void class(reader *r, sequence *s) {
    const bool negate = *r->at == '^';
    ds_char_range *ranges = NULL;
    size_t n = 0, capacity = 0;
    r->at += negate;
    while (*r->at != ']' && r->status == DS_OK) {
        ds_char_range *grown = ds_grow(ranges, &capacity, n + 1, sizeof *grown);
        if (!grown) {
            no_memory(r);
            break;
        }
        ranges = grown;
        if (!*r->at) {
            fail(r, "a class is not closed");
            break;
        }
        const uint32_t low = character(r);
        uint32_t high = low;
        if (r->at[0] == '-' && r->at[1] && r->at[1] != ']') {
            r->at++;
            high = character(r);
        }
        if (high < low)
            fail(r, "the range runs backwards");
        ranges[n++] = (ds_char_range){low, high};
    }
    r->at += *r->at == ']';
    if (r->status == DS_OK)
        push(r, s, ds_rules_make(r->rules, chars_of(r, ranges, n, negate)));
    free(ranges);
}

/* ---- rules ----------------------------------------------------------------------------------- */

static int32_t alternatives(reader *r);

static void group(reader *r, sequence *s) {
    if (r->depth == DEEPEST) {
        fail(r, "groups stand too deep in each other");
        return;
    }
    r->depth++;
    skip(r, true);
    const int32_t start = alternatives(r);
    r->depth--;
    if (*r->at != ')')
        fail(r, "a group is not closed");
    r->at += *r->at == ')';
    push(r, s, ds_rules_make(r->rules, start));
}

static int64_t count(reader *r, int64_t without) {
    int64_t value = 0;
    if (*r->at < '0' || *r->at > '9')
        return without;
    for (; *r->at >= '0' && *r->at <= '9'; r->at++)
        value = value > HIGHEST_COUNT ? value : value * 10 + (*r->at - '0');
    if (value > HIGHEST_COUNT)
        fail(r, "a count is too high");
    return value;
}

static void quantify(reader *r, sequence *s) {
    const char sign = *r->at;
    if (s->n == 0) {
        fail(r, "nothing stands before the %c", sign);
        return;
    }
    ds_rule_item *item = &s->items[s->n - 1];
    if (item->least != 1 || item->most != 1) { /* a count of a counted one */
        item->rule = ds_rules_make(r->rules, ds_rules_repeat(r->rules, *item, DS_RULES_END));
        item->least = item->most = 1;
    }
    r->at++;
    item->least = sign == '+';
    item->most = sign == '?' ? 1 : DS_RULES_UNBOUNDED;
    if (sign != '{')
        return;
    item->least = count(r, -1);
    item->most = item->least;
    if (*r->at == ',') {
        r->at++;
        item->most = count(r, DS_RULES_UNBOUNDED);
    }
    if (*r->at != '}' || item->least < 0 ||
        (item->most != DS_RULES_UNBOUNDED && item->most < item->least))
        fail(r, "a count must be {n}, {n,} or {n,m}");
    r->at += *r->at == '}';
}

/* false: nothing of a sequence stands here. */
static bool item(reader *r, sequence *s) {
    static const ds_char_range any = {0, 0x10FFFF};
    const size_t length = name_length(r->at);
    const char c = *r->at;
    if (length > 0) {
        const name *n = find(r, r->at, length);
        r->at += length;
        if (n)
            push(r, s, n->rule);
    } else if (c == '"') {
        r->at++;
        literal(r, s);
    } else if (c == '[') {
        r->at++;
        class(r, s);
    } else if (c == '(') {
        r->at++;
        group(r, s);
    } else if (c == '.') {
        ds_char_range all = any;
        r->at++;
        push(r, s, ds_rules_make(r->rules, chars_of(r, &all, 1, false)));
    } else if (c == '*' || c == '+' || c == '?' || c == '{') {
        quantify(r, s);
    } else {
        return false;
    }
    return true;
}

static int32_t one_alternative(reader *r) {
    sequence s = {0};
    while (r->status == DS_OK && item(r, &s))
        skip(r, r->depth > 0);
    const int32_t start = r->status == DS_OK
                              ? ds_rules_sequence(r->rules, s.items, s.n, DS_RULES_END)
                              : (int32_t)DS_RULES_NOTHING;
    free(s.items);
    return start;
}

/* Whether another alternative follows, on this line or at the beginning of a later one. */
static bool is_bar(reader *r) {
    const char *here = r->at;
    skip(r, true);
    if (*r->at == '|' && r->status == DS_OK)
        return true;
    r->at = here;
    return false;
}

static int32_t alternatives(reader *r) {
    int32_t at = one_alternative(r);
    while (is_bar(r)) {
        r->at++;
        skip(r, true);
        at = ds_rules_fork(r->rules, at, one_alternative(r));
    }
    return at;
}

static void rule(reader *r) {
    const size_t length = name_length(r->at);
    if (length == 0) {
        fail(r, "a rule must begin with its name: name ::= …");
        return;
    }
    name *n = find(r, r->at, length);
    if (n && n->defined)
        fail(r, "the rule '%.*s' is there already", (int)(length < 60 ? length : 60), r->at);
    r->at += length;
    skip(r, false);
    if (strncmp(r->at, "::=", 3) != 0)
        fail(r, "::= must follow the name of a rule");
    if (r->status != DS_OK || !n)
        return;
    n->defined = true;
    const int32_t number = n->rule; /* the list may move */
    r->at += 3;
    skip(r, true);
    ds_rules_define(r->rules, number, alternatives(r));
    if (r->status == DS_OK && *r->at && *r->at != '\n' && *r->at != '\r')
        fail(r, "unexpected: %.20s", r->at);
    skip(r, true);
}

static void read_rules(reader *r) {
    find(r, "root", 4); /* rule 0 */
    skip(r, true);
    while (*r->at && r->status == DS_OK)
        rule(r);
    for (size_t i = 0; i < r->n_names && r->status == DS_OK; i++)
        if (!r->names[i].defined)
            r->status =
                ds_fail(DS_INVALID, "grammar: the rule '%.*s' is not defined",
                        (int)(r->names[i].length < 60 ? r->names[i].length : 60), r->names[i].text);
}

ds_status ds_gbnf_rules(const char *text, size_t size, ds_rules *out) {
    *out = (ds_rules){0};
    if (ds_utf8_valid(text, size) != size || memchr(text, '\0', size))
        return ds_fail(DS_INVALID, "grammar: it must be UTF-8 without zero bytes");
    char *copy = ds_malloc(size + 1);
    if (!copy)
        return DS_OUT_OF_MEMORY;
    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    reader r = {.rules = out, .begin = copy, .at = copy};
    read_rules(&r);
    free(r.names);
    free(copy);
    if (r.status != DS_OK)
        ds_rules_clear(out);
    return r.status;
}

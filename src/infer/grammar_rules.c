#include "infer/grammar_rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

void ds_rules_clear(ds_rules *r) {
    free(r->nodes);
    free(r->starts);
    *r = (ds_rules){0};
}

static bool is_broken(const ds_rules *r) {
    return r->out_of_memory || r->too_large;
}

static int32_t put(ds_rules *r, ds_rule_node node) {
    if (is_broken(r))
        return DS_RULES_NOTHING;
    if (r->n_nodes >= DS_RULES_MOST_NODES) {
        r->too_large = true;
        return DS_RULES_NOTHING;
    }
    ds_rule_node *grown = ds_grow(r->nodes, &r->node_capacity, r->n_nodes + 1, sizeof *grown);
    if (!grown) {
        r->out_of_memory = true;
        return DS_RULES_NOTHING;
    }
    r->nodes = grown;
    r->nodes[r->n_nodes] = node;
    return (int32_t)r->n_nodes++;
}

/* ---- rules ----------------------------------------------------------------------------------- */

int32_t ds_rules_new(ds_rules *r) {
    int32_t *grown = NULL;
    if (!is_broken(r) && r->n_rules >= DS_RULES_MOST_NODES)
        r->too_large = true;
    if (is_broken(r))
        return -1;
    grown = ds_grow(r->starts, &r->rule_capacity, r->n_rules + 1, sizeof *grown);
    if (!grown) {
        r->out_of_memory = true;
        return -1;
    }
    r->starts = grown;
    if (r->n_nodes == 0) /* a rule may be nothing but its end */
        put(r, (ds_rule_node){.kind = DS_RULE_END});
    if (is_broken(r))
        return -1;
    r->starts[r->n_rules] = DS_RULES_NOTHING;
    return (int32_t)r->n_rules++;
}

void ds_rules_define(ds_rules *r, int32_t rule, int32_t start) {
    if (rule >= 0)
        r->starts[rule] = start;
}

int32_t ds_rules_make(ds_rules *r, int32_t start) {
    const int32_t rule = ds_rules_new(r);
    ds_rules_define(r, rule, start);
    return rule;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

int32_t ds_rules_bytes(ds_rules *r, unsigned low, unsigned high, int32_t next) {
    if (next < 0 || low > high)
        return DS_RULES_NOTHING;
    return put(r, (ds_rule_node){.kind = DS_RULE_BYTES,
                                 .low = (unsigned char)low,
                                 .high = (unsigned char)high,
                                 .next = next});
}

int32_t ds_rules_literal(ds_rules *r, const char *bytes, size_t length, int32_t next) {
    while (length-- > 0) {
        const unsigned byte = (unsigned char)bytes[length];
        next = ds_rules_bytes(r, byte, byte, next);
    }
    return next;
}

int32_t ds_rules_text(ds_rules *r, const char *text, int32_t next) {
    return ds_rules_literal(r, text, strlen(text), next);
}

int32_t ds_rules_fork(ds_rules *r, int32_t one, int32_t other) {
    if (one < 0 || other < 0 || one == other)
        return one < 0 ? other : one;
    return put(r, (ds_rule_node){.kind = DS_RULE_FORK, .next = one, .other = other});
}

int32_t ds_rules_call(ds_rules *r, int32_t rule, int32_t next) {
    if (next < 0 || rule < 0)
        return DS_RULES_NOTHING;
    return put(r, (ds_rule_node){.kind = DS_RULE_CALL, .next = next, .other = rule});
}

int32_t ds_rules_repeat(ds_rules *r, ds_rule_item item, int32_t next) {
    if (next < 0 || item.rule < 0)
        return item.least > 0 ? DS_RULES_NOTHING : next;
    const int32_t exit = next;
    if (item.most == DS_RULES_UNBOUNDED) {
        next = put(r, (ds_rule_node){.kind = DS_RULE_FORK, .next = exit, .other = exit});
        const int32_t again = ds_rules_call(r, item.rule, next);
        if (again >= 0)
            r->nodes[next].next = again;
    }
    for (int64_t i = item.least; i < item.most && !is_broken(r); i++)
        next = ds_rules_fork(r, ds_rules_call(r, item.rule, next), exit);
    for (int64_t i = 0; i < item.least && !is_broken(r); i++)
        next = ds_rules_call(r, item.rule, next);
    return is_broken(r) ? DS_RULES_NOTHING : next;
}

int32_t ds_rules_sequence(ds_rules *r, const ds_rule_item *items, size_t n, int32_t next) {
    while (n-- > 0)
        next = ds_rules_repeat(r, items[n], next);
    return next;
}

/* ---- characters ------------------------------------------------------------------------------ */

static size_t utf8(uint32_t c, unsigned char out[4]) {
    static const uint32_t ends[] = {0x80, 0x800, 0x10000, 0x110000};
    static const unsigned char heads[] = {0, 0xC0, 0xE0, 0xF0};
    size_t n = 0;
    while (c >= ends[n])
        n++;
    for (size_t i = n; i > 0; i--, c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 0x3F));
    out[0] = (unsigned char)(heads[n] | c);
    return n + 1;
}

/* From the byte i on, strings of n bytes from low to high; one that is not held to its first string
 * may have any byte from 0x80 on, and so for the last. */
static int32_t byte_strings(ds_rules *r, const unsigned char *low, const unsigned char *high,
                            size_t i, size_t n, int32_t next) {
    const unsigned first = low ? low[i] : 0x80, last = high ? high[i] : 0xBF;
    if (i + 1 == n)
        return ds_rules_bytes(r, first, last, next);
    if (low && high && first == last)
        return ds_rules_bytes(r, first, first, byte_strings(r, low, high, i + 1, n, next));
    int32_t at = DS_RULES_NOTHING;
    unsigned from = first, to = last;
    if (low) {
        at = ds_rules_bytes(r, first, first, byte_strings(r, low, NULL, i + 1, n, next));
        from++;
    }
    if (high) {
        at = ds_rules_fork(
            r, at, ds_rules_bytes(r, last, last, byte_strings(r, NULL, high, i + 1, n, next)));
        to--;
    }
    if (from > to)
        return at;
    const int32_t any = byte_strings(r, NULL, NULL, i + 1, n, next);
    return ds_rules_fork(r, at, ds_rules_bytes(r, from, to, any));
}

int32_t ds_rules_chars(ds_rules *r, uint32_t low, uint32_t high, int32_t next) {
    /* characters of one length in UTF-8, without the surrogates */
    static const ds_char_range lengths[] = {
        {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}};
    int32_t at = DS_RULES_NOTHING;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const uint32_t from = low > lengths[i].low ? low : lengths[i].low;
        const uint32_t to = high < lengths[i].high ? high : lengths[i].high;
        if (from > to)
            continue;
        unsigned char first[4] = {0}, last[4] = {0};
        const size_t n = utf8(from, first);
        utf8(to, last);
        at = ds_rules_fork(r, at, byte_strings(r, first, last, 0, n, next));
    }
    return at;
}

static int by_low(const void *a, const void *b) {
    const ds_char_range *x = a, *y = b;
    return x->low < y->low ? -1 : x->low > y->low;
}

size_t ds_char_ranges_close(ds_char_range *ranges, size_t n, bool negate, ds_char_range *out) {
    size_t n_out = 0;
    uint32_t from = 0; /* of the gap */
    if (n > 1)
        qsort(ranges, n, sizeof *ranges, by_low);
    for (size_t i = 0; i < n; i++) {
        const ds_char_range c = ranges[i];
        if (negate && c.low > from)
            out[n_out++] = (ds_char_range){from, c.low - 1};
        if (!negate && n_out > 0 && c.low <= out[n_out - 1].high + 1)
            out[n_out - 1].high = c.high > out[n_out - 1].high ? c.high : out[n_out - 1].high;
        else if (!negate)
            out[n_out++] = c;
        from = c.high + 1 > from ? c.high + 1 : from;
    }
    if (negate && from <= 0x10FFFF)
        out[n_out++] = (ds_char_range){from, 0x10FFFF};
    return n_out;
}

/* ---- one of several texts -------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* texts: sorted, all the same up to `depth`. */
static int32_t branches(ds_rules *r, char **texts, size_t n, size_t depth, int32_t next) {
    size_t shared = depth;
    const char *first = texts[0], *last = texts[n - 1];
    while (first[shared] && first[shared] == last[shared])
        shared++;
    size_t i = 0;
    int32_t at = DS_RULES_NOTHING;
    while (i < n && !texts[i][shared]) { /* ends here; the same text may stand there twice */
        at = next;
        i++;
    }
    while (i < n) {
        size_t end = i + 1;
        while (end < n && texts[end][shared] == texts[i][shared])
            end++;
        const unsigned byte = (unsigned char)texts[i][shared];
        const int32_t rest = branches(r, texts + i, end - i, shared + 1, next);
        at = ds_rules_fork(r, ds_rules_bytes(r, byte, byte, rest), at);
        i = end;
    }
    return ds_rules_literal(r, first + depth, shared - depth, at);
}

int32_t ds_rules_one_of(ds_rules *r, char **texts, size_t n, int32_t next) {
    if (n == 0 || next < 0)
        return DS_RULES_NOTHING;
    qsort(texts, n, sizeof *texts, by_text);
    return branches(r, texts, n, 0, next);
}

/* ---- looking at the whole -------------------------------------------------------------------- */

static bool node_is_live(const ds_rules *r, const ds_rule_node *n, const bool spells[256]) {
    const ds_rule_node *nodes = r->nodes;
    switch (n->kind) {
    case DS_RULE_END: return true;
    case DS_RULE_FORK: return nodes[n->next].live || nodes[n->other].live;
    case DS_RULE_CALL:
        return nodes[n->next].live && r->starts[n->other] >= 0 && nodes[r->starts[n->other]].live;
    case DS_RULE_BYTES: break;
    }
    bool spelled = false;
    for (unsigned byte = n->low; byte <= n->high; byte++)
        spelled = spelled || spells[byte];
    return spelled && nodes[n->next].live;
}

static bool node_is_empty(const ds_rules *r, const ds_rule_node *n) {
    const ds_rule_node *nodes = r->nodes;
    switch (n->kind) {
    case DS_RULE_END: return true;
    case DS_RULE_BYTES: return false;
    case DS_RULE_FORK: return nodes[n->next].empty || nodes[n->other].empty;
    case DS_RULE_CALL:
        return nodes[n->next].empty && r->starts[n->other] >= 0 && nodes[r->starts[n->other]].empty;
    }
    return false;
}

/* Until nothing changes any more. Nodes are mostly made after those that follow them, so a few
 * passes are enough but for long chains of rules that call rules made later. */
static bool settle(ds_rules *r, const bool spells[256]) {
    enum { MOST_PASSES = 200 };
    bool changed = true;
    for (int pass = 0; changed && pass < MOST_PASSES; pass++) {
        changed = false;
        for (size_t i = 0; i < r->n_nodes; i++) {
            ds_rule_node *n = &r->nodes[i];
            if (!n->live && node_is_live(r, n, spells))
                changed = n->live = true;
            if (!n->empty && node_is_empty(r, n))
                changed = n->empty = true;
        }
    }
    return !changed;
}

/* Which rules a rule may call before it has read a byte, as edges between rules. */
typedef struct left_calls {
    int32_t *todo, *seen; /* [n_nodes]; seen: the rule that came by last, plus 1 */
    struct {
        int32_t from, to;
    } * edges;
    size_t n, capacity;
    bool failed;
} left_calls;

static void add_edge(left_calls *l, int32_t from, int32_t to) {
    void *grown = ds_grow(l->edges, &l->capacity, l->n + 1, sizeof *l->edges);
    l->failed = l->failed || !grown;
    if (!grown)
        return;
    l->edges = grown;
    l->edges[l->n].from = from;
    l->edges[l->n++].to = to;
}

static void visit(left_calls *l, int32_t rule, int32_t node, size_t *n_todo) {
    if (node < 0 || l->seen[node] == rule + 1)
        return;
    l->seen[node] = rule + 1;
    l->todo[(*n_todo)++] = node;
}

static void follow(const ds_rules *r, left_calls *l, int32_t rule) {
    size_t n_todo = 0;
    visit(l, rule, r->starts[rule], &n_todo);
    while (n_todo > 0) {
        const ds_rule_node *n = &r->nodes[l->todo[--n_todo]];
        if (!n->live || n->kind == DS_RULE_END || n->kind == DS_RULE_BYTES)
            continue;
        if (n->kind == DS_RULE_CALL)
            add_edge(l, rule, n->other);
        if (n->kind == DS_RULE_FORK || r->nodes[r->starts[n->other]].empty)
            visit(l, rule, n->next, &n_todo);
        if (n->kind == DS_RULE_FORK)
            visit(l, rule, n->other, &n_todo);
    }
}

/* Takes away, again and again, the rules that no other one calls on its left (Kahn 1962). What
 * stays calls itself. */
static bool has_cycle(const ds_rules *r, left_calls *l) {
    int32_t *callers = l->seen, *free_ones = l->todo, *first = NULL, *after = NULL;
    size_t n_free = 0, n_gone = 0;
    first = ds_malloc((r->n_rules + 1) * sizeof *first);
    after = ds_malloc((l->n + 1) * sizeof *after);
    l->failed = l->failed || !first || !after;
    for (size_t i = 0; i < r->n_rules && !l->failed; i++) {
        callers[i] = 0;
        first[i] = -1;
    }
    for (size_t i = 0; i < l->n && !l->failed; i++) {
        callers[l->edges[i].to]++;
        after[i] = first[l->edges[i].from];
        first[l->edges[i].from] = (int32_t)i;
    }
    for (size_t i = 0; i < r->n_rules && !l->failed; i++)
        if (callers[i] == 0)
            free_ones[n_free++] = (int32_t)i;
    for (; n_free > 0; n_gone++)
        for (int32_t e = first[free_ones[--n_free]], rule; e >= 0; e = after[e])
            if (--callers[rule = l->edges[e].to] == 0)
                free_ones[n_free++] = rule;
    free(first);
    free(after);
    return n_gone < r->n_rules;
}

static ds_status check_left_calls(const ds_rules *r, const char *what) {
    const size_t n = r->n_nodes > r->n_rules ? r->n_nodes : r->n_rules;
    left_calls l = {.todo = ds_calloc(n + 1, sizeof *l.todo),
                    .seen = ds_calloc(n + 1, sizeof *l.seen)};
    l.failed = !l.todo || !l.seen;
    for (size_t i = 0; i < r->n_rules && !l.failed; i++)
        follow(r, &l, (int32_t)i);
    const bool cycle = !l.failed && has_cycle(r, &l);
    const bool failed = l.failed;
    free(l.todo);
    free(l.seen);
    free(l.edges);
    if (failed)
        return DS_OUT_OF_MEMORY;
    return cycle ? ds_fail(DS_INVALID,
                           "%s: a rule begins with itself, so that it could go on without ever "
                           "reading anything",
                           what)
                 : DS_OK;
}

static bool is_live(const ds_rules *r) {
    return r->n_rules > 0 && r->starts[0] >= 0 && r->nodes[r->starts[0]].live;
}

/* Nothing is live: whether for want of bytes that can be spelled, and which. */
static ds_status explain_dead(ds_rules *r, const bool spells[256], const char *what) {
    bool all[256], used[256] = {0};
    char missing[96] = "";
    memset(all, true, sizeof all);
    if (!settle(r, all) || !is_live(r))
        return ds_fail(DS_INVALID, "%s: no text can satisfy it", what);
    for (size_t i = 0; i < r->n_nodes; i++)
        if (r->nodes[i].kind == DS_RULE_BYTES && r->nodes[i].low == r->nodes[i].high)
            used[r->nodes[i].low] = true;
    for (unsigned byte = 0x21; byte < 0x7F; byte++)
        if (used[byte] && !spells[byte] && strlen(missing) + 3 < sizeof missing)
            snprintf(missing + strlen(missing), 3, " %c", (char)byte);
    return ds_fail(DS_UNSUPPORTED,
                   "%s: the model's vocabulary cannot spell it: it has no tokens for some "
                   "characters, such as%s",
                   what, *missing ? missing : " those beyond ASCII");
}

ds_status ds_rules_check(ds_rules *r, const bool spells[256], const char *what) {
    if (r->out_of_memory)
        return ds_fail(DS_OUT_OF_MEMORY, "out of memory for a grammar");
    const bool settled = !r->too_large && settle(r, spells);
    if (r->too_large || !settled)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: too large: repeated parts are written out, and %d places are the most "
                       "(lower the highest lengths and counts)",
                       what, DS_RULES_MOST_NODES);
    if (!is_live(r))
        return explain_dead(r, spells, what);
    return check_left_calls(r, what);
}

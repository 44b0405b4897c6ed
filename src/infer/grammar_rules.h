/* The rules of a grammar over bytes, as a graph of nodes: a byte of a range is read, one of two
 * ways is taken, another rule is called, a rule ends. That is a pushdown automaton written down.
 *
 * Rules are built from their end to their beginning: each function takes the node that follows and
 * returns the node that begins. DS_RULES_NOTHING stands for what no text can match; a part of it is
 * it too. Errors stick: a failed builder goes on returning DS_RULES_NOTHING, and ds_rules_check
 * tells. */
#ifndef DS_INFER_GRAMMAR_RULES_H
#define DS_INFER_GRAMMAR_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

enum {
    DS_RULES_NOTHING = -1,
    DS_RULES_END = 0,        /* the node that ends every rule */
    DS_RULES_UNBOUNDED = -1, /* as a highest count */
    DS_RULES_MOST_NODES = 1 << 18
};

typedef enum ds_rule_kind { DS_RULE_END, DS_RULE_BYTES, DS_RULE_FORK, DS_RULE_CALL } ds_rule_kind;

typedef struct ds_rule_node {
    ds_rule_kind kind;
    unsigned char low, high; /* BYTES */
    bool live;               /* some text leads from here to the end of its rule */
    bool empty;              /* the empty text does */
    int32_t next, other;     /* other: the second way of a FORK, the rule of a CALL */
} ds_rule_node;

typedef struct ds_rules {
    ds_rule_node *nodes;
    size_t n_nodes, node_capacity;
    int32_t *starts; /* [n_rules]; rule 0 is the whole */
    size_t n_rules, rule_capacity;
    bool out_of_memory, too_large;
} ds_rules;

/* A piece of a sequence: a rule, so many times. */
typedef struct ds_rule_item {
    int32_t rule;
    int64_t least, most; /* most: DS_RULES_UNBOUNDED for any number */
} ds_rule_item;

/* A range of code points. */
typedef struct ds_char_range {
    uint32_t low, high;
} ds_char_range;

void ds_rules_clear(ds_rules *r);
/* A new rule's number, to be defined later: rules may call each other. -1 on failure. */
int32_t ds_rules_new(ds_rules *r);
void ds_rules_define(ds_rules *r, int32_t rule, int32_t start);
/* A new rule that begins at start. */
int32_t ds_rules_make(ds_rules *r, int32_t start);

int32_t ds_rules_bytes(ds_rules *r, unsigned low, unsigned high, int32_t next);
int32_t ds_rules_literal(ds_rules *r, const char *bytes, size_t length, int32_t next);
int32_t ds_rules_text(ds_rules *r, const char *text, int32_t next);
int32_t ds_rules_fork(ds_rules *r, int32_t one, int32_t other);
int32_t ds_rules_call(ds_rules *r, int32_t rule, int32_t next);
/* The rule, `least` to `most` times. */
int32_t ds_rules_repeat(ds_rules *r, ds_rule_item item, int32_t next);
int32_t ds_rules_sequence(ds_rules *r, const ds_rule_item *items, size_t n, int32_t next);
/* The UTF-8 of one character from low to high; surrogates are none. */
int32_t ds_rules_chars(ds_rules *r, uint32_t low, uint32_t high, int32_t next);
/* One of several texts, sorted here; common beginnings are shared. */
int32_t ds_rules_one_of(ds_rules *r, char **texts, size_t n, int32_t next);

/* Sorts ranges [n] and joins them; with negate they become what is between them. out: room for
 * n + 1. Returns how many there are. */
size_t ds_char_ranges_close(ds_char_range *ranges, size_t n, bool negate, ds_char_range *out);

/* Finds what is live with the bytes that can be spelled. DS_INVALID when nothing at all matches, or
 * when a rule calls itself before it has read anything; `what` begins the message. */
ds_status ds_rules_check(ds_rules *r, const bool spells[256], const char *what);

#endif

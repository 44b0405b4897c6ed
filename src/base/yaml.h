/* YAML text as a tree of nodes that know where they stand, for configuration files.
 *
 * libyaml gives events; a configuration reader wants a tree with file:line:column on every node, so
 * that a wrong value can be shown in its place. The tree is read from text that nobody vouches for:
 * size, depth, number of nodes after expansion of aliases ("billion laughs") and keys per mapping
 * are bounded, duplicate keys and aliases that contain themselves are refused. */
#ifndef DS_BASE_YAML_H
#define DS_BASE_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include "base/arena.h"
#include "deepseek/status.h"

enum {
    DS_YAML_MAX_BYTES = 1 << 20,   /* of one text */
    DS_YAML_MAX_DEPTH = 32,        /* of nesting, aliases expanded */
    DS_YAML_MAX_NODES = 1 << 17,   /* of the tree, aliases expanded */
    DS_YAML_MAX_KEYS = 1024,       /* of one mapping */
    DS_YAML_MAX_ANCHORS = 256,     /* of one text */
    DS_YAML_MAX_SCALAR = 64 * 1024 /* bytes of one scalar, after expansion of variables */
};

typedef enum ds_yaml_kind { DS_YAML_SCALAR, DS_YAML_SEQUENCE, DS_YAML_MAPPING } ds_yaml_kind;

typedef struct ds_yaml_node ds_yaml_node;

/* One element of a sequence (key NULL) or one pair of a mapping. */
typedef struct ds_yaml_item {
    const ds_yaml_node *key, *value;
    struct ds_yaml_item *next;
} ds_yaml_item;

struct ds_yaml_node {
    ds_yaml_kind kind;
    bool plain;          /* a scalar without quotes: `null` is nothing, `'null'` is a word */
    int line, column;    /* from 1 */
    const char *text;    /* a scalar's value, zero-terminated, without zero bytes, UTF-8 */
    ds_yaml_item *items; /* of a sequence or mapping, in order */
    size_t n_items;
    size_t n_nodes; /* of this subtree with aliases expanded */
    int height;     /* of this subtree with aliases expanded; 1 for a scalar */
    bool complete;  /* false while its own contents are being read */
};

/* Reads the one document of a text of size bytes into a tree that lives in arena; an empty document
 * gives NULL. ${NAME} and ${NAME:-default} in values are replaced from the environment, `$$` is a
 * dollar sign, single-quoted values are left alone. Messages begin with `name:line:column: `, or
 * with nothing where name is NULL. */
ds_status ds_yaml_read(ds_arena *arena, const char *name, const char *text, size_t size,
                       const ds_yaml_node **out);

/* Whether the node is absent or a plain `null`, `~` or nothing. */
bool ds_yaml_is_null(const ds_yaml_node *node);

#endif

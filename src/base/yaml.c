#include "base/yaml.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/error.h"
#include "base/text.h"

typedef struct anchor {
    const char *name;
    ds_yaml_node *node;
} anchor;

typedef struct reader {
    ds_arena *arena;
    const char *name; /* of the text, for messages */
    yaml_parser_t parser;
    yaml_event_t event;
    anchor anchors[DS_YAML_MAX_ANCHORS];
    size_t n_anchors;
} reader;

static ds_status fail_at(const reader *r, yaml_mark_t mark, const char *fmt, ...) DS_PRINTF(3, 4);

static ds_status fail_at(const reader *r, yaml_mark_t mark, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ds_vfail(DS_INVALID, fmt, ap);
    va_end(ap);
    if (!r->name)
        return DS_INVALID;
    return ds_fail_within(DS_INVALID, "%s:%zu:%zu", r->name, mark.line + 1, mark.column + 1);
}

static yaml_mark_t mark_of(const ds_yaml_node *node) {
    return (yaml_mark_t){.line = (size_t)node->line - 1, .column = (size_t)node->column - 1};
}

/* libyaml's own complaint. Its reader (bytes that are no UTF-8) knows an offset only. */
static ds_status fail_syntax(const reader *r, const char *text, size_t size) {
    const yaml_parser_t *p = &r->parser;
    yaml_mark_t mark = p->problem_mark;
    if (p->error == YAML_MEMORY_ERROR)
        return ds_fail(DS_OUT_OF_MEMORY, "out of memory while reading YAML");
    if (p->error == YAML_READER_ERROR) {
        mark = (yaml_mark_t){0};
        for (size_t i = 0; i < p->problem_offset && i < size; i++) {
            mark.column = text[i] == '\n' ? 0 : mark.column + 1;
            mark.line += text[i] == '\n';
        }
    }
    const char *problem = p->problem ? p->problem : "not YAML";
    if (!p->context)
        return fail_at(r, mark, "%s", problem);
    return fail_at(r, mark, "%s, %s", problem, p->context);
}

static bool is_utf8(const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        const int n = *s < 0x80 ? 0 : *s >> 5 == 6 ? 1 : *s >> 4 == 14 ? 2 : *s >> 3 == 30 ? 3 : -1;
        uint32_t code = n <= 0 ? *s : *s & (0x3fu >> n);
        for (int i = 1; i <= n; i++) {
            if (s[i] >> 6 != 2)
                return false;
            code = code << 6 | (s[i] & 0x3f);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (n < 0 || code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return false;
        s += n + 1;
    }
    return true;
}

/* Appends the value of the variable whose text begins behind `${`; returns what follows `}`. */
static const char *expand_one(const reader *r, yaml_mark_t mark, const char *s, ds_text *out,
                              ds_status *status) {
    char name[128];
    const char *end = strchr(s, '}');
    const char *fallback = end ? memmem(s, (size_t)(end - s), ":-", 2) : NULL;
    const size_t length = end ? (size_t)((fallback ? fallback : end) - s) : 0;
    if (length == 0 || length >= sizeof name) {
        *status = fail_at(r, mark,
                          "'${' must be ${NAME} or ${NAME:-default}; "
                          "write '$$' for a dollar sign");
        return s;
    }
    memcpy(name, s, length);
    name[length] = '\0';
    const char *value = getenv(name);
    if (value && (*value || !fallback)) {
        if (strlen(value) > DS_YAML_MAX_SCALAR || !is_utf8(value))
            *status = fail_at(r, mark, "environment variable %s is too long or no UTF-8", name);
        else
            ds_text_puts(out, value);
    } else if (fallback) {
        ds_text_append(out, fallback + 2, (size_t)(end - fallback - 2));
    } else {
        *status =
            fail_at(r, mark, "environment variable %s is not set; set it or write ${%s:-default}",
                    name, name);
    }
    return end + 1;
}

static ds_status expand(const reader *r, yaml_mark_t mark, const char *text, const char **out) {
    ds_text expanded = {0};
    ds_status status = DS_OK;
    for (const char *s = text; *s && status == DS_OK;) {
        if (s[0] == '$' && s[1] == '{') {
            s = expand_one(r, mark, s + 2, &expanded, &status);
        } else {
            ds_text_append(&expanded, s, 1);
            s += s[0] == '$' && s[1] == '$' ? 2 : 1;
        }
        if (status == DS_OK && expanded.length > DS_YAML_MAX_SCALAR)
            status = fail_at(r, mark, "value longer than 64 KiB");
    }
    if (status == DS_OK) {
        *out = expanded.poisoned ? NULL : ds_arena_strdup(r->arena, expanded.data);
        status = *out ? DS_OK : DS_OUT_OF_MEMORY;
    }
    ds_text_clear(&expanded);
    return status;
}

static ds_status next_event(reader *r, const char *text, size_t size) {
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->parser, &r->event))
        return DS_OK;
    return fail_syntax(r, text, size);
}

static ds_status read_scalar(const reader *r, ds_yaml_node *node, bool is_key) {
    const yaml_mark_t mark = r->event.start_mark;
    const char *value = (const char *)r->event.data.scalar.value;
    const size_t length = r->event.data.scalar.length;
    const yaml_scalar_style_t style = r->event.data.scalar.style;
    if (length > DS_YAML_MAX_SCALAR)
        return fail_at(r, mark, "value longer than 64 KiB");
    if (strlen(value) != length)
        return fail_at(r, mark, "value contains a zero byte");
    node->kind = DS_YAML_SCALAR;
    node->plain = style == YAML_PLAIN_SCALAR_STYLE;
    node->complete = true;
    if (!is_key && style != YAML_SINGLE_QUOTED_SCALAR_STYLE && strchr(value, '$'))
        return expand(r, mark, value, &node->text);
    node->text = ds_arena_strdup(r->arena, value);
    return node->text ? DS_OK : DS_OUT_OF_MEMORY;
}

/* Custom tags ask for objects that a configuration does not have. */
static ds_status check_tag(const reader *r, const yaml_char_t *tag) {
    static const char standard[] = "tag:yaml.org,2002:";
    if (!tag || strcmp((const char *)tag, "!") == 0 ||
        strncmp((const char *)tag, standard, sizeof standard - 1) == 0)
        return DS_OK;
    return fail_at(r, r->event.start_mark, "custom tags are not accepted; write the plain value");
}

static ds_status add_anchor(reader *r, const yaml_char_t *name, ds_yaml_node *node) {
    if (!name)
        return DS_OK;
    if (r->n_anchors == DS_YAML_MAX_ANCHORS)
        return fail_at(r, r->event.start_mark, "more than 256 anchors");
    anchor *a = &r->anchors[r->n_anchors];
    *a = (anchor){.name = ds_arena_strdup(r->arena, (const char *)name), .node = node};
    r->n_anchors++;
    return a->name ? DS_OK : DS_OUT_OF_MEMORY;
}

static ds_status find_anchor(const reader *r, const ds_yaml_node **out) {
    const char *name = (const char *)r->event.data.alias.anchor;
    for (size_t i = r->n_anchors; i-- > 0;) {
        if (strcmp(r->anchors[i].name, name) != 0)
            continue;
        if (!r->anchors[i].node->complete)
            return fail_at(r, r->event.start_mark, "alias inside its own anchor");
        *out = r->anchors[i].node;
        return DS_OK;
    }
    return fail_at(r, r->event.start_mark, "unknown anchor '%.64s'", name);
}

static ds_status check_duplicate(const reader *r, const ds_yaml_node *map,
                                 const ds_yaml_node *key) {
    for (const ds_yaml_item *i = map->items; i; i = i->next)
        if (strcmp(i->key->text, key->text) == 0)
            return fail_at(r, mark_of(key), "duplicate key '%.64s'; first given at line %d",
                           key->text, i->key->line);
    return DS_OK;
}

/* Appends to a sequence or mapping, and keeps the count of nodes and the height. */
static ds_status add_item(const reader *r, ds_yaml_node *parent, ds_yaml_item **last,
                          const ds_yaml_node *key, const ds_yaml_node *value, int depth) {
    ds_yaml_item *item = ds_arena_alloc(r->arena, sizeof *item);
    if (!item)
        return DS_OUT_OF_MEMORY;
    *item = (ds_yaml_item){.key = key, .value = value};
    if (*last)
        (*last)->next = item;
    else
        parent->items = item;
    *last = item;
    parent->n_items++;
    parent->n_nodes += value->n_nodes + (key ? 1 : 0);
    if (parent->height < value->height + 1)
        parent->height = value->height + 1;
    if (parent->n_nodes > DS_YAML_MAX_NODES)
        return fail_at(r, r->event.start_mark, "more than 131072 values, aliases expanded");
    if (depth + value->height > DS_YAML_MAX_DEPTH)
        return fail_at(r, r->event.start_mark, "nested deeper than 32 levels, aliases expanded");
    return DS_OK;
}

static ds_status read_node(reader *r, const char *text, size_t size, int depth, bool is_key,
                           const ds_yaml_node **out);

static ds_status read_pair(reader *r, const char *text, size_t size, int depth,
                           const ds_yaml_node *map, const ds_yaml_node **key,
                           const ds_yaml_node **value) {
    DS_TRY(read_node(r, text, size, depth, true, key));
    if ((*key)->kind != DS_YAML_SCALAR)
        return fail_at(r, mark_of(*key), "a key must be a word");
    DS_TRY(check_duplicate(r, map, *key));
    DS_TRY(next_event(r, text, size));
    return read_node(r, text, size, depth, false, value);
}

/* The contents of a sequence or mapping whose start event is the present one. */
static ds_status read_items(reader *r, const char *text, size_t size, int depth,
                            ds_yaml_node *node) {
    const bool mapping = r->event.type == YAML_MAPPING_START_EVENT;
    const yaml_event_type_t end = mapping ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    ds_yaml_item *last = NULL;
    node->kind = mapping ? DS_YAML_MAPPING : DS_YAML_SEQUENCE;
    if (depth >= DS_YAML_MAX_DEPTH)
        return fail_at(r, r->event.start_mark, "nested deeper than 32 levels, aliases expanded");
    for (;;) {
        DS_TRY(next_event(r, text, size));
        if (r->event.type == end)
            break;
        const ds_yaml_node *key = NULL, *value = NULL;
        if (mapping) {
            if (node->n_items == DS_YAML_MAX_KEYS)
                return fail_at(r, r->event.start_mark, "more than 1024 keys in one mapping");
            DS_TRY(read_pair(r, text, size, depth + 1, node, &key, &value));
        } else {
            DS_TRY(read_node(r, text, size, depth + 1, false, &value));
        }
        DS_TRY(add_item(r, node, &last, key, value, depth + 1));
    }
    node->complete = true;
    return DS_OK;
}

/* The node whose first event is the present one. */
static ds_status read_node(reader *r, const char *text, size_t size, int depth, bool is_key,
                           const ds_yaml_node **out) {
    if (r->event.type == YAML_ALIAS_EVENT)
        return find_anchor(r, out);
    ds_yaml_node *node = ds_arena_alloc(r->arena, sizeof *node);
    if (!node)
        return DS_OUT_OF_MEMORY;
    node->line = (int)r->event.start_mark.line + 1;
    node->column = (int)r->event.start_mark.column + 1;
    node->n_nodes = 1;
    node->height = 1;
    *out = node;
    switch (r->event.type) {
    case YAML_SCALAR_EVENT:
        DS_TRY(check_tag(r, r->event.data.scalar.tag));
        DS_TRY(add_anchor(r, r->event.data.scalar.anchor, node));
        return read_scalar(r, node, is_key);
    case YAML_SEQUENCE_START_EVENT:
        DS_TRY(check_tag(r, r->event.data.sequence_start.tag));
        DS_TRY(add_anchor(r, r->event.data.sequence_start.anchor, node));
        return read_items(r, text, size, depth, node);
    case YAML_MAPPING_START_EVENT:
        DS_TRY(check_tag(r, r->event.data.mapping_start.tag));
        DS_TRY(add_anchor(r, r->event.data.mapping_start.anchor, node));
        return read_items(r, text, size, depth, node);
    default: return fail_at(r, r->event.start_mark, "a value was expected here");
    }
}

static ds_status read_stream(reader *r, const char *text, size_t size, const ds_yaml_node **out) {
    do
        DS_TRY(next_event(r, text, size));
    while (r->event.type == YAML_STREAM_START_EVENT || r->event.type == YAML_DOCUMENT_START_EVENT);
    if (r->event.type == YAML_STREAM_END_EVENT)
        return DS_OK;
    DS_TRY(read_node(r, text, size, 0, false, out));
    DS_TRY(next_event(r, text, size)); /* document end */
    DS_TRY(next_event(r, text, size));
    if (r->event.type != YAML_STREAM_END_EVENT)
        return fail_at(r, r->event.start_mark, "a second document; one file is one configuration");
    return DS_OK;
}

ds_status ds_yaml_read(ds_arena *arena, const char *name, const char *text, size_t size,
                       const ds_yaml_node **out) {
    *out = NULL;
    if (size > DS_YAML_MAX_BYTES)
        return ds_fail(DS_INVALID, "%s%s%zu bytes, more than the %d accepted", name ? name : "",
                       name ? ": " : "", size, DS_YAML_MAX_BYTES);
    reader *r = ds_arena_alloc(arena, sizeof *r);
    if (!r)
        return DS_OUT_OF_MEMORY;
    r->arena = arena;
    r->name = name;
    if (!yaml_parser_initialize(&r->parser))
        return ds_fail(DS_OUT_OF_MEMORY, "out of memory while reading YAML");
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, size);
    const ds_status status = read_stream(r, text, size, out);
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
    return status;
}

bool ds_yaml_is_null(const ds_yaml_node *node) {
    if (!node)
        return true;
    if (node->kind != DS_YAML_SCALAR || !node->plain)
        return false;
    return !*node->text || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0 ||
           strcmp(node->text, "Null") == 0 || strcmp(node->text, "NULL") == 0;
}

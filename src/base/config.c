#include "base/config.h"

#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/config_value.h"
#include "base/error.h"
#include "base/file.h"
#include "base/yaml.h"

enum { MAX_INCLUDES = 16, MAX_VISITS = 1 << 20 };

/* Where the value of a key came from. */
typedef struct origin {
    const char *source; /* file name or "command line"; NULL while the default stands */
    int line, column;   /* 0: the source has no lines */
    int reading;        /* number of the text, to tell twice in one text from two texts */
} origin;

struct ds_config {
    const ds_config_table *table;
    void *fields;
    ds_arena *arena; /* trees and names of all sources */
    origin *origins; /* one per row */
    int n_readings;
    int n_visits; /* values bound so far: aliases in lists multiply them */
};

/* The text that is being read. */
typedef struct source {
    const char *name;
    const char *folder; /* for includes; NULL: they are refused */
    bool has_lines;
    int reading;
    int depth; /* of includes */
    struct stat file;
    const struct source *parent;
} source;

static ds_status fail_node(const source *src, const ds_yaml_node *node, const char *fmt, ...)
    DS_PRINTF(3, 4);

/* "file:line:column: " or "command line: " before the thread's message. */
static ds_status within(const source *src, const ds_yaml_node *node, ds_status status) {
    if (src->has_lines)
        return ds_fail_within(status, "%s:%d:%d", src->name, node->line, node->column);
    return ds_fail_within(status, "%s", src->name);
}

static ds_status fail_node(const source *src, const ds_yaml_node *node, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const ds_status status = ds_vfail(DS_INVALID, fmt, ap);
    va_end(ap);
    return within(src, node, status);
}

static const ds_config_key *find_key(const ds_config_table *table, const char *path) {
    for (size_t i = 0; i < table->n_keys; i++)
        if (strcmp(table->keys[i].path, path) == 0)
            return &table->keys[i];
    return NULL;
}

static bool is_section(const ds_config_table *table, const char *path) {
    const size_t length = strlen(path);
    for (size_t i = 0; i < table->n_keys; i++)
        if (strncmp(table->keys[i].path, path, length) == 0 && table->keys[i].path[length] == '.')
            return true;
    return false;
}

/* The names that may stand below a section ("" for the top), each once. Returns how many. */
static size_t names_below(const ds_config_table *table, const char *section, char names[][64],
                          size_t limit) {
    const size_t skip = *section ? strlen(section) + 1 : 0;
    size_t n = 0;
    for (size_t i = 0; i < table->n_keys && n < limit; i++) {
        const char *path = table->keys[i].path;
        if (skip && (strncmp(path, section, skip - 1) != 0 || path[skip - 1] != '.'))
            continue;
        snprintf(names[n], 64, "%.*s", (int)strcspn(path + skip, "."), path + skip);
        bool seen = false;
        for (size_t j = 0; j < n && !seen; j++)
            seen = strcmp(names[j], names[n]) == 0;
        n += !seen;
    }
    return n;
}

/* The path of a key of another section whose last name is this one. */
static const char *same_name_elsewhere(const ds_config_table *table, const char *name) {
    for (size_t i = 0; i < table->n_keys; i++) {
        const char *dot = strrchr(table->keys[i].path, '.');
        if (dot && strcmp(dot + 1, name) == 0)
            return table->keys[i].path;
    }
    return NULL;
}

/* As ds_nearest_name, among whole paths. */
static const char *nearest_path(const ds_config_table *table, const char *path) {
    const char *paths[256];
    size_t n = 0;
    for (; n < table->n_keys && n < sizeof paths / sizeof *paths; n++)
        paths[n] = table->keys[n].path;
    return ds_nearest_name(path, paths, n);
}

static ds_status fail_unknown(const ds_config_table *table, const source *src,
                              const ds_yaml_node *node, const char *section, const char *name) {
    char names[64][64], shown[64];
    const char *pointers[64];
    const size_t n = names_below(table, section, names, 64);
    for (size_t i = 0; i < n; i++)
        pointers[i] = names[i];
    const char *near = same_name_elsewhere(table, name);
    if (!near)
        near = strchr(name, '.') ? nearest_path(table, name) : ds_nearest_name(name, pointers, n);
    ds_config_shown(shown, sizeof shown, name);
    const char *dot = *section ? "." : "";
    if (near)
        return fail_node(src, node, "unknown key '%s%s%s'; did you mean '%s'?", section, dot, shown,
                         near);
    ds_text accepted = {0};
    for (size_t i = 0; i < n; i++)
        ds_text_printf(&accepted, "%s%s", i ? ", " : "", names[i]);
    const ds_status status = fail_node(src, node, "unknown key '%s%s%s'; accepted here: %s",
                                       section, dot, shown, accepted.data ? accepted.data : "");
    ds_text_clear(&accepted);
    return status;
}

/* ---- lists ------------------------------------------------------------------------------- */

static void release_key(const ds_config_key *key, void *record) {
    void *field = (char *)record + key->offset;
    if (key->type == DS_CONFIG_STRING || key->type == DS_CONFIG_PATH) {
        char *string = NULL;
        memcpy(&string, field, sizeof string);
        free(string);
    } else if (key->type == DS_CONFIG_STRINGS) {
        ds_config_strings *list = field;
        for (size_t i = 0; i < list->n; i++)
            free(list->items[i]);
        free(list->items);
    } else if (key->type == DS_CONFIG_INTS) {
        free(((ds_config_ints *)field)->items);
    } else if (key->type == DS_CONFIG_LIST) {
        ds_config_list *list = field;
        for (size_t i = 0; i < list->n; i++)
            ds_config_release(key->item, (char *)list->items + i * key->item->struct_size);
        free(list->items);
    } else {
        return;
    }
    memset(field, 0, key->size);
}

void ds_config_release(const ds_config_table *table, void *fields) {
    for (size_t i = 0; i < table->n_keys; i++)
        release_key(&table->keys[i], fields);
    memset(fields, 0, table->struct_size);
}

static ds_status set_defaults(const ds_config_table *table, void *record) {
    memset(record, 0, table->struct_size);
    for (size_t i = 0; i < table->n_keys; i++) {
        const ds_config_key *key = &table->keys[i];
        if (key->fallback && key->type != DS_CONFIG_ALIAS) {
            const ds_status status = ds_config_value_read(key, key->fallback, false, record);
            if (status != DS_OK)
                return ds_fail_within(status, "default of %s", key->path);
        }
    }
    return DS_OK;
}

static ds_status bind_mapping(ds_config *c, const source *src, const ds_config_table *table,
                              void *record, const char *section, const ds_yaml_node *map);

static ds_status visit(ds_config *c, const source *src, const ds_yaml_node *node) {
    if (++c->n_visits > MAX_VISITS)
        return fail_node(src, node, "more than %d values, aliases expanded", MAX_VISITS);
    return DS_OK;
}

static ds_status bind_struct(ds_config *c, const source *src, const ds_config_key *key,
                             const ds_yaml_node *node, void *item) {
    const ds_config_table *table = key->item;
    DS_TRY(set_defaults(table, item));
    if (node->kind == DS_YAML_SCALAR && key->item_scalar && !ds_yaml_is_null(node)) {
        const ds_config_key *field = find_key(table, key->item_scalar);
        const ds_status status = ds_config_value_read(field, node->text, false, item);
        return status == DS_OK ? DS_OK : within(src, node, status);
    }
    if (node->kind != DS_YAML_MAPPING)
        return fail_node(src, node, "%s: expected a mapping or a list of them", key->path);
    DS_TRY(bind_mapping(c, src, table, item, "", node));
    for (size_t i = 0; i < table->n_keys; i++) {
        char *string = NULL;
        if (!table->keys[i].required)
            continue;
        memcpy(&string, (char *)item + table->keys[i].offset, sizeof string);
        if (!string)
            return fail_node(src, node, "%s: '%s' is missing", key->path, table->keys[i].path);
    }
    return DS_OK;
}

static ds_status bind_item(ds_config *c, const source *src, const ds_config_key *key,
                           const ds_yaml_node *node, void *items, size_t i) {
    DS_TRY(visit(c, src, node));
    if (key->type == DS_CONFIG_LIST)
        return bind_struct(c, src, key, node, (char *)items + i * key->item->struct_size);
    if (node->kind != DS_YAML_SCALAR || ds_yaml_is_null(node))
        return fail_node(src, node, "%s: expected %s", key->path,
                         key->type == DS_CONFIG_INTS ? "an integer" : "text");
    if (key->type == DS_CONFIG_STRINGS) {
        char *copy = ds_strdup(node->text);
        ((char **)items)[i] = copy;
        return copy ? DS_OK : DS_OUT_OF_MEMORY;
    }
    char shown[64];
    int64_t *value = (int64_t *)items + i;
    const double low = key->range.min, high = key->range.max;
    if (!ds_config_integer(node->text, value))
        return fail_node(src, node, "%s: '%s'; expected an integer", key->path,
                         ds_config_shown(shown, sizeof shown, node->text));
    if (low < high && ((double)*value < low || (double)*value > high))
        return fail_node(src, node, "%s: out of range: '%s'; expected %g to %g", key->path,
                         ds_config_shown(shown, sizeof shown, node->text), low, high);
    return DS_OK;
}

/* Replaces the list by the node's elements; a bare element is a list of one, null an empty one. */
static ds_status bind_list(ds_config *c, const source *src, const ds_config_key *key, void *record,
                           const ds_yaml_node *node) {
    const size_t item_size = key->type == DS_CONFIG_LIST ? key->item->struct_size : 8;
    const ds_yaml_item single = {.value = node};
    const bool is_sequence = node->kind == DS_YAML_SEQUENCE;
    const ds_yaml_item *first = is_sequence ? node->items : ds_yaml_is_null(node) ? NULL : &single;
    const size_t n = is_sequence ? node->n_items : first != NULL;
    /* The three list types have one layout: the array, then its length. */
    ds_config_list fresh = {.items = n ? ds_calloc(n, item_size) : NULL, .n = n};
    if (n && !fresh.items)
        return DS_OUT_OF_MEMORY;
    ds_status status = DS_OK;
    size_t i = 0;
    for (const ds_yaml_item *item = first; item && status == DS_OK; item = item->next)
        status = bind_item(c, src, key, item->value, fresh.items, i++);
    void *field = (char *)record + key->offset;
    if (status == DS_OK) {
        release_key(key, record);
        memcpy(field, &fresh, sizeof fresh);
        return DS_OK;
    }
    ds_config_list kept;
    memcpy(&kept, field, sizeof kept);
    memcpy(field, &fresh, sizeof fresh);
    release_key(key, record); /* of what was read so far */
    memcpy(field, &kept, sizeof kept);
    return status;
}

/* ---- keys -------------------------------------------------------------------------------- */

static ds_status check_given_once(const ds_config *c, const source *src, const ds_config_key *key,
                                  const ds_yaml_node *node) {
    const origin *o = &c->origins[key - c->table->keys];
    if (!src->has_lines || o->reading != src->reading || !o->source)
        return DS_OK;
    return fail_node(src, node, "'%s' was given at line %d already, by its other name", key->path,
                     o->line);
}

static ds_status bind_key(ds_config *c, const source *src, const ds_config_table *table,
                          void *record, const ds_config_key *key, const ds_yaml_node *node) {
    const char *path = key->path;
    if (key->type == DS_CONFIG_ALIAS)
        key = find_key(table, key->target);
    if (table == c->table)
        DS_TRY(check_given_once(c, src, key, node));
    DS_TRY(visit(c, src, node));
    const bool is_list = key->type == DS_CONFIG_STRINGS || key->type == DS_CONFIG_INTS ||
                         key->type == DS_CONFIG_LIST;
    ds_status status = DS_OK;
    if (is_list) {
        DS_TRY(bind_list(c, src, key, record, node));
    } else if (node->kind != DS_YAML_SCALAR) {
        ds_text accepted = {0};
        ds_config_accepted(key, &accepted);
        status = fail_node(src, node, "%s: a %s; expected %s", path,
                           node->kind == DS_YAML_MAPPING ? "mapping" : "list",
                           accepted.data ? accepted.data : "another type");
        ds_text_clear(&accepted);
        return status;
    } else {
        status = ds_config_value_read(key, node->text, ds_yaml_is_null(node), record);
        if (status == DS_OUT_OF_MEMORY)
            return status;
        if (status != DS_OK)
            return within(src, node, ds_fail_within(status, "%s", path));
    }
    if (table == c->table)
        c->origins[key - table->keys] = (origin){.source = src->name,
                                                 .line = src->has_lines ? node->line : 0,
                                                 .column = src->has_lines ? node->column : 0,
                                                 .reading = src->reading};
    return DS_OK;
}

/* One `name: value` below a section. */
static ds_status bind_pair(ds_config *c, const source *src, const ds_config_table *table,
                           void *record, const char *section, const ds_yaml_item *pair) {
    char path[256];
    const char *name = pair->key->text;
    const int n = snprintf(path, sizeof path, "%s%s%s", section, *section ? "." : "", name);
    const char *dot = strrchr(name, '.');
    if (n > 0 && (size_t)n < sizeof path && dot && find_key(table, path))
        return fail_node(src, pair->key, "'%s' must be written as '%s' below '%.*s:'", path,
                         dot + 1, (int)(dot - name), name);
    if (n < 0 || (size_t)n >= sizeof path || dot)
        return fail_unknown(table, src, pair->key, section, name);
    const ds_config_key *key = find_key(table, path);
    if (key)
        return bind_key(c, src, table, record, key, pair->value);
    if (!is_section(table, path))
        return fail_unknown(table, src, pair->key, section, name);
    if (pair->value->kind == DS_YAML_MAPPING)
        return bind_mapping(c, src, table, record, path, pair->value);
    if (ds_yaml_is_null(pair->value))
        return DS_OK; /* a section whose keys are all commented out */
    return fail_node(src, pair->value, "'%s' is a section; expected its keys below it", path);
}

static ds_status bind_mapping(ds_config *c, const source *src, const ds_config_table *table,
                              void *record, const char *section, const ds_yaml_node *map) {
    for (const ds_yaml_item *i = map->items; i; i = i->next) {
        if (table == c->table && !*section && strcmp(i->key->text, "include") == 0 && src->folder)
            continue; /* was read before */
        DS_TRY(bind_pair(c, src, table, record, section, i));
    }
    return DS_OK;
}

/* ---- sources ----------------------------------------------------------------------------- */

static ds_status read_file(ds_config *c, const char *path, const source *parent,
                           const ds_yaml_node *node);

static ds_status read_include(ds_config *c, const source *src, const ds_yaml_node *node) {
    if (node->kind != DS_YAML_SCALAR || ds_yaml_is_null(node))
        return fail_node(src, node, "include: expected a file name or a list of them");
    if (src->depth == MAX_INCLUDES)
        return fail_node(src, node, "include: more than %d files deep", MAX_INCLUDES);
    const bool absolute = node->text[0] == '/';
    const char *path =
        ds_arena_printf(c->arena, "%s%s%s", absolute ? "" : src->folder,
                        absolute || strcmp(src->folder, "/") == 0 ? "" : "/", node->text);
    if (!path)
        return DS_OUT_OF_MEMORY;
    if (strncmp(path, "./", 2) == 0)
        path += 2;
    return read_file(c, path, src, node);
}

static ds_status read_includes(ds_config *c, const source *src, const ds_yaml_node *root) {
    for (const ds_yaml_item *i = root->items; i; i = i->next) {
        if (strcmp(i->key->text, "include") != 0)
            continue;
        if (!src->folder)
            return fail_node(src, i->key, "include: accepted in files only");
        if (i->value->kind != DS_YAML_SEQUENCE)
            return read_include(c, src, i->value);
        for (const ds_yaml_item *file = i->value->items; file; file = file->next)
            DS_TRY(read_include(c, src, file->value));
    }
    return DS_OK;
}

static ds_status read_source(ds_config *c, source *src, const char *text, size_t size) {
    const ds_yaml_node *root = NULL;
    DS_TRY(ds_yaml_read(c->arena, src->name, text, size, &root));
    if (ds_yaml_is_null(root))
        return DS_OK;
    if (root->kind != DS_YAML_MAPPING)
        return fail_node(src, root, "expected keys and values, such as 'model: {preset: tiny}'");
    DS_TRY(read_includes(c, src, root));
    src->reading = ++c->n_readings;
    return bind_mapping(c, src, c->table, c->fields, "", root);
}

static ds_status read_file(ds_config *c, const char *path, const source *parent,
                           const ds_yaml_node *node) {
    char *text = NULL;
    size_t size = 0;
    source src = {.name = ds_arena_strdup(c->arena, path),
                  .has_lines = true,
                  .depth = parent ? parent->depth + 1 : 0,
                  .parent = parent};
    char *copy = ds_arena_strdup(c->arena, path);
    if (!src.name || !copy)
        return DS_OUT_OF_MEMORY;
    src.folder = dirname(copy);
    ds_status status = ds_file_read(path, DS_YAML_MAX_BYTES, &text, &size);
    if (status == DS_OK && stat(path, &src.file) != 0)
        status = ds_fail_errno("%s: cannot be read", path);
    for (const source *p = parent; p && status == DS_OK; p = p->parent)
        if (p->file.st_ino == src.file.st_ino && p->file.st_dev == src.file.st_dev)
            status = ds_fail(DS_INVALID, "include: '%s' includes itself", path);
    if (status != DS_OK) {
        free(text);
        return parent ? within(parent, node, status) : status;
    }
    status = read_source(c, &src, text, size);
    free(text);
    return status;
}

ds_status ds_config_new(const ds_config_table *table, void *fields, ds_config **out) {
    *out = NULL;
    memset(fields, 0, table->struct_size);
    ds_config *c = ds_calloc(1, sizeof *c);
    if (!c)
        return DS_OUT_OF_MEMORY;
    *c = (ds_config){.table = table,
                     .fields = fields,
                     .arena = ds_arena_new(),
                     .origins = ds_calloc(table->n_keys, sizeof(origin))};
    ds_status status = c->arena && c->origins ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK)
        status = set_defaults(table, fields);
    if (status != DS_OK) {
        ds_config_release(table, fields);
        ds_config_free(c);
        return status;
    }
    *out = c;
    return DS_OK;
}

void ds_config_free(ds_config *c) {
    if (!c)
        return;
    if (c->arena)
        ds_arena_free(c->arena);
    free(c->origins);
    free(c);
}

ds_status ds_config_read_file(ds_config *c, const char *path) {
    return read_file(c, path, NULL, NULL);
}

ds_status ds_config_read_text(ds_config *c, const char *name, const char *text, size_t size) {
    source src = {.name = ds_arena_strdup(c->arena, name), .has_lines = true};
    return src.name ? read_source(c, &src, text, size) : DS_OUT_OF_MEMORY;
}

/* ---- command line ------------------------------------------------------------------------ */

static const ds_yaml_node *scalar_node(ds_arena *arena, const char *text, bool plain) {
    ds_yaml_node *node = ds_arena_alloc(arena, sizeof *node);
    if (node)
        *node = (ds_yaml_node){.kind = DS_YAML_SCALAR,
                               .plain = plain,
                               .text = text,
                               .n_nodes = 1,
                               .height = 1,
                               .complete = true};
    return node;
}

static ds_status override_key(ds_config *c, const source *src, const char *path,
                              const char *value) {
    const ds_config_key *key = find_key(c->table, path);
    const ds_config_key *meant = key && key->target ? find_key(c->table, key->target) : key;
    const ds_yaml_node *node = NULL;
    const bool is_list = meant && (meant->type == DS_CONFIG_STRINGS ||
                                   meant->type == DS_CONFIG_INTS || meant->type == DS_CONFIG_LIST);
    if (meant && !is_list) {
        const bool is_text = meant->type == DS_CONFIG_STRING || meant->type == DS_CONFIG_PATH;
        node = scalar_node(c->arena, value, true);
        if (node && is_text && !ds_yaml_is_null(node))
            node = scalar_node(c->arena, value, false); /* a text as it stands */
    } else {
        const ds_status status = ds_yaml_read(c->arena, NULL, value, strlen(value), &node);
        if (status != DS_OK)
            return ds_fail_within(status, "%s: %s", src->name, path);
        if (!node)
            node = scalar_node(c->arena, "", true);
    }
    if (!node)
        return DS_OUT_OF_MEMORY;
    if (key)
        return bind_key(c, src, c->table, c->fields, key, node);
    if (node->kind != DS_YAML_MAPPING)
        return fail_node(src, node, "'%s' is a section; expected %s.KEY=VALUE", path, path);
    return bind_mapping(c, src, c->table, c->fields, path, node);
}

ds_status ds_config_override(ds_config *c, const char *assignment) {
    source src = {.name = "command line", .reading = ++c->n_readings};
    char shown[64];
    const ds_yaml_node nowhere = {.kind = DS_YAML_SCALAR};
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return fail_node(&src, &nowhere, "'%s'; expected key.path=value",
                         ds_config_shown(shown, sizeof shown, assignment));
    if (ds_utf8_valid(assignment, strlen(assignment)) != strlen(assignment))
        return fail_node(&src, &nowhere, "'%.*s' is set to bytes that are not UTF-8",
                         (int)(equals - assignment), assignment);
    char *path = ds_arena_strdup(c->arena, assignment);
    if (!path)
        return DS_OUT_OF_MEMORY;
    path[equals - assignment] = '\0';
    if (find_key(c->table, path) || is_section(c->table, path))
        return override_key(c, &src, path, path + (equals - assignment) + 1);
    /* The longest part that is a section tells where to look for what was meant. */
    char *name = path;
    for (char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
        *dot = '\0';
        const bool inside = is_section(c->table, path);
        *dot = '.';
        if (!inside)
            break;
        name = dot + 1;
    }
    if (name == path)
        return fail_unknown(c->table, &src, &nowhere, "", path);
    name[-1] = '\0';
    return fail_unknown(c->table, &src, &nowhere, path, name);
}

/* ---- questions --------------------------------------------------------------------------- */

bool ds_config_given(const ds_config *c, const char *path) {
    const ds_config_key *key = find_key(c->table, path);
    return key && c->origins[key - c->table->keys].source != NULL;
}

ds_status ds_config_fail(const ds_config *c, const char *path, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ds_vfail(DS_INVALID, fmt, ap);
    va_end(ap);
    const ds_config_key *key = find_key(c->table, path);
    const origin *o = key ? &c->origins[key - c->table->keys] : NULL;
    if (!o || !o->source)
        return ds_fail_within(DS_INVALID, "%s", path);
    if (o->line == 0)
        return ds_fail_within(DS_INVALID, "%s: %s", o->source, path);
    return ds_fail_within(DS_INVALID, "%s:%d:%d: %s", o->source, o->line, o->column, path);
}

static bool equal_strings(const char *a, const char *b) {
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool equal_lists(const ds_config_key *key, const void *a, const void *b) {
    const ds_config_list *x = a, *y = b;
    if (x->n != y->n)
        return false;
    for (size_t i = 0; i < x->n; i++) {
        const char *p = x->items, *q = y->items;
        bool same = false;
        if (key->type == DS_CONFIG_LIST)
            same = ds_config_equal(key->item, p + i * key->item->struct_size,
                                   q + i * key->item->struct_size, NULL);
        else if (key->type == DS_CONFIG_STRINGS)
            same = equal_strings(((char **)x->items)[i], ((char **)y->items)[i]);
        else
            same = ((int64_t *)x->items)[i] == ((int64_t *)y->items)[i];
        if (!same)
            return false;
    }
    return true;
}

static bool equal_values(const ds_config_key *key, const void *a, const void *b) {
    const char *x = (const char *)a + key->offset, *y = (const char *)b + key->offset;
    if (key->type == DS_CONFIG_STRING || key->type == DS_CONFIG_PATH) {
        char *s = NULL, *t = NULL;
        memcpy(&s, x, sizeof s);
        memcpy(&t, y, sizeof t);
        return equal_strings(s, t);
    }
    if (key->type == DS_CONFIG_STRINGS || key->type == DS_CONFIG_INTS ||
        key->type == DS_CONFIG_LIST)
        return equal_lists(key, x, y);
    return key->type == DS_CONFIG_ALIAS || memcmp(x, y, key->size) == 0;
}

bool ds_config_equal(const ds_config_table *table, const void *a, const void *b,
                     const char **difference) {
    for (size_t i = 0; i < table->n_keys; i++)
        if (!equal_values(&table->keys[i], a, b)) {
            if (difference)
                *difference = table->keys[i].path;
            return false;
        }
    return true;
}

bool ds_config_equal_key(const ds_config_table *table, const char *path, const void *a,
                         const void *b) {
    const ds_config_key *key = find_key(table, path);
    return key && equal_values(key, a, b);
}

/* A configuration reader driven by one table.
 *
 * A table has one row per key: its path, type, range, default, meaning, and the field of a C struct
 * that it fills. Everything else follows from the table: reading YAML with messages that say
 * `file:line:column`, what was expected and which key was probably meant; `key.path=value` on the
 * command line; `--help`; docs/config.md; a JSON schema; and the resolved configuration as YAML
 * that reads back to an equal struct. Adding a key is adding a row.
 *
 *     typedef struct run { double learning_rate; int64_t steps; } run;
 *     static const ds_config_key keys[] = {
 *         {.path = "optimizer.learning_rate", .type = DS_CONFIG_FLOAT,
 *          DS_CONFIG_FIELD(run, learning_rate), .fallback = "3e-4", .range = {0, INFINITY}, …},
 *         {.path = "steps", .type = DS_CONFIG_COUNT, DS_CONFIG_FIELD(run, steps), …}};
 *
 * Sources are read one after the other into the same struct; a later one wins key by key. A file's
 * `include:` is read before the file itself. */
#ifndef DS_BASE_CONFIG_H
#define DS_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/text.h"
#include "deepseek/status.h"

typedef enum ds_config_type {                     /* field in C */
                              DS_CONFIG_BOOL,     /* bool */
                              DS_CONFIG_INT,      /* int or int64_t */
                              DS_CONFIG_COUNT,    /* int64_t; `2.5B`, `300k`, `1e9` */
                              DS_CONFIG_BYTES,    /* int64_t; `8GiB` */
                              DS_CONFIG_FLOAT,    /* double */
                              DS_CONFIG_DURATION, /* double, seconds; `500ms` */
                              DS_CONFIG_ENUM,     /* an enum; one of the row's words */
                              DS_CONFIG_STRING,   /* char *, NULL for `null` */
                              DS_CONFIG_PATH,     /* char *, NULL for `null` */
                              DS_CONFIG_STRINGS,  /* ds_config_strings */
                              DS_CONFIG_INTS,     /* ds_config_ints */
                              DS_CONFIG_LIST, /* ds_config_list of structs, each filled by the row's
                                                 item table */
                              DS_CONFIG_ALIAS, /* none: another name of the row's target */
} ds_config_type;

typedef struct ds_config_strings {
    char **items;
    size_t n;
} ds_config_strings;

typedef struct ds_config_ints {
    int64_t *items;
    size_t n;
} ds_config_ints;

typedef struct ds_config_list {
    void *items; /* array of the item table's struct */
    size_t n;
} ds_config_list;

/* A word that stands for a value: an enum's constant, or `auto`, `dynamic` for a number. */
typedef struct ds_config_word {
    const char *word;
    int value;
    const char *help; /* may be NULL */
} ds_config_word;

/* Accepted numbers; {0, 0} accepts all. Words are accepted beside them. */
typedef struct ds_config_range {
    double min, max;
    bool above_min, below_max; /* the bound itself is refused */
} ds_config_range;

typedef struct ds_config_table ds_config_table;

typedef struct ds_config_key {
    const char *path; /* "optimizer.learning_rate" */
    ds_config_type type;
    size_t offset, size;  /* of the field (DS_CONFIG_FIELD) */
    const char *fallback; /* the default, as it would be written; NULL: null or an empty list */
    ds_config_range range;
    const ds_config_word *words; /* ends with a word NULL */
    const char *unit;            /* "tokens", "s"; may be NULL */
    const char *help;            /* one line */
    bool required;               /* of a list's item: must be given */
    const ds_config_table *item; /* DS_CONFIG_LIST: its elements … */
    const char *item_scalar;     /* … and the key that a bare value fills */
    const char *target;          /* DS_CONFIG_ALIAS: the path that is meant */
} ds_config_key;

#define DS_CONFIG_FIELD(type, field)                                                               \
    .offset = offsetof(type, field), .size = sizeof(((type *)0)->field)

typedef struct ds_config_section {
    const char *path;
    const char *help;
} ds_config_section;

struct ds_config_table {
    const char *title; /* heading of the documentation */
    const char *intro; /* Markdown behind the heading; may be NULL */
    const ds_config_key *keys;
    size_t n_keys;
    const ds_config_section *sections; /* in the order of the documentation */
    size_t n_sections;
    size_t struct_size;
};

/* A struct while it is being filled: remembers where each value came from. */
typedef struct ds_config ds_config;

/* Fills *fields (of the table's struct_size) with the defaults and begins reading into it. What the
 * fields point to is released by ds_config_release, the reader itself by ds_config_free. */
ds_status ds_config_new(const ds_config_table *table, void *fields, ds_config **out);
void ds_config_free(ds_config *config);

/* Reads a file and its includes, which are sought beside the file. */
ds_status ds_config_read_file(ds_config *config, const char *path);

/* Reads a text; name stands in messages for the file. `include` is refused. */
ds_status ds_config_read_text(ds_config *config, const char *name, const char *text, size_t size);

/* Reads `key.path=value`. Texts but `null` are taken as they stand, other values and lists as YAML.
 */
ds_status ds_config_override(ds_config *config, const char *assignment);

/* Whether a source gave the key; false: the default stands. */
bool ds_config_given(const ds_config *config, const char *path);

/* Fails with "place: path: message", place being where the key was given last. */
ds_status ds_config_fail(const ds_config *config, const char *path, const char *fmt, ...)
    DS_PRINTF(3, 4);

/* Frees what the fields own and clears the struct. */
void ds_config_release(const ds_config_table *table, void *fields);

/* Whether two structs hold the same values. If not and `difference` is not NULL, it is set to the
 * path of the first key that differs (borrowed). */
bool ds_config_equal(const ds_config_table *table, const void *a, const void *b,
                     const char **difference);

/* The same of one key; false if there is no such key. */
bool ds_config_equal_key(const ds_config_table *table, const char *path, const void *a,
                         const void *b);

/* The struct as YAML: every key, readable by ds_config_read_text. */
void ds_config_dump(const ds_config_table *table, const void *fields, ds_text *out);

/* The same table as text for a terminal, as Markdown, as a JSON schema (draft 2020-12). */
void ds_config_help(const ds_config_table *table, ds_text *out);
void ds_config_markdown(const ds_config_table *table, ds_text *out);
void ds_config_schema(const ds_config_table *table, ds_text *out);

#endif

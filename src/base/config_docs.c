/* What a configuration table says to people and programs: YAML dump, --help, Markdown, JSON schema.
 * All four walk the same rows, so none can disagree with what is accepted. */
#include <jansson.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/config_value.h"

/* ---- YAML -------------------------------------------------------------------------------- */

static void write_list(const ds_config_key *key, const void *record, ds_text *out) {
    const void *field = (const char *)record + key->offset;
    const ds_config_list *list = field;
    ds_text_puts(out, "[");
    for (size_t i = 0; i < list->n; i++) {
        ds_text_puts(out, i ? ", " : "");
        if (key->type == DS_CONFIG_STRINGS) {
            ds_config_string_write(((char **)list->items)[i], out);
        } else if (key->type == DS_CONFIG_INTS) {
            ds_text_printf(out, "%" PRId64, ((int64_t *)list->items)[i]);
        } else {
            const ds_config_table *item = key->item;
            ds_text_puts(out, "{");
            for (size_t k = 0; k < item->n_keys; k++) {
                ds_text_printf(out, "%s%s: ", k ? ", " : "", item->keys[k].path);
                ds_config_value_write(&item->keys[k],
                                      (const char *)list->items + i * item->struct_size, out);
            }
            ds_text_puts(out, "}");
        }
    }
    ds_text_puts(out, "]\n");
}

static bool is_list(const ds_config_key *key) {
    return key->type == DS_CONFIG_STRINGS || key->type == DS_CONFIG_INTS ||
           key->type == DS_CONFIG_LIST;
}

/* How many sections two paths share. */
static int shared_depth(const char *a, const char *b) {
    int depth = 0;
    for (; *a && *a == *b; a++, b++)
        depth += *a == '.';
    return depth;
}

void ds_config_dump(const ds_config_table *table, const void *fields, ds_text *out) {
    const char *before = "";
    for (size_t i = 0; i < table->n_keys; i++) {
        const ds_config_key *key = &table->keys[i];
        if (key->type == DS_CONFIG_ALIAS)
            continue;
        const char *name = key->path;
        int depth = 0;
        const int shared = shared_depth(before, key->path);
        for (const char *dot; (dot = strchr(name, '.')); name = dot + 1, depth++)
            if (depth >= shared)
                ds_text_printf(out, "%*s%.*s:\n", depth * 2, "", (int)(dot - name), name);
        ds_text_printf(out, "%*s%s: ", depth * 2, "", name);
        if (is_list(key)) {
            write_list(key, fields, out);
        } else {
            ds_config_value_write(key, fields, out);
            ds_text_puts(out, "\n");
        }
        before = key->path;
    }
}

/* ---- help and Markdown ------------------------------------------------------------------- */

static const char *section_help(const ds_config_table *table, const char *path, size_t length) {
    for (size_t i = 0; i < table->n_sections; i++)
        if (strlen(table->sections[i].path) == length &&
            strncmp(table->sections[i].path, path, length) == 0)
            return table->sections[i].help;
    return "";
}

static size_t section_length(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot ? (size_t)(dot - path) : 0;
}

static bool same_section(const ds_config_key *a, const ds_config_key *b) {
    const size_t n = section_length(a->path);
    return n == section_length(b->path) && strncmp(a->path, b->path, n) == 0;
}

static void append_fallback(const ds_config_key *key, ds_text *out) {
    if (key->fallback && *key->fallback)
        ds_text_puts(out, key->fallback);
    else
        ds_text_puts(out, is_list(key) ? "[]" : key->fallback ? "\"\"" : "null");
}

void ds_config_help(const ds_config_table *table, ds_text *out) {
    for (size_t i = 0; i < table->n_keys; i++) {
        const ds_config_key *key = &table->keys[i];
        const size_t n = section_length(key->path);
        if (i == 0 || !same_section(key, key - 1)) {
            if (n)
                ds_text_printf(out, "\n%.*s: %s\n", (int)n, key->path,
                               section_help(table, key->path, n));
            else
                ds_text_printf(out, "%stop level: %s\n", i ? "\n" : "", section_help(table, "", 0));
        }
        ds_text_printf(out, "  %-36s", key->path);
        if (strlen(key->path) > 35)
            ds_text_printf(out, "\n  %-36s", "");
        if (key->type == DS_CONFIG_ALIAS) {
            ds_text_printf(out, "another name of %s\n", key->target);
            continue;
        }
        ds_text_printf(out, "%s\n  %-36s  ", key->help, "");
        ds_config_accepted(key, out);
        if (key->unit)
            ds_text_printf(out, ", in %s", key->unit);
        ds_text_puts(out, "; default ");
        append_fallback(key, out);
        ds_text_puts(out, "\n");
    }
}

static void markdown_words(const ds_config_key *key, ds_text *out) {
    for (const ds_config_word *w = key->words; w && w->word; w++)
        if (w->help)
            ds_text_printf(out, "<br>`%s`: %s", w->word, w->help);
}

/* list: name of the list whose items have this key, or NULL. */
static void markdown_row(const ds_config_key *key, const char *list, ds_text *out) {
    const char *dot = strrchr(key->path, '.');
    const char *leaf = dot ? dot + 1 : key->path;
    ds_text_printf(out, "| `%s%s%s` | ", list ? list : "", list ? "[]." : "", leaf);
    if (key->type == DS_CONFIG_ALIAS) {
        ds_text_printf(out, "| | another name of `%s` |\n", key->target);
        return;
    }
    if (key->required) {
        ds_text_puts(out, "required | ");
    } else {
        ds_text_puts(out, "`");
        append_fallback(key, out);
        ds_text_puts(out, "` | ");
    }
    ds_config_accepted(key, out);
    if (key->unit)
        ds_text_printf(out, ", in %s", key->unit);
    ds_text_printf(out, " | %s", key->help);
    markdown_words(key, out);
    ds_text_puts(out, " |\n");
    for (size_t i = 0; key->item && i < key->item->n_keys; i++)
        markdown_row(&key->item->keys[i], leaf, out);
}

void ds_config_markdown(const ds_config_table *table, ds_text *out) {
    ds_text_printf(out, "# %s\n\n", table->title);
    if (table->intro)
        ds_text_printf(out, "%s\n", table->intro);
    for (size_t i = 0; i < table->n_keys; i++) {
        const ds_config_key *key = &table->keys[i];
        const size_t n = section_length(key->path);
        if (i == 0 || !same_section(key, key - 1)) {
            if (n)
                ds_text_printf(out, "\n## `%.*s`\n%s\n", (int)n, key->path,
                               section_help(table, key->path, n));
            else
                ds_text_printf(out, "\n## Top level\n%s\n", section_help(table, "", 0));
            ds_text_puts(out, "\n| key | default | accepted | meaning |\n|---|---|---|---|\n");
        }
        markdown_row(key, NULL, out);
    }
}

/* ---- JSON schema ------------------------------------------------------------------------- */

static const char *schema_type(const ds_config_key *key) {
    switch (key->type) {
    case DS_CONFIG_BOOL: return "boolean";
    case DS_CONFIG_INT: return "integer";
    case DS_CONFIG_FLOAT: return "number";
    default: return "string";
    }
}

static void schema_range(const ds_config_key *key, json_t *schema) {
    const ds_config_range *r = &key->range;
    if (r->min >= r->max)
        return;
    if (r->min > -INFINITY)
        json_object_set_new(schema, r->above_min ? "exclusiveMinimum" : "minimum",
                            json_real(r->min));
    if (r->max < INFINITY)
        json_object_set_new(schema, r->below_max ? "exclusiveMaximum" : "maximum",
                            json_real(r->max));
}

static json_t *schema_words(const ds_config_key *key) {
    json_t *words = json_array();
    for (const ds_config_word *w = key->words; w && w->word; w++) {
        const bool truth = strcmp(w->word, "true") == 0, lie = strcmp(w->word, "false") == 0;
        json_array_append_new(words, truth || lie ? json_boolean(truth) : json_string(w->word));
    }
    return words;
}

static json_t *schema_table(const ds_config_table *table);

static json_t *schema_list(const ds_config_key *key) {
    json_t *items = NULL;
    if (key->type == DS_CONFIG_LIST)
        items = json_pack("{s:[o,{s:s}]}", "anyOf", schema_table(key->item), "type", "string");
    else
        items = json_pack("{s:s}", "type", key->type == DS_CONFIG_INTS ? "integer" : "string");
    /* A bare element is a list of one. */
    return json_pack("{s:[{s:s,s:O},o]}", "anyOf", "type", "array", "items", items, items);
}

static json_t *schema_value(const ds_config_key *key) {
    if (is_list(key))
        return schema_list(key);
    if (key->type == DS_CONFIG_ENUM)
        return json_pack("{s:o}", "enum", schema_words(key));
    json_t *value = NULL;
    if (key->type == DS_CONFIG_COUNT || key->type == DS_CONFIG_BYTES ||
        key->type == DS_CONFIG_DURATION) {
        json_t *number =
            json_pack("{s:s}", "type", key->type == DS_CONFIG_DURATION ? "number" : "integer");
        schema_range(key, number);
        value = json_pack("{s:[o,{s:s,s:s}]}", "anyOf", number, "type", "string", "pattern",
                          "^[0-9.eE+-]+ ?[A-Za-z]*$");
    } else if (key->type == DS_CONFIG_STRING || key->type == DS_CONFIG_PATH) {
        return json_pack("{s:[s,s]}", "type", "string", "null");
    } else {
        value = json_pack("{s:s}", "type", schema_type(key));
        schema_range(key, value);
    }
    if (key->words)
        value = json_pack("{s:[o,{s:o}]}", "anyOf", value, "enum", schema_words(key));
    return value;
}

/* The schema of a section, made on first use. Borrowed. */
static json_t *schema_section(json_t *root, const ds_config_table *table, const char *path,
                              const char **leaf) {
    json_t *section = root;
    const char *name = path;
    for (const char *dot; (dot = strchr(name, '.')); name = dot + 1) {
        char part[64];
        snprintf(part, sizeof part, "%.*s", (int)(dot - name), name);
        json_t *properties = json_object_get(section, "properties");
        section = json_object_get(properties, part);
        if (!section) {
            section = json_pack("{s:[s,s],s:s,s:b,s:{}}", "type", "object", "null", "description",
                                section_help(table, path, (size_t)(dot - path)),
                                "additionalProperties", 0, "properties");
            json_object_set_new(properties, part, section);
        }
    }
    *leaf = name;
    return section;
}

static json_t *schema_table(const ds_config_table *table) {
    json_t *root =
        json_pack("{s:s,s:b,s:{}}", "type", "object", "additionalProperties", 0, "properties");
    json_t *required = json_array();
    for (size_t i = 0; i < table->n_keys; i++) {
        const ds_config_key *key = &table->keys[i];
        const ds_config_key *meant = key;
        for (size_t k = 0; key->target && k < table->n_keys; k++)
            if (strcmp(table->keys[k].path, key->target) == 0)
                meant = &table->keys[k];
        const char *leaf = key->path;
        json_t *section = schema_section(root, table, key->path, &leaf);
        json_t *value = schema_value(meant);
        json_object_set_new(value, "description", json_string(meant->help));
        json_object_set_new(json_object_get(section, "properties"), leaf, value);
        if (key->required)
            json_array_append_new(required, json_string(key->path));
    }
    if (json_array_size(required))
        json_object_set(root, "required", required);
    json_decref(required);
    return root;
}

void ds_config_schema(const ds_config_table *table, ds_text *out) {
    json_t *root = schema_table(table);
    json_object_set_new(root, "$schema",
                        json_string("https://json-schema.org/draft/2020-12/schema"));
    json_object_set_new(root, "title", json_string(table->title));
    json_object_set_new(json_object_get(root, "properties"), "include",
                        json_pack("{s:[{s:s},{s:s,s:{s:s}}],s:s}", "anyOf", "type", "string",
                                  "type", "array", "items", "type", "string", "description",
                                  "files that are read first, beside this one"));
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(root);
    if (text) {
        ds_text_puts(out, text);
        ds_text_puts(out, "\n");
    } else {
        out->poisoned = true;
    }
    free(text);
}

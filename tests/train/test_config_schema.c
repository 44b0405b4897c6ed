/* The JSON schema made from the configuration's table, with as much of a validator as it uses:
 * the shipped configurations and the complete dump of the defaults conform to it, and what the
 * reader refuses by type, range or name does not. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "base/file.h"
#include "base/yaml.h"
#include "deepseek/config.h"

#define CONFIGS DS_TEST_DATA "/../../configs"

/* ---- YAML as a validator of JSON sees it (YAML 1.2, core schema) ------------------------- */

static json_t *scalar(const ds_yaml_node *node) {
    char *end = NULL;
    if (!node->plain)
        return json_string(node->text);
    if (ds_yaml_is_null(node))
        return json_null();
    if (strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0)
        return json_boolean(*node->text == 't');
    const long long integer = strtoll(node->text, &end, 10);
    if (*end == '\0')
        return json_integer(integer);
    const double real = strtod(node->text, &end);
    return *end == '\0' ? json_real(real) : json_string(node->text);
}

static json_t *to_json(const ds_yaml_node *node) {
    if (!node)
        return json_object();
    if (node->kind == DS_YAML_SCALAR)
        return scalar(node);
    json_t *value = node->kind == DS_YAML_MAPPING ? json_object() : json_array();
    for (const ds_yaml_item *i = node->items; i; i = i->next) {
        if (node->kind == DS_YAML_MAPPING)
            json_object_set_new(value, i->key->text, to_json(i->value));
        else
            json_array_append_new(value, to_json(i->value));
    }
    return value;
}

/* ---- validation -------------------------------------------------------------------------- */

static bool has_type(const json_t *value, const char *type) {
    const double real = json_number_value(value);
    if (strcmp(type, "integer") == 0) /* 1e6 is one */
        return json_is_integer(value) || (json_is_real(value) && floor(real) == real);
    if (strcmp(type, "number") == 0)
        return json_is_number(value);
    if (strcmp(type, "string") == 0)
        return json_is_string(value);
    if (strcmp(type, "boolean") == 0)
        return json_is_boolean(value);
    if (strcmp(type, "object") == 0)
        return json_is_object(value);
    if (strcmp(type, "array") == 0)
        return json_is_array(value);
    if (strcmp(type, "null") != 0)
        fail_msg("the schema names a type \"%s\"", type);
    return json_is_null(value);
}

static bool type_fits(json_t *type, const json_t *value) {
    if (json_is_string(type))
        return has_type(value, json_string_value(type));
    bool fits = !type;
    for (size_t i = 0; i < json_array_size(type); i++)
        fits = fits || has_type(value, json_string_value(json_array_get(type, i)));
    return fits;
}

static bool range_fits(json_t *schema, const json_t *value) {
    const json_t *low = json_object_get(schema, "minimum");
    const json_t *high = json_object_get(schema, "maximum");
    const json_t *above = json_object_get(schema, "exclusiveMinimum");
    const json_t *below = json_object_get(schema, "exclusiveMaximum");
    const double x = json_number_value(value);
    return !json_is_number(value) ||
           ((!low || x >= json_number_value(low)) && (!high || x <= json_number_value(high)) &&
            (!above || x > json_number_value(above)) && (!below || x < json_number_value(below)));
}

static bool conforms(json_t *schema, json_t *value);

static bool properties_fit(json_t *schema, json_t *value) {
    json_t *properties = json_object_get(schema, "properties"), *item = NULL;
    json_t *required = json_object_get(schema, "required");
    const char *name = NULL;
    json_object_foreach(value, name, item) {
        json_t *inner = json_object_get(properties, name);
        if (!inner && json_is_false(json_object_get(schema, "additionalProperties")))
            return false;
        if (inner && !conforms(inner, item))
            return false;
    }
    for (size_t i = 0; json_is_object(value) && i < json_array_size(required); i++)
        if (!json_object_get(value, json_string_value(json_array_get(required, i))))
            return false;
    return true;
}

static bool conforms(json_t *schema, json_t *value) {
    json_t *any = json_object_get(schema, "anyOf"), *words = json_object_get(schema, "enum");
    json_t *items = json_object_get(schema, "items");
    bool fits = !any, is_word = !words;
    for (size_t i = 0; i < json_array_size(any); i++)
        fits = fits || conforms(json_array_get(any, i), value);
    for (size_t i = 0; i < json_array_size(words); i++)
        is_word = is_word || json_equal(json_array_get(words, i), value);
    for (size_t i = 0; items && json_is_array(value) && i < json_array_size(value); i++)
        fits = fits && conforms(items, json_array_get(value, i));
    return fits && is_word && type_fits(json_object_get(schema, "type"), value) &&
           range_fits(schema, value) && properties_fit(schema, value);
}

static json_t *read_schema(void) {
    char *text = ds_train_config_schema();
    assert_non_null(text);
    json_t *schema = json_loads(text, 0, NULL);
    assert_non_null(schema);
    free(text);
    return schema;
}

static bool yaml_conforms(json_t *schema, const char *name, const char *yaml) {
    ds_arena *arena = ds_arena_new();
    const ds_yaml_node *root = NULL;
    if (ds_yaml_read(arena, name, yaml, strlen(yaml), &root) != DS_OK)
        fail_msg("%s", ds_error());
    json_t *value = to_json(root);
    const bool result = conforms(schema, value);
    json_decref(value);
    ds_arena_free(arena);
    return result;
}

/* ---- tests ------------------------------------------------------------------------------- */

static void test_shipped_configurations_conform(void **state) {
    (void)state;
    json_t *schema = read_schema();
    DIR *folder = opendir(CONFIGS);
    assert_non_null(folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(folder));) {
        char path[512], *text = NULL;
        if (!strstr(e->d_name, ".yaml"))
            continue;
        snprintf(path, sizeof path, CONFIGS "/%s", e->d_name);
        assert_int_equal(ds_file_read(path, 1 << 20, &text, NULL), DS_OK);
        if (!yaml_conforms(schema, e->d_name, text))
            fail_msg("%s does not conform to the schema", e->d_name);
        free(text);
        n++;
    }
    closedir(folder);
    assert_true(n >= 8);
    json_decref(schema);
}

/* The dump has every key of the table: the schema knows them all. */
static void test_every_key_conforms(void **state) {
    (void)state;
    json_t *schema = read_schema();
    ds_train_config c;
    assert_int_equal(ds_train_config_default(&c), DS_OK);
    char *yaml = ds_train_config_dump_yaml(&c);
    assert_true(yaml_conforms(schema, "defaults", yaml));
    free(yaml);
    ds_train_config_free(&c);
    json_decref(schema);
}

static void test_wrong_ones_do_not(void **state) {
    (void)state;
    static const char *const right[] = {
        "data: {train: a}",
        "data: {train: [a, {path: b, weight: 2}]}",
        "model:",
        "training: {tokens: 2.5B, steps: auto}",
        "include: [a, b]",
        "fused_attention: false",
        "data: {tokenizer: ~}",
    };
    static const char *const wrong[] = {
        "lerning_rate: 1",
        "optimizer: {lerning_rate: 1}",
        "optimizer: {beta1: 1}",
        "optimizer: {learning_rate: fast}",
        "schedule: {name: cosin}",
        "precision: {fp16: maybe}",
        "threads: 2.5",
        "device: cuda",
        "model: 5",
        "data: {train: [{weight: 2}]}",
        "data: {train: [{path: a, weight: 0}]}",
        "data: {tokenizer: 5}",
    };
    json_t *schema = read_schema();
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        if (!yaml_conforms(schema, "right", right[i]))
            fail_msg("\"%s\" does not conform", right[i]);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ds_train_config c;
        if (yaml_conforms(schema, "wrong", wrong[i]))
            fail_msg("\"%s\" conforms", wrong[i]);
        if (strchr(wrong[i], '5') == NULL) /* a path may well be 5 to the reader */
            assert_int_not_equal(
                ds_train_config_parse("wrong", wrong[i], strlen(wrong[i]), NULL, 0, &c), DS_OK);
    }
    json_decref(schema);
}

/* What the table offers as a device can be opened in this build. */
static void test_every_device_is_there(void **state) {
    (void)state;
    json_t *schema = read_schema();
    json_t *device = json_object_get(json_object_get(schema, "properties"), "device");
    json_t *words = json_object_get(device, "enum");
    assert_true(json_array_size(words) >= 2);
    for (size_t i = 0; i < json_array_size(words); i++) {
        ds_backend *backend = NULL;
        const char *name = json_string_value(json_array_get(words, i));
        if (ds_backend_open(name, (ds_backend_opts){1}, &backend) != DS_OK)
            fail_msg("%s: %s", name, ds_error());
        ds_backend_close(backend);
    }
    json_decref(schema);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shipped_configurations_conform),
        cmocka_unit_test(test_every_key_conforms),
        cmocka_unit_test(test_wrong_ones_do_not),
        cmocka_unit_test(test_every_device_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

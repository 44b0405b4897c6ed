#include "infer/json_overlap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- references ------------------------------------------------------------------------------ */

static int hex_digit(char c) {
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* The part up to the next slash, its escapes undone: %41 of addresses, ~0 and ~1 of pointers. */
static bool read_part(const char **at, char *out, size_t size) {
    size_t n = 0;
    const char *s = *at;
    for (; *s && *s != '/'; s++) {
        char c = *s;
        if (n + 1 >= size)
            return false;
        if (c == '%' && hex_digit(s[1]) >= 0 && hex_digit(s[2]) >= 0) {
            c = (char)(hex_digit(s[1]) * 16 + hex_digit(s[2]));
            s += 2;
        }
        if (c == '~' && (s[1] == '0' || s[1] == '1'))
            c = *++s == '0' ? '~' : '/';
        out[n++] = c;
    }
    out[n] = '\0';
    *at = s;
    return true;
}

json_t *ds_json_resolve(json_t *root, const char *ref) {
    char part[256];
    json_t *at = root;
    const char *s = ref + (*ref == '#');
    while (*s == '/' && at) {
        s++;
        if (!read_part(&s, part, sizeof part))
            return NULL;
        if (json_is_array(at)) {
            char *end = NULL;
            const unsigned long i = strtoul(part, &end, 10);
            at = *part >= '0' && *part <= '9' && !*end ? json_array_get(at, i) : NULL;
        } else {
            at = json_object_get(at, part);
        }
    }
    return *s ? NULL : at;
}

/* ---- types ----------------------------------------------------------------------------------- */

enum {
    T_NULL = 1,
    T_BOOLEAN = 2,
    T_WHOLE = 4,
    T_FRACTION = 8,
    T_STRING = 16,
    T_ARRAY = 32,
    T_OBJECT = 64,
    T_ALL = 127
};

static unsigned type_bits(const char *name) {
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {{"null", T_NULL},     {"boolean", T_BOOLEAN},
                 {"integer", T_WHOLE}, {"number", T_WHOLE | T_FRACTION},
                 {"string", T_STRING}, {"array", T_ARRAY},
                 {"object", T_OBJECT}};
    for (size_t i = 0; name && i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0)
            return types[i].bits;
    return T_ALL;
}

static unsigned value_bits(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return T_OBJECT;
    case JSON_ARRAY: return T_ARRAY;
    case JSON_STRING: return T_STRING;
    case JSON_INTEGER: return T_WHOLE;
    case JSON_REAL: return json_real_value(v) == floor(json_real_value(v)) ? T_WHOLE : T_FRACTION;
    case JSON_NULL: return T_NULL;
    default: return T_BOOLEAN;
    }
}

static unsigned named_types(const json_t *schema) {
    const json_t *type = json_object_get(schema, "type");
    unsigned bits = 0;
    if (!json_is_array(type))
        return type ? type_bits(json_string_value(type)) : T_ALL;
    for (size_t i = 0; i < json_array_size(type); i++)
        bits |= type_bits(json_string_value(json_array_get(type, i)));
    return bits;
}

bool ds_json_type_allows(const json_t *schema, const json_t *value) {
    return (named_types(schema) & value_bits(value)) != 0;
}

/* The schema itself behind references, a few of them. */
static json_t *behind(json_t *root, json_t *schema) {
    for (int i = 0; i < 8; i++) {
        const char *ref = json_string_value(json_object_get(schema, "$ref"));
        json_t *target = ref ? ds_json_resolve(root, ref) : NULL;
        if (!target)
            break;
        schema = target;
    }
    return schema;
}

/* The values of "const" or "enum" as an array, the caller's; NULL: any. */
static json_t *constants(json_t *schema) {
    json_t *one = json_object_get(schema, "const"), *many = json_object_get(schema, "enum");
    return one ? json_pack("[O]", one) : json_is_array(many) ? json_incref(many) : NULL;
}

static unsigned types_of(json_t *schema) {
    json_t *values = constants(schema);
    unsigned bits = values ? 0 : named_types(schema);
    for (size_t i = 0; i < json_array_size(values); i++)
        bits |= value_bits(json_array_get(values, i));
    json_decref(values);
    return bits;
}

/* ---- two schemas ----------------------------------------------------------------------------- */

static bool equal(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

/* Whether both have constants and none in common. */
static bool constants_differ(json_t *a, json_t *b) {
    json_t *x = constants(a), *y = constants(b);
    bool differ = x && y;
    for (size_t i = 0; differ && i < json_array_size(x); i++)
        for (size_t k = 0; differ && k < json_array_size(y); k++)
            differ = !equal(json_array_get(x, i), json_array_get(y, k));
    json_decref(x);
    json_decref(y);
    return differ;
}

static bool requires(const json_t *schema, const char *name) {
    const json_t *list = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *other = json_string_value(json_array_get(list, i));
        if (other && strcmp(name, other) == 0)
            return true;
    }
    return false;
}

/* Objects that both must have a property which cannot be the same in both. */
static bool properties_differ(json_t *root, json_t *a, json_t *b) {
    json_t *list = json_object_get(a, "properties"), *others = json_object_get(b, "properties");
    json_t *schema = NULL;
    const char *name = NULL;
    json_object_foreach(list, name, schema) {
        json_t *other = json_object_get(others, name);
        if (!other || !requires(a, name) || !requires(b, name))
            continue;
        json_t *x = behind(root, schema), *y = behind(root, other);
        if (!(types_of(x) & types_of(y)) || constants_differ(x, y))
            return true;
    }
    return false;
}

static bool may_both_fit(json_t *root, json_t *a, json_t *b) {
    a = behind(root, a);
    b = behind(root, b);
    const unsigned shared = types_of(a) & types_of(b);
    if (!shared || constants_differ(a, b))
        return false;
    return shared != T_OBJECT || !properties_differ(root, a, b);
}

bool ds_json_overlap(json_t *root, json_t *schemas, size_t *one, size_t *other) {
    const size_t n = json_array_size(schemas);
    for (*one = 0; *one < n; ++*one)
        for (*other = *one + 1; *other < n; ++*other)
            if (may_both_fit(root, json_array_get(schemas, *one), json_array_get(schemas, *other)))
                return true;
    return false;
}

/* JSON Schema (2020-12, and what older drafts share with it) as rules. A table names each keyword;
 * one that is not in it is refused, so that nothing of a schema is passed over in silence. Where a
 * schema leaves a choice, the rules may allow less than it does, never more: properties come in
 * their order, and only those that are named unless additionalProperties asks for others. */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"
#include "data/tokenizer.h"
#include "infer/grammar.h"
#include "infer/json_overlap.h"
#include "infer/json_rules.h"

/* A schema that is referred to, to be written out once the rest is. */
typedef struct pending {
    json_t *schema;
    const char *where; /* the reference */
    int32_t rule;
} pending;

typedef struct compiler {
    ds_json_rules json;
    ds_rules *rules;
    json_t *root;
    json_t *known; /* rule by the address of its schema */
    pending *todo;
    size_t n_todo, todo_capacity;
    ds_text path; /* of the schema at hand */
    ds_status status;
} compiler;

static DS_PRINTF(3, 4) int32_t refuse(compiler *c, ds_status status, const char *fmt, ...) {
    if (c->status != DS_OK)
        return DS_RULES_NOTHING;
    va_list ap;
    va_start(ap, fmt);
    c->status = ds_vfail(status, fmt, ap);
    va_end(ap);
    c->status = ds_fail_within(c->status, "schema at %.200s", c->path.data ? c->path.data : "#");
    return DS_RULES_NOTHING;
}

/* Goes to a part of the schema at hand; returns what leave needs to come back. */
static size_t enter(compiler *c, const char *part) {
    const size_t length = c->path.length;
    ds_text_puts(&c->path, "/");
    ds_text_puts(&c->path, part);
    return length;
}

static void leave(compiler *c, size_t length) {
    c->path.length = length;
    if (c->path.data)
        c->path.data[length] = '\0';
}

/* ---- keywords -------------------------------------------------------------------------------- */

typedef enum keyword_kind {
    NOTE = 1,    /* says nothing of what is valid */
    WHOLE = 2,   /* is all of the schema, but for notes */
    LITERAL = 4, /* the same, and may have a type beside it */
    TYPE = 8,
    OF_OBJECT = 16,
    OF_ARRAY = 32,
    OF_STRING = 64,
    OF_NUMBER = 128,
} keyword_kind;

static const struct keyword {
    const char *name;
    keyword_kind kind;
} keywords[] = {
    {"$schema", NOTE},
    {"$id", NOTE},
    {"$comment", NOTE},
    {"$defs", NOTE},
    {"definitions", NOTE},
    {"title", NOTE},
    {"description", NOTE},
    {"default", NOTE},
    {"examples", NOTE},
    {"deprecated", NOTE},
    {"readOnly", NOTE},
    {"writeOnly", NOTE},
    {"$ref", WHOLE},
    {"anyOf", WHOLE},
    {"oneOf", WHOLE},
    {"allOf", WHOLE},
    {"const", LITERAL},
    {"enum", LITERAL},
    {"type", TYPE},
    {"properties", OF_OBJECT},
    {"required", OF_OBJECT},
    {"additionalProperties", OF_OBJECT},
    {"items", OF_ARRAY},
    {"minItems", OF_ARRAY},
    {"maxItems", OF_ARRAY},
    {"minLength", OF_STRING},
    {"maxLength", OF_STRING},
    {"pattern", OF_STRING},
    {"format", OF_STRING},
    {"minimum", OF_NUMBER},
    {"maximum", OF_NUMBER},
    {"exclusiveMinimum", OF_NUMBER},
    {"exclusiveMaximum", OF_NUMBER},
};

static keyword_kind kind_of(const char *name) {
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (strcmp(keywords[i].name, name) == 0)
            return keywords[i].kind;
    return (keyword_kind)0;
}

/* Which kinds of keywords the schema has; *whole: the one that is all of it, if there is one. */
static unsigned look(compiler *c, json_t *schema, const char **whole) {
    unsigned kinds = 0;
    const char *name = NULL, *other = NULL;
    json_t *value = NULL;
    *whole = NULL;
    json_object_foreach(schema, name, value) {
        const keyword_kind kind = kind_of(name);
        if (!kind) {
            refuse(c, DS_UNSUPPORTED, "the keyword '%.60s' is not supported", name);
            return 0;
        }
        kinds |= kind;
        if ((kind & (WHOLE | LITERAL)) && !*whole)
            *whole = name;
        else if (kind != NOTE && !(kind & TYPE))
            other = name;
        else if ((kind & TYPE) && !other)
            other = name;
    }
    const bool has_literal = *whole && (kind_of(*whole) & LITERAL);
    if (*whole && other && !(has_literal && strcmp(other, "type") == 0))
        refuse(c, DS_UNSUPPORTED, "'%s' beside '%s' is not supported", *whole, other);
    return kinds;
}

/* ---- literals -------------------------------------------------------------------------------- */

static char *dump(json_t *value) {
    return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
}

/* A property's name as it stands in JSON. */
static char *dump_name(const char *name) {
    json_t *text = json_string(name);
    char *out = dump(text);
    json_decref(text);
    return out;
}

static int32_t put_literals(compiler *c, json_t *schema, json_t **values, size_t n, int32_t next) {
    char **texts = ds_calloc(n + 1, sizeof *texts);
    size_t kept = 0;
    int32_t at = DS_RULES_NOTHING;
    bool whole = texts != NULL;
    for (size_t i = 0; i < n && whole; i++) {
        if (!ds_json_type_allows(schema, values[i]))
            continue;
        texts[kept] = dump(values[i]);
        whole = texts[kept] != NULL;
        kept += whole;
    }
    if (!whole)
        refuse(c, DS_OUT_OF_MEMORY, "out of memory");
    else
        at = ds_rules_one_of(c->rules, texts, kept, next);
    for (size_t i = 0; i < kept; i++)
        free(texts[i]);
    free(texts);
    return at;
}

static int32_t put_enum(compiler *c, json_t *schema, int32_t next) {
    json_t *list = json_object_get(schema, "enum");
    const size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0)
        return refuse(c, DS_INVALID, "'enum' must be an array of values, one at least");
    json_t **values = ds_calloc(n, sizeof *values);
    if (!values)
        return refuse(c, DS_OUT_OF_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++)
        values[i] = json_array_get(list, i);
    const int32_t at = put_literals(c, schema, values, n, next);
    free(values);
    return at;
}

static int32_t put_const(compiler *c, json_t *schema, int32_t next) {
    json_t *value = json_object_get(schema, "const");
    return put_literals(c, schema, &value, 1, next);
}

/* ---- references and combinations ------------------------------------------------------------- */

static int32_t put_schema(compiler *c, json_t *schema, int32_t next);

/* The rule of a schema that may be used from several places; it is written out later. */
static int32_t rule_of(compiler *c, json_t *schema, const char *where) {
    char address[32];
    snprintf(address, sizeof address, "%p", (void *)schema);
    json_t *known = json_object_get(c->known, address);
    if (known)
        return (int32_t)json_integer_value(known);
    pending *grown = ds_grow(c->todo, &c->todo_capacity, c->n_todo + 1, sizeof *grown);
    const int32_t rule = ds_rules_new(c->rules);
    if (grown)
        c->todo = grown;
    if (!grown || json_object_set_new(c->known, address, json_integer(rule)) != 0)
        return refuse(c, DS_OUT_OF_MEMORY, "out of memory");
    c->todo[c->n_todo++] = (pending){schema, where, rule};
    return rule;
}

static int32_t put_ref(compiler *c, json_t *schema, int32_t next) {
    const char *ref = json_string_value(json_object_get(schema, "$ref"));
    if (!ref || *ref != '#')
        return refuse(c, DS_UNSUPPORTED, "'$ref' must point into the schema itself: \"#/$defs/…\"");
    json_t *target = ds_json_resolve(c->root, ref);
    if (!target)
        return refuse(c, DS_INVALID, "'$ref' %.100s: there is nothing", ref);
    return ds_rules_call(c->rules, rule_of(c, target, ref), next);
}

static int32_t put_any_of(compiler *c, json_t *schema, const char *key, int32_t next) {
    json_t *list = json_object_get(schema, key);
    int32_t at = DS_RULES_NOTHING;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return refuse(c, DS_INVALID, "'%s' must be an array of schemas, one at least", key);
    for (size_t i = json_array_size(list); i-- > 0 && c->status == DS_OK;) {
        char number[24];
        snprintf(number, sizeof number, "%zu", i);
        const size_t length = enter(c, key);
        enter(c, number);
        at = ds_rules_fork(c->rules, put_schema(c, json_array_get(list, i), next), at);
        leave(c, length);
    }
    return at;
}

static int32_t put_whole(compiler *c, json_t *schema, const char *key, int32_t next) {
    if (strcmp(key, "$ref") == 0)
        return put_ref(c, schema, next);
    if (strcmp(key, "const") == 0)
        return put_const(c, schema, next);
    if (strcmp(key, "enum") == 0)
        return put_enum(c, schema, next);
    json_t *list = json_object_get(schema, key);
    size_t one = 0, other = 0;
    if (strcmp(key, "allOf") == 0 && json_array_size(list) != 1)
        return refuse(c, DS_UNSUPPORTED,
                      "'allOf' of more or less than one schema is not supported");
    if (strcmp(key, "oneOf") == 0 && ds_json_overlap(c->root, list, &one, &other))
        return refuse(
            c, DS_UNSUPPORTED,
            "'oneOf': a value might satisfy both %zu and %zu, as far as can be told here; "
            "use 'anyOf', or give them different types or constants",
            one, other);
    return put_any_of(c, schema, key, next);
}

/* ---- strings and numbers --------------------------------------------------------------------- */

/* The whole number under key, 0 or more. */
static int64_t count_of(compiler *c, json_t *schema, const char *key, int64_t without) {
    json_t *value = json_object_get(schema, key);
    if (!value)
        return without;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        refuse(c, DS_INVALID, "'%s' must be a whole number from 0", key);
    return json_integer_value(value);
}

#define DATE                                                                                       \
    "[12]\\d{3}-(?:02-(?:0[1-9]|1\\d|2[0-8])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|"                 \
    "(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01]))"
#define TIME                                                                                       \
    "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"

static const struct {
    const char *name, *pattern; /* texts of it; not always all */
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"uuid", "^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    {"ipv4", "^(?:" OCTET "\\.){3}" OCTET "$"},
    {"email", "^[A-Za-z0-9_]{1,32}(?:[.+-][A-Za-z0-9_]{1,32}){0,3}@"
              "[a-z0-9]{1,32}(?:-[a-z0-9]{1,32})?(?:\\.[a-z0-9]{1,32}){0,2}\\.[a-z]{2,12}$"},
};

static int32_t put_pattern(compiler *c, const char *key, const char *pattern, int32_t next) {
    int32_t at = DS_RULES_NOTHING;
    const ds_status status = ds_json_pattern(c->rules, pattern, next, &at);
    if (status != DS_OK && c->status == DS_OK) {
        char reason[160];
        snprintf(reason, sizeof reason, "%s", ds_error());
        return refuse(c, status, "'%s' %.60s: %s", key, pattern, reason);
    }
    return ds_rules_text(c->rules, "\"", at);
}

static int32_t put_format(compiler *c, json_t *schema, int32_t next) {
    const char *name = json_string_value(json_object_get(schema, "format"));
    for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0)
            return put_pattern(c, "format", formats[i].pattern, next);
    return refuse(c, DS_UNSUPPORTED,
                  "the 'format' '%.40s' is not supported; date, time, date-time, uuid, ipv4 and "
                  "email are",
                  name ? name : "");
}

static int32_t put_string(compiler *c, json_t *schema, int32_t next) {
    json_t *pattern = json_object_get(schema, "pattern");
    const bool has_format = json_object_get(schema, "format") != NULL;
    const int64_t least = count_of(c, schema, "minLength", 0);
    const int64_t most = count_of(c, schema, "maxLength", DS_RULES_UNBOUNDED);
    const bool counts = least > 0 || most != DS_RULES_UNBOUNDED;
    const int32_t end = ds_rules_text(c->rules, "\"", next);
    if (pattern && !json_is_string(pattern))
        return refuse(c, DS_INVALID, "'pattern' must be a string");
    if ((pattern != NULL) + has_format + counts > 1)
        return refuse(c, DS_UNSUPPORTED,
                      "of 'pattern', 'format' and lengths only one at a time is supported");
    if (pattern)
        return put_pattern(c, "pattern", json_string_value(pattern), end);
    if (has_format)
        return put_format(c, schema, end);
    if (!counts)
        return ds_rules_call(c->rules, c->json.string, next);
    if (most != DS_RULES_UNBOUNDED && most < least)
        return DS_RULES_NOTHING;
    return ds_rules_text(
        c->rules, "\"",
        ds_rules_repeat(c->rules, (ds_rule_item){c->json.character, least, most}, end));
}

typedef struct bounds {
    double low, high;  /* infinite: none */
    bool above, below; /* the bound itself is out */
} bounds;

static double bound_of(compiler *c, json_t *schema, const char *key, double without) {
    json_t *value = json_object_get(schema, key);
    if (value && !json_is_number(value))
        refuse(c, DS_INVALID, "'%s' must be a number", key);
    return value ? json_number_value(value) : without;
}

static bounds bounds_of(compiler *c, json_t *schema) {
    const double low = bound_of(c, schema, "minimum", -INFINITY);
    const double high = bound_of(c, schema, "maximum", INFINITY);
    const double above = bound_of(c, schema, "exclusiveMinimum", -INFINITY);
    const double below = bound_of(c, schema, "exclusiveMaximum", INFINITY);
    return (bounds){fmax(low, above), fmin(high, below), above >= low && isfinite(above),
                    below <= high && isfinite(below)};
}

static int32_t put_integer(compiler *c, json_t *schema, int32_t next) {
    const double most = 999999999999999.0; /* of 15 digits, the same in every reader */
    const bounds b = bounds_of(c, schema);
    double low = isfinite(b.low) ? ceil(b.low) : fmin(-most, floor(b.high));
    double high = isfinite(b.high) ? floor(b.high) : fmax(most, ceil(b.low));
    if (fabs(low) > 9e15 || fabs(high) > 9e15)
        return refuse(c, DS_UNSUPPORTED, "bounds beyond 9e15 are not supported for whole numbers");
    low += b.above && low == b.low;
    high -= b.below && high == b.high;
    if (low > high)
        return DS_RULES_NOTHING;
    return ds_json_integer(c->rules, (int64_t)low, (int64_t)high, next);
}

static int32_t put_number(compiler *c, json_t *schema, int32_t next) {
    const bounds b = bounds_of(c, schema);
    const bool from_zero = b.low == 0 && !b.above;
    if (isfinite(b.high) || (isfinite(b.low) && !from_zero))
        return refuse(c, DS_UNSUPPORTED,
                      "of bounds for fractions only a 'minimum' of 0 is supported; an \"integer\" "
                      "may have any");
    return ds_json_number(c->rules, !from_zero, next);
}

/* ---- arrays and objects ---------------------------------------------------------------------- */

static int32_t put_array(compiler *c, json_t *schema, int32_t next) {
    ds_rules *r = c->rules;
    json_t *items = json_object_get(schema, "items");
    const int64_t least = count_of(c, schema, "minItems", 0);
    const int64_t most = count_of(c, schema, "maxItems", DS_RULES_UNBOUNDED);
    const int32_t end = ds_rules_call(r, c->json.space, ds_rules_text(r, "]", next));
    if (json_is_array(items))
        return refuse(c, DS_UNSUPPORTED, "'items' must be one schema, not an array of them");
    if (most != DS_RULES_UNBOUNDED && most < least)
        return DS_RULES_NOTHING;
    int32_t item = c->json.value, full = DS_RULES_NOTHING;
    if (items) {
        const size_t length = enter(c, "items");
        item = ds_rules_make(r, put_schema(c, items, DS_RULES_END));
        leave(c, length);
    }
    if (most != 0) {
        const int32_t more = ds_rules_make(
            r, ds_rules_text(
                   r, ",", ds_rules_call(r, c->json.space, ds_rules_call(r, item, DS_RULES_END))));
        const ds_rule_item rest = {more, least > 1 ? least - 1 : 0,
                                   most == DS_RULES_UNBOUNDED ? most : most - 1};
        full =
            ds_rules_call(r, c->json.space, ds_rules_call(r, item, ds_rules_repeat(r, rest, end)));
    }
    return ds_rules_text(r, "[", least == 0 ? ds_rules_fork(r, full, end) : full);
}

typedef struct property {
    const char *name;
    json_t *schema; /* NULL: any value */
    bool required;
    int32_t rule; /* "name": value */
} property;

typedef struct object {
    property *list;
    size_t n;
    json_t *others;  /* schema of properties that are not named; NULL: there are none */
    json_t *missing; /* of those that are required and not named; NULL: any value */
} object;

static int32_t member(compiler *c, int32_t name, json_t *schema) {
    const int32_t value = schema ? put_schema(c, schema, DS_RULES_END)
                                 : ds_rules_call(c->rules, c->json.value, DS_RULES_END);
    const int32_t colon = ds_rules_text(c->rules, ":", ds_rules_call(c->rules, c->json.gap, value));
    return ds_rules_make(c->rules, ds_rules_call(c->rules, name, colon));
}

static void make_property(compiler *c, property *p) {
    char *text = dump_name(p->name);
    if (!text) {
        refuse(c, DS_OUT_OF_MEMORY, "out of memory");
        return;
    }
    const int32_t name = ds_rules_make(c->rules, ds_rules_text(c->rules, text, DS_RULES_END));
    free(text);
    const size_t length = enter(c, "properties");
    enter(c, p->name);
    p->rule = member(c, name, p->schema);
    leave(c, length);
}

/* Reads "properties" and "required". */
static bool list_properties(compiler *c, json_t *schema, object *o) {
    json_t *named = json_object_get(schema, "properties"), *value = NULL;
    json_t *required = json_object_get(schema, "required");
    const size_t n_required = json_array_size(required);
    const char *name = NULL;
    if (named && !json_is_object(named))
        refuse(c, DS_INVALID, "'properties' must be an object");
    if (required && !json_is_array(required))
        refuse(c, DS_INVALID, "'required' must be an array of names");
    o->list = ds_calloc(json_object_size(named) + n_required + 1, sizeof *o->list);
    json_t *index = json_object(); /* of names */
    if (!o->list || !index)
        refuse(c, DS_OUT_OF_MEMORY, "out of memory");
    if (c->status == DS_OK)
        json_object_foreach(named, name, value) {
            json_object_set_new(index, name, json_integer((json_int_t)o->n));
            o->list[o->n++] = (property){.name = name, .schema = value};
        }
    for (size_t i = 0; i < n_required && c->status == DS_OK; i++) {
        name = json_string_value(json_array_get(required, i));
        if (!name) {
            refuse(c, DS_INVALID, "'required' must be an array of names");
            break;
        }
        const json_t *at = json_object_get(index, name);
        if (!at) { /* any value will do */
            json_object_set_new(index, name, json_integer((json_int_t)o->n));
            o->list[o->n++] = (property){.name = name, .schema = o->missing, .required = true};
        } else {
            o->list[json_integer_value(at)].required = true;
        }
    }
    json_decref(index);
    return c->status == DS_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const property *)a)->name, ((const property *)b)->name);
}

/* A string of plain characters that is none of the names; they are sorted, and the same up to the
 * byte `depth`. `any` is a string's rest, whatever it is. taken: room for the names and 3 more. */
static int32_t other_names(ds_rules *r, const property *list, size_t n, size_t depth, int32_t any,
                           ds_char_range *taken) {
    size_t i = 0, n_taken = 0;
    while (i < n && !list[i].name[depth])
        i++;
    int32_t at = i > 0 ? (int32_t)DS_RULES_NOTHING : ds_rules_text(r, "\"", DS_RULES_END);
    const size_t begin = i;
    while (i < n) {
        size_t length = 1, end = i + 1;
        const char *here = list[i].name + depth;
        const uint32_t c = ds_utf8_char(here, &length);
        while (end < n && strncmp(list[end].name + depth, here, length) == 0)
            end++;
        /* a name with an escape in it cannot be met by plain characters */
        if (c >= ' ' && c != '"' && c != '\\')
            at = ds_rules_fork(
                r, at,
                ds_rules_literal(r, here, length,
                                 other_names(r, list + i, end - i, depth + length, any, taken)));
        i = end;
    }
    for (i = begin; i < n; i++) {
        size_t length = 1;
        const uint32_t c = ds_utf8_char(list[i].name + depth, &length);
        taken[n_taken++] = (ds_char_range){c, c};
    }
    taken[n_taken++] = (ds_char_range){0, ' ' - 1};
    taken[n_taken++] = (ds_char_range){'"', '"'};
    taken[n_taken++] = (ds_char_range){'\\', '\\'};
    ds_char_range *left = ds_malloc((n_taken + 1) * sizeof *left);
    r->out_of_memory = r->out_of_memory || !left;
    const size_t n_left = left ? ds_char_ranges_close(taken, n_taken, true, left) : 0;
    for (i = 0; i < n_left; i++)
        at = ds_rules_fork(r, at, ds_rules_chars(r, left[i].low, left[i].high, any));
    free(left);
    return at;
}

/* "name": value for any name that is not in the list. */
static int32_t other_member(compiler *c, const object *o) {
    enum { LONGEST_NAME = 256 };
    ds_rules *r = c->rules;
    for (size_t i = 0; i < o->n; i++)
        if (strlen(o->list[i].name) > LONGEST_NAME)
            return refuse(c, DS_UNSUPPORTED,
                          "names of more than %d bytes beside 'additionalProperties' are not "
                          "supported",
                          LONGEST_NAME);
    property *sorted = ds_malloc((o->n + 1) * sizeof *sorted);
    ds_char_range *taken = ds_malloc((o->n + 3) * sizeof *taken);
    int32_t names = DS_RULES_NOTHING;
    if (!sorted || !taken) {
        refuse(c, DS_OUT_OF_MEMORY, "out of memory");
    } else {
        if (o->n > 0)
            memcpy(sorted, o->list, o->n * sizeof *sorted);
        qsort(sorted, o->n, sizeof *sorted, by_name);
        static const ds_char_range all[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x10FFFF}};
        const int32_t plain = ds_rules_make(r, ds_json_chars(r, all, 3, DS_RULES_END));
        const int32_t any = ds_rules_repeat(r, (ds_rule_item){plain, 0, DS_RULES_UNBOUNDED},
                                            ds_rules_text(r, "\"", DS_RULES_END));
        names = ds_rules_text(r, "\"", other_names(r, sorted, o->n, 0, any, taken));
    }
    free(sorted);
    free(taken);
    const size_t length = enter(c, "additionalProperties");
    const int32_t rule = member(c, ds_rules_make(r, names), o->others);
    leave(c, length);
    return rule;
}

/* Two ways run side by side, from the last property to the first: `first` while none was written,
 * `rest` once a comma must come before the next. */
static int32_t put_members(compiler *c, object *o, int32_t next) {
    ds_rules *r = c->rules;
    const int32_t end = ds_rules_call(r, c->json.space, ds_rules_text(r, "}", next));
    int32_t first = end, rest = end;
    if (o->others) {
        const int32_t other = other_member(c, o);
        const int32_t more = ds_rules_make(
            r, ds_rules_text(
                   r, ",", ds_rules_call(r, c->json.space, ds_rules_call(r, other, DS_RULES_END))));
        rest = ds_rules_repeat(r, (ds_rule_item){more, 0, DS_RULES_UNBOUNDED}, end);
        first =
            ds_rules_fork(r, ds_rules_call(r, c->json.space, ds_rules_call(r, other, rest)), end);
    }
    for (size_t i = o->n; i-- > 0 && c->status == DS_OK;) {
        property *p = &o->list[i];
        make_property(c, p);
        const int32_t alone = ds_rules_call(r, c->json.space, ds_rules_call(r, p->rule, rest));
        const int32_t after =
            ds_rules_text(r, ",", ds_rules_call(r, c->json.space, ds_rules_call(r, p->rule, rest)));
        first = p->required ? alone : ds_rules_fork(r, alone, first);
        rest = p->required ? after : ds_rules_fork(r, after, rest);
    }
    return ds_rules_text(r, "{", first);
}

static int32_t put_object(compiler *c, json_t *schema, int32_t next) {
    object o = {.others = json_object_get(schema, "additionalProperties")};
    o.missing = o.others;
    json_t *open = json_true(); /* without any word of properties, all are welcome */
    if (!o.others && !json_object_get(schema, "properties") && !json_object_get(schema, "required"))
        o.others = open;
    if (json_is_false(o.others))
        o.others = NULL;
    const int32_t at =
        list_properties(c, schema, &o) ? put_members(c, &o, next) : (int32_t)DS_RULES_NOTHING;
    free(o.list);
    json_decref(open);
    return at;
}

/* ---- by type --------------------------------------------------------------------------------- */

static int32_t put_null(compiler *c, json_t *schema, int32_t next) {
    (void)schema;
    return ds_rules_text(c->rules, "null", next);
}

static int32_t put_boolean(compiler *c, json_t *schema, int32_t next) {
    (void)schema;
    return ds_rules_fork(c->rules, ds_rules_text(c->rules, "true", next),
                         ds_rules_text(c->rules, "false", next));
}

static const struct {
    const char *name;
    int32_t (*put)(compiler *c, json_t *schema, int32_t next);
    unsigned keywords; /* that speak of it alone */
} types[] = {{"null", put_null, 0},
             {"boolean", put_boolean, 0},
             {"integer", put_integer, 0},
             {"number", put_number, OF_NUMBER},
             {"string", put_string, OF_STRING},
             {"array", put_array, OF_ARRAY},
             {"object", put_object, OF_OBJECT}};

static int32_t put_type(compiler *c, json_t *schema, json_t *name, int32_t next) {
    for (size_t i = 0; json_is_string(name) && i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, json_string_value(name)) == 0)
            return types[i].put(c, schema, next);
    return refuse(c, DS_INVALID,
                  "'type' must be null, boolean, integer, number, string, array or object, or an "
                  "array of these");
}

/* Without a type, those of which the schema speaks. */
static int32_t put_untyped(compiler *c, json_t *schema, unsigned kinds, int32_t next) {
    int32_t at = DS_RULES_NOTHING;
    bool any = true;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (kinds & types[i].keywords) {
            at = ds_rules_fork(c->rules, at, types[i].put(c, schema, next));
            any = false;
        }
    return any ? ds_rules_call(c->rules, c->json.value, next) : at;
}

static int32_t put_schema(compiler *c, json_t *schema, int32_t next) {
    const char *whole = NULL;
    if (c->status != DS_OK || json_is_false(schema))
        return DS_RULES_NOTHING;
    if (json_is_true(schema))
        return ds_rules_call(c->rules, c->json.value, next);
    if (!json_is_object(schema))
        return refuse(c, DS_INVALID, "a schema must be an object, true or false");
    const unsigned kinds = look(c, schema, &whole);
    if (c->status != DS_OK)
        return DS_RULES_NOTHING;
    if (whole)
        return put_whole(c, schema, whole, next);
    json_t *type = json_object_get(schema, "type");
    if (!type)
        return put_untyped(c, schema, kinds, next);
    if (!json_is_array(type))
        return put_type(c, schema, type, next);
    int32_t at = DS_RULES_NOTHING;
    for (size_t i = 0; i < json_array_size(type); i++)
        at = ds_rules_fork(c->rules, at, put_type(c, schema, json_array_get(type, i), next));
    return at;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static ds_status compile(compiler *c, int32_t *rule) {
    ds_json_rules_init(&c->json, c->rules);
    *rule = rule_of(c, c->root, "#");
    for (size_t i = 0; i < c->n_todo && c->status == DS_OK; i++) {
        const pending p = c->todo[i];
        c->path.length = 0;
        ds_text_puts(&c->path, p.where);
        ds_rules_define(c->rules, p.rule, put_schema(c, p.schema, DS_RULES_END));
    }
    return c->status;
}

ds_status ds_json_schema_add(ds_rules *rules, json_t *schema, int32_t *rule) {
    compiler c = {.rules = rules, .root = schema, .known = json_object()};
    const ds_status status = c.known ? compile(&c, rule) : DS_OUT_OF_MEMORY;
    json_decref(c.known);
    ds_text_clear(&c.path);
    free(c.todo);
    return status;
}

ds_status ds_json_schema_rules(const char *schema, size_t size, ds_rules *out) {
    json_error_t error;
    int32_t rule = -1;
    *out = (ds_rules){0};
    json_t *root = json_loadb(schema, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return ds_fail(DS_INVALID, "schema: no valid JSON: line %d, column %d: %s", error.line,
                       error.column, error.text);
    const int32_t whole = ds_rules_new(out); /* rule 0 */
    const ds_status status = ds_json_schema_add(out, root, &rule);
    ds_rules_define(out, whole, ds_rules_call(out, rule, DS_RULES_END));
    json_decref(root);
    if (status != DS_OK)
        ds_rules_clear(out);
    return status;
}

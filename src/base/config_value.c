#include "base/config_value.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct unit {
    const char *name;
    double factor;
} unit;

static const unit count_units[] = {{"", 1},    {"k", 1e3}, {"K", 1e3},  {"M", 1e6},
                                   {"B", 1e9}, {"G", 1e9}, {"T", 1e12}, {NULL, 0}};
static const unit byte_units[] = {
    {"", 1},         {"B", 1},        {"KiB", 1024}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
    {"TiB", 0x1p40}, {"PiB", 0x1p50}, {"kB", 1e3},   {"KB", 1e3},     {"MB", 1e6},
    {"GB", 1e9},     {"TB", 1e12},    {NULL, 0}};
static const unit time_units[] = {{"", 1},     {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60},
                                  {"min", 60}, {"h", 3600},  {"d", 86400}, {NULL, 0}};

/* What a type is called and looks like; units NULL: plain numbers. */
static const struct type_row {
    const char *noun;
    const unit *units;
} types[] = {
    [DS_CONFIG_BOOL] = {"true or false", NULL},
    [DS_CONFIG_INT] = {"an integer", NULL},
    [DS_CONFIG_COUNT] = {"a count such as 1000, 300k or 2.5B", count_units},
    [DS_CONFIG_BYTES] = {"a size such as 512MiB or 8GiB", byte_units},
    [DS_CONFIG_FLOAT] = {"a number", NULL},
    [DS_CONFIG_DURATION] = {"a time such as 500ms, 30s or 5min", time_units},
    [DS_CONFIG_ENUM] = {"a word", NULL},
    [DS_CONFIG_STRING] = {"text", NULL},
    [DS_CONFIG_PATH] = {"a path", NULL},
    [DS_CONFIG_STRINGS] = {"a list of texts", NULL},
    [DS_CONFIG_INTS] = {"a list of integers", NULL},
    [DS_CONFIG_LIST] = {"a list", NULL},
    [DS_CONFIG_ALIAS] = {"a value", NULL},
};

const char *ds_config_shown(char *out, size_t size, const char *text) {
    size_t n = 0;
    for (const char *s = text; *s && n + 4 < size; s++)
        out[n++] = (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s;
    if (n + 4 >= size) {
        while (n > 0 && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
            n--; /* do not cut a character in two */
        if (n > 0 && ((unsigned char)out[n - 1] & 0xc0) == 0xc0)
            n--;
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = '\0';
    return out;
}

static bool has_range(const ds_config_key *key) {
    return key->range.min < key->range.max;
}

/* In the shortest form that reads back exactly. The C locale, whatever the host program set. */
static void write_double(double value, ds_text *out) {
    char text[40];
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const locale_t old = c ? uselocale(c) : (locale_t)0;
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    if (c) {
        uselocale(old);
        freelocale(c);
    }
    ds_text_puts(out, text);
}

static void append_range(const ds_config_key *key, ds_text *out) {
    const ds_config_range *r = &key->range;
    if (!has_range(key))
        return;
    if (r->min > -INFINITY) {
        ds_text_puts(out, r->above_min ? " > " : " >= ");
        write_double(r->min, out);
    }
    if (r->max < INFINITY) {
        ds_text_puts(out, r->min > -INFINITY ? " and" : "");
        ds_text_puts(out, r->below_max ? " < " : " <= ");
        write_double(r->max, out);
    }
}

void ds_config_accepted(const ds_config_key *key, ds_text *out) {
    const bool only_words = key->type == DS_CONFIG_ENUM;
    if (!only_words) {
        ds_text_puts(out, types[key->type].noun);
        append_range(key, out);
    }
    for (const ds_config_word *w = key->words; w && w->word; w++) {
        const char *first = only_words ? "one of " : " or ";
        ds_text_printf(out, "%s%s", w == key->words ? first : only_words ? ", " : " or ", w->word);
    }
}

static ds_status refuse(const ds_config_key *key, const char *text, const char *why) {
    char shown[64];
    const char *words[32];
    size_t n = 0;
    ds_text accepted = {0};
    ds_config_accepted(key, &accepted);
    for (const ds_config_word *w = key->words; w && w->word && n < 32; w++)
        words[n++] = w->word;
    const char *near = n ? ds_nearest_name(text, words, n) : NULL;
    const ds_status status =
        accepted.poisoned
            ? DS_OUT_OF_MEMORY
            : ds_fail(DS_INVALID, "%s'%s'; expected %s%s%s%s", why,
                      ds_config_shown(shown, sizeof shown, text), accepted.data,
                      near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    ds_text_clear(&accepted);
    return status;
}

bool ds_config_integer(const char *text, int64_t *out) {
    char digits[32];
    size_t n = 0;
    const char *s = text;
    if (*s == '-' || *s == '+')
        digits[n++] = *s++;
    if (*s < '0' || *s > '9')
        return false;
    for (; *s; s++) {
        const bool between = *s == '_' && s[-1] != '_' && s[1] >= '0' && s[1] <= '9';
        if (between)
            continue;
        if (*s < '0' || *s > '9' || n + 1 >= sizeof digits)
            return false;
        digits[n++] = *s;
    }
    digits[n] = '\0';
    errno = 0;
    *out = strtoll(digits, NULL, 10);
    return errno == 0;
}

/* A finite decimal number at the start of text; *end is what follows it. */
static bool read_double(const char *text, double *out, const char **end) {
    char number[64]; /* 0-9 + - . e E only: no hexadecimal, inf, nan */
    size_t n = 0;
    for (const char *s = text; *s && n + 1 < sizeof number; s++) {
        const bool exponent = (*s == 'e' || *s == 'E') && n > 0 && strchr("0123456789+-", s[1]);
        if (!(strchr("0123456789.", *s) || exponent ||
              ((*s == '+' || *s == '-') && (n == 0 || strchr("eE", number[n - 1])))))
            break;
        number[n++] = *s;
    }
    number[n] = '\0';
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c)
        return false;
    char *stop = number;
    *out = strtod_l(number, &stop, c);
    freelocale(c);
    *end = text + n;
    return n > 0 && *stop == '\0' && isfinite(*out);
}

/* A number and one of the units, with or without a space between. */
static bool read_with_unit(const char *text, const unit *units, double *out) {
    const char *rest = NULL;
    if (!read_double(text, out, &rest))
        return false;
    while (*rest == ' ')
        rest++;
    for (const unit *u = units; u->name; u++) {
        if (strcmp(u->name, rest) == 0) {
            *out *= u->factor;
            return isfinite(*out);
        }
    }
    return false;
}

static bool in_range(const ds_config_key *key, double value) {
    const ds_config_range *r = &key->range;
    if (!has_range(key))
        return true;
    return (r->above_min ? value > r->min : value >= r->min) &&
           (r->below_max ? value < r->max : value <= r->max);
}

static void store_integer(const ds_config_key *key, void *field, int64_t value) {
    if (key->size == sizeof(int)) {
        const int narrow = (int)value;
        memcpy(field, &narrow, sizeof narrow);
    } else {
        memcpy(field, &value, sizeof value);
    }
}

static int64_t load_integer(const ds_config_key *key, const void *field) {
    int narrow = 0;
    int64_t wide = 0;
    if (key->size == sizeof(int)) {
        memcpy(&narrow, field, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, field, sizeof wide);
    return wide;
}

static ds_status read_integer(const ds_config_key *key, const char *text, void *field) {
    int64_t value = 0;
    double scaled = 0;
    const unit *units = types[key->type].units;
    if (!ds_config_integer(text, &value)) {
        if (!units || !read_with_unit(text, units, &scaled))
            return refuse(key, text, "");
        if (fabs(scaled) > 0x1p62 || scaled != rint(scaled))
            return refuse(key, text, "not a whole number in range: ");
        value = (int64_t)scaled;
    }
    if (!in_range(key, (double)value) || (key->size == sizeof(int) && value != (int)value))
        return refuse(key, text, "out of range: ");
    store_integer(key, field, value);
    return DS_OK;
}

static ds_status read_real(const ds_config_key *key, const char *text, void *field) {
    static const unit none[] = {{"", 1}, {NULL, 0}};
    const unit *units = types[key->type].units;
    double value = 0;
    if (!read_with_unit(text, units ? units : none, &value))
        return refuse(key, text, "");
    if (!in_range(key, value))
        return refuse(key, text, "out of range: ");
    memcpy(field, &value, sizeof value);
    return DS_OK;
}

static ds_status read_bool(const ds_config_key *key, const char *text, void *field) {
    static const struct {
        const char *word;
        bool value;
    } spellings[] = {{"true", true}, {"false", false}, {"yes", true},
                     {"no", false},  {"on", true},     {"off", false}};
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        if (strcasecmp(text, spellings[i].word) == 0) {
            memcpy(field, &spellings[i].value, sizeof(bool));
            return DS_OK;
        }
    }
    return refuse(key, text, "");
}

static ds_status read_string(const char *text, bool is_null, void *field) {
    char *copy = NULL, *old = NULL;
    if (!is_null && !(copy = ds_strdup(text)))
        return DS_OUT_OF_MEMORY;
    memcpy(&old, field, sizeof old);
    free(old);
    memcpy(field, &copy, sizeof copy);
    return DS_OK;
}

static void store_word(const ds_config_key *key, void *field, int value) {
    const double real = value;
    if (key->type == DS_CONFIG_FLOAT || key->type == DS_CONFIG_DURATION)
        memcpy(field, &real, sizeof real);
    else
        store_integer(key, field, value);
}

ds_status ds_config_value_read(const ds_config_key *key, const char *text, bool is_null,
                               void *record) {
    void *field = (char *)record + key->offset;
    if (key->type == DS_CONFIG_STRING || key->type == DS_CONFIG_PATH)
        return read_string(text, is_null, field);
    if (is_null)
        return refuse(key, text, "no value: ");
    for (const ds_config_word *w = key->words; w && w->word; w++) {
        if (strcmp(w->word, text) == 0) {
            store_word(key, field, w->value);
            return DS_OK;
        }
    }
    switch (key->type) {
    case DS_CONFIG_BOOL: return read_bool(key, text, field);
    case DS_CONFIG_INT:
    case DS_CONFIG_COUNT:
    case DS_CONFIG_BYTES: return read_integer(key, text, field);
    case DS_CONFIG_FLOAT:
    case DS_CONFIG_DURATION: return read_real(key, text, field);
    default: return refuse(key, text, "");
    }
}

/* A character that may stand as it is inside double quotes; *length is that of its encoding. */
static bool is_printable(const char *s, size_t *length) {
    const unsigned char *u = (const unsigned char *)s;
    *length = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    for (size_t i = 1; i < *length; i++) {
        if (u[i] >> 6 != 2) {
            *length = 1; /* not UTF-8: only what a host program wrote into the struct itself */
            return false;
        }
    }
    if (*length == 1)
        return u[0] >= 0x20 && u[0] < 0x7f;
    if (*length == 2)
        return u[0] > 0xc2 || (u[0] == 0xc2 && u[1] >= 0xa0);
    const bool separator = u[0] == 0xe2 && u[1] == 0x80 && (u[2] == 0xa8 || u[2] == 0xa9);
    const bool special =
        u[0] == 0xef && ((u[1] == 0xbb && u[2] == 0xbf) || (u[1] == 0xbf && u[2] >= 0xbe));
    return !separator && !special;
}

static uint32_t code_point(const char *s, size_t length) {
    const unsigned char *u = (const unsigned char *)s;
    uint32_t code = length == 1 ? u[0] : u[0] & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++)
        code = code << 6 | (u[i] & 0x3f);
    return code;
}

/* Words and paths need no quotes unless YAML would take them for something else. */
static bool is_bare(const char *string) {
    static const char *const taken[] = {"null", "true", "false", "yes", "no", "on", "off", "auto"};
    for (const char *s = string; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
              (s > string && strchr("0123456789-_./", *s)) || *s == '/'))
            return false;
    for (size_t i = 0; i < sizeof taken / sizeof *taken - 1; i++)
        if (strcasecmp(string, taken[i]) == 0)
            return false;
    return *string != '\0';
}

void ds_config_string_write(const char *string, ds_text *out) {
    if (!string || is_bare(string)) {
        ds_text_puts(out, string ? string : "null");
        return;
    }
    ds_text_puts(out, "\"");
    for (const char *s = string; *s;) {
        size_t length = 1;
        const bool printable = is_printable(s, &length);
        if (*s == '"' || *s == '\\')
            ds_text_printf(out, "\\%c", *s);
        else if (*s == '$')
            ds_text_puts(out, "$$");
        else if (*s == '\n')
            ds_text_puts(out, "\\n");
        else if (printable)
            ds_text_append(out, s, length);
        else
            ds_text_printf(out, "\\u%04" PRIX32, code_point(s, length));
        s += length;
    }
    ds_text_puts(out, "\"");
}

static void write_bytes(int64_t value, ds_text *out) {
    static const char *const names[] = {"", "KiB", "MiB", "GiB", "TiB", "PiB"};
    int unit_index = 0;
    while (value != 0 && value % 1024 == 0 && unit_index < 5) {
        value /= 1024;
        unit_index++;
    }
    ds_text_printf(out, "%" PRId64 "%s", value, names[unit_index]);
}

void ds_config_value_write(const ds_config_key *key, const void *record, ds_text *out) {
    const void *field = (const char *)record + key->offset;
    const bool is_real = key->type == DS_CONFIG_FLOAT || key->type == DS_CONFIG_DURATION;
    if (key->type == DS_CONFIG_STRING || key->type == DS_CONFIG_PATH) {
        char *string = NULL;
        memcpy(&string, field, sizeof string);
        ds_config_string_write(string, out);
        return;
    }
    if (key->type == DS_CONFIG_BOOL) {
        bool value = false;
        memcpy(&value, field, sizeof value);
        ds_text_puts(out, value ? "true" : "false");
        return;
    }
    double real = 0;
    if (is_real)
        memcpy(&real, field, sizeof real);
    const int64_t integer = is_real ? 0 : load_integer(key, field);
    for (const ds_config_word *w = key->words; w && w->word; w++) {
        if (is_real ? real == w->value : integer == w->value) {
            ds_text_puts(out, w->word);
            return;
        }
    }
    if (is_real) {
        write_double(real, out);
        ds_text_puts(out, key->type == DS_CONFIG_DURATION ? "s" : "");
    } else if (key->type == DS_CONFIG_BYTES) {
        write_bytes(integer, out);
    } else {
        ds_text_printf(out, "%" PRId64, integer);
    }
}

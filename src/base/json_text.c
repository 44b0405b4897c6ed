#include "base/json_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_string(ds_text *out, const char *s, size_t length) {
    static const char specials[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    ds_text_puts(out, "\"");
    for (size_t i = 0; i < length; i++) {
        const char *special = s[i] ? strchr(specials, s[i]) : NULL;
        if (special)
            ds_text_printf(out, "\\%c", letters[special - specials]);
        else if ((unsigned char)s[i] < ' ')
            ds_text_printf(out, "\\u%04x", (unsigned)s[i]);
        else
            ds_text_append(out, s + i, 1);
    }
    ds_text_puts(out, "\"");
}

/* The fewest digits that read back as x; exponents only below 1e-4 and from 1e16 on. */
static void put_real(ds_text *out, double x) {
    char digits[32];
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, x);
    while (strtod(digits, NULL) != x && ++precision < 17);
    const int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(digits, 'e') = '\0';
        ds_text_printf(out, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    const int decimals = precision - exponent;
    ds_text_printf(out, "%.*f", decimals > 0 ? decimals : 1, x);
}

static void new_line(ds_text *out, int indent, int depth) {
    if (indent > 0)
        ds_text_printf(out, "\n%*s", indent * depth, "");
}

static void put(ds_text *out, const json_t *value, int indent, int depth);

static void put_array(ds_text *out, const json_t *value, int indent, int depth) {
    const size_t n = json_array_size(value);
    ds_text_puts(out, "[");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            ds_text_puts(out, indent > 0 ? "," : ", ");
        new_line(out, indent, depth + 1);
        put(out, json_array_get(value, i), indent, depth + 1);
    }
    if (n > 0)
        new_line(out, indent, depth);
    ds_text_puts(out, "]");
}

static void put_object(ds_text *out, const json_t *value, int indent, int depth) {
    json_t *object = (json_t *)value, *item = NULL;
    const char *key = NULL;
    bool first = true;
    ds_text_puts(out, "{");
    json_object_foreach(object, key, item) {
        if (!first)
            ds_text_puts(out, indent > 0 ? "," : ", ");
        first = false;
        new_line(out, indent, depth + 1);
        put_string(out, key, strlen(key));
        ds_text_puts(out, ": ");
        put(out, item, indent, depth + 1);
    }
    if (!first)
        new_line(out, indent, depth);
    ds_text_puts(out, "}");
}

static void put(ds_text *out, const json_t *value, int indent, int depth) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: put_object(out, value, indent, depth); break;
    case JSON_ARRAY: put_array(out, value, indent, depth); break;
    case JSON_STRING: put_string(out, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER:
        ds_text_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL: put_real(out, json_real_value(value)); break;
    case JSON_TRUE: ds_text_puts(out, "true"); break;
    case JSON_FALSE: ds_text_puts(out, "false"); break;
    case JSON_NULL: ds_text_puts(out, "null"); break;
    }
}

void ds_json_put(ds_text *out, const json_t *value, int indent) {
    put(out, value, indent, 0);
}

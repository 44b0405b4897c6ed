/* Rules for the pieces of JSON text: characters inside strings, numbers within bounds, any value.
 * All are built from their end to their beginning, as grammar_rules.h says. */
#ifndef DS_INFER_JSON_RULES_H
#define DS_INFER_JSON_RULES_H

#include "infer/grammar_rules.h"

/* The rules that any JSON needs, each made once. */
typedef struct ds_json_rules {
    ds_rules *rules;
    int32_t space;     /* nothing, a space, or a line break with up to 20 spaces and tabs */
    int32_t gap;       /* nothing or a space */
    int32_t character; /* of a string: plain or escaped */
    int32_t string;
    int32_t value; /* any */
} ds_json_rules;

void ds_json_rules_init(ds_json_rules *j, ds_rules *rules);

/* One character out of the ranges [n], which are sorted, as it stands in a JSON string: quotes,
 * backslashes and control characters escaped. U+0000 has no place in one. */
int32_t ds_json_chars(ds_rules *r, const ds_char_range *ranges, size_t n, int32_t next);

/* A whole number from low to high. */
int32_t ds_json_integer(ds_rules *r, int64_t low, int64_t high, int32_t next);
/* Any number of 15 digits at most before and after the point, so that it is the same in every
 * reader; with `negative` false it is 0 or more. */
int32_t ds_json_number(ds_rules *r, bool negative, int32_t next);
enum { DS_JSON_DIGITS = 15 };

/* The text that a regular expression (of ECMA-262, without assertions inside and references back)
 * matches anywhere, or where ^ and $ say, as the inside of a JSON string. DS_INVALID and
 * DS_UNSUPPORTED say what is wrong with it, without naming it. */
ds_status ds_json_pattern(ds_rules *r, const char *pattern, int32_t next, int32_t *out);

#endif

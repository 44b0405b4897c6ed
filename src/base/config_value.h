/* Single values of a configuration: text to field, field to text, and what is accepted in words.
 * Used by the files of the configuration reader (base/config.h) only. */
#ifndef DS_BASE_CONFIG_VALUE_H
#define DS_BASE_CONFIG_VALUE_H

#include "base/config.h"

/* Reads text into the row's field of record. On failure the message says what was expected, without
 * place and path. A string's old value is freed. */
ds_status ds_config_value_read(const ds_config_key *key, const char *text, bool is_null,
                               void *record);

/* Appends the field's value as YAML. Scalars only. */
void ds_config_value_write(const ds_config_key *key, const void *record, ds_text *out);

/* Appends a string as a YAML scalar that reads back to it; null when it is NULL. */
void ds_config_string_write(const char *string, ds_text *out);

/* Appends "an integer >= 1, or 'auto'", "one of cosine, linear". */
void ds_config_accepted(const ds_config_key *key, ds_text *out);

/* The text, shortened and with control characters replaced, for messages. Returns out. */
const char *ds_config_shown(char *out, size_t size, const char *text);

/* A decimal integer with optional sign and `_` between digits. False if text is anything else. */
bool ds_config_integer(const char *text, int64_t *out);

#endif

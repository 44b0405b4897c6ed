/* JSON as Python's json.dumps writes it: chat templates are run in Python elsewhere, and a model
 * has seen what that makes of a value, to the last space. */
#ifndef DS_BASE_JSON_TEXT_H
#define DS_BASE_JSON_TEXT_H

#include <jansson.h>

#include "base/text.h"

/* Appends the value as json.dumps(value, ensure_ascii=False) does; with indent > 0 as with that
 * indent. Integers beyond 64 bits cannot come from jansson. */
void ds_json_put(ds_text *out, const json_t *value, int indent);

#endif

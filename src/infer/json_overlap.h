/* Questions about schemas as JSON: where a reference points, which types a schema leaves, and
 * whether two schemas may both fit one value. */
#ifndef DS_INFER_JSON_OVERLAP_H
#define DS_INFER_JSON_OVERLAP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* What a reference such as "#/$defs/a~1b" points to (RFC 6901); NULL: nothing. Borrowed. */
json_t *ds_json_resolve(json_t *root, const char *ref);
/* Whether the schema's "type", if it has one, allows the value. */
bool ds_json_type_allows(const json_t *schema, const json_t *value);
/* Whether two of the schemas might both fit one value, as far as types and constants tell: *one and
 * *other say which. False is certain, true is not. */
bool ds_json_overlap(json_t *root, json_t *schemas, size_t *one, size_t *other);

#endif

/* Reading a tokenizer.json: what its two files share. */
#ifndef DS_DATA_TOKENIZER_JSON_H
#define DS_DATA_TOKENIZER_JSON_H

#include <jansson.h>

#include "data/tokenizer.h"

typedef struct ds_tokenizer_loading {
    ds_tokenizer *tok;
    bool decode_byte_level, decode_byte_fallback;
    const char *decode_from, *decode_to; /* NULL: no replacement */
    /* WordPiece: words are joined by spaces, but not before this, which goes; NULL: other models */
    const char *decode_prefix;
    bool decode_cleanup; /* nor before some punctuation */
} ds_tokenizer_loading;

bool ds_json_bool(json_t *object, const char *key, bool otherwise);
/* The string under key, copied to the tokenizer's arena; NULL when there is none. */
const char *ds_json_text(ds_tokenizer_loading *l, json_t *object, const char *key, size_t *length);

/* The normalizer, the pre-tokenizer and the decoder of the file. */
ds_status ds_tokenizer_read_parts(ds_tokenizer_loading *l, json_t *root);
/* Its post-processor; the vocabulary is known by then. */
ds_status ds_tokenizer_read_marks(ds_tokenizer_loading *l, json_t *root);

#endif

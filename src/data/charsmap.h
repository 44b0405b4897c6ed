/* SentencePiece's table of characters to replace ("precompiled_charsmap"): a tree in a double array
 * (Aoe 1989, in the form of github.com/s-yata/darts-clone) and the texts that it leads to. */
#ifndef DS_DATA_CHARSMAP_H
#define DS_DATA_CHARSMAP_H

#include <stdint.h>

#include "base/text.h"

typedef struct ds_charsmap {
    const unsigned char *units; /* [n_units] of 4 bytes, little-endian */
    size_t n_units;
    const char *texts; /* zero-terminated ones, one after another */
    size_t texts_size;
} ds_charsmap;

/* blob is borrowed: 4 bytes with the tree's size, the tree, the texts. DS_CORRUPT says what is
 * wrong. */
ds_status ds_charsmap_open(const unsigned char *blob, size_t size, ds_charsmap *out);

/* Appends text (valid UTF-8) with the longest match at each place replaced. */
void ds_charsmap_apply(const ds_charsmap *map, const char *text, size_t n, ds_text *out);

#endif

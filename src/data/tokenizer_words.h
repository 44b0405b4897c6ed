/* Counting the different words of a text, on all threads. */
#ifndef DS_DATA_TOKENIZER_WORDS_H
#define DS_DATA_TOKENIZER_WORDS_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "deepseek/tokenizer.h"

typedef struct ds_word {
    const char *bytes; /* NULL: an empty slot */
    uint32_t length;
    uint32_t hash;
    int64_t count;
} ds_word;

/* A set of words by open addressing. */
typedef struct ds_word_table {
    ds_word *slots; /* [mask + 1] */
    size_t mask, count;
    ds_arena *arena; /* the words' bytes */
} ds_word_table;

ds_status ds_word_table_init(ds_word_table *table);

/* The word's entry, a new one with count 0; valid until the next call. NULL when out of memory. */
ds_word *ds_word_table_at(ds_word_table *table, const char *bytes, size_t n);

/* Also of a table that is all zero. */
void ds_word_table_free(ds_word_table *table);

/* Reads the files and counts their words by the pattern of opts (see ds_bpe_train). */
ds_status ds_words_count(const char *const *paths, size_t n_paths, const ds_bpe_train_opts *opts,
                         ds_word_table *out);

#endif

#include "data/sample.h"

#include <assert.h>

#include "base/rng.h"

uint64_t ds_sample_key(uint64_t seed, const char *purpose, uint64_t a, uint64_t b) {
    return ds_mix64(ds_mix64(ds_mix64(seed ^ ds_hash_name(purpose)) + a) + b);
}

/* Ranges are inside the stream by construction. */
static void read_tokens(const ds_sample_source *source, int64_t first, int64_t count,
                        int32_t *ids) {
    const ds_status status = ds_indexed_read(source->data, first, count, ids);
    assert(status == DS_OK);
    (void)status;
}

/* The end of the document that holds token t. */
static int64_t document_end(const ds_sample_source *source, int64_t t) {
    int64_t first = 0, length = 0;
    const int64_t document = ds_indexed_document_of(source->data, t);
    if (ds_indexed_document(source->data, document, &first, &length) != DS_OK ||
        first + length <= t)
        return source->end; /* tokens that no document claims */
    return first + length < source->end ? first + length : source->end;
}

int64_t ds_sample_causal(const ds_loader_opts *opts, const ds_sample_source *source, int64_t first,
                         ds_sample_rows rows) {
    const int64_t n = opts->seq_len;
    read_tokens(source, first, n, rows.tokens);
    read_tokens(source, first + 1, n, rows.labels);
    int32_t document = 0;
    int64_t start = 0;
    for (int64_t i = 0; i < n; document++, start = i) {
        const int64_t left = document_end(source, first + i) - (first + i);
        const int64_t end = left < n - i ? i + left : n;
        for (; i < end; i++) {
            rows.documents[i] = document;
            rows.positions[i] = (int32_t)(opts->reset_positions ? i - start : i);
        }
    }
    return n;
}

typedef struct span {
    int64_t first, count;
} span;

/* The longest run of [first, first + count) that lies in one document. */
static span longest_in_one_document(const ds_sample_source *source, int64_t first, int64_t count) {
    span best = {first, 0};
    const int64_t end = first + count;
    for (int64_t t = first; t < end;) {
        int64_t stop = document_end(source, t);
        if (stop > end)
            stop = end;
        if (stop - t > best.count)
            best = (span){t, stop - t};
        t = stop;
    }
    return best;
}

/* Up to count tokens from a random place of another document; of the same one where it is the only
 * one that a few draws find. */
static span random_span(const ds_sample_source *source, uint64_t key, int64_t not_document,
                        int64_t count) {
    span drawn = {source->begin, 0};
    for (uint64_t draw = 0; draw < 8; draw++) {
        const ds_philox_block word = ds_philox(key, draw, 1);
        const uint64_t place = (uint64_t)word.word[0] << 32 | word.word[1];
        const int64_t room = source->end - source->begin - count;
        const int64_t first =
            source->begin + (int64_t)(place % (uint64_t)(room > 0 ? room + 1 : 1));
        drawn = longest_in_one_document(source, first, count);
        if (ds_indexed_document_of(source->data, drawn.first) != not_document)
            break;
    }
    return drawn;
}

/* Chooses tokens to predict and disguises them (Devlin et al. 2018, BERT §3.1): of the chosen 80 %
 * become [MASK], 10 % a random id, 10 % stay. Returns how many were chosen, at least one. */
static int64_t mask_tokens(const ds_loader_opts *opts, uint64_t key, int n, ds_sample_rows rows) {
    int64_t predicted = 0;
    int last_resort = -1; /* predicted even when chance chooses none */
    uint32_t lowest = 0;
    for (int i = 0; i < n; i++) {
        if (rows.labels[i] == DS_LABEL_IGNORED)
            continue; /* a special token */
        const ds_philox_block word = ds_philox(key, (uint64_t)i, 0);
        if (last_resort < 0 || word.word[0] < lowest) {
            last_resort = i;
            lowest = word.word[0];
        }
    }
    const bool none = ds_uniform(lowest) >= (float)opts->mask_probability;
    for (int i = 0; i < n; i++) {
        if (rows.labels[i] == DS_LABEL_IGNORED)
            continue;
        const ds_philox_block word = ds_philox(key, (uint64_t)i, 0);
        const bool chosen = ds_uniform(word.word[0]) < (float)opts->mask_probability;
        if (!chosen && !(none && i == last_resort)) {
            rows.labels[i] = DS_LABEL_IGNORED;
            continue;
        }
        predicted++;
        const float fate = ds_uniform(word.word[1]);
        if (fate < 0.8f)
            rows.tokens[i] = opts->mask_token;
        else if (fate < 0.9f)
            rows.tokens[i] = (int32_t)((uint64_t)word.word[2] * (uint64_t)opts->vocab_size >> 32);
    }
    return predicted;
}

/* Puts one special token at *at. */
static void put_special(ds_sample_rows rows, int *at, int32_t id, int32_t segment) {
    rows.tokens[*at] = id;
    rows.labels[*at] = DS_LABEL_IGNORED;
    rows.segment_ids[*at] = segment;
    (*at)++;
}

/* Puts a span and its [SEP]; labels hold the true tokens for now. */
static void put_span(const ds_loader_opts *opts, const ds_sample_source *source, span s,
                     ds_sample_rows rows, int *at, int32_t segment) {
    read_tokens(source, s.first, s.count, rows.tokens + *at);
    for (int64_t i = 0; i < s.count; i++, (*at)++) {
        rows.labels[*at] = rows.tokens[*at];
        rows.segment_ids[*at] = segment;
    }
    put_special(rows, at, opts->sep_token, segment);
}

/* [CLS] A [SEP] B [SEP]: in half of the samples B follows A in the text, in the others it is drawn
 * from another document. */
static void put_pair(const ds_loader_opts *opts, const ds_sample_source *source, int64_t first,
                     uint64_t key, ds_sample_rows rows, int *at) {
    const span whole = longest_in_one_document(source, first, source->block_tokens);
    const ds_philox_block word = ds_philox(key, 0, 2);
    const int64_t quarter = whole.count / 4, middle = whole.count - 2 * quarter;
    int64_t cut = quarter + (int64_t)((uint64_t)word.word[0] * (uint64_t)(middle + 1) >> 32);
    if (cut < 1)
        cut = 1;
    const span a = {whole.first, cut < whole.count ? cut : whole.count};
    span b = {a.first + a.count, whole.count - a.count};
    *rows.next_sentence = (word.word[1] & 1) != 0 || b.count == 0;
    if (*rows.next_sentence == 1)
        b = random_span(source, key, ds_indexed_document_of(source->data, a.first),
                        source->block_tokens - a.count > 0 ? source->block_tokens - a.count : 1);
    if (a.count + b.count > source->block_tokens)
        b.count = source->block_tokens - a.count;
    put_span(opts, source, a, rows, at, 0);
    put_span(opts, source, b, rows, at, 1);
}

int64_t ds_sample_masked(const ds_loader_opts *opts, const ds_sample_source *source, int64_t first,
                         int64_t g, ds_sample_rows rows) {
    const int64_t n = opts->seq_len;
    int at = 0;
    const uint64_t key = ds_sample_key(opts->seed, "masked sample", (uint64_t)g, 0);
    *rows.next_sentence = DS_LABEL_IGNORED;
    put_special(rows, &at, opts->cls_token, 0);
    if (opts->single_span)
        put_span(opts, source, (span){first, source->block_tokens}, rows, &at, 0);
    else
        put_pair(opts, source, first, key, rows, &at);
    const int64_t predicted = mask_tokens(opts, key, at, rows);
    *rows.length = at;
    for (; at < n; at++) {
        rows.tokens[at] = opts->pad_token;
        rows.labels[at] = DS_LABEL_IGNORED;
        rows.segment_ids[at] = 0;
    }
    for (int32_t i = 0; i < n; i++) {
        rows.positions[i] = i;
        rows.documents[i] = 0;
    }
    return predicted;
}

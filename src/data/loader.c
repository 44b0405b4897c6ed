/* Batches out of token files, in an order that depends on seed and sample number alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/masking.h"
#include "data/permutation.h"
#include "deepseek/data.h"

/* The mixture repeats after so many samples; a weight is met to within one in it. */
enum { PERIOD = 1024, MAX_SOURCES = 256 };

typedef struct source {
    ds_indexed *data;
    int64_t first, n_samples; /* of the stream's blocks of seq_len tokens */
    int64_t per_period;
} source;

struct ds_loader {
    ds_loader_opts opts;
    source sources[MAX_SOURCES];
    size_t n_sources;
    uint8_t order[PERIOD];  /* source of each sample of a period */
    uint16_t place[PERIOD]; /* how many of the same source come before it in the period */
    int64_t position;
    int64_t capacity; /* samples that the batch has room for */
    ds_batch batch;
    int32_t *block; /* [seq_len + 1] */
};

/* ---- opening ------------------------------------------------------------------------------------
 */

static ds_status open_source(ds_loader *l, const ds_loader_source *wanted, source *s) {
    DS_TRY(ds_indexed_open(wanted->path, &s->data));
    DS_TRY(ds_indexed_check_vocab(s->data, l->opts.vocab_size));
    const int64_t total = (ds_indexed_tokens(s->data) - 1) / l->opts.seq_len;
    int64_t held_out = (int64_t)ceil(l->opts.validation_fraction * (double)total);
    if (l->opts.validation_fraction > 0 && held_out >= total)
        held_out = total - 1;
    s->first = l->opts.validation ? total - held_out : 0;
    s->n_samples = l->opts.validation ? held_out : total - held_out;
    if (s->n_samples > 0)
        return DS_OK;
    return ds_fail(DS_INVALID, "%s: its %lld tokens give no %s sample of %lld tokens", wanted->path,
                   (long long)ds_indexed_tokens(s->data),
                   l->opts.validation ? "validation" : "training", (long long)l->opts.seq_len);
}

/* Each sample goes to the source that is furthest behind its share. */
static void interleave(ds_loader *l, const ds_loader_source *wanted) {
    double total = 0, behind[MAX_SOURCES] = {0};
    for (size_t i = 0; i < l->n_sources; i++)
        total += wanted[i].weight;
    for (int at = 0; at < PERIOD; at++) {
        size_t next = 0;
        for (size_t i = 0; i < l->n_sources; i++) {
            behind[i] += wanted[i].weight / total;
            if (behind[i] > behind[next])
                next = i;
        }
        behind[next] -= 1;
        l->order[at] = (uint8_t)next;
        l->place[at] = (uint16_t)l->sources[next].per_period++;
    }
}

static ds_status check(const ds_loader_opts *o) {
    double total = 0;
    if (o->n_sources < 1 || o->n_sources > MAX_SOURCES)
        return ds_fail(DS_INVALID, "%zu sources are not in 1 … %d", o->n_sources, MAX_SOURCES);
    if (o->seq_len < 1)
        return ds_fail(DS_INVALID, "samples of %lld tokens", (long long)o->seq_len);
    for (size_t i = 0; i < o->n_sources; i++) {
        if (!(o->sources[i].weight > 0) || !isfinite(o->sources[i].weight))
            return ds_fail(DS_INVALID, "%s: weight %g is not above 0", o->sources[i].path,
                           o->sources[i].weight);
        total += o->sources[i].weight;
    }
    for (size_t i = 0; i < o->n_sources; i++)
        if (o->sources[i].weight / total < 1.0 / PERIOD)
            return ds_fail(DS_INVALID, "%s: a share below 1/%d of the samples is not supported",
                           o->sources[i].path, PERIOD);
    if (o->masked && (o->mask_token < 0 || o->cls_token < 0 || o->sep_token < 0))
        return ds_fail(DS_INVALID,
                       "masked training needs a tokenizer with [MASK], [CLS] and [SEP]");
    if (o->masked && o->seq_len < DS_MASKED_MIN_TOKENS)
        return ds_fail(DS_INVALID, "masked training needs at least %d tokens a sample",
                       DS_MASKED_MIN_TOKENS);
    return DS_OK;
}

static ds_status open_all(ds_loader *l, const ds_loader_opts *opts) {
    DS_TRY(check(opts));
    for (size_t i = 0; i < opts->n_sources; i++) {
        l->n_sources = i + 1;
        DS_TRY(open_source(l, &opts->sources[i], &l->sources[i]));
    }
    interleave(l, opts->sources);
    l->opts.sources = NULL; /* was borrowed for this call only */
    l->block = ds_malloc((size_t)(opts->seq_len + 1) * sizeof *l->block);
    return l->block ? DS_OK : DS_OUT_OF_MEMORY;
}

ds_status ds_loader_open(const ds_loader_opts *opts, ds_loader **out) {
    ds_loader *l = ds_calloc(1, sizeof *l);
    if (!l)
        return DS_OUT_OF_MEMORY;
    l->opts = *opts;
    if (l->opts.mask_probability <= 0)
        l->opts.mask_probability = 0.15; /* Devlin et al. 2019 */
    const ds_status status = open_all(l, opts);
    if (status != DS_OK) {
        ds_loader_close(l);
        return status;
    }
    *out = l;
    return DS_OK;
}

void ds_loader_close(ds_loader *l) {
    if (!l)
        return;
    for (size_t i = 0; i < l->n_sources; i++)
        ds_indexed_close(l->sources[i].data);
    free(l->batch.tokens);
    free(l->batch.labels);
    free(l->batch.segment_ids);
    free(l->batch.lengths);
    free(l->batch.next_sentence);
    free(l->block);
    free(l);
}

int64_t ds_loader_samples(const ds_loader *l) {
    int64_t n = 0;
    for (size_t i = 0; i < l->n_sources; i++)
        n += l->sources[i].n_samples;
    return n;
}

ds_status ds_loader_seek(ds_loader *l, int64_t i) {
    if (i < 0)
        return ds_fail(DS_INVALID, "there is no sample %lld", (long long)i);
    l->position = i;
    return DS_OK;
}

int64_t ds_loader_position(const ds_loader *l) {
    return l->position;
}

/* ---- samples ------------------------------------------------------------------------------------
 */

static ds_status read_block(ds_loader *l, const source *s, int64_t sample, int64_t count) {
    return ds_indexed_read(s->data, (s->first + sample) * l->opts.seq_len, count, l->block);
}

/* Which block of which source sample number i of the run is. */
static const source *locate(const ds_loader *l, int64_t i, int64_t *sample) {
    const int in_period = (int)(i % PERIOD);
    const int which = l->order[in_period];
    const source *s = &l->sources[which];
    const int64_t k = i / PERIOD * s->per_period + l->place[in_period];
    const uint64_t epoch = (uint64_t)(k / s->n_samples);
    const uint64_t key = ds_mix64(l->opts.seed ^ ds_mix64((uint64_t)which + 1)) + ds_mix64(epoch);
    *sample = (int64_t)ds_permute(key, (uint64_t)(k % s->n_samples), (uint64_t)s->n_samples);
    return s;
}

static ds_status fill_causal(ds_loader *l, int64_t i, int64_t row) {
    const int64_t n = l->opts.seq_len;
    int64_t sample = 0;
    const source *s = locate(l, i, &sample);
    DS_TRY(read_block(l, s, sample, n + 1));
    memcpy(l->batch.tokens + row * n, l->block, (size_t)n * sizeof *l->block);
    memcpy(l->batch.labels + row * n, l->block + 1, (size_t)n * sizeof *l->block);
    l->batch.n_predicted += n;
    return DS_OK;
}

static ds_status fill_masked(ds_loader *l, int64_t i, int64_t row) {
    const int64_t n = l->opts.seq_len;
    int64_t sample = 0;
    const source *s = locate(l, i, &sample);
    const ds_masking m = {.seq_len = n,
                          .vocab_size = l->opts.vocab_size,
                          .probability = l->opts.mask_probability,
                          .mask = l->opts.mask_token,
                          .cls = l->opts.cls_token,
                          .sep = l->opts.sep_token,
                          .key = ds_mix64(l->opts.seed ^ 0x6D61736B),
                          .sample = (uint64_t)i};
    ds_masked_sample out = {.tokens = l->batch.tokens + row * n,
                            .labels = l->batch.labels + row * n,
                            .segment_ids = l->batch.segment_ids + row * n};
    const int64_t other = (int64_t)(ds_masking_draw(&m, UINT32_MAX) % (uint64_t)s->n_samples);
    DS_TRY(read_block(l, s, sample, n));
    ds_masking_begin(&m, l->block, &out);
    if (out.next_sentence == 1) { /* the second sentence comes from elsewhere */
        DS_TRY(read_block(l, s, other, n));
        ds_masking_replace_second(&m, l->block, &out);
    }
    ds_masking_finish(&m, &out);
    l->batch.lengths[row] = (int32_t)n;
    l->batch.next_sentence[row] = out.next_sentence;
    l->batch.n_predicted += out.n_predicted;
    return DS_OK;
}

static ds_status resize(int32_t **array, int64_t n) {
    int32_t *larger = ds_realloc(*array, (size_t)n * sizeof *larger);
    if (!larger)
        return DS_OUT_OF_MEMORY;
    *array = larger;
    return DS_OK;
}

static ds_status make_room(ds_loader *l, int64_t n) {
    if (n <= l->capacity)
        return DS_OK;
    const int64_t elements = n * l->opts.seq_len;
    DS_TRY(resize(&l->batch.tokens, elements));
    DS_TRY(resize(&l->batch.labels, elements));
    if (l->opts.masked) {
        DS_TRY(resize(&l->batch.segment_ids, elements));
        DS_TRY(resize(&l->batch.lengths, n));
        DS_TRY(resize(&l->batch.next_sentence, n));
    }
    l->capacity = n;
    return DS_OK;
}

ds_status ds_loader_next(ds_loader *l, int64_t n, const ds_batch **out) {
    if (n < 1)
        return ds_fail(DS_INVALID, "a batch of %lld samples", (long long)n);
    DS_TRY(make_room(l, n));
    l->batch.batch = n;
    l->batch.seq_len = l->opts.seq_len;
    l->batch.n_predicted = 0;
    for (int64_t row = 0; row < n; row++)
        DS_TRY(l->opts.masked ? fill_masked(l, l->position + row, row)
                              : fill_causal(l, l->position + row, row));
    l->position += n;
    *out = &l->batch;
    return DS_OK;
}

/* Generation of one sequence: a program that takes a chunk of the prompt and one that takes a
 * single token, over one key-value cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "deepseek/grammar.h"

enum {
    CHUNK = 32, /* prompt tokens at a time */
    FEW = 3     /* tokens that together cost less than a chunk */
};

struct ds_generator {
    ds_model_config config;
    int64_t capacity, length;
    ds_program *chunk, *single; /* chunk: NULL where the cache is too short for one */
    float *logits, *scratch;    /* [vocab_size] */
    bool has_logits;
    int32_t drawn; /* by next, not yet fed; -1: none */
    ds_grammar_cursor *cursor;
    const int32_t *end_tokens;
    size_t n_end_tokens;
};

static ds_status make_program(ds_state *state, const ds_generator *gen, int64_t n_tokens,
                              ds_precision precision, const ds_program *share, ds_program **out) {
    ds_graph *g = ds_graph_new();
    if (!g)
        return DS_OUT_OF_MEMORY;
    ds_model_build_step(g, &gen->config, 1, n_tokens, gen->capacity);
    const ds_compile_opts opts = {.precision = precision, .share = share};
    const ds_status status = ds_compile(g, state, opts, out);
    ds_graph_free(g);
    return status;
}

ds_status ds_generator_new(ds_state *state, const ds_model_config *config, int64_t capacity,
                           ds_precision precision, ds_generator **out) {
    ds_generator *gen = ds_calloc(1, sizeof *gen);
    if (!gen)
        return DS_OUT_OF_MEMORY;
    gen->config = *config;
    gen->capacity = capacity;
    gen->drawn = -1;
    gen->logits = ds_malloc((size_t)config->vocab_size * sizeof(float));
    gen->scratch = ds_malloc((size_t)config->vocab_size * sizeof(float));
    ds_status status = gen->logits && gen->scratch ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK)
        status = make_program(state, gen, 1, precision, NULL, &gen->single);
    if (status == DS_OK && capacity >= CHUNK)
        status = make_program(state, gen, CHUNK, precision, gen->single, &gen->chunk);
    if (status != DS_OK) {
        ds_generator_free(gen);
        return status;
    }
    *out = gen;
    return DS_OK;
}

void ds_generator_free(ds_generator *gen) {
    if (!gen)
        return;
    ds_program_free(gen->chunk);
    ds_program_free(gen->single);
    free(gen->logits);
    free(gen->scratch);
    free(gen);
}

void ds_generator_reset(ds_generator *gen) {
    gen->length = 0;
    gen->has_logits = false;
    gen->drawn = -1;
}

static ds_status run(ds_generator *gen, ds_program *p, const int32_t *ids, int64_t n) {
    int32_t positions[CHUNK];
    const int32_t start = (int32_t)gen->length, length = (int32_t)(gen->length + n);
    for (int64_t i = 0; i < n; i++)
        positions[i] = start + (int32_t)i;
    DS_TRY(ds_program_write(p, "tokens", ids, (size_t)n * sizeof *ids));
    DS_TRY(ds_program_write(p, "positions", positions, (size_t)n * sizeof *positions));
    DS_TRY(ds_program_write(p, "start", &start, sizeof start));
    DS_TRY(ds_program_write(p, "lengths", &length, sizeof length));
    DS_TRY(ds_program_run(p));
    gen->length += n;
    gen->has_logits = true;
    return ds_program_read(p, "logits", gen->logits,
                           (size_t)gen->config.vocab_size * sizeof *gen->logits);
}

ds_status ds_generator_feed(ds_generator *gen, const int32_t *ids, int64_t n) {
    const int64_t pending = gen->drawn >= 0 ? 1 : 0;
    if (gen->length + pending + n > gen->capacity)
        return ds_fail(DS_INVALID, "%lld tokens do not fit the cache of %lld",
                       (long long)(gen->length + pending + n), (long long)gen->capacity);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= gen->config.vocab_size)
            return ds_fail(DS_INVALID, "token %d is not in 0 … %lld", ids[i],
                           (long long)gen->config.vocab_size - 1);
    if (pending) {
        const int32_t drawn = gen->drawn;
        gen->drawn = -1;
        DS_TRY(run(gen, gen->single, &drawn, 1));
    }
    const int64_t n_given = n;
    while (n > 0) {
        /* The last, short piece is fed as a whole chunk that begins among the tokens before it,
         * whose keys and values are only computed anew: dearer than a few single tokens, much
         * cheaper than many. */
        if (gen->chunk && n < CHUNK && n > FEW && n_given >= CHUNK) {
            ids -= CHUNK - n;
            gen->length -= CHUNK - n;
            n = CHUNK;
        }
        const int64_t count = gen->chunk && n >= CHUNK ? CHUNK : 1;
        DS_TRY(run(gen, count > 1 ? gen->chunk : gen->single, ids, count));
        ids += count;
        n -= count;
    }
    return DS_OK;
}

void ds_generator_constrain(ds_generator *gen, ds_grammar_cursor *cursor, const int32_t *end_tokens,
                            size_t n_end_tokens) {
    gen->cursor = cursor;
    gen->end_tokens = end_tokens;
    gen->n_end_tokens = n_end_tokens;
}

static bool is_end(const ds_generator *gen, int32_t id) {
    for (size_t i = 0; i < gen->n_end_tokens; i++)
        if (gen->end_tokens[i] == id)
            return true;
    return false;
}

/* The draw itself, out of gen->scratch. */
static ds_status draw(ds_generator *gen, ds_sampling sampling, int32_t *id) {
    const int64_t vocab = gen->config.vocab_size;
    if (gen->cursor && ds_grammar_must_end(gen->cursor))
        return ds_fail(DS_NOT_FOUND, "the text is complete: its grammar allows nothing more");
    if (gen->cursor)
        DS_TRY(
            ds_grammar_mask(gen->cursor, gen->scratch, vocab, gen->end_tokens, gen->n_end_tokens));
    *id = ds_sample(gen->scratch, vocab, sampling, gen->length);
    return gen->cursor && !is_end(gen, *id) ? ds_grammar_accept(gen->cursor, *id) : DS_OK;
}

ds_status ds_generator_next(ds_generator *gen, ds_sampling sampling, int32_t *id) {
    if (gen->drawn >= 0) {
        if (gen->length + 1 > gen->capacity)
            return ds_fail(DS_NOT_FOUND, "the cache of %lld tokens is full",
                           (long long)gen->capacity);
        DS_TRY(ds_generator_feed(gen, NULL, 0));
    }
    if (!gen->has_logits)
        return ds_fail(DS_INVALID, "nothing was fed yet: there is nothing to go on from");
    for (int64_t i = 0; i < gen->config.vocab_size; i++)
        if (isnan(gen->logits[i]))
            return ds_fail(DS_NUMERIC,
                           "the logits after %lld tokens are not numbers: the model's "
                           "parameters are damaged or it was trained to infinity",
                           (long long)gen->length);
    memcpy(gen->scratch, gen->logits, (size_t)gen->config.vocab_size * sizeof *gen->scratch);
    DS_TRY(draw(gen, sampling, id));
    gen->drawn = *id;
    return DS_OK;
}

const float *ds_generator_logits(const ds_generator *gen) {
    return gen->has_logits ? gen->logits : NULL;
}

int64_t ds_generator_length(const ds_generator *gen) {
    return gen->length;
}

#include "infer/step.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

enum {
    MOST_SIZES = 24, /* powers of two */
    FEW_ROWS = 8     /* prompts give few rows, and each costs a product with the vocabulary */
};

struct ds_stepper {
    ds_model *model;
    ds_step_opts opts;
    /* for 1, 2, 4, … tokens, the last for most_tokens; with few rows, and with as many as can be */
    ds_program *programs[MOST_SIZES][2];
    const ds_program *first; /* whose working memory the others use */
    ds_step_batch batch;
    float *logits; /* [most_rows, vocab_size] */
};

static int64_t size_of(const ds_stepper *s, int i) {
    const int64_t n = INT64_C(1) << i;
    return n < s->opts.most_tokens ? n : s->opts.most_tokens;
}

static int64_t rows_of(const ds_stepper *s, int i, bool many) {
    const int64_t all = s->opts.most_rows, most = many || all < FEW_ROWS ? all : FEW_ROWS;
    const int64_t n = size_of(s, i);
    return n < most ? n : most;
}

static int32_t *ints(int64_t n) {
    return ds_calloc((size_t)n, sizeof(int32_t));
}

ds_status ds_stepper_new(ds_model *model, ds_step_opts opts, ds_stepper **out) {
    ds_stepper *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    s->model = model;
    s->opts = opts;
    ds_step_batch *b = &s->batch;
    b->tokens = ints(opts.most_tokens);
    b->positions = ints(opts.most_tokens);
    b->owners = ints(opts.most_tokens);
    b->slots = ints(opts.most_tokens);
    b->tables = ints(opts.most_sequences * opts.blocks_per_sequence);
    b->rows = ints(opts.most_rows);
    s->logits = ds_malloc((size_t)(opts.most_rows * model->config.vocab_size) * sizeof *s->logits);
    if (!b->tokens || !b->positions || !b->owners || !b->slots || !b->tables || !b->rows ||
        !s->logits) {
        ds_stepper_free(s);
        return DS_OUT_OF_MEMORY;
    }
    *out = s;
    return DS_OK;
}

void ds_stepper_free(ds_stepper *s) {
    if (!s)
        return;
    for (int i = MOST_SIZES - 1; i >= 0; i--)
        for (int many = 1; many >= 0; many--)
            ds_program_free(s->programs[i][many]);
    free(s->batch.tokens);
    free(s->batch.positions);
    free(s->batch.owners);
    free(s->batch.slots);
    free(s->batch.tables);
    free(s->batch.rows);
    free(s->logits);
    free(s);
}

ds_step_batch *ds_stepper_batch(ds_stepper *s) {
    return &s->batch;
}

static ds_status make_program(ds_stepper *s, int i, bool many) {
    ds_graph *g = ds_graph_new();
    if (!g)
        return DS_OUT_OF_MEMORY;
    ds_model_build_paged(g, &s->model->config, size_of(s, i), rows_of(s, i, many),
                         s->opts.most_sequences, s->opts.blocks_per_sequence, &s->opts.cache);
    const ds_compile_opts opts = {.precision = s->opts.precision, .share = s->first};
    const ds_status status = ds_compile(g, s->model->state, opts, &s->programs[i][many]);
    ds_graph_free(g);
    if (status == DS_OK && !s->first)
        s->first = s->programs[i][many];
    return status;
}

static ds_status write_ints(ds_program *p, const char *input, const int32_t *data, int64_t n) {
    return ds_program_write(p, input, data, (size_t)n * sizeof *data);
}

static ds_status run_alone(ds_stepper *s, float **logits) {
    ds_step_batch *b = &s->batch;
    int i = 0;
    if (b->n_tokens > s->opts.most_tokens || b->n_rows > s->opts.most_rows)
        return ds_fail(DS_INTERNAL, "a step of %lld tokens and %lld rows is larger than planned",
                       (long long)b->n_tokens, (long long)b->n_rows);
    while (size_of(s, i) < b->n_tokens)
        i++;
    const bool many = b->n_rows > rows_of(s, i, false);
    if (!s->programs[i][many])
        DS_TRY(make_program(s, i, many));
    ds_program *p = s->programs[i][many];
    const int64_t n = size_of(s, i), n_rows = rows_of(s, i, many);
    for (int64_t t = b->n_tokens; t < n; t++)
        b->tokens[t] = b->positions[t] = 0, b->owners[t] = b->slots[t] = -1;
    for (int64_t r = b->n_rows; r < n_rows; r++)
        b->rows[r] = 0;
    DS_TRY(write_ints(p, "tokens", b->tokens, n));
    DS_TRY(write_ints(p, "positions", b->positions, n));
    DS_TRY(write_ints(p, "owners", b->owners, n));
    DS_TRY(write_ints(p, "slots", b->slots, n));
    DS_TRY(
        write_ints(p, "tables", b->tables, s->opts.most_sequences * s->opts.blocks_per_sequence));
    DS_TRY(write_ints(p, "rows", b->rows, n_rows));
    DS_TRY(ds_program_run(p));
    *logits = s->logits;
    return ds_program_read(p, "logits", s->logits,
                           (size_t)(n_rows * s->model->config.vocab_size) * sizeof *s->logits);
}

/* Embeddings of the same model may be asked for meanwhile. */
ds_status ds_stepper_run(ds_stepper *s, float **logits) {
    pthread_mutex_lock(&s->model->in_use);
    const ds_status status = run_alone(s, logits);
    pthread_mutex_unlock(&s->model->in_use);
    return status;
}

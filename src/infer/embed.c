/* Texts through a model in batches. Programs have fixed shapes, so texts are sorted by length and
 * go together with others of the same size class: 16, 24, 32, 48, 64, … tokens, of which at most a
 * third is padding; batches are powers of two of texts. A program is made when its shape is first
 * needed; all share the working memory of the first. */
#include "infer/embed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "infer/model.h"

enum {
    MOST_CLASSES = 48,    /* of lengths */
    MOST_BATCHES = 7,     /* 1, 2, 4, … 64 texts */
    TOKENS_AT_ONCE = 2048 /* in a batch of more than one text */
};

struct ds_embedder {
    ds_embed_config config;
    int64_t lengths[MOST_CLASSES];
    int n_classes;
    ds_program *programs[MOST_CLASSES][MOST_BATCHES];
    const ds_program *first;
    int32_t *tokens, *n_tokens; /* of the largest batch */
    float *hidden;              /* [batch, length, width] */
};

static int64_t most_tokens(const ds_embedder *e) {
    const int64_t longest = e->lengths[e->n_classes - 1];
    return longest > TOKENS_AT_ONCE ? longest : TOKENS_AT_ONCE;
}

static ds_status new_embedder(const ds_model *m, ds_embedder **out) {
    ds_embedder *e = ds_calloc(1, sizeof *e);
    if (!e)
        return DS_OUT_OF_MEMORY;
    ds_status status = ds_embed_config_load(m->path, &m->config, &e->config);
    const int64_t longest = e->config.longest;
    for (int64_t n = 16; status == DS_OK && n < longest && e->n_classes + 2 < MOST_CLASSES;
         n *= 2) {
        e->lengths[e->n_classes++] = n;
        if (n / 2 * 3 < longest)
            e->lengths[e->n_classes++] = n / 2 * 3;
    }
    e->lengths[e->n_classes++] = longest;
    if (status == DS_OK) {
        const size_t most = (size_t)most_tokens(e);
        e->tokens = ds_malloc(most * sizeof *e->tokens);
        e->n_tokens = ds_malloc(((size_t)1 << MOST_BATCHES) * sizeof *e->n_tokens);
        e->hidden = ds_malloc(most * (size_t)m->config.hidden_size * sizeof *e->hidden);
        if (!e->tokens || !e->n_tokens || !e->hidden)
            status = DS_OUT_OF_MEMORY;
    }
    if (status != DS_OK) {
        ds_embedder_free(e);
        return status;
    }
    *out = e;
    return DS_OK;
}

void ds_embedder_free(ds_embedder *e) {
    if (!e)
        return;
    for (int i = 0; i < MOST_CLASSES; i++)
        for (int k = 0; k < MOST_BATCHES; k++)
            ds_program_free(e->programs[i][k]);
    free(e->tokens);
    free(e->n_tokens);
    free(e->hidden);
    free(e);
}

/* ---- one batch ------------------------------------------------------------------------------- */

static ds_status program_of(ds_model *m, ds_embedder *e, int class, int log2_batch,
                            ds_program **out) {
    ds_program **p = &e->programs[class][log2_batch];
    ds_status status = DS_OK;
    if (!*p) {
        ds_graph *g = ds_graph_new();
        if (!g)
            return DS_OUT_OF_MEMORY;
        ds_model_build_hidden(g, &m->config, (int64_t)1 << log2_batch, e->lengths[class]);
        const ds_compile_opts opts = {.precision = DS_PRECISION_FULL, .share = e->first};
        status = ds_compile(g, m->state, opts, p);
        ds_graph_free(g);
        if (status == DS_OK && !e->first)
            e->first = *p;
    }
    *out = *p;
    return status;
}

/* What of hidden [n, width] stands for the whole text. */
static void pool(const float *hidden, size_t n, size_t width, ds_pooling pooling, float *out) {
    if (pooling != DS_POOL_MEAN) {
        memcpy(out, hidden + (pooling == DS_POOL_LAST ? n - 1 : 0) * width, width * sizeof *out);
        return;
    }
    for (size_t i = 0; i < width; i++) {
        double sum = 0;
        for (size_t t = 0; t < n; t++)
            sum += (double)hidden[t * width + i];
        out[i] = (float)(sum / (double)n);
    }
}

static ds_status normalise(float *v, size_t width) {
    double squares = 0;
    for (size_t i = 0; i < width; i++)
        squares += (double)v[i] * (double)v[i];
    if (!isfinite(squares))
        return ds_fail(DS_NUMERIC, "an embedding is no number: the model's parameters are damaged");
    for (size_t i = 0; i < width && squares > 0; i++)
        v[i] = (float)((double)v[i] / sqrt(squares));
    return DS_OK;
}

typedef struct job {
    ds_model *model;
    ds_embedder *embedder;
    const ds_token_list *texts;
    const size_t *order; /* texts by their lengths */
    ds_pooling pooling;
    bool normalised;
    float *out;
    void (*on_batch)(void *context);
    void *context;
} job;

/* BERT masks what lies past a text's length; a decoder's tokens see none of it. */
static ds_status write_inputs(const job *j, ds_program *p, int64_t batch, int64_t length) {
    const ds_embedder *e = j->embedder;
    DS_TRY(ds_program_write(p, "tokens", e->tokens, (size_t)(batch * length) * sizeof *e->tokens));
    if (j->model->config.architecture != DS_BERT)
        return DS_OK;
    return ds_program_write(p, "lengths", e->n_tokens, (size_t)batch * sizeof *e->n_tokens);
}

/* Texts order[from] … of one class. */
static ds_status run_batch(const job *j, size_t from, size_t n, int class, int log2_batch) {
    ds_embedder *e = j->embedder;
    const int64_t batch = (int64_t)1 << log2_batch, length = e->lengths[class];
    const size_t width = (size_t)j->model->config.hidden_size;
    ds_program *p = NULL;
    DS_TRY(program_of(j->model, e, class, log2_batch, &p));
    memset(e->tokens, 0, (size_t)(batch * length) * sizeof *e->tokens);
    for (size_t i = 0; i < (size_t)batch; i++) {
        e->n_tokens[i] = 1; /* a place without a text */
        if (i >= n)
            continue;
        const ds_token_list *text = &j->texts[j->order[from + i]];
        e->n_tokens[i] = (int32_t)text->n;
        memcpy(e->tokens + i * (size_t)length, text->ids, text->n * sizeof *e->tokens);
    }
    DS_TRY(write_inputs(j, p, batch, length));
    DS_TRY(ds_program_run(p));
    DS_TRY(ds_program_read(p, "hidden", e->hidden,
                           (size_t)(batch * length) * width * sizeof *e->hidden));
    for (size_t i = 0; i < n; i++) {
        const size_t which = j->order[from + i];
        float *out = j->out + which * width;
        pool(e->hidden + i * (size_t)length * width, j->texts[which].n, width, j->pooling, out);
        if (j->normalised)
            DS_TRY(normalise(out, width));
    }
    return DS_OK;
}

/* ---- many texts ------------------------------------------------------------------------------ */

static int class_of(const ds_embedder *e, size_t n_tokens) {
    int class = 0;
    while ((size_t)e->lengths[class] < n_tokens)
        class ++;
    return class;
}

/* The smallest power of two that holds n texts and is not too large for the class. */
static int batch_of(const ds_embedder *e, int class, size_t n) {
    int log2_batch = 0;
    while (log2_batch + 1 < MOST_BATCHES && (size_t)1 << log2_batch < n &&
           e->lengths[class] << (log2_batch + 1) <= TOKENS_AT_ONCE)
        log2_batch++;
    return log2_batch;
}

static ds_status run_all(const job *j, size_t n) {
    for (size_t from = 0, count = 0; from < n; from += count) {
        const int class = class_of(j->embedder, j->texts[j->order[from]].n);
        size_t same = 1;
        while (from + same < n && class_of(j->embedder, j->texts[j->order[from + same]].n) == class)
            same++;
        const int log2_batch = batch_of(j->embedder, class, same);
        count = same < (size_t)1 << log2_batch ? same : (size_t)1 << log2_batch;
        DS_TRY(run_batch(j, from, count, class, log2_batch));
        if (j->on_batch)
            j->on_batch(j->context);
    }
    return DS_OK;
}

typedef struct place {
    size_t n_tokens, index;
} place;

static int shorter_first(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->n_tokens != y->n_tokens)
        return x->n_tokens < y->n_tokens ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static size_t *order_of(const ds_token_list *texts, size_t n) {
    place *places = ds_malloc(n * sizeof *places);
    size_t *order = ds_malloc(n * sizeof *order);
    if (places && order) {
        for (size_t i = 0; i < n; i++)
            places[i] = (place){texts[i].n, i};
        qsort(places, n, sizeof *places, shorter_first);
        for (size_t i = 0; i < n; i++)
            order[i] = places[i].index;
    } else {
        free(order);
        order = NULL;
    }
    free(places);
    return order;
}

static ds_status check_text(const ds_model *m, const ds_token_list *text, size_t i, int64_t most) {
    if (text->n == 0)
        return ds_fail(DS_INVALID, "text %zu has no tokens", i);
    if (text->n > (size_t)most)
        return ds_fail(DS_INVALID, "text %zu has %zu tokens; the model takes %lld", i, text->n,
                       (long long)most);
    for (size_t k = 0; k < text->n; k++)
        if (text->ids[k] < 0 || text->ids[k] >= m->config.vocab_size)
            return ds_fail(DS_INVALID, "text %zu: token %d is not in 0 … %lld", i, text->ids[k],
                           (long long)m->config.vocab_size - 1);
    return DS_OK;
}

/* Under the model's lock: its state and programs belong to one thread at a time. */
static ds_status embed_locked(ds_model *m, const ds_token_list *texts, size_t n, ds_embed_opts opts,
                              float *out) {
    if (!m->embedder)
        DS_TRY(new_embedder(m, &m->embedder));
    ds_embedder *e = m->embedder;
    for (size_t i = 0; i < n; i++)
        DS_TRY(check_text(m, &texts[i], i, e->config.longest));
    size_t *order = order_of(texts, n);
    if (!order)
        return DS_OUT_OF_MEMORY;
    const job j = {
        .model = m,
        .embedder = e,
        .texts = texts,
        .order = order,
        .pooling = opts.pooling == DS_POOL_AS_TRAINED ? e->config.pooling : opts.pooling,
        .normalised = e->config.normalised && !opts.raw,
        .out = out,
        .on_batch = opts.on_batch,
        .context = opts.context,
    };
    const ds_status status = run_all(&j, n);
    free(order);
    return status;
}

ds_status ds_model_embed_tokens(ds_model *m, const ds_token_list *texts, size_t n,
                                ds_embed_opts opts, float *out) {
    if (n == 0)
        return DS_OK;
    ds_token_list *cut = NULL;
    if (opts.truncate) {
        const size_t most = (size_t)ds_model_embedding_length(m);
        cut = ds_malloc(n * sizeof *cut);
        if (!cut)
            return DS_OUT_OF_MEMORY;
        for (size_t i = 0; i < n; i++)
            cut[i] = (ds_token_list){texts[i].ids, texts[i].n < most ? texts[i].n : most};
    }
    pthread_mutex_lock(&m->in_use);
    const ds_status status = embed_locked(m, cut ? cut : texts, n, opts, out);
    pthread_mutex_unlock(&m->in_use);
    free(cut);
    return status;
}

ds_status ds_model_embed(ds_model *m, const char *const *texts, size_t n, ds_embed_opts opts,
                         float *out) {
    if (!m->tokenizer)
        return ds_fail(DS_INVALID, "the model has no tokenizer: put its tokenizer.json beside it");
    const size_t most = opts.truncate ? (size_t)ds_model_embedding_length(m) : 0;
    ds_token_list *lists = ds_calloc(n + 1, sizeof *lists);
    ds_status status = lists ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n && status == DS_OK; i++) {
        int32_t *ids = NULL;
        status = ds_tokenizer_encode_marked(m->tokenizer, texts[i], strlen(texts[i]), most, &ids,
                                            &lists[i].n);
        lists[i].ids = ids;
    }
    if (status == DS_OK)
        status = ds_model_embed_tokens(m, lists, n, opts, out);
    for (size_t i = 0; lists && i < n; i++)
        free((void *)(uintptr_t)lists[i].ids);
    free(lists);
    return status;
}

int64_t ds_model_embedding_size(const ds_model *m) {
    return m->config.hidden_size;
}

int64_t ds_model_embedding_length(const ds_model *m) {
    ds_embed_config config;
    return ds_embed_config_load(m->path, &m->config, &config) == DS_OK ? config.longest
                                                                       : m->config.max_seq_len;
}

/* Serves batches in an order that is a pure function of the sample's global index:
 *     index → (source, its k-th sample)      mixture.h
 *           → (epoch, place in the epoch)    k / samples, k % samples
 *           → block of the stream            permutation.h, keyed by (seed, source, epoch)
 *           → rows                           sample.h
 * So the state is one integer. One thread prepares the batch that the next call will most likely
 * ask for (same sizes, next samples); a call that asks for another one makes it by itself. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "data/mixture.h"
#include "data/permutation.h"
#include "data/sample.h"

enum {
    SHIFT_FROM_SAMPLES = 32, /* epochs smaller than this keep their block starts */
    LONG_SCAN_TOKENS = 200 * 1000 * 1000,
    SHORTEST_MASKED = 8,
    LONGEST_SAMPLE = 1 << 24,
    LARGEST_BATCH = 1 << 30,
};

#define LAST_SAMPLE ((int64_t)1 << 61) /* leaves room to add batches */

/* A batch with the memory of its arrays. */
typedef struct batch_room {
    ds_batch batch;
    int32_t *memory;
    size_t capacity; /* int32s */
} batch_room;

typedef enum worker_state { WORKER_IDLE, WORKER_BUSY, WORKER_QUIT } worker_state;

struct ds_loader {
    ds_loader_opts opts;
    ds_sample_source *sources; /* [n_sources] */
    size_t n_sources;
    ds_mixture mixture;
    int64_t position;
    batch_room served, spare; /* the caller's, and the one being prepared */
    bool spare_ready;         /* the spare holds a batch, or will once the worker is idle */
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* guards state; the spare belongs to the worker while it is busy */
    pthread_cond_t changed;
    worker_state state;
};

/* Where the part held out of a stream begins; see ds_loader_open. least: tokens of one sample. */
static int64_t validation_start(const ds_indexed *data, double fraction, int64_t least) {
    const int64_t tokens = ds_indexed_tokens(data);
    if (fraction <= 0)
        return tokens;
    int64_t share = (int64_t)llround(fraction * (double)tokens);
    share = share < least ? least : share;
    const int64_t start = tokens - share;
    if (start <= 0)
        return 0;
    int64_t first = 0, length = 0;
    const int64_t document = ds_indexed_document_of(data, start);
    if (ds_indexed_document(data, document, &first, &length) != DS_OK || first == start)
        return start;
    const int64_t next = first + length, left = tokens - next;
    return left >= least && left >= (share + 1) / 2 ? next : start;
}

/* Cuts one source into blocks. */
static ds_status cut_source(const ds_loader_opts *opts, ds_sample_source *s) {
    const int specials = opts->single_span ? 2 : 3; /* [CLS], and [SEP] behind each span */
    const int64_t behind = opts->masked ? 0 : 1;    /* the token that is the last label only */
    s->block_tokens = opts->masked ? opts->seq_len - specials : opts->seq_len;
    const int64_t cut =
        validation_start(s->data, opts->validation_fraction, s->block_tokens + behind);
    s->begin = opts->validation ? cut : 0;
    s->end = opts->validation ? ds_indexed_tokens(s->data) : cut;
    const int64_t usable = s->end - s->begin - behind;
    if (usable < s->block_tokens)
        return ds_fail(DS_INVALID, "%s: its %s part has %lld tokens; one sample of %lld needs %lld",
                       ds_indexed_path(s->data), opts->validation ? "validation" : "training",
                       (long long)(s->end - s->begin), (long long)opts->seq_len,
                       (long long)(s->block_tokens + behind));
    s->samples = usable / s->block_tokens;
    if (opts->sequential)
        return DS_OK;
    if (s->samples >= SHIFT_FROM_SAMPLES)
        s->samples--; /* gives every epoch room to shift by up to a block */
    s->slack = usable - s->samples * s->block_tokens;
    if (s->slack >= s->block_tokens)
        s->slack = s->block_tokens - 1;
    return DS_OK;
}

static ds_status check_id(const char *name, int32_t id, int64_t vocab_size) {
    if (id < 0 || id >= vocab_size)
        return ds_fail(DS_INVALID, "masked training: %s is %d; the vocabulary has ids 0 to %lld",
                       name, id, (long long)vocab_size - 1);
    return DS_OK;
}

static ds_status check_masked(const ds_loader_opts *o) {
    if (o->seq_len < SHORTEST_MASKED)
        return ds_fail(DS_INVALID, "masked training needs at least %d tokens a sample",
                       SHORTEST_MASKED);
    if (!(o->mask_probability > 0 && o->mask_probability < 1))
        return ds_fail(DS_INVALID, "mask_probability %g; it should be in (0, 1)",
                       o->mask_probability);
    if (o->mask_token < 0 || o->cls_token < 0 || o->sep_token < 0)
        return ds_fail(DS_INVALID,
                       "masked training needs a tokenizer with [MASK], [CLS] and [SEP]");
    DS_TRY(check_id("[CLS]", o->cls_token, o->vocab_size));
    DS_TRY(check_id("[SEP]", o->sep_token, o->vocab_size));
    DS_TRY(check_id("[MASK]", o->mask_token, o->vocab_size));
    return check_id("[PAD]", o->pad_token, o->vocab_size);
}

static ds_status check_opts(const ds_loader_opts *o) {
    if (o->n_sources < 1)
        return ds_fail(DS_INVALID, "no data source");
    if (o->seq_len < 1 || o->seq_len > LONGEST_SAMPLE)
        return ds_fail(DS_INVALID, "samples of %lld tokens; 1 to %d are possible",
                       (long long)o->seq_len, LONGEST_SAMPLE);
    if (o->vocab_size < 1 || o->vocab_size > INT32_MAX)
        return ds_fail(DS_INVALID, "vocab_size %lld; it should be in [1, %d]",
                       (long long)o->vocab_size, INT32_MAX);
    if (!(o->validation_fraction >= 0 && o->validation_fraction < 1))
        return ds_fail(DS_INVALID, "validation_fraction %g; it should be in [0, 1)",
                       o->validation_fraction);
    return o->masked ? check_masked(o) : DS_OK;
}

static ds_status open_source(const ds_loader_opts *opts, const char *path, ds_sample_source *s) {
    DS_TRY(ds_indexed_open(path, &s->data));
    const int64_t tokens = ds_indexed_tokens(s->data);
    if (tokens > LONG_SCAN_TOKENS)
        ds_log(DS_LOG_INFO, "%s: comparing %.1f billion ids with the vocabulary",
               ds_indexed_path(s->data), (double)tokens * 1e-9);
    DS_TRY(ds_indexed_check_vocab(s->data, opts->vocab_size));
    return cut_source(opts, s);
}

static ds_status open_sources(ds_loader *l, const ds_loader_source *sources) {
    double *weights = ds_malloc(l->n_sources * sizeof *weights);
    l->sources = ds_calloc(l->n_sources, sizeof *l->sources);
    ds_status status = weights && l->sources ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < l->n_sources && status == DS_OK; i++) {
        weights[i] = sources[i].weight;
        if (!(weights[i] > 0) || !isfinite(weights[i]))
            status =
                ds_fail(DS_INVALID, "%s: weight %g is not above 0", sources[i].path, weights[i]);
        else
            status = open_source(&l->opts, sources[i].path, &l->sources[i]);
    }
    if (status == DS_OK)
        status = ds_mixture_init(&l->mixture, weights, l->n_sources);
    free(weights);
    return status;
}

/* ---- Batches ------------------------------------------------------------------------------ */

void ds_loader_where(const ds_loader *l, int64_t g, size_t *source, int64_t *epoch,
                     int64_t *first_token) {
    size_t s = 0;
    int64_t k = 0;
    ds_mixture_at(&l->mixture, g, &s, &k);
    const ds_sample_source *from = &l->sources[s];
    const int64_t lap = k / from->samples;
    int64_t block = k % from->samples, shift = 0;
    if (!l->opts.sequential) {
        const uint64_t key = ds_sample_key(l->opts.seed, "sample order", s, (uint64_t)lap);
        block = (int64_t)ds_permute(key, (uint64_t)block, (uint64_t)from->samples);
        shift = (int64_t)(ds_mix64(key) % ((uint64_t)from->slack + 1));
    }
    if (source)
        *source = s;
    if (epoch)
        *epoch = lap;
    if (first_token)
        *first_token = from->begin + shift + block * from->block_tokens;
}

/* Lays the arrays of a batch of n samples into the room, which grows as needed. */
static ds_status make_room(batch_room *room, int64_t n, const ds_loader_opts *opts) {
    const size_t rows = (size_t)n, cells = rows * (size_t)opts->seq_len;
    const size_t matrices = opts->masked ? 5 : 4, vectors = opts->masked ? 2 : 0;
    int32_t *memory =
        ds_grow(room->memory, &room->capacity, matrices * cells + vectors * rows, sizeof *memory);
    if (!memory)
        return DS_OUT_OF_MEMORY;
    room->memory = memory;
    room->batch = (ds_batch){.batch = n,
                             .seq_len = opts->seq_len,
                             .tokens = memory,
                             .labels = memory + cells,
                             .positions = memory + 2 * cells,
                             .documents = memory + 3 * cells};
    if (opts->masked) {
        room->batch.segment_ids = memory + 4 * cells;
        room->batch.lengths = memory + 5 * cells;
        room->batch.next_sentence = memory + 5 * cells + rows;
    }
    return DS_OK;
}

/* Fills a batch whose arrays, size and first_sample are set. */
static void fill(const ds_loader *l, ds_batch *b) {
    b->n_predicted = 0;
    for (int64_t i = 0; i < b->batch; i++) {
        const int64_t row = i * b->seq_len, g = b->first_sample + i;
        ds_sample_rows rows = {.tokens = b->tokens + row,
                               .labels = b->labels + row,
                               .positions = b->positions + row,
                               .documents = b->documents + row};
        size_t source = 0;
        int64_t first = 0;
        ds_loader_where(l, g, &source, NULL, &first);
        const ds_sample_source *from = &l->sources[source];
        if (l->opts.masked) {
            rows.segment_ids = b->segment_ids + row;
            rows.length = b->lengths + i;
            rows.next_sentence = b->next_sentence + i;
            b->n_predicted += ds_sample_masked(&l->opts, from, first, g, rows);
        } else {
            b->n_predicted += ds_sample_causal(&l->opts, from, first, rows);
        }
    }
}

/* ---- The prefetch thread ------------------------------------------------------------------ */

static void *prefetch(void *context) {
    ds_loader *l = context;
    pthread_mutex_lock(&l->lock);
    while (l->state != WORKER_QUIT) {
        if (l->state == WORKER_BUSY) {
            pthread_mutex_unlock(&l->lock);
            fill(l, &l->spare.batch);
            pthread_mutex_lock(&l->lock);
            if (l->state == WORKER_BUSY)
                l->state = WORKER_IDLE;
            pthread_cond_signal(&l->changed);
        } else {
            pthread_cond_wait(&l->changed, &l->lock);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* The spare is the caller's again when this returns. */
static void wait_for_worker(ds_loader *l) {
    if (!l->has_thread)
        return;
    pthread_mutex_lock(&l->lock);
    while (l->state == WORKER_BUSY)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

/* Lets the worker make the batch of n samples from g. Without memory there is no prefetching,
 * and the next call reports it. */
static void start_worker(ds_loader *l, int64_t g, int64_t n) {
    if (!l->has_thread || n == 0 || make_room(&l->spare, n, &l->opts) != DS_OK)
        return;
    l->spare.batch.first_sample = g;
    l->spare_ready = true;
    pthread_mutex_lock(&l->lock);
    l->state = WORKER_BUSY;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void start_thread(ds_loader *l) {
    if (l->opts.no_prefetch)
        return;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    sigset_t all, before;
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    l->has_thread = pthread_create(&l->thread, NULL, prefetch, l) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!l->has_thread) { /* slower, but right */
        pthread_mutex_destroy(&l->lock);
        pthread_cond_destroy(&l->changed);
    }
}

static void stop_thread(ds_loader *l) {
    if (!l->has_thread)
        return;
    pthread_mutex_lock(&l->lock);
    l->state = WORKER_QUIT;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
}

/* ---- The public face ---------------------------------------------------------------------- */

ds_status ds_loader_open(const ds_loader_opts *opts, ds_loader **out) {
    *out = NULL;
    ds_loader *l = ds_calloc(1, sizeof *l);
    if (!l)
        return DS_OUT_OF_MEMORY;
    l->opts = *opts;
    l->opts.sources = NULL; /* borrowed for this call only */
    l->n_sources = opts->n_sources;
    if (l->opts.mask_probability == 0)
        l->opts.mask_probability = 0.15; /* Devlin et al. 2018 */
    ds_status status = check_opts(&l->opts);
    if (status == DS_OK)
        status = open_sources(l, opts->sources);
    if (status != DS_OK) {
        ds_loader_close(l);
        return status;
    }
    start_thread(l);
    *out = l;
    return DS_OK;
}

void ds_loader_close(ds_loader *l) {
    if (!l)
        return;
    stop_thread(l);
    for (size_t i = 0; l->sources && i < l->n_sources; i++)
        ds_indexed_close(l->sources[i].data);
    ds_mixture_clear(&l->mixture);
    free(l->sources);
    free(l->served.memory);
    free(l->spare.memory);
    free(l);
}

ds_status ds_loader_next_share(ds_loader *l, int64_t global_batch, int64_t first, int64_t n,
                               const ds_batch **out) {
    *out = NULL;
    if (global_batch < 1 || global_batch > LARGEST_BATCH || first < 0 || n < 0 ||
        first > global_batch - n)
        return ds_fail(DS_INVALID, "samples [%lld, +%lld) of a batch of %lld", (long long)first,
                       (long long)n, (long long)global_batch);
    if (l->position > LAST_SAMPLE)
        return ds_fail(DS_INVALID, "there is no sample %lld", (long long)l->position);
    const int64_t g = l->position + first;
    wait_for_worker(l);
    if (l->spare_ready && l->spare.batch.first_sample == g && l->spare.batch.batch == n) {
        const batch_room ready = l->spare;
        l->spare = l->served;
        l->served = ready;
    } else {
        DS_TRY(make_room(&l->served, n, &l->opts));
        l->served.batch.first_sample = g;
        fill(l, &l->served.batch);
    }
    l->spare_ready = false;
    l->position += global_batch;
    start_worker(l, l->position + first, n);
    *out = &l->served.batch;
    return DS_OK;
}

ds_status ds_loader_next(ds_loader *l, int64_t n, const ds_batch **out) {
    return ds_loader_next_share(l, n, 0, n, out);
}

int64_t ds_loader_position(const ds_loader *l) {
    return l->position;
}

ds_status ds_loader_seek(ds_loader *l, int64_t i) {
    if (i < 0 || i > LAST_SAMPLE)
        return ds_fail(DS_INVALID, "there is no sample %lld", (long long)i);
    l->position = i;
    return DS_OK;
}

int64_t ds_loader_samples(const ds_loader *l) {
    int64_t sum = 0;
    for (size_t i = 0; i < l->n_sources; i++)
        sum += l->sources[i].samples;
    return sum;
}

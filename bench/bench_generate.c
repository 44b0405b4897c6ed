/* Generating text as the server does it: one request after another through the executor.
 *     bench_generate MODEL [--name NAME] [--threads N] [--dtype D] [--precision P]  < CASES
 * P is fp32 or bf16. A case is a line; each is answered by one line of JSON:
 *     decode N     N tokens after a short prompt; the time from the first to the last
 *     prefill N    the time from a prompt of N tokens to the first token
 *     read         how fast all threads together read memory, the limit of decoding
 *     resident     bytes of this process, of the weights and of the cache in use
 * Prints "ready" first (bench_in_turn). Tokens are drawn at random: a model needs no tokenizer. */
#include <getopt.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/limits.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"
#include "infer/model.h"
#include "support.h"

typedef struct bench {
    ds_model *model;
    ds_async_executor *executor;
    const char *name;
    char who[64];
    int threads;
    uint64_t n_prompts; /* no two are alike: none begins like another one */
    float *memory;      /* that `read` streams through */
    int64_t n_memory;
} bench;

typedef struct clock {
    double first, last;
    int64_t n;
} clock_of_tokens;

/* ---- the model ------------------------------------------------------------------------------- */

/* Of parameters; read: at each token, which is all but an embedding that is only looked up in. */
static size_t weight_bytes(const bench *b, bool read) {
    const ds_state *state = ds_model_get_state(b->model);
    const bool tied = ds_model_get_config(b->model)->tie_embeddings;
    size_t total = 0;
    for (size_t i = 0; i < ds_state_count(state); i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        const bool looked_up = !tied && strstr(e->name, "embed_tokens") != NULL;
        if (e->is_param && !(read && looked_up))
            total += (size_t)ds_count(e->dims, e->rank) * ds_dtype_size(e->dtype);
    }
    return total;
}

/* The type of most weights. */
static const char *stored_as(const bench *b) {
    const ds_state *state = ds_model_get_state(b->model);
    size_t bytes[DS_DTYPES] = {0};
    int most = 0;
    for (size_t i = 0; i < ds_state_count(state); i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        bytes[e->dtype] += e->is_param ? (size_t)ds_count(e->dims, e->rank) : 0;
    }
    for (int i = 0; i < DS_DTYPES; i++)
        most = bytes[i] > bytes[most] ? i : most;
    return ds_dtype_name((ds_dtype)most);
}

static void open_bench(bench *b, const char *folder, const char *name, const ds_model_opts *opts,
                       ds_precision precision) {
    check(ds_model_from_pretrained(folder, *opts, &b->model));
    /* one stream: once a request counts as finished, all of its tokens have been told */
    const ds_async_executor_opts o = {
        .max_batch_size = 1, .stream_count = 1, .precision = precision};
    check(ds_async_executor_new(b->model, o, &b->executor));
    b->name = name ? name : ds_model_get_name(b->model);
    snprintf(b->who, sizeof b->who, "ours %s%s", opts->dtype ? opts->dtype : stored_as(b),
             precision == DS_PRECISION_BF16 ? ", bf16" : "");
    b->threads = ds_backend_get_info(b->model->backend)->n_threads;
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void on_event(const ds_event *event, void *context) {
    clock_of_tokens *c = context;
    if (event->token < 0)
        return;
    c->last = ds_clock_s();
    if (c->n++ == 0)
        c->first = c->last;
}

/* Returns when the request was handed in. */
static double answer(bench *b, int64_t n_prompt, int64_t n_answer, clock_of_tokens *clock) {
    const ds_model_config *c = ds_model_get_config(b->model);
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    check(prompt ? DS_OK : DS_OUT_OF_MEMORY);
    b->n_prompts++;
    for (int64_t i = 0; i < n_prompt; i++)
        prompt[i] =
            (int32_t)(ds_philox(b->n_prompts, (uint64_t)i, 0).word[0] % (uint32_t)c->vocab_size);
    const ds_request request = {.prompt = prompt,
                                .n_prompt = n_prompt,
                                .max_tokens = n_answer,
                                .on_event = on_event,
                                .context = clock};
    uint64_t id = 0;
    ds_executor_stats before, now;
    ds_async_executor_stats(b->executor, &before);
    const double start = ds_clock_s();
    check(ds_async_executor_submit(b->executor, &request, &id));
    do { /* the end is not measured: the tokens' own times are */
        const struct timespec pause = {.tv_nsec = 2000000};
        nanosleep(&pause, NULL);
        ds_async_executor_stats(b->executor, &now);
    } while (now.finished + now.failed == before.finished + before.failed);
    free(prompt);
    return start;
}

static void print_case(const bench *b, const char *name, int64_t tokens, double seconds,
                       double bytes, double flops) {
    printf("{\"who\": \"%s\", \"model\": \"%s\", \"case\": \"%s %lld\", \"tokens\": %lld, "
           "\"seconds\": %.6f, \"bytes\": %.6g, \"flops\": %.6g}\n",
           b->who, b->name, name, (long long)tokens, (long long)tokens, seconds, bytes, flops);
}

static void run_decode(bench *b, int64_t n) {
    enum { PROMPT = 16 };
    clock_of_tokens c = {0};
    answer(b, PROMPT, n + 1, &c);
    print_case(b, "decode", n, c.last - c.first, (double)n * (double)weight_bytes(b, true), 0);
}

/* The logits of the last token alone are made. */
static void run_prefill(bench *b, int64_t n) {
    const ds_model_config *config = ds_model_get_config(b->model);
    const double head = 2 * (double)config->hidden_size * (double)config->vocab_size;
    const double flops = (ds_model_flops_per_token(config, n) / 3 - head) * (double)n + head;
    clock_of_tokens c = {0};
    const double start = answer(b, n, 1, &c);
    print_case(b, "prefill", n, c.first - start, 0, flops);
}

static void run_read(bench *b) {
    if (!b->memory) {
        b->n_memory = (int64_t)(ds_cpu_stream_bytes() / sizeof(float));
        b->memory = ds_pages_alloc((size_t)b->n_memory * sizeof(float));
        check(b->memory ? DS_OK : DS_OUT_OF_MEMORY);
        ds_cpu_simd()->fill(1, b->memory, b->n_memory);
    }
    double fastest = 0;
    for (int i = 0; i < 3; i++) {
        float sum = 0;
        const double start = ds_clock_s();
#pragma omp parallel num_threads(b->threads) reduction(+ : sum)
        {
            const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
            const int64_t from = b->n_memory * part / parts, to = b->n_memory * (part + 1) / parts;
            sum += ds_cpu_simd()->sum(b->memory + from, to - from);
        }
        const double rate =
            sum > 0 ? (double)b->n_memory * sizeof(float) / (ds_clock_s() - start) : 0;
        fastest = rate > fastest ? rate : fastest;
    }
    ds_backend_rest(b->model->backend); /* else this thread's team stays in the way */
    printf("{\"read_bytes_per_s\": %.4g, \"threads\": %d}\n", fastest, b->threads);
}

static size_t resident_bytes(void) {
    size_t pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%zu %zu", &pages, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void run_resident(const bench *b) {
    ds_executor_stats s;
    ds_async_executor_stats(b->executor, &s);
    const size_t used =
        (size_t)(s.blocks_in_use + s.blocks_cached) * (s.cache_bytes / (size_t)s.blocks);
    printf("{\"who\": \"%s\", \"model\": \"%s\", \"resident_bytes\": %zu, \"weights_bytes\": %zu, "
           "\"cache_in_use_bytes\": %zu, \"cache_bytes\": %zu}\n",
           b->who, b->name, resident_bytes(), weight_bytes(b, false), used, s.cache_bytes);
}

/* ---- main ------------------------------------------------------------------------------------ */

static bool run_case(void *context, const char *line) {
    bench *b = context;
    char name[16] = "";
    long long n = 0;
    const int found = sscanf(line, "%15s %lld", name, &n);
    if (found == 2 && n > 0 && strcmp(name, "decode") == 0)
        run_decode(b, n);
    else if (found == 2 && n > 0 && strcmp(name, "prefill") == 0)
        run_prefill(b, n);
    else if (found == 1 && strcmp(name, "read") == 0)
        run_read(b);
    else if (found == 1 && strcmp(name, "resident") == 0)
        run_resident(b);
    else
        return false;
    return true;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"dtype", required_argument, NULL, 'd'},
                                            {"precision", required_argument, NULL, 'p'},
                                            {0}};
    ds_model_opts opts = {0};
    const char *name = NULL;
    ds_precision precision = DS_PRECISION_FULL;
    bool usable = true;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 'n': name = optarg; break;
        case 't': opts.n_threads = atoi(optarg); break;
        case 'd': opts.dtype = optarg; break;
        case 'p': precision = *optarg == 'b' ? DS_PRECISION_BF16 : DS_PRECISION_FULL; break;
        default: usable = false;
        }
    if (!usable || optind + 1 != argc) {
        fputs("usage: bench_generate MODEL [--name NAME] [--threads N] [--dtype D] "
              "[--precision fp32|bf16]\n",
              stderr);
        return 2;
    }
    bench b = {0};
    open_bench(&b, argv[optind], name, &opts, precision);
    const int failed = answer_cases(run_case, &b);
    if (b.memory)
        ds_pages_free(b.memory, (size_t)b.n_memory * sizeof(float));
    ds_async_executor_free(b.executor);
    ds_model_free(b.model);
    return failed;
}

/* Whole training steps of a preset on random tokens: forward, backward, clipping by the global
 * norm, AdamW. Time, rate and memory.
 *     bench_train_step PRESET BATCH SEQ_LEN fp32|bf16|fp16 [--steps N] [--threads N]
 *         [--recompute none|selective|full] [--offload host|file] [--offload-path FOLDER]
 *         [--device NAME] [--no-fuse] [--no-fused-attention] [--profile] [--paced]
 * Prints one JSON line; with --profile the time of each op on stderr. With --paced it prints
 * "ready" after the warm-up and then does a step for each line that it reads (bench_in_turn). */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/rng.h"
#include "deepseek/compile.h"
#include "deepseek/models.h"
#include "deepseek/optim.h"
#include "support.h"

static const char USAGE[] =
    "usage: bench_train_step PRESET BATCH SEQ_LEN fp32|bf16|fp16 [--steps N] [--threads N]\n"
    "    [--recompute none|selective|full] [--offload host|file] [--offload-path FOLDER]\n"
    "    [--device NAME] [--no-fuse] [--no-fused-attention] [--profile] [--paced]\n";

typedef struct arguments {
    const char *preset, *precision, *device, *recompute, *offload;
    int64_t batch, seq_len;
    int steps, threads;
    bool profile, paced;
    ds_compile_opts opts;
} arguments;

typedef struct bench {
    ds_backend *backend;
    ds_state *state;
    ds_program *gradients, *update;
    int64_t n_predicted;
    float loss; /* mean of the last step */
    int n_done;
} bench;

typedef struct seconds {
    double step, update;
} seconds;

/* ---- arguments ------------------------------------------------------------------------------- */

/* The place of a word in a list that ends with NULL; prints the usage and exits if it is none. */
static int choose(const char *word, const char *const *words) {
    for (int i = 0; words[i]; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    fprintf(stderr, "bench_train_step: what is \"%s\"?\n%s", word, USAGE);
    exit(2);
}

static void parse(int argc, char **argv, arguments *a) {
    static const struct option options[] = {{"steps", required_argument, NULL, 's'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"recompute", required_argument, NULL, 'r'},
                                            {"offload", required_argument, NULL, 'o'},
                                            {"profile", no_argument, NULL, 'p'},
                                            {"no-fuse", no_argument, NULL, 'f'},
                                            {"no-fused-attention", no_argument, NULL, 'a'},
                                            {"device", required_argument, NULL, 'd'},
                                            {"offload-path", required_argument, NULL, 'O'},
                                            {"paced", no_argument, NULL, 'P'},
                                            {0}};
    static const char *const recompute[] = {"none", "selective", "full", NULL};
    static const char *const offload[] = {"none", "host", "file", NULL};
    static const char *const precision[] = {"fp32", "bf16", "fp16", NULL};
    *a = (arguments){
        .device = "cpu", .recompute = "none", .offload = "none", .steps = 5, .opts.loss = "loss"};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 's': a->steps = atoi(optarg) > 0 ? atoi(optarg) : 1; break;
        case 't': a->threads = atoi(optarg); break;
        case 'r': a->recompute = optarg; break;
        case 'o': a->offload = optarg; break;
        case 'O': a->opts.offload_path = optarg; break;
        case 'p': a->profile = true; break;
        case 'P': a->paced = true; break;
        case 'f': a->opts.no_fuse = true; break;
        case 'a': a->opts.no_fused_attention = true; break;
        case 'd': a->device = optarg; break;
        default: fputs(USAGE, stderr); exit(2);
        }
    }
    if (argc - optind != 4) {
        fputs(USAGE, stderr);
        exit(2);
    }
    a->preset = argv[optind];
    a->batch = atoll(argv[optind + 1]);
    a->seq_len = atoll(argv[optind + 2]);
    a->precision = argv[optind + 3];
    a->opts.precision = (ds_precision)choose(a->precision, precision);
    a->opts.recompute = (ds_recompute)choose(a->recompute, recompute);
    a->opts.offload = (ds_offload)choose(a->offload, offload);
}

/* ---- setting up ------------------------------------------------------------------------------ */

static void write_ints(ds_program *p, const char *name, const int32_t *values, int64_t n) {
    check(ds_program_write(p, name, values, (size_t)n * sizeof *values));
}

static void write_number(ds_program *p, const char *name, float value) {
    check(ds_program_write(p, name, &value, sizeof value));
}

/* Random tokens. Language models predict all of them, BERT about 15 % (Devlin et al. 2019). */
static void write_inputs(bench *b, const ds_model_config *c, int64_t batch, int64_t seq_len) {
    const int64_t n = batch * seq_len;
    const bool masked = c->architecture == DS_BERT;
    int32_t *ids = calloc((size_t)n, sizeof *ids), *labels = calloc((size_t)n, sizeof *labels);
    int32_t *zeros = calloc((size_t)n, sizeof *zeros);
    check(ids && labels && zeros ? DS_OK : DS_OUT_OF_MEMORY);
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(ds_philox(1, (uint64_t)i, 0).word[0] % (uint32_t)c->vocab_size);
        const bool predicted = !masked || i % 20 < 3;
        labels[i] = predicted ? ids[i] : -100;
        b->n_predicted += predicted;
    }
    write_ints(b->gradients, "tokens", ids, n);
    write_ints(b->gradients, "labels", labels, n);
    write_number(b->gradients, DS_LOSS_SEED, 1.0f / (float)b->n_predicted);
    if (masked) {
        write_ints(b->gradients, "segment_ids", zeros, n);
        write_ints(b->gradients, "next_sentence", zeros, batch);
        for (int64_t i = 0; i < batch; i++)
            ids[i] = (int32_t)seq_len;
        write_ints(b->gradients, "lengths", ids, batch);
        write_number(b->gradients, DS_TOKENS_PER_SAMPLE, (float)b->n_predicted / (float)batch);
    }
    free(ids);
    free(labels);
    free(zeros);
}

static void set_up(bench *b, const arguments *a, ds_model_config *config) {
    check(ds_model_preset(a->preset, config));
    check(ds_backend_open(a->device, (ds_backend_opts){a->threads}, &b->backend));
    check(ds_state_new(b->backend, &b->state));
    ds_graph *g = ds_graph_new(), *update = NULL;
    ds_model_build_training(g, config, a->batch, a->seq_len);
    check(ds_compile(g, b->state, a->opts, &b->gradients));
    check(ds_optimizer_graph(b->state, ds_optimizer_defaults(DS_OPTIMIZER_ADAMW), &update));
    check(ds_compile(update, b->state, (ds_compile_opts){.share = b->gradients}, &b->update));
    ds_graph_free(update);
    ds_graph_free(g);
    check(ds_state_init(b->state, 1));
    write_inputs(b, config, a->batch, a->seq_len);
    write_number(b->update, "lr", 1e-4f);
    write_number(b->update, "grad_scale", 1);
    write_number(b->update, "grad_clip", 1);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static seconds run_step(bench *b) {
    const double start = ds_clock_s();
    float norm = 0;
    check(ds_program_run(b->gradients));
    check(ds_program_read(b->gradients, "loss", &b->loss, sizeof b->loss));
    const double middle = ds_clock_s();
    write_number(b->update, "step", (float)++b->n_done);
    check(ds_program_run(b->update));
    check(ds_program_read(b->update, "grad_norm", &norm, sizeof norm));
    const double end = ds_clock_s();
    b->loss /= (float)b->n_predicted;
    return (seconds){end - start, end - middle};
}

/* Waits for a line. False at the end of the input. */
static bool next_line(void) {
    for (int c; (c = getchar()) != EOF;)
        if (c == '\n')
            return true;
    return false;
}

/* Runs the steps asked for, or one for each line. Returns how many. */
static int run_steps(bench *b, const arguments *a, seconds **times) {
    int n = 0;
    if (a->paced) {
        puts("ready");
        fflush(stdout);
    }
    while (a->paced ? next_line() : n < a->steps) {
        seconds *more = realloc(*times, (size_t)(n + 1) * sizeof **times);
        check(more ? DS_OK : DS_OUT_OF_MEMORY);
        *times = more;
        more[n] = run_step(b);
        if (a->paced) {
            printf("%.4f\n", more[n].step);
            fflush(stdout);
        }
        n++;
    }
    return n;
}

static int by_step(const void *a, const void *b) {
    const seconds *x = a, *y = b;
    return (x->step > y->step) - (x->step < y->step);
}

static void print_result(const bench *b, const arguments *a, const ds_model_config *config,
                         seconds *times, int n) {
    const ds_memory_report *m = ds_program_memory(b->gradients);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    qsort(times, (size_t)n, sizeof *times, by_step);
    const seconds median = times[n / 2];
    const double tokens = (double)(a->batch * a->seq_len);
    printf("{\"who\": \"ours\", \"model\": \"%s\", \"batch\": %lld, \"seq_len\": %lld, "
           "\"precision\": \"%s\", \"recompute\": \"%s\", \"offload\": \"%s\", \"steps\": %d, "
           "\"step_s\": %.4f, \"fastest_s\": %.4f, \"update_s\": %.4f, \"tokens_per_s\": %.1f, "
           "\"flops_per_s\": %.4g, \"loss\": %.4f, ",
           a->preset, (long long)a->batch, (long long)a->seq_len, a->precision, a->recompute,
           a->offload, n, median.step, times[0].step, median.update, tokens / median.step,
           ds_model_flops_per_token(config, a->seq_len) * tokens / median.step, (double)b->loss);
    const size_t optimizer = ds_state_size(b->state) - m->parameters - m->gradients;
    printf("\"peak_rss_bytes\": %ld, \"parameters_bytes\": %zu, \"gradients_bytes\": %zu, "
           "\"optimizer_bytes\": %zu, \"derived_bytes\": %zu, \"working_bytes\": %zu, "
           "\"host_bytes\": %zu}\n",
           usage.ru_maxrss * 1024L, m->parameters, m->gradients, optimizer, m->derived, m->working,
           m->host);
}

int main(int argc, char **argv) {
    arguments a;
    parse(argc, argv, &a);
    bench b = {0};
    ds_model_config config;
    set_up(&b, &a, &config);
    run_step(&b); /* warm-up: pages are mapped, packed weights made */
    ds_program_profile(b.gradients, a.profile);
    ds_program_profile(b.update, a.profile);
    seconds *times = NULL;
    const int n = run_steps(&b, &a, &times);
    if (a.profile) {
        ds_program_print_profile(b.gradients, stderr);
        ds_program_print_profile(b.update, stderr);
    }
    if (n > 0)
        print_result(&b, &a, &config, times, n);
    free(times);
    ds_program_free(b.update);
    ds_program_free(b.gradients);
    ds_state_free(b.state);
    ds_backend_close(b.backend);
    return 0;
}

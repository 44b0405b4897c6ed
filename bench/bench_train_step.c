/* One training step (forward, backward, gradients) of a preset on random tokens: time, rate,
 * memory. bench_train_step PRESET BATCH SEQ_LEN fp32|bf16|fp16 [--steps N] [--threads N]
 *                    [--recompute none|selective|full] [--offload] [--profile] [--no-fuse]
 *                    [--no-fused-attention]
 * Prints one JSON line for bench scripts; with --profile the time of each op on stderr. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/rng.h"
#include "deepseek/compile.h"
#include "deepseek/models.h"

static void check(ds_status status) {
    if (status != DS_OK) {
        fprintf(stderr, "bench_train_step: %s\n", ds_error());
        exit(1);
    }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void write_inputs(ds_program *p, const ds_model_config *c, int64_t batch, int64_t seq_len) {
    const int64_t n = batch * seq_len;
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    for (int64_t i = 0; ids && i < n; i++)
        ids[i] = (int32_t)(ds_philox(1, (uint64_t)i, 0).word[0] % (uint32_t)c->vocab_size);
    const float seed = 1.0f / (float)n;
    check(ids ? DS_OK : DS_OUT_OF_MEMORY);
    check(ds_program_write(p, "tokens", ids, (size_t)n * sizeof *ids));
    check(ds_program_write(p, "labels", ids, (size_t)n * sizeof *ids));
    check(ds_program_write(p, DS_LOSS_SEED, &seed, sizeof seed));
    if (c->architecture == DS_BERT) {
        for (int64_t i = 0; i < n; i++)
            ids[i] = 0;
        check(ds_program_write(p, "segment_ids", ids, (size_t)n * sizeof *ids));
        check(ds_program_write(p, "next_sentence", ids, (size_t)batch * sizeof *ids));
        for (int64_t i = 0; i < batch; i++)
            ids[i] = (int32_t)seq_len;
        check(ds_program_write(p, "lengths", ids, (size_t)batch * sizeof *ids));
    }
    free(ids);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"steps", required_argument, NULL, 's'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"recompute", required_argument, NULL, 'r'},
                                            {"offload", no_argument, NULL, 'o'},
                                            {"profile", no_argument, NULL, 'p'},
                                            {"no-fuse", no_argument, NULL, 'f'},
                                            {"no-fused-attention", no_argument, NULL, 'a'},
                                            {"device", required_argument, NULL, 'd'},
                                            {0}};
    ds_compile_opts opts = {.loss = "loss"};
    int steps = 5, threads = 0, profile = 0;
    const char *device = "cpu";
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 's': steps = atoi(optarg); break;
        case 't': threads = atoi(optarg); break;
        case 'r':
            opts.recompute = strcmp(optarg, "full") == 0        ? DS_RECOMPUTE_FULL
                             : strcmp(optarg, "selective") == 0 ? DS_RECOMPUTE_SELECTIVE
                                                                : DS_RECOMPUTE_NONE;
            break;
        case 'o': opts.offload = DS_OFFLOAD_HOST; break;
        case 'p': profile = 1; break;
        case 'a': opts.no_fused_attention = true; break;
        case 'f': opts.no_fuse = true; break;
        case 'd': device = optarg; break;
        default: return 2;
        }
    }
    if (argc - optind != 4) {
        fprintf(stderr, "usage: bench_train_step PRESET BATCH SEQ_LEN fp32|bf16|fp16 [options]\n");
        return 2;
    }
    const int64_t batch = atoll(argv[optind + 1]), seq_len = atoll(argv[optind + 2]);
    const char *precision = argv[optind + 3];
    opts.precision = strcmp(precision, "bf16") == 0   ? DS_PRECISION_BF16
                     : strcmp(precision, "fp16") == 0 ? DS_PRECISION_FP16
                                                      : DS_PRECISION_FULL;
    ds_model_config config;
    check(ds_model_preset(argv[optind], &config));
    ds_backend *backend = NULL;
    ds_state *state = NULL;
    ds_program *program = NULL;
    check(ds_backend_open(device, (ds_backend_opts){threads}, &backend));
    check(ds_state_new(backend, &state));
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, &config, batch, seq_len);
    check(ds_compile(g, state, opts, &program));
    check(ds_state_init(state, 1));
    write_inputs(program, &config, batch, seq_len);

    double *times = calloc((size_t)steps, sizeof *times);
    float loss = 0;
    check(times ? ds_program_run(program) : DS_OUT_OF_MEMORY); /* warm-up */
    ds_program_profile(program, profile);
    for (int i = 0; i < steps; i++) {
        const double start = ds_clock_s();
        check(ds_program_run(program));
        check(ds_program_read(program, "loss", &loss, sizeof loss));
        times[i] = ds_clock_s() - start;
    }
    qsort(times, (size_t)steps, sizeof *times, by_value);
    if (profile)
        ds_program_print_profile(program, stderr);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const ds_memory_report *m = ds_program_memory(program);
    const double median = times[steps / 2], tokens = (double)(batch * seq_len);
    printf("{\"model\": \"%s\", \"batch\": %lld, \"seq_len\": %lld, \"precision\": \"%s\", "
           "\"step_s\": %.4f, \"tokens_per_s\": %.1f, \"flops_per_s\": %.4g, \"loss\": %.4f, "
           "\"peak_rss_bytes\": %ld, \"working_bytes\": %zu, \"host_bytes\": %zu}\n",
           argv[optind], (long long)batch, (long long)seq_len, precision, median, tokens / median,
           ds_model_flops_per_token(&config, seq_len) * tokens / median, (double)loss / tokens,
           usage.ru_maxrss * 1024L, m->working, m->host);
    free(times);
    ds_program_free(program);
    ds_graph_free(g);
    ds_state_free(state);
    ds_backend_close(backend);
    return 0;
}

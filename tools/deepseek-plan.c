/* deepseek-plan: what a model costs, without allocating it. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "cli/numbers.h"
#include "deepseek/compile.h"
#include "deepseek/models.h"
#include "deepseek/optim.h"

static const char USAGE[] =
    "usage: deepseek-plan --model NAME [options]\n"
    "\n"
    "Builds the training program of a model, plans its memory and prints what it would need. "
    "Nothing\n"
    "of the model is allocated: a model of 175 B parameters is planned in well under a second.\n"
    "    deepseek-plan --model deepseek-175b --precision bf16 --seq 2048 --micro-batch 1\n"
    "\n"
    "  -m, --model NAME        a preset (see --list) or a folder with a Hugging Face config.json\n"
    "      --precision NAME    fp32, bf16 (default) or fp16\n"
    "      --seq N             tokens a sequence (default: the model's longest)\n"
    "      --micro-batch N     sequences at a time (default 1)\n"
    "      --optimizer NAME    adamw (default), sgd, lion, adafactor or muon\n"
    "      --list              the presets with their sizes\n"
    "  -h, --help              this text\n";

typedef struct request {
    const char *model;
    ds_precision precision;
    int64_t seq_len, micro_batch;
    ds_optimizer_kind optimizer;
} request;

static int fail(void) {
    fprintf(stderr, "deepseek-plan: %s\n", ds_error());
    return 1;
}

static int list(void) {
    char params[32];
    for (size_t i = 0; ds_model_preset_at(i); i++) {
        const ds_model_preset_info *p = ds_model_preset_at(i);
        printf("%-14s %8s  %s\n", p->name,
               ds_format_count(params, sizeof params, (double)ds_model_n_params(&p->config)),
               p->summary);
    }
    return 0;
}

static ds_status choose_model(const request *r, ds_model_config *out) {
    return ds_folder_exists(r->model) ? ds_model_config_load(r->model, out)
                                      : ds_model_preset(r->model, out);
}

/* Plans the training program (and with `optimizer`, the update); its report in *out. */
static ds_status plan(const request *r, const ds_model_config *c, ds_recompute recompute,
                      ds_memory_report *out) {
    ds_backend *backend = NULL;
    ds_state *state = NULL;
    ds_program *program = NULL, *update = NULL;
    ds_graph *optimizer = NULL, *g = ds_graph_new();
    ds_status status =
        g ? ds_backend_open("ref", (ds_backend_opts){0}, &backend) : DS_OUT_OF_MEMORY;
    if (status == DS_OK)
        status = ds_state_new(backend, &state);
    if (status == DS_OK) {
        ds_model_build_training(g, c, r->micro_batch, r->seq_len);
        const ds_compile_opts opts = {
            .precision = r->precision, .loss = "loss", .recompute = recompute, .plan_only = true};
        status = ds_compile(g, state, opts, &program);
    }
    if (status == DS_OK)
        status = ds_optimizer_graph(state, ds_optimizer_defaults(r->optimizer), &optimizer);
    if (status == DS_OK)
        status = ds_compile(optimizer, state, (ds_compile_opts){.plan_only = true}, &update);
    if (status == DS_OK) {
        *out = *ds_program_memory(program);
        out->optimizer = ds_state_size(state) - out->parameters - out->gradients;
    }
    ds_program_free(update);
    ds_program_free(program);
    ds_graph_free(optimizer);
    ds_graph_free(g);
    ds_state_free(state);
    ds_backend_close(backend);
    return status;
}

static void row(const char *what, double size_bytes) {
    char text[32];
    printf("  %-34s %10s\n", what, ds_format_bytes(text, sizeof text, size_bytes));
}

static int print_plan(const request *asked) {
    request r = *asked;
    ds_model_config c;
    char text[32];
    if (choose_model(&r, &c) != DS_OK)
        return fail();
    if (r.seq_len == 0)
        r.seq_len = c.max_seq_len;
    const double start = ds_clock_s();
    ds_memory_report reports[3];
    static const char *const names[] = {"none", "selective", "full"};
    for (int i = 0; i < 3; i++)
        if (plan(&r, &c, (ds_recompute)i, &reports[i]) != DS_OK)
            return fail();
    const double elapsed = ds_clock_s() - start, flops = ds_model_flops_per_token(&c, r.seq_len);
    const ds_memory_report *m = &reports[0];
    const int64_t n = ds_model_n_params(&c);
    printf("%s: %s, %lld layers, width %lld, %lld heads, vocabulary %lld\n", r.model,
           ds_architecture_name(c.architecture), (long long)c.n_layers, (long long)c.hidden_size,
           (long long)c.n_heads, (long long)c.vocab_size);
    printf("  %-34s %10s  (%lld)\n", "parameters", ds_format_count(text, sizeof text, (double)n),
           (long long)n);
    printf("  %-34s %10s\n", "FLOPs per token (train)", ds_format_count(text, sizeof text, flops));
    printf("  %-34s %10s\n", "FLOPs per micro-batch",
           ds_format_count(text, sizeof text, flops * (double)(r.micro_batch * r.seq_len)));
    printf("memory on one rank, micro-batch %lld x %lld tokens\n", (long long)r.micro_batch,
           (long long)r.seq_len);
    row("weights (f32 masters)", (double)m->parameters);
    row("weights (low-precision copies)", (double)m->derived);
    row("gradients (f32)", (double)m->gradients);
    printf("  %-34s %10s\n", "optimizer state",
           ds_format_bytes(text, sizeof text, (double)m->optimizer));
    for (int i = 0; i < 3; i++) {
        char what[64];
        snprintf(what, sizeof what, "activations, recompute %s", names[i]);
        row(what, (double)reports[i].working);
    }
    for (int i = 0; i < 3; i++) {
        char what[64];
        const ds_memory_report *p = &reports[i];
        snprintf(what, sizeof what, "total, recompute %s", names[i]);
        row(what, (double)(p->parameters + p->derived + p->gradients + p->optimizer + p->working +
                           p->inputs));
    }
    printf("planned in %s\n", ds_format_duration(text, sizeof text, elapsed));
    return 0;
}

static int find_name(const char *what, const char *name, const char *const *names, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fprintf(stderr, "deepseek-plan: there is no %s \"%s\"; there are:", what, name);
    for (int i = 0; i < n; i++)
        fprintf(stderr, " %s", names[i]);
    fputc('\n', stderr);
    exit(2);
}

static int64_t positive(const char *option, const char *text) {
    int64_t value = 0;
    if (!ds_cli_integer("deepseek-plan", option, text, 1, INT32_MAX, &value))
        exit(2);
    return value;
}

enum { PRECISION = 256, SEQ, MICRO_BATCH, OPTIMIZER, LIST };

int main(int argc, char **argv) {
    static const struct option options[] = {{"model", required_argument, NULL, 'm'},
                                            {"precision", required_argument, NULL, PRECISION},
                                            {"seq", required_argument, NULL, SEQ},
                                            {"micro-batch", required_argument, NULL, MICRO_BATCH},
                                            {"optimizer", required_argument, NULL, OPTIMIZER},
                                            {"list", no_argument, NULL, LIST},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    static const char *const precisions[] = {"fp32", "bf16", "fp16"}; /* order of ds_precision */
    const char *optimizers[DS_OPTIMIZER_KINDS];
    for (int i = 0; i < DS_OPTIMIZER_KINDS; i++)
        optimizers[i] = ds_optimizer_name((ds_optimizer_kind)i);
    request r = {.precision = DS_PRECISION_BF16, .micro_batch = 1};
    for (int o; (o = getopt_long(argc, argv, "m:h", options, NULL)) != -1;) {
        switch (o) {
        case 'm': r.model = optarg; break;
        case PRECISION:
            r.precision = (ds_precision)find_name("precision", optarg, precisions, 3);
            break;
        case SEQ: r.seq_len = positive("--seq", optarg); break;
        case MICRO_BATCH: r.micro_batch = positive("--micro-batch", optarg); break;
        case OPTIMIZER:
            r.optimizer =
                (ds_optimizer_kind)find_name("optimizer", optarg, optimizers, DS_OPTIMIZER_KINDS);
            break;
        case LIST: return list();
        case 'h': fputs(USAGE, stdout); return 0;
        default: fputs("Try `deepseek-plan --help`.\n", stderr); return 2;
        }
    }
    if (!r.model || optind < argc) {
        fputs(USAGE, stderr);
        return 2;
    }
    return print_plan(&r);
}

/* AdamW over all parameters of a model, by one op for each parameter and by one op for all: what
 * the parallel regions of many small tensors cost, against the bytes that must pass.
 * bench_optimizer [PRESET] [--threads N] [--rounds N] */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "deepseek/compile.h"
#include "deepseek/models.h"
#include "graph/ops/ops.h"
#include "support.h"

/* The parameters of a model, as nodes of g. */
static int add_params(ds_graph *g, const ds_model_config *config, ds_node **out, int capacity) {
    ds_graph *model = ds_graph_new();
    int n = 0;
    ds_model_build_training(model, config, 1, 8);
    for (size_t i = 0; i < model->n_nodes; i++) {
        const ds_node *x = model->nodes[i];
        if (x->op == &ds_op_param && n < capacity)
            out[n++] = ds_graph_param(g, x->name, x->type.rank, x->type.dims, x->init);
    }
    ds_graph_free(model);
    return n;
}

static ds_node *companion(ds_graph *g, const char *prefix, const ds_node *param) {
    char name[700];
    snprintf(name, sizeof name, "%s/%s", prefix, param->name);
    return ds_graph_variable(g, name, DS_F32, param->type.rank, param->type.dims, DS_INIT_ZEROS);
}

/* AdamW of n parameters as one node; returns the bytes it reads and writes. */
static double add_update(ds_graph *g, ds_node *const *params, int n) {
    enum { PARTS = 4, SCALARS = 3 };
    const char *const states[] = {"adam_m", "adam_v", "grad"};
    const char *const scalars[SCALARS] = {"lr", "grad_scale", "step"};
    const ds_update_attrs attrs = {0.9f, 0.95f, 1e-8f, 0.1f};
    ds_node **inputs = calloc((size_t)(n * PARTS + SCALARS), sizeof *inputs);
    check(inputs ? DS_OK : DS_OUT_OF_MEMORY);
    for (int t = 0; t < n; t++) {
        inputs[t] = params[t];
        for (int k = 1; k < PARTS; k++)
            inputs[k * n + t] = companion(g, states[k - 1], params[t]);
    }
    for (int k = 0; k < SCALARS; k++)
        inputs[PARTS * n + k] = ds_graph_input(g, scalars[k], DS_F32, 0, NULL);
    const ds_node *node = ds_graph_add_node(g, &ds_op_adamw, &attrs, inputs, n * PARTS + SCALARS);
    free(inputs);
    return node ? ds_node_cost(node).bytes : 0;
}

typedef struct contestant {
    const char *name;
    bool together;
    ds_graph *g;
    ds_program *program;
    double bytes, best_s;
} contestant;

static int build(contestant *c, const ds_model_config *config, ds_state *state) {
    enum { MOST = 4096 };
    static ds_node *params[MOST];
    c->g = ds_graph_new();
    const int n = add_params(c->g, config, params, MOST);
    for (int i = 0; i < n && !c->together; i++)
        c->bytes += add_update(c->g, &params[i], 1);
    if (c->together)
        c->bytes = add_update(c->g, params, n);
    check(ds_compile(c->g, state, (ds_compile_opts){0}, &c->program));
    return n;
}

static void write_scalars(const contestant *c) {
    const float lr = 1e-4f, grad_scale = 1, step = 1;
    check(ds_program_write(c->program, "lr", &lr, sizeof lr));
    check(ds_program_write(c->program, "grad_scale", &grad_scale, sizeof grad_scale));
    check(ds_program_write(c->program, "step", &step, sizeof step));
}

static void race(contestant *contestants, int n, int rounds) {
    for (int round = 0; round <= rounds; round++) /* in turn; the first is a warm-up */
        for (int i = 0; i < n; i++) {
            const double start = ds_clock_s();
            check(ds_program_run(contestants[i].program));
            const double took = ds_clock_s() - start;
            if (round == 1 || (round > 1 && took < contestants[i].best_s))
                contestants[i].best_s = took;
        }
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'}, {"rounds", required_argument, NULL, 'r'}, {0}};
    int threads = 0, rounds = 10;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 't': threads = atoi(optarg); break;
        case 'r': rounds = atoi(optarg) > 0 ? atoi(optarg) : 1; break;
        default:
            fprintf(stderr, "usage: bench_optimizer [PRESET] [--threads N] [--rounds N]\n");
            return 2;
        }
    }
    const char *preset = optind < argc ? argv[optind] : "gpt2-124m";
    enum { N = 2 };
    contestant contestants[N] = {{.name = "one op a parameter"},
                                 {.name = "one op for all", .together = true}};
    ds_model_config config;
    ds_backend *backend = NULL;
    ds_state *state = NULL;
    int n_params = 0;
    check(ds_model_preset(preset, &config));
    check(ds_backend_open("cpu", (ds_backend_opts){threads}, &backend));
    check(ds_state_new(backend, &state));
    for (int i = 0; i < N; i++)
        n_params = build(&contestants[i], &config, state);
    check(ds_state_init(state, 1));
    for (int i = 0; i < N; i++)
        write_scalars(&contestants[i]);
    race(contestants, N, rounds);
    printf("AdamW of %s, %d tensors, best of %d\n", preset, n_params, rounds);
    for (int i = 0; i < N; i++) {
        const contestant *c = &contestants[i];
        printf("  %-20s %9.3f ms %7.1f GB/s\n", c->name, c->best_s * 1e3,
               c->bytes / c->best_s / 1e9);
        ds_program_free(c->program);
        ds_graph_free(c->g);
    }
    ds_state_free(state);
    ds_backend_close(backend);
    return 0;
}

/* Single kernels as programs of one node: the time of each, and the operations and bytes that the
 * machine's limits are divided by. Reads one case a line and answers each by a line of JSON
 * (bench_in_turn); kernels.txt describes the cases.
 *     bench_kernels [--device cpu|ref] [--threads N] [--seconds S] < CASES */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/rng.h"
#include "deepseek/compile.h"
#include "graph/ops/ops.h"
#include "support.h"

/* ---- inputs ---------------------------------------------------------------------------------- */

/* What an input or variable is filled with: floats uniform in ±1 if random, else all `centre`;
 * integers spread over 0 … below − 1. */
typedef struct filling {
    const char *name;
    ds_dtype dtype;
    bool random, is_variable;
    float centre;
    int below;
    size_t n;
} filling;

typedef struct task {
    ds_graph *g;
    ds_dtype dtype;
    double flops, bytes;
    filling fillings[8];
    int n_fillings;
} task;

static size_t count_of(const ds_node *x) {
    return (size_t)ds_node_count(x);
}

static ds_node *input(task *t, filling f, int rank, const int64_t *dims) {
    ds_node *x = ds_graph_input(t->g, f.name, f.dtype, rank, dims);
    f.n = x ? count_of(x) : 0;
    t->fillings[t->n_fillings++] = f;
    return x;
}

static ds_node *random_input(task *t, const char *name, int rank, const int64_t *dims) {
    return input(t, (filling){.name = name, .dtype = t->dtype, .random = true}, rank, dims);
}

static ds_node *constant_input(task *t, const char *name, float value, int rank,
                               const int64_t *dims) {
    return input(t, (filling){.name = name, .dtype = DS_F32, .centre = value}, rank, dims);
}

/* An f32 tensor that outlives the run, zero, or random if it is a parameter. */
static ds_node *variable(task *t, const char *name, bool is_param, int64_t n) {
    t->fillings[t->n_fillings++] = (filling){
        .name = name, .dtype = DS_F32, .random = is_param, .is_variable = true, .n = (size_t)n};
    return is_param ? ds_graph_param(t->g, name, 1, &n, DS_INIT_ZEROS)
                    : ds_graph_variable(t->g, name, DS_F32, 1, &n, DS_INIT_ZEROS);
}

enum { PERIOD = 4099 }; /* random numbers repeat after so many: a prime, so that rows differ */

static void fill_element(const filling *f, size_t i, void *to) {
    const float uniform = (float)ds_philox(7, i, 0).word[0] * 0x1p-32f - 0.5f;
    const float value = f->random ? 2 * uniform : f->centre;
    const uint16_t half = ds_f32_to_bf16(value);
    const int32_t label = f->below > 0 ? (int32_t)(i * 31 % (size_t)f->below) : 0;
    const int8_t byte = (int8_t)lrintf(value * 100);
    switch (f->dtype) {
    case DS_F32: memcpy(to, &value, sizeof value); break;
    case DS_BF16: memcpy(to, &half, sizeof half); break;
    case DS_I8: memcpy(to, &byte, sizeof byte); break;
    default: memcpy(to, &label, sizeof label); break;
    }
}

static void fill(const task *t, ds_program *program, ds_state *state) {
    for (int k = 0; k < t->n_fillings; k++) {
        const filling *f = &t->fillings[k];
        const size_t size = ds_dtype_size(f->dtype);
        char *data = malloc(f->n * size + 1);
        check(data ? DS_OK : DS_OUT_OF_MEMORY);
        for (size_t i = 0; i < f->n; i++)
            if (i < PERIOD)
                fill_element(f, i, data + i * size);
            else
                memcpy(data + i * size, data + (i - PERIOD) * size, size);
        check(f->is_variable ? ds_state_write(state, f->name, data, f->n * size)
                             : ds_program_write(program, f->name, data, f->n * size));
        free(data);
    }
}

static void output_results(task *t, ds_node *node, int n) {
    static const char *const names[] = {"result0", "result1", "result2"};
    for (int i = 0; i < n && node; i++)
        ds_graph_output(t->g, names[i], ds_node_result(node, i));
}

/* ---- the kernels ----------------------------------------------------------------------------- */

#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                       \
        __VA_ARGS__                                                                                \
    }

typedef struct sizes {
    int64_t n[4];
    bool first, second; /* the words of the case's end, see the table below */
} sizes;

static double size_of(ds_dtype dtype) {
    return (double)ds_dtype_size(dtype);
}

/* m k n; first: a is stored turned, second: b is */
static void build_matmul(task *t, const sizes *s) {
    const int64_t m = s->n[0], k = s->n[1], n = s->n[2];
    ds_node *a = s->first ? random_input(t, "a", DIMS(k, m)) : random_input(t, "a", DIMS(m, k));
    ds_node *b = s->second ? random_input(t, "b", DIMS(n, k)) : random_input(t, "b", DIMS(k, n));
    const ds_matmul_opts opts = {.transpose_a = s->first, .transpose_b = s->second};
    ds_node *c = ds_graph_matmul(t->g, a, b, opts);
    ds_graph_output(t->g, "c", c);
    t->flops = 2.0 * (double)m * (double)k * (double)n;
    t->bytes = size_of(t->dtype) * (double)(m * k + k * n) +
               (c ? size_of(ds_node_dtype(c)) : 0) * (double)(m * n);
}

/* batch tokens heads dim; first: causal, second: backward */
static void build_attention(task *t, const sizes *s) {
    const int64_t batch = s->n[0], tokens = s->n[1], heads = s->n[2], dim = s->n[3];
    const ds_attention_opts opts = {.causal = s->first};
    ds_node *x[3];
    static const char *const names[] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++)
        x[i] = random_input(t, names[i], DIMS(batch, tokens, heads, dim));
    const double pairs =
        (double)batch * (double)heads * (double)tokens * (double)tokens * (s->first ? 0.5 : 1);
    const double tensor = (double)(batch * tokens * heads * dim) * size_of(t->dtype);
    if (!s->second) {
        output_results(t, ds_graph_attention(t->g, x[0], x[1], x[2], NULL, opts), 1);
        t->flops = 4 * pairs * (double)dim; /* two products */
        t->bytes = 4 * tensor;
        return;
    }
    ds_node *out = random_input(t, "out", DIMS(batch, tokens, heads, dim));
    ds_node *dout = random_input(t, "dout", DIMS(batch, tokens, heads, dim));
    ds_node *lse = constant_input(t, "lse", logf((float)tokens), DIMS(batch, heads, tokens));
    const ds_attention_opts attrs = {.causal = s->first, .scale = 1 / sqrtf((float)dim)};
    output_results(t,
                   ds_graph_add_node(t->g, &ds_op_attention_grad, &attrs,
                                     (ds_node *[]){dout, x[0], x[1], x[2], out, lse}, 6),
                   3);
    t->flops = 10 * pairs * (double)dim; /* five products: the scores are made again */
    t->bytes = 8 * tensor;
}

/* rows width; first: backward */
static void build_norm(task *t, const sizes *s, bool rms) {
    const int64_t rows = s->n[0], width = s->n[1];
    const ds_norm_attrs attrs = {1e-5f};
    ds_node *x = random_input(t, "x", DIMS(rows, width));
    ds_node *weight = constant_input(t, "weight", 1, DIMS(width));
    const double tensor = (double)(rows * width) * size_of(t->dtype);
    t->bytes = (s->first ? 3 : 2) * tensor;
    if (!s->first) {
        ds_node *bias = rms ? NULL : constant_input(t, "bias", 0, DIMS(width));
        output_results(t,
                       rms ? ds_graph_rms_norm(t->g, x, weight, attrs.eps)
                           : ds_graph_layer_norm(t->g, x, weight, bias, attrs.eps),
                       rms ? 2 : 3);
        return;
    }
    ds_node *dy = random_input(t, "dy", DIMS(rows, width));
    ds_node *mean = rms ? NULL : constant_input(t, "mean", 0, DIMS(rows));
    ds_node *rstd = constant_input(t, "rstd", sqrtf(3), DIMS(rows)); /* of numbers within ±1 */
    output_results(t,
                   rms ? ds_graph_add_node(t->g, &ds_op_rms_norm_grad, &attrs,
                                           (ds_node *[]){dy, x, weight, rstd}, 4)
                       : ds_graph_add_node(t->g, &ds_op_layer_norm_grad, &attrs,
                                           (ds_node *[]){dy, x, weight, mean, rstd}, 5),
                   rms ? 2 : 3);
}

static void build_layer_norm(task *t, const sizes *s) {
    build_norm(t, s, false);
}

static void build_rms_norm(task *t, const sizes *s) {
    build_norm(t, s, true);
}

/* rows width classes: loss, dx, dweight */
static void build_cross_entropy(task *t, const sizes *s) {
    const int64_t rows = s->n[0], width = s->n[1], classes = s->n[2];
    const ds_linear_cross_entropy_attrs attrs = {.transpose_b = true};
    ds_node *x = random_input(t, "x", DIMS(rows, width));
    ds_node *weight = random_input(t, "weight", DIMS(classes, width));
    ds_node *labels =
        input(t, (filling){.name = "labels", .dtype = DS_I32, .below = (int)classes}, DIMS(rows));
    ds_node *dloss = constant_input(t, "dloss", 1.0f / (float)rows, 0, NULL);
    output_results(t,
                   ds_graph_add_node(t->g, &ds_op_linear_cross_entropy, &attrs,
                                     (ds_node *[]){x, weight, labels, dloss}, 4),
                   3);
    const double product = (double)rows * (double)width * (double)classes;
    t->flops = 6 * product; /* three products */
    t->bytes = size_of(t->dtype) * (double)(2 * rows * width + classes * width) +
               sizeof(float) * (double)(classes * width);
}

/* count: one tensor of so many parameters */
static void build_adamw(task *t, const sizes *s) {
    const int64_t n = s->n[0];
    const ds_update_attrs attrs = {
        .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f};
    ds_node *inputs[] = {
        variable(t, "p", true, n),
        variable(t, "m", false, n),
        variable(t, "v", false, n),
        random_input(t, "grad", DIMS(n)),
        constant_input(t, "lr", 1e-4f, 0, NULL),
        constant_input(t, "scale", 1, 0, NULL),
        constant_input(t, "step", 1, 0, NULL),
    };
    ds_graph_add_node(t->g, &ds_op_adamw, &attrs, inputs, 7);
    t->bytes = 7.0 * sizeof(float) * (double)n; /* four read, three written */
}

static const struct kernel {
    const char *name;
    int n_sizes;
    const char *first, *second; /* words that may follow the sizes */
    void (*build)(task *t, const sizes *s);
} kernels[] = {
    {"matmul", 3, "turned_a", "turned_b", build_matmul},
    {"attention", 4, "causal", "backward", build_attention},
    {"layer_norm", 2, "backward", "", build_layer_norm},
    {"rms_norm", 2, "backward", "", build_rms_norm},
    {"cross_entropy", 3, "", "", build_cross_entropy},
    {"adamw", 1, "", "", build_adamw},
};

/* ---- one case -------------------------------------------------------------------------------- */

static void read_case(char *line, task *t, sizes *s, const struct kernel **kernel) {
    char *place = NULL, *word = strtok_r(line, " \n", &place);
    for (size_t i = 0; word && i < sizeof kernels / sizeof *kernels; i++)
        if (strcmp(kernels[i].name, word) == 0)
            *kernel = &kernels[i];
    word = strtok_r(NULL, " \n", &place);
    t->dtype = word && strcmp(word, "bf16") == 0 ? DS_BF16
               : word && strcmp(word, "i8") == 0 ? DS_I8
                                                 : DS_F32;
    for (int i = 0; *kernel && i < (*kernel)->n_sizes; i++) {
        word = strtok_r(NULL, " \n", &place);
        s->n[i] = word ? atoll(word) : 0;
    }
    while (*kernel && (word = strtok_r(NULL, " \n", &place))) {
        s->first |= strcmp(word, (*kernel)->first) == 0;
        s->second |= strcmp(word, (*kernel)->second) == 0;
    }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of as many runs as fit the time, two at least, after one that warms up. A kernel that
 * takes ten times as long runs once. */
static double time_runs(ds_program *p, double budget_s) {
    enum { MOST = 1000 };
    double times[MOST];
    int n = 0;
    const double first = ds_clock_s();
    check(ds_program_run(p));
    const double now = ds_clock_s(), end = now + budget_s;
    if (now - first > 10 * budget_s)
        return now - first;
    while (n < 2 || (n < MOST && ds_clock_s() < end)) {
        const double start = ds_clock_s();
        check(ds_program_run(p));
        times[n++] = ds_clock_s() - start;
    }
    qsort(times, (size_t)n, sizeof *times, by_value);
    return times[n / 2];
}

static void run_case(ds_backend *backend, const char *who, const char *line, double budget_s) {
    char words[256];
    snprintf(words, sizeof words, "%s", line);
    task t = {.g = ds_graph_new()};
    sizes s = {0};
    const struct kernel *kernel = NULL;
    read_case(words, &t, &s, &kernel);
    if (!kernel) {
        printf("there is no such case: %s\n", line);
        fflush(stdout);
        ds_graph_free(t.g);
        return;
    }
    kernel->build(&t, &s);
    ds_state *state = NULL;
    ds_program *program = NULL;
    check(ds_state_new(backend, &state));
    check(ds_compile(t.g, state, (ds_compile_opts){.no_fuse = true}, &program));
    check(ds_state_init(state, 1));
    fill(&t, program, state);
    const double seconds = time_runs(program, budget_s);
    printf("{\"who\": \"%s\", \"case\": \"%s\", \"seconds\": %.4g, \"flops\": %.4g, \"bytes\": "
           "%.4g}\n",
           who, line, seconds, t.flops, t.bytes);
    fflush(stdout);
    ds_program_free(program);
    ds_state_free(state);
    ds_graph_free(t.g);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"device", required_argument, NULL, 'd'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {0}};
    const char *device = "cpu";
    int threads = 0;
    double seconds = 0.3;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'd': device = optarg; break;
        case 't': threads = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        default:
            fputs("usage: bench_kernels [--device cpu|ref] [--threads N] [--seconds S] < CASES\n",
                  stderr);
            return 2;
        }
    }
    ds_backend *backend = NULL;
    check(ds_backend_open(device, (ds_backend_opts){threads}, &backend));
    puts("ready");
    fflush(stdout);
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, stdin) > 0) {
        line[strcspn(line, "\n")] = 0;
        run_case(backend, strcmp(device, "cpu") == 0 ? "ours" : device, line, seconds);
    }
    free(line);
    ds_backend_close(backend);
    return 0;
}

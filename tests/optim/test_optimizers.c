/* Update programs: first steps by hand, clipping, bad gradients, scaling, and the promises that
 * each optimizer makes. Long runs against other implementations are in test_optimizer_goldens.c. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/rng.h"
#include "deepseek/optim.h"
#include "graph/node.h"

/* What is trained in these tests: a hidden matrix, a tall one, experts, an embedding, a bias. */
enum { N_PARAMS = 5, MOST = 256 };
static const struct {
    const char *name;
    int rank;
    int64_t dims[3];
    ds_init init;
} params[N_PARAMS] = {
    {"blocks.0.weight", 2, {4, 7}, {.kind = DS_NORMAL, .value = 0.5f}},
    {"blocks.0.tall.weight", 2, {9, 3}, {.kind = DS_NORMAL, .value = 0.5f}},
    {"blocks.0.experts", 3, {2, 5, 4}, {.kind = DS_NORMAL, .value = 0.5f}},
    {"wte.weight", 2, {6, 4}, {.kind = DS_NORMAL, .value = 0.5f}},
    {"blocks.0.bias", 1, {4}, {.kind = DS_NORMAL, .value = 0.5f, .no_decay = true}},
};

static int64_t count_of(int i) {
    return ds_count(params[i].dims, params[i].rank);
}

typedef struct fixture {
    ds_backend *backend;
    ds_state *state;
    ds_graph *g;
    ds_program *program;
} fixture;

static void open_fixture(fixture *f, const char *backend, ds_optimizer_opts opts, int n) {
    *f = (fixture){0};
    assert_int_equal(ds_backend_open(backend, (ds_backend_opts){1}, &f->backend), DS_OK);
    assert_int_equal(ds_state_new(f->backend, &f->state), DS_OK);
    f->g = ds_graph_new();
    ds_node *nodes[N_PARAMS];
    for (int i = 0; i < n; i++)
        nodes[i] =
            ds_graph_param(f->g, params[i].name, params[i].rank, params[i].dims, params[i].init);
    ds_optimizer_build(f->g, nodes, n, opts);
    if (ds_compile(f->g, f->state, (ds_compile_opts){0}, &f->program) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(ds_state_init(f->state, 5), DS_OK);
}

static void close_fixture(fixture *f) {
    ds_program_free(f->program);
    ds_graph_free(f->g);
    ds_state_free(f->state);
    ds_backend_close(f->backend);
}

static void get(const fixture *f, const char *name, float *out, int64_t count) {
    if (ds_state_read(f->state, name, out, (size_t)count * sizeof *out) != DS_OK)
        fail_msg("%s", ds_error());
}

static void set_gradient(const fixture *f, int param, const float *values) {
    char name[128];
    ds_gradient_name(params[param].name, name, sizeof name);
    assert_int_equal(
        ds_state_write(f->state, name, values, (size_t)count_of(param) * sizeof *values), DS_OK);
}

/* Draws every gradient of step t, times `scale`. */
static void draw_gradients(const fixture *f, int n, int t, float scale) {
    float values[MOST];
    for (int i = 0; i < n; i++) {
        for (int64_t k = 0; k < count_of(i); k++)
            values[k] =
                scale *
                (2 * ds_uniform(ds_philox((uint64_t)t, (uint64_t)k, (uint64_t)i).word[0]) - 1);
        set_gradient(f, i, values);
    }
}

typedef struct scalars {
    float lr, grad_scale, grad_clip, step;
} scalars;

static float run(const fixture *f, scalars s) {
    const struct {
        const char *name;
        const float *value;
    } inputs[] = {{"lr", &s.lr},
                  {"grad_scale", &s.grad_scale},
                  {"grad_clip", &s.grad_clip},
                  {"step", &s.step}};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        assert_int_equal(
            ds_program_write(f->program, inputs[i].name, inputs[i].value, sizeof(float)), DS_OK);
    float norm = 0;
    assert_int_equal(ds_program_run(f->program), DS_OK);
    assert_int_equal(ds_program_read(f->program, "grad_norm", &norm, sizeof norm), DS_OK);
    return norm;
}

/* All entries but gradients, one after another; the caller frees it. */
static float *snapshot(const fixture *f, size_t *count) {
    *count = 0;
    float *out = calloc(1 + ds_state_size(f->state) / sizeof *out, sizeof *out);
    for (size_t i = 0; i < ds_state_count(f->state); i++) {
        const ds_state_entry *e = ds_state_get(f->state, i);
        if (strncmp(e->name, DS_GRADIENT_PREFIX, 5) == 0)
            continue;
        const int64_t n = ds_count(e->dims, e->rank);
        get(f, e->name, out + *count, n);
        *count += (size_t)n;
    }
    return out;
}

/* Where in a snapshot the entry of this name begins. */
static size_t offset_in_snapshot(const fixture *f, const char *name) {
    size_t at = 0;
    for (size_t i = 0; i < ds_state_count(f->state); i++) {
        const ds_state_entry *e = ds_state_get(f->state, i);
        if (strcmp(e->name, name) == 0)
            break;
        if (strncmp(e->name, DS_GRADIENT_PREFIX, 5) != 0)
            at += (size_t)ds_count(e->dims, e->rank);
    }
    return at;
}

/* ---- by hand --------------------------------------------------------------------------------- */

static void test_adamw_first_step(void **state) {
    (void)state;
    fixture f;
    ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_ADAMW);
    opts.weight_decay = 0.1f;
    open_fixture(&f, "ref", opts, N_PARAMS);
    float before[MOST], after[MOST], bias[4], new_bias[4], m[28], v[28], g[28];
    get(&f, params[0].name, before, 28);
    get(&f, params[4].name, bias, 4);
    draw_gradients(&f, N_PARAMS, 1, 1);
    get(&f, "grad/blocks.0.weight", g, 28);
    run(&f, (scalars){.lr = 0.01f, .grad_scale = 1, .step = 1});
    get(&f, params[0].name, after, 28);
    get(&f, params[4].name, new_bias, 4);
    get(&f, "adam_m/blocks.0.weight", m, 28);
    get(&f, "adam_v/blocks.0.weight", v, 28);
    for (int i = 0; i < 28; i++) { /* m̂/√v̂ is the sign of the gradient at the first step */
        const float step = g[i] > 0 ? 0.01f : -0.01f;
        assert_float_equal(after[i], before[i] * (1 - 0.01f * 0.1f) - step, 1e-6f);
        assert_float_equal(m[i], 0.1f * g[i], 1e-7f);
        assert_float_equal(v[i], 0.001f * g[i] * g[i], 1e-7f);
    }
    for (int i = 0; i < 4; i++) /* no decay: exactly one step away */
        assert_float_equal(fabsf(new_bias[i] - bias[i]), 0.01f, 1e-6f);
    close_fixture(&f);
}

static void test_sgd_by_hand(void **state) {
    (void)state;
    fixture f;
    ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_SGD);
    opts.momentum = 0.5f;
    open_fixture(&f, "ref", opts, 1);
    float before[28], after[28], g[28];
    get(&f, params[0].name, before, 28);
    for (int i = 0; i < 28; i++)
        g[i] = (float)i;
    set_gradient(&f, 0, g);
    run(&f, (scalars){.lr = 0.1f, .grad_scale = 0.5f, .step = 1});
    run(&f, (scalars){.lr = 0.1f, .grad_scale = 0.5f, .step = 2});
    get(&f, params[0].name, after, 28);
    for (int i = 0; i < 28; i++) /* g/2, then g/2 + g/4 */
        assert_float_equal(after[i], before[i] - 0.1f * 1.25f * (float)i, 1e-5f);
    close_fixture(&f);
}

static void test_lion_moves_by_sign(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, "ref", ds_optimizer_defaults(DS_OPTIMIZER_LION), 1);
    float before[28], after[28], g[28] = {1e-20f, -5, 0, 3e10f};
    get(&f, params[0].name, before, 28);
    set_gradient(&f, 0, g);
    run(&f, (scalars){.lr = 0.25f, .grad_scale = 1, .step = 1});
    get(&f, params[0].name, after, 28);
    const float expected[] = {-0.25f, 0.25f, 0, -0.25f};
    for (int i = 0; i < 28; i++)
        assert_float_equal(after[i] - before[i], i < 4 ? expected[i] : 0, 1e-6f);
    close_fixture(&f);
}

/* Of a rank-one |gradient| the factored second moment is exact: the first step is sign(g), times
 * lr · RMS(p). */
static void test_adafactor_first_step(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, "ref", ds_optimizer_defaults(DS_OPTIMIZER_ADAFACTOR), 1);
    float before[28], after[28], g[28], square = 0;
    get(&f, params[0].name, before, 28);
    for (int i = 0; i < 28; i++) {
        g[i] = (float)(1 + i / 7) * (float)(1 + i % 7) * (i % 3 ? 1.0f : -1.0f);
        square += before[i] * before[i];
    }
    set_gradient(&f, 0, g);
    run(&f, (scalars){.lr = 0.1f, .grad_scale = 1, .step = 1});
    get(&f, params[0].name, after, 28);
    const float step = 0.1f * sqrtf(square / 28);
    for (int i = 0; i < 28; i++)
        assert_float_equal(after[i] - before[i], g[i] > 0 ? -step : step, 1e-5f);
    assert_int_equal(ds_state_find(f.state, "adafactor_v/blocks.0.weight"), -1);
    close_fixture(&f);
}

/* Muon's change of a hidden matrix has all singular values near 1 (0.68 … 1.14 by its design), here
 * read off the trace of U Uᵀ and of its square. */
static void check_muon_is_orthogonal(const char *backend, ds_dtype dtype, double slack) {
    fixture f;
    ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_MUON);
    opts.muon_dtype = dtype;
    open_fixture(&f, backend, opts, N_PARAMS);
    static const float factor[] = {1, 1.7320508f, 1.1180340f}; /* √max(1, rows / columns) */
    float before[3][MOST], after[MOST];
    for (int i = 0; i < 3; i++)
        get(&f, params[i].name, before[i], count_of(i));
    draw_gradients(&f, N_PARAMS, 3, 1e-3f);
    run(&f, (scalars){.lr = 1, .grad_scale = 1, .step = 1});
    for (int i = 0; i < 3; i++) {
        get(&f, params[i].name, after, count_of(i));
        const int64_t rows = params[i].dims[params[i].rank - 2];
        const int64_t columns = params[i].dims[params[i].rank - 1];
        double trace = 0;
        for (int64_t k = 0; k < count_of(i); k++) {
            const double u = (double)(before[i][k] - after[k]) / (double)factor[i];
            trace += u * u;
        }
        trace /= (double)(count_of(i) / (rows * columns)); /* one matrix */
        const double mean_square = trace / (double)(rows < columns ? rows : columns);
        assert_true(mean_square > 0.68 * 0.68 - slack && mean_square < 1.14 * 1.14 + slack);
    }
    assert_true(ds_state_find(f.state, "adam_v/wte.weight") >= 0);
    assert_true(ds_state_find(f.state, "adam_v/blocks.0.bias") >= 0);
    assert_int_equal(ds_state_find(f.state, "adam_v/blocks.0.weight"), -1);
    close_fixture(&f);
}

static void test_muon_is_orthogonal(void **state) {
    (void)state;
    check_muon_is_orthogonal("ref", DS_F32, 0);
    check_muon_is_orthogonal("cpu", DS_F32, 0);
    check_muon_is_orthogonal("ref", DS_BF16, 0.05);
    check_muon_is_orthogonal("cpu", DS_BF16, 0.05);
}

static void test_hidden_matrices(void **state) {
    (void)state;
    const struct {
        const char *name;
        int rank;
        bool hidden;
    } cases[] = {
        {"model.layers.0.self_attn.q_proj.weight", 2, true},
        {"transformer.h.3.mlp.c_fc.weight", 2, true},
        {"transformer.h.3.mlp.c_fc.bias", 1, false},
        {"wte.weight", 2, false},
        {"lm_head.weight", 2, false},
        {"model.embed_tokens.weight", 2, false},
        {"bert.embeddings.word_embeddings.weight", 2, false},
        {"cls.predictions.transform.dense.weight", 2, false},
        {"layers.0.multi_head.weight", 2, true},
        {"model.layers.1.mlp.experts.down_proj", 3, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(ds_optimizer_is_hidden(cases[i].name, cases[i].rank, NULL),
                         cases[i].hidden);
}

/* ---- every optimizer ------------------------------------------------------------------------- */

static void check_bad_gradients(const char *backend) {
    const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f}; /* the last overflows as a square */
    for (int kind = 0; kind < DS_OPTIMIZER_KINDS; kind++) {
        fixture f;
        open_fixture(&f, backend, ds_optimizer_defaults((ds_optimizer_kind)kind), N_PARAMS);
        draw_gradients(&f, N_PARAMS, 1, 1);
        run(&f, (scalars){.lr = 0.01f, .grad_scale = 1, .grad_clip = 1, .step = 1});
        size_t n, n_after;
        float *before = snapshot(&f, &n);
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++)
            for (int clip = 0; clip < 2; clip++) {
                float values[4] = {1, bad[b], 1, 1};
                draw_gradients(&f, N_PARAMS, 2, 1);
                set_gradient(&f, 4, values); /* one element of one parameter */
                const float norm = run(
                    &f,
                    (scalars){.lr = 0.01f, .grad_scale = 1, .grad_clip = (float)clip, .step = 2});
                assert_false(isfinite(norm));
                float *after = snapshot(&f, &n_after);
                assert_int_equal(n, n_after);
                assert_memory_equal(before, after, n * sizeof *before);
                free(after);
            }
        draw_gradients(&f, N_PARAMS, 2, 1);
        assert_true(isfinite(run(&f, (scalars){0.01f, 1, 1, 2})));
        float *after = snapshot(&f, &n_after);
        assert_memory_not_equal(before, after, n * sizeof *before);
        free(after);
        free(before);
        close_fixture(&f);
    }
}

static void test_bad_gradients_change_nothing(void **state) {
    (void)state;
    check_bad_gradients("ref");
    check_bad_gradients("cpu");
}

/* A loss scale that is a power of two cancels exactly, bit for bit. */
static void test_loss_scale_cancels(void **state) {
    (void)state;
    for (int k = 0; k < 2 * DS_OPTIMIZER_KINDS; k++) {
        float *results[2];
        size_t n = 0;
        for (int i = 0; i < 2; i++) {
            fixture f;
            const float scale = i == 0 ? 1 : 0x1p12f;
            open_fixture(&f, k % 2 ? "cpu" : "ref",
                         ds_optimizer_defaults((ds_optimizer_kind)(k / 2)), N_PARAMS);
            for (int t = 1; t <= 4; t++) {
                draw_gradients(&f, N_PARAMS, t, scale);
                run(&f, (scalars){0.01f, 1 / scale, 1, (float)t});
            }
            results[i] = snapshot(&f, &n);
            close_fixture(&f);
        }
        assert_memory_equal(results[0], results[1], n * sizeof(float));
        free(results[0]);
        free(results[1]);
    }
}

static void test_clipping(void **state) {
    (void)state;
    fixture f;
    ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_SGD);
    opts.momentum = 0;
    open_fixture(&f, "ref", opts, 2);
    for (int round = 0; round < 3; round++) {
        const float clip = round == 0 ? 0 : round == 1 ? 0.5f : 1000;
        float before[28], after[28], g[28], all = 0, moved = 0;
        get(&f, params[0].name, before, 28);
        draw_gradients(&f, 2, round, 4);
        get(&f, "grad/blocks.0.weight", g, 28);
        const float norm = run(&f, (scalars){1, 0.5f, clip, 1});
        get(&f, params[0].name, after, 28);
        float other[27];
        get(&f, "grad/blocks.0.tall.weight", other, 27);
        for (int i = 0; i < 27; i++)
            all += 0.25f * other[i] * other[i];
        for (int i = 0; i < 28; i++) {
            all += 0.25f * g[i] * g[i];
            moved += (after[i] - before[i]) * (after[i] - before[i]);
        }
        assert_float_equal(norm, sqrtf(all), 1e-4f);
        float expected = 0;
        for (int i = 0; i < 28; i++)
            expected += 0.25f * g[i] * g[i];
        expected = sqrtf(expected) * (round == 1 ? 0.5f / norm : 1);
        assert_float_equal(sqrtf(moved), expected, 1e-4f);
    }
    close_fixture(&f);
}

/* Every optimizer descends: ‖p − target‖² of all parameters falls by half at least. */
static void test_all_descend(void **state) {
    (void)state;
    static const float rates[DS_OPTIMIZER_KINDS] = {0.02f, 0.02f, 0.02f, 0.1f, 0.05f};
    for (int kind = 0; kind < DS_OPTIMIZER_KINDS; kind++) {
        fixture f;
        ds_optimizer_opts opts = ds_optimizer_defaults((ds_optimizer_kind)kind);
        opts.adamw_ratio = 0.4f;
        open_fixture(&f, "ref", opts, N_PARAMS);
        double first = 0, last = 0;
        for (int t = 1; t <= 60; t++) {
            last = 0;
            for (int i = 0; i < N_PARAMS; i++) {
                float p[MOST], g[MOST];
                get(&f, params[i].name, p, count_of(i));
                for (int64_t k = 0; k < count_of(i); k++) {
                    g[k] = p[k] - 0.3f;
                    last += (double)g[k] * (double)g[k];
                }
                set_gradient(&f, i, g);
            }
            first = t == 1 ? last : first;
            run(&f, (scalars){rates[kind], 1, 0, (float)t});
        }
        if (!(last < first / 2))
            fail_msg("%s: %g after %g", ds_optimizer_name((ds_optimizer_kind)kind), last, first);
        close_fixture(&f);
    }
}

/* The fast backend agrees with the reference over several steps. */
static void test_backends_agree(void **state) {
    (void)state;
    for (int kind = 0; kind < DS_OPTIMIZER_KINDS; kind++) {
        float *results[2];
        size_t n = 0;
        for (int i = 0; i < 2; i++) {
            fixture f;
            open_fixture(&f, i == 0 ? "ref" : "cpu", ds_optimizer_defaults((ds_optimizer_kind)kind),
                         N_PARAMS);
            for (int t = 1; t <= 8; t++) {
                draw_gradients(&f, N_PARAMS, t, 1);
                run(&f, (scalars){0.01f, 1, 1, (float)t});
            }
            results[i] = snapshot(&f, &n);
            close_fixture(&f);
        }
        for (size_t k = 0; k < n; k++)
            assert_float_equal(results[0][k], results[1][k], 2e-5f);
        free(results[0]);
        free(results[1]);
    }
}

/* Shapes at the edge (rank 0, single rows and columns, convolutions, nothing at all) and gradients
 * of zero: every value stays finite, and zero gradients without decay move nothing. */
static void test_odd_shapes_and_zero_gradients(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int rank;
        int64_t dims[4];
    } odd[] = {
        {"scale", 0, {0}},
        {"one.weight", 2, {1, 1}},
        {"row.weight", 2, {1, 8}},
        {"column.weight", 2, {8, 1}},
        {"conv.weight", 4, {3, 2, 2, 2}},
        {"empty.weight", 2, {0, 4}},
        {"vector", 1, {1}},
    };
    enum { N = sizeof odd / sizeof *odd };
    for (int kind = 0; kind < DS_OPTIMIZER_KINDS; kind++)
        for (int zero = 0; zero < 2; zero++) {
            fixture f = {.g = ds_graph_new()};
            ds_optimizer_opts opts = ds_optimizer_defaults((ds_optimizer_kind)kind);
            opts.weight_decay = 0;
            assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){1}, &f.backend), DS_OK);
            assert_int_equal(ds_state_new(f.backend, &f.state), DS_OK);
            ds_node *nodes[N];
            for (int i = 0; i < N; i++)
                nodes[i] =
                    ds_graph_param(f.g, odd[i].name, odd[i].rank, odd[i].dims, DS_INIT_NORMAL(1));
            ds_optimizer_build(f.g, nodes, N, opts);
            if (ds_compile(f.g, f.state, (ds_compile_opts){0}, &f.program) != DS_OK)
                fail_msg("%s", ds_error());
            assert_int_equal(ds_state_init(f.state, 5), DS_OK);
            size_t n, n_before;
            float *before = snapshot(&f, &n_before);
            for (int t = 1; t <= 3; t++) {
                for (int i = 0; i < N; i++) {
                    char name[64];
                    float g[24];
                    const size_t count = (size_t)ds_count(odd[i].dims, odd[i].rank);
                    for (size_t k = 0; k < count; k++)
                        g[k] = zero ? 0 : (float)(k + 1) - 3.5f;
                    if (count == 0)
                        continue; /* not part of the program */
                    ds_gradient_name(odd[i].name, name, sizeof name);
                    assert_int_equal(ds_state_write(f.state, name, g, count * sizeof *g), DS_OK);
                }
                run(&f, (scalars){0.1f, 1, 1, (float)t});
            }
            float *after = snapshot(&f, &n);
            for (size_t k = 0; k < n; k++)
                assert_true(isfinite(after[k]));
            for (int i = 0; zero && i < N; i++) {
                const int64_t count = ds_count(odd[i].dims, odd[i].rank);
                float p[24];
                if (count == 0)
                    continue;
                get(&f, odd[i].name, p, count);
                assert_memory_equal(p, before + offset_in_snapshot(&f, odd[i].name),
                                    (size_t)count * sizeof *p);
            }
            free(before);
            free(after);
            close_fixture(&f);
        }
}

/* An update program whose making runs out of memory, or whose run does, says so and can be freed.
 */
static void test_programs_out_of_memory(void **state) {
    (void)state;
    for (int kind = 0; kind < DS_OPTIMIZER_KINDS; kind++) {
        bool done = false;
        for (long n = 1; !done; n++) {
            fixture f = {.g = ds_graph_new()};
            assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){1}, &f.backend), DS_OK);
            assert_int_equal(ds_state_new(f.backend, &f.state), DS_OK);
            ds_node *w = ds_graph_param(f.g, "w", 2, (int64_t[]){3, 4}, DS_INIT_NORMAL(1));
            ds_optimizer_build(f.g, &w, 1, ds_optimizer_defaults((ds_optimizer_kind)kind));
            ds_fault_arm(DS_FAULT_ALLOC, n);
            ds_status status = ds_compile(f.g, f.state, (ds_compile_opts){0}, &f.program);
            if (status == DS_OK)
                status = ds_program_run(f.program);
            ds_fault_arm(DS_FAULT_ALLOC, 0);
            if (status != DS_OK)
                assert_int_equal(status, DS_OUT_OF_MEMORY);
            done = status == DS_OK;
            close_fixture(&f);
        }
    }
}

/* ---- building -------------------------------------------------------------------------------- */

static void test_graph_from_state(void **state) {
    (void)state;
    ds_backend *backend;
    ds_state *s;
    ds_graph *update = NULL, *model = ds_graph_new();
    assert_int_equal(ds_backend_open("ref", (ds_backend_opts){1}, &backend), DS_OK);
    assert_int_equal(ds_state_new(backend, &s), DS_OK);
    const ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_ADAMW);
    assert_int_equal(ds_optimizer_graph(s, opts, &update), DS_NOT_FOUND);
    assert_null(update);

    ds_node *w = ds_graph_param(model, "w", 1, (int64_t[]){3}, DS_INIT_NORMAL(1));
    ds_graph_param(model, "unused", 1, (int64_t[]){3}, DS_INIT_NORMAL(1));
    ds_graph_output(model, "loss", ds_graph_sum_all(model, ds_graph_unary(model, DS_SQUARE, w, 0)));
    ds_program *train, *step;
    assert_int_equal(ds_compile(model, s, (ds_compile_opts){.loss = "loss"}, &train), DS_OK);
    assert_int_equal(ds_optimizer_graph(s, opts, &update), DS_OK);
    assert_int_equal(ds_compile(update, s, (ds_compile_opts){0}, &step), DS_OK);
    assert_int_equal(ds_state_init(s, 1), DS_OK);
    assert_true(ds_state_find(s, "adam_m/w") >= 0);
    assert_int_equal(ds_state_find(s, "adam_m/unused"), -1);
    fixture f = {.backend = backend, .state = s, .g = update, .program = step};
    float first = 0, last = 0;
    const float one = 1;
    assert_int_equal(ds_program_write(train, DS_LOSS_SEED, &one, sizeof one), DS_OK);
    for (int t = 1; t <= 50; t++) {
        assert_int_equal(ds_program_run(train), DS_OK);
        assert_int_equal(ds_program_read(train, "loss", &last, sizeof last), DS_OK);
        first = t == 1 ? last : first;
        run(&f, (scalars){0.05f, 1, 0, (float)t});
    }
    assert_true(last < first / 4);
    ds_program_free(train);
    ds_graph_free(model);
    close_fixture(&f);
}

static void test_refusals(void **state) {
    (void)state;
    const ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_ADAMW);
    ds_graph *g = ds_graph_new();
    ds_optimizer_build(g, NULL, 0, opts);
    assert_false(ds_graph_ok(g));
    ds_graph_free(g);

    g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 0, NULL);
    ds_optimizer_build(g, &x, 1, opts);
    assert_false(ds_graph_ok(g));
    assert_non_null(strstr(ds_error(), "no parameter"));
    ds_graph_free(g);

    g = ds_graph_new();
    x = NULL; /* what a failed builder call leaves behind */
    ds_optimizer_build(g, &x, 1, opts);
    assert_false(ds_graph_ok(g));
    ds_graph_free(g);

    g = ds_graph_new();
    x = ds_graph_param(g, "w", 1, (int64_t[]){2}, DS_INIT_ZEROS);
    ds_graph_variable(g, "grad/w", DS_F32, 1, (int64_t[]){3}, DS_INIT_ZEROS);
    ds_optimizer_build(g, &x, 1, opts);
    assert_false(ds_graph_ok(g));
    assert_non_null(strstr(ds_error(), "grad/w"));
    ds_graph_free(g);
}

/* Every allocation may fail: the graph says so, nothing leaks, nothing crashes. */
static void test_out_of_memory(void **state) {
    (void)state;
    for (int kind = 0; kind < DS_OPTIMIZER_KINDS; kind++) {
        bool done = false;
        for (long n = 1; !done; n++) {
            ds_graph *g = ds_graph_new();
            assert_non_null(g);
            ds_node *w = ds_graph_param(g, "w", 2, (int64_t[]){3, 4}, DS_INIT_NORMAL(1));
            ds_fault_arm(DS_FAULT_ALLOC, n);
            ds_optimizer_build(g, &w, 1, ds_optimizer_defaults((ds_optimizer_kind)kind));
            done = ds_graph_ok(g);
            ds_fault_arm(DS_FAULT_ALLOC, 0);
            if (!done)
                assert_int_equal(g->status, DS_OUT_OF_MEMORY);
            ds_graph_free(g);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw_first_step),
        cmocka_unit_test(test_sgd_by_hand),
        cmocka_unit_test(test_lion_moves_by_sign),
        cmocka_unit_test(test_adafactor_first_step),
        cmocka_unit_test(test_muon_is_orthogonal),
        cmocka_unit_test(test_hidden_matrices),
        cmocka_unit_test(test_bad_gradients_change_nothing),
        cmocka_unit_test(test_loss_scale_cancels),
        cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_all_descend),
        cmocka_unit_test(test_backends_agree),
        cmocka_unit_test(test_odd_shapes_and_zero_gradients),
        cmocka_unit_test(test_programs_out_of_memory),
        cmocka_unit_test(test_graph_from_state),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

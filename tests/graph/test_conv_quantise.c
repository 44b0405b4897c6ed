/* conv2d against hand values and finite differences; int8 quantisation at its edges. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "deepseek/compile.h"
#include "graph/ops/ops.h"

typedef struct fixture {
    ds_backend *backend;
    ds_state *state;
    ds_graph *g;
    ds_program *program;
} fixture;

static void open_fixture(fixture *f) {
    *f = (fixture){0};
    assert_int_equal(ds_backend_open("ref", (ds_backend_opts){1}, &f->backend), DS_OK);
    assert_int_equal(ds_state_new(f->backend, &f->state), DS_OK);
    f->g = ds_graph_new();
}

static void compile(fixture *f, ds_compile_opts opts) {
    if (ds_compile(f->g, f->state, opts, &f->program) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(ds_state_init(f->state, 3), DS_OK);
}

static void close_fixture(fixture *f) {
    ds_program_free(f->program);
    ds_graph_free(f->g);
    ds_state_free(f->state);
    ds_backend_close(f->backend);
}

static void test_conv_by_hand(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f);
    ds_node *x = ds_graph_input(f.g, "x", DS_F32, 4, (int64_t[]){1, 1, 3, 3});
    ds_node *w = ds_graph_input(f.g, "w", DS_F32, 4, (int64_t[]){1, 1, 2, 2});
    ds_node *b = ds_graph_input(f.g, "b", DS_F32, 1, (int64_t[]){1});
    const ds_conv_opts opts = {.stride = {2, 1}, .padding = {1, 0}};
    ds_node *y = ds_graph_conv2d(f.g, x, w, b, opts);
    assert_int_equal(ds_node_dim(y, 2), 2);
    assert_int_equal(ds_node_dim(y, 3), 2);
    ds_graph_output(f.g, "y", y);
    compile(&f, (ds_compile_opts){0});
    const float image[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, kernel[] = {1, 10, 100, 1000}, bias = 0.5f;
    float out[4] = {0};
    assert_int_equal(ds_program_write(f.program, "x", image, sizeof image), DS_OK);
    assert_int_equal(ds_program_write(f.program, "w", kernel, sizeof kernel), DS_OK);
    assert_int_equal(ds_program_write(f.program, "b", &bias, sizeof bias), DS_OK);
    assert_int_equal(ds_program_run(f.program), DS_OK);
    assert_int_equal(ds_program_read(f.program, "y", out, sizeof out), DS_OK);
    const float expected[] = {2100.5f, 3200.5f, 8754.5f, 9865.5f};
    for (int i = 0; i < 4; i++)
        assert_float_equal(out[i], expected[i], 1e-3f);
    close_fixture(&f);
}

typedef struct conv_case {
    int64_t x[4], weight[4];
    ds_conv_opts opts;
} conv_case;

static float loss_of(fixture *f) {
    float loss = NAN;
    assert_int_equal(ds_program_run(f->program), DS_OK);
    assert_int_equal(ds_program_read(f->program, "loss", &loss, sizeof loss), DS_OK);
    return loss;
}

/* Compares grad/NAME with (loss(p + h) − loss(p − h)) / 2h for every element. */
static void check_param(fixture *f, const char *name, int64_t count) {
    char gradient_name[64];
    snprintf(gradient_name, sizeof gradient_name, DS_GRADIENT_PREFIX "%s", name);
    float *p = malloc((size_t)count * sizeof *p), *grad = malloc((size_t)count * sizeof *grad);
    const size_t size = (size_t)count * sizeof *p;
    assert_int_equal(ds_state_read(f->state, name, p, size), DS_OK);
    loss_of(f);
    assert_int_equal(ds_state_read(f->state, gradient_name, grad, size), DS_OK);
    for (int64_t i = 0; i < count; i++) {
        const float was = p[i], h = 1e-2f;
        p[i] = was + h;
        assert_int_equal(ds_state_write(f->state, name, p, size), DS_OK);
        const double above = (double)loss_of(f);
        p[i] = was - h;
        assert_int_equal(ds_state_write(f->state, name, p, size), DS_OK);
        const double below = (double)loss_of(f);
        p[i] = was;
        assert_int_equal(ds_state_write(f->state, name, p, size), DS_OK);
        const double slope = (above - below) / (2 * (double)h);
        if (fabs(slope - (double)grad[i]) > 2e-3 * (1 + fabs(slope)))
            fail_msg("%s[%lld]: gradient %g, finite difference %g", name, (long long)i,
                     (double)grad[i], slope);
    }
    free(p);
    free(grad);
}

static void test_conv_gradients(void **state) {
    (void)state;
    const conv_case cases[] = {
        {{2, 3, 5, 4}, {2, 3, 3, 2}, {.stride = {1, 1}, .padding = {1, 0}}},
        {{1, 2, 6, 6}, {3, 2, 3, 3}, {.stride = {2, 3}, .padding = {2, 1}}},
        {{1, 1, 4, 4}, {2, 1, 2, 2}, {.stride = {2, 2}}}, /* patches */
        {{2, 1, 1, 1}, {1, 1, 1, 1}, {{0}, {0}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const conv_case *c = &cases[i];
        fixture f;
        open_fixture(&f);
        const ds_init init = DS_INIT_NORMAL(0.5f);
        ds_node *x = ds_graph_param(f.g, "x", 4, c->x, init);
        ds_node *w = ds_graph_param(f.g, "w", 4, c->weight, init);
        ds_node *b = ds_graph_param(f.g, "b", 1, c->weight, init);
        ds_node *y = ds_graph_conv2d(f.g, x, w, b, c->opts);
        ds_graph_output(f.g, "loss", ds_graph_sum_all(f.g, ds_graph_unary(f.g, DS_SQUARE, y, 0)));
        compile(&f, (ds_compile_opts){.loss = "loss"});
        const float one = 1;
        assert_int_equal(ds_program_write(f.program, DS_LOSS_SEED, &one, sizeof one), DS_OK);
        check_param(&f, "x", ds_count(c->x, 4));
        check_param(&f, "w", ds_count(c->weight, 4));
        check_param(&f, "b", c->weight[0]);
        close_fixture(&f);
    }
}

/* Patches are cut by views and a matrix product: the same numbers as the convolution itself. */
static void test_patches_are_a_convolution(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f);
    const ds_init init = DS_INIT_NORMAL(1);
    ds_node *x = ds_graph_param(f.g, "x", 4, (int64_t[]){2, 3, 6, 8}, init);
    ds_node *w = ds_graph_param(f.g, "w", 4, (int64_t[]){5, 3, 3, 2}, init);
    ds_node *b = ds_graph_param(f.g, "b", 1, (int64_t[]){5}, init);
    const ds_conv_opts opts = {.stride = {3, 2}};
    ds_node *patches = ds_graph_conv2d(f.g, x, w, b, opts);
    ds_node *direct = ds_graph_add_node(f.g, &ds_op_conv2d, &opts, (ds_node *[]){x, w, b}, 3);
    assert_false(ds_node_is(patches, &ds_op_conv2d));
    ds_graph_output(f.g, "patches", patches);
    ds_graph_output(f.g, "direct", direct);
    compile(&f, (ds_compile_opts){0});
    assert_int_equal(ds_program_run(f.program), DS_OK);
    enum { N = 2 * 5 * 2 * 4 };
    float got[N], expected[N];
    assert_int_equal(ds_program_read(f.program, "patches", got, sizeof got), DS_OK);
    assert_int_equal(ds_program_read(f.program, "direct", expected, sizeof expected), DS_OK);
    for (int i = 0; i < N; i++)
        assert_float_equal(got[i], expected[i], 1e-5f);
    close_fixture(&f);
}

static void test_conv_refusals(void **state) {
    (void)state;
    const struct {
        int64_t x[4], weight[4];
        ds_conv_opts opts;
        const char *says;
    } cases[] = {
        {{1, 3, 4, 4}, {2, 4, 3, 3}, {{0}, {0}}, "the image has 3 channels, the weight wants 4"},
        {{1, 3, 2, 4}, {2, 3, 3, 3}, {{0}, {0}}, "does not fit"},
        {{1, 3, 4, 4}, {2, 3, 3, 3}, {{-1, 1}, {0}}, "stride"},
        {{1, 3, 4, 4}, {2, 3, 3, 3}, {{1, 1}, {0, -1}}, "padding"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_graph *g = ds_graph_new();
        ds_node *x = ds_graph_input(g, "x", DS_F32, 4, cases[i].x);
        ds_node *w = ds_graph_input(g, "w", DS_F32, 4, cases[i].weight);
        assert_null(ds_graph_conv2d(g, x, w, NULL, cases[i].opts));
        assert_false(ds_graph_ok(g));
        assert_non_null(strstr(ds_error(), cases[i].says));
        ds_graph_free(g);
    }
}

/* ---- quantisation ---------------------------------------------------------------------------- */

enum { ROWS = 3, WIDTH = 5 };

static const float samples[ROWS][WIDTH] = {
    {0.5f, 1.5f, 2.5f, -0.5f, -1.5f}, /* scale 1: ties to even */
    {200, -200, 63.5f, 64.0f, NAN},   /* scale 0.5: clamped at ±127 · 0.5; NaN */
    {0, 0, 0, 0, 0},                  /* scale 0: a row of zeros */
};
static const float scales[ROWS] = {1, 0.5f, 0};

static void test_quantise_rows(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f);
    ds_node *x = ds_graph_input(f.g, "x", DS_F32, 2, (int64_t[]){ROWS, WIDTH});
    ds_node *scale = ds_graph_input(f.g, "scale", DS_F32, 1, (int64_t[]){ROWS});
    ds_node *q = ds_graph_quantise(f.g, x, scale);
    ds_graph_output(f.g, "q", q);
    ds_graph_output(f.g, "y", ds_graph_dequantise(f.g, q, scale, DS_F32));
    ds_graph_output(f.g, "fake", ds_graph_fake_quantise(f.g, x, scale));
    compile(&f, (ds_compile_opts){0});
    assert_int_equal(ds_program_write(f.program, "x", samples, sizeof samples), DS_OK);
    assert_int_equal(ds_program_write(f.program, "scale", scales, sizeof scales), DS_OK);
    assert_int_equal(ds_program_run(f.program), DS_OK);
    int8_t ints[ROWS * WIDTH];
    float y[ROWS * WIDTH], fake[ROWS * WIDTH];
    assert_int_equal(ds_program_read(f.program, "q", ints, sizeof ints), DS_OK);
    assert_int_equal(ds_program_read(f.program, "y", y, sizeof y), DS_OK);
    assert_int_equal(ds_program_read(f.program, "fake", fake, sizeof fake), DS_OK);
    const int8_t expected[] = {0, 2, 2, 0, -2, 127, -127, 127, 127, 0, 0, 0, 0, 0, 0};
    for (int i = 0; i < ROWS * WIDTH; i++) {
        assert_int_equal(ints[i], expected[i]);
        assert_true(y[i] == (float)expected[i] * scales[i / WIDTH]);
        assert_true(i == 9 ? isnan(fake[i]) : fake[i] == y[i]); /* NaN stays visible in training */
    }
    close_fixture(&f);
}

static void test_fake_quantise_gradient(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f);
    ds_node *x = ds_graph_param(f.g, "x", 1, (int64_t[]){4}, DS_INIT_ZEROS);
    ds_node *scale = ds_graph_fill(f.g, 0.5, DS_F32, 0, NULL);
    ds_node *y = ds_graph_fake_quantise(f.g, x, scale);
    ds_graph_output(f.g, "loss", ds_graph_sum_all(f.g, ds_graph_scale(f.g, y, 3)));
    compile(&f, (ds_compile_opts){.loss = "loss"});
    /* 63.7 / 0.5 rounds to 127, within; 63.8 / 0.5 rounds to 128, clamped */
    const float values[] = {0.1f, 63.7f, 63.8f, -70}, one = 1, expected[] = {3, 3, 0, 0};
    float grad[4] = {0};
    assert_int_equal(ds_state_write(f.state, "x", values, sizeof values), DS_OK);
    assert_int_equal(ds_program_write(f.program, DS_LOSS_SEED, &one, sizeof one), DS_OK);
    assert_int_equal(ds_program_run(f.program), DS_OK);
    assert_int_equal(ds_state_read(f.state, DS_GRADIENT_PREFIX "x", grad, sizeof grad), DS_OK);
    for (int i = 0; i < 4; i++)
        assert_true(grad[i] == expected[i]);
    close_fixture(&f);
}

/* |x − fake(x)| ≤ scale / 2 when the scale is max|x| / 127, for any x. */
static void test_quantisation_error_is_bounded(void **state) {
    (void)state;
    enum { N = 1000 };
    fixture f;
    open_fixture(&f);
    ds_node *x = ds_graph_input(f.g, "x", DS_F32, 1, (int64_t[]){N});
    ds_node *scale = ds_graph_input(f.g, "scale", DS_F32, 0, NULL);
    ds_graph_output(f.g, "y", ds_graph_fake_quantise(f.g, x, scale));
    compile(&f, (ds_compile_opts){0});
    float values[N], y[N], most = 0;
    for (int round = 0; round < 8; round++) {
        const float spread = ldexpf(1, 4 * round - 16);
        for (int i = 0; i < N; i++) {
            const ds_philox_block b = ds_philox(9, (uint64_t)(round * N + i), 0);
            values[i] = spread * (2 * ds_uniform(b.word[0]) - 1);
            most = i == 0 ? fabsf(values[i]) : fmaxf(most, fabsf(values[i]));
        }
        const float s = most / 127;
        assert_int_equal(ds_program_write(f.program, "x", values, sizeof values), DS_OK);
        assert_int_equal(ds_program_write(f.program, "scale", &s, sizeof s), DS_OK);
        assert_int_equal(ds_program_run(f.program), DS_OK);
        assert_int_equal(ds_program_read(f.program, "y", y, sizeof y), DS_OK);
        for (int i = 0; i < N; i++)
            assert_true(fabsf(values[i] - y[i]) <= 0.5001f * s);
    }
    close_fixture(&f);
}

static void test_quantise_refusals(void **state) {
    (void)state;
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){4, 2});
    ds_node *scale = ds_graph_input(g, "scale", DS_F32, 1, (int64_t[]){3});
    assert_null(ds_graph_quantise(g, x, scale));
    assert_false(ds_graph_ok(g));
    assert_non_null(strstr(ds_error(), "3 rows does not fit 4 rows"));
    ds_graph_free(g);
    g = ds_graph_new();
    x = ds_graph_input(g, "x", DS_I32, 1, (int64_t[]){4});
    assert_null(ds_graph_quantise(g, x, ds_graph_fill(g, 1, DS_F32, 0, NULL)));
    assert_false(ds_graph_ok(g));
    ds_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv_by_hand),
        cmocka_unit_test(test_conv_gradients),
        cmocka_unit_test(test_patches_are_a_convolution),
        cmocka_unit_test(test_conv_refusals),
        cmocka_unit_test(test_quantise_rows),
        cmocka_unit_test(test_fake_quantise_gradient),
        cmocka_unit_test(test_quantisation_error_is_bounded),
        cmocka_unit_test(test_quantise_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

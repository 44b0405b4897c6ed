/* From graph to numbers: a small network's value, its gradients against finite differences, shared
 * working memory, and the memory plan. */
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
#include "graph/node.h"

enum { ROWS = 5, WIDTH = 6, HIDDEN = 7 };

/* loss = Σ (silu(x W1ᵀ + b) W2)², with W2's two halves taken by slices. */
static ds_graph *make_network(void) {
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){ROWS, WIDTH});
    ds_graph_push(g, "mlp.%d", 0);
    ds_node *w1 = ds_graph_param(g, "w1", 2, (int64_t[]){HIDDEN, WIDTH}, DS_INIT_NORMAL(0.5f));
    ds_node *b1 = ds_graph_param(g, "b1", 1, (int64_t[]){HIDDEN}, DS_INIT_NORMAL(0.5f));
    ds_graph_pop(g);
    ds_node *w2 = ds_graph_param(g, "w2", 2, (int64_t[]){HIDDEN, 4}, DS_INIT_NORMAL(0.5f));
    ds_graph_segment_begin(g);
    ds_node *h =
        ds_graph_add(g, ds_graph_matmul(g, x, w1, (ds_matmul_opts){.transpose_b = true}), b1);
    h = ds_graph_unary(g, DS_SILU, h, 0);
    ds_graph_segment_end(g);
    ds_node *y = ds_graph_matmul(g, h, w2, (ds_matmul_opts){0});
    ds_node *left = ds_graph_slice(g, y, 1, 0, 2), *right = ds_graph_slice(g, y, 1, 2, 2);
    ds_node *both = ds_graph_mul(g, left, ds_graph_unary(g, DS_TANH, right, 0));
    ds_graph_output(g, "loss", ds_graph_sum_all(g, ds_graph_unary(g, DS_SQUARE, both, 0)));
    return g;
}

static void fill_input(float *x, int n) {
    for (int i = 0; i < n; i++)
        x[i] = 2 * ds_uniform(ds_philox(7, (uint64_t)i, 0).word[0]) - 1;
}

static float run(ds_program *p) {
    float x[ROWS * WIDTH], loss = NAN;
    fill_input(x, ROWS * WIDTH);
    assert_int_equal(ds_program_write(p, "x", x, sizeof x), DS_OK);
    assert_int_equal(ds_program_run(p), DS_OK);
    assert_int_equal(ds_program_read(p, "loss", &loss, sizeof loss), DS_OK);
    return loss;
}

typedef struct fixture {
    ds_backend *backend;
    ds_state *state;
    ds_graph *g;
    ds_program *forward;
} fixture;

static void open_fixture(fixture *f, const char *backend) {
    assert_int_equal(ds_backend_open(backend, (ds_backend_opts){2}, &f->backend), DS_OK);
    assert_int_equal(ds_state_new(f->backend, &f->state), DS_OK);
    f->g = make_network();
    assert_true(ds_graph_ok(f->g));
    if (ds_compile(f->g, f->state, (ds_compile_opts){0}, &f->forward) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(ds_state_init(f->state, 1), DS_OK);
}

static void close_fixture(fixture *f) {
    ds_program_free(f->forward);
    ds_graph_free(f->g);
    ds_state_free(f->state);
    ds_backend_close(f->backend);
}

static void check_gradients(fixture *f, ds_compile_opts opts, double tolerance) {
    const char *const names[] = {"mlp.0.w1", "mlp.0.b1", "w2"};
    const int counts[] = {HIDDEN * WIDTH, HIDDEN, HIDDEN * 4};
    ds_program *p = NULL;
    opts.loss = "loss";
    if (ds_compile(f->g, f->state, opts, &p) != DS_OK)
        fail_msg("%s", ds_error());
    const float one = 1;
    assert_int_equal(ds_program_write(p, DS_LOSS_SEED, &one, sizeof one), DS_OK);
    run(p);
    for (int t = 0; t < 3; t++) {
        float values[HIDDEN * WIDTH], gradient[HIDDEN * WIDTH];
        char name[64];
        const size_t size = (size_t)counts[t] * sizeof(float);
        snprintf(name, sizeof name, DS_GRADIENT_PREFIX "%s", names[t]);
        assert_int_equal(ds_state_read(f->state, names[t], values, size), DS_OK);
        assert_int_equal(ds_state_read(f->state, name, gradient, size), DS_OK);
        for (int i = 0; i < counts[t]; i++) {
            const float kept = values[i], h = 1e-2f;
            values[i] = kept + h;
            assert_int_equal(ds_state_write(f->state, names[t], values, size), DS_OK);
            const double up = (double)run(f->forward);
            values[i] = kept - h;
            assert_int_equal(ds_state_write(f->state, names[t], values, size), DS_OK);
            const double down = (double)run(f->forward);
            values[i] = kept;
            const double expected = (up - down) / (2 * (double)h);
            if (fabs(expected - (double)gradient[i]) > tolerance * (1 + fabs(expected)))
                fail_msg("%s[%d]: gradient %g, differences give %g", name, i, (double)gradient[i],
                         expected);
        }
        assert_int_equal(ds_state_write(f->state, names[t], values, size), DS_OK);
    }
    ds_program_free(p);
}

static void test_gradients_against_differences(void **state) {
    (void)state;
    const char *const backends[] = {"ref", "cpu"};
    for (int b = 0; b < 2; b++) {
        fixture f;
        open_fixture(&f, backends[b]);
        check_gradients(&f, (ds_compile_opts){.no_fuse = true}, 5e-3);
        check_gradients(&f, (ds_compile_opts){0}, 5e-3);
        check_gradients(&f, (ds_compile_opts){.share = f.forward}, 5e-3);
        check_gradients(&f, (ds_compile_opts){.recompute = DS_RECOMPUTE_SELECTIVE}, 5e-3);
        check_gradients(&f, (ds_compile_opts){.recompute = DS_RECOMPUTE_FULL}, 5e-3);
        check_gradients(&f, (ds_compile_opts){.offload = DS_OFFLOAD_HOST}, 5e-3);
        check_gradients(&f, (ds_compile_opts){.precision = DS_PRECISION_BF16}, 0.1);
        close_fixture(&f);
    }
}

static void test_accumulate_adds(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, "ref");
    ds_program *first = NULL, *more = NULL;
    const float one = 1;
    float once[HIDDEN], thrice[HIDDEN];
    assert_int_equal(ds_compile(f.g, f.state, (ds_compile_opts){.loss = "loss"}, &first), DS_OK);
    assert_int_equal(
        ds_compile(f.g, f.state,
                   (ds_compile_opts){.loss = "loss", .accumulate = true, .share = first}, &more),
        DS_OK);
    ds_program_write(first, DS_LOSS_SEED, &one, sizeof one);
    ds_program_write(more, DS_LOSS_SEED, &one, sizeof one);
    run(first);
    ds_state_read(f.state, "grad/mlp.0.b1", once, sizeof once);
    run(more);
    run(more);
    ds_state_read(f.state, "grad/mlp.0.b1", thrice, sizeof thrice);
    for (int i = 0; i < HIDDEN; i++)
        assert_true(fabsf(thrice[i] - 3 * once[i]) <= 1e-5f * (1 + fabsf(thrice[i])));
    ds_program_free(first);
    ds_program_free(more);
    close_fixture(&f);
}

static void test_errors_name_the_place(void **state) {
    (void)state;
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){2, 768});
    ds_graph_push(g, "blocks.%d", 3);
    ds_graph_push(g, "attn.q_proj");
    ds_node *w = ds_graph_param(g, "weight", 2, (int64_t[]){8, 1024}, DS_INIT_ZEROS);
    ds_node *y = ds_graph_matmul(g, x, w, (ds_matmul_opts){.transpose_b = true});
    assert_null(y);
    ds_graph_output(g, "y", ds_graph_unary(g, DS_EXP, y, 0)); /* a poisoned graph ignores it */
    assert_false(ds_graph_ok(g));
    assert_string_equal(ds_error(), "blocks.3.attn.q_proj: matmul(f32[2,768], f32[8,1024]): input "
                                    "has 768 columns, weight wants 1024");
    ds_graph_free(g);
}

/* A result may be written over an input only if no other input reads the same memory in another
 * order. */
static void test_not_in_place_over_what_is_read_turned(void **state) {
    (void)state;
    enum { SIDE = 64 };
    static float x[SIDE * SIDE], y[SIDE * SIDE];
    ds_backend *cpu = NULL;
    ds_state *tensors = NULL;
    ds_program *p = NULL;
    ds_graph *g = ds_graph_new();
    ds_node *in = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){SIDE, SIDE});
    ds_node *squares = ds_graph_unary(g, DS_SQUARE, in, 0);
    ds_node *turned = ds_graph_permute(g, squares, (int[]){1, 0});
    ds_graph_output(g, "y", ds_graph_sub(g, squares, turned));
    for (int i = 0; i < SIDE * SIDE; i++)
        x[i] = (float)i;
    assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){1}, &cpu), DS_OK);
    assert_int_equal(ds_state_new(cpu, &tensors), DS_OK);
    assert_int_equal(ds_compile(g, tensors, (ds_compile_opts){.no_fuse = true}, &p), DS_OK);
    assert_int_equal(ds_program_write(p, "x", x, sizeof x), DS_OK);
    assert_int_equal(ds_program_run(p), DS_OK);
    assert_int_equal(ds_program_read(p, "y", y, sizeof y), DS_OK);
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < SIDE; k++) {
            const float a = x[i * SIDE + k], b = x[k * SIDE + i];
            assert_true(y[i * SIDE + k] == a * a - b * b);
        }
    ds_program_free(p);
    ds_graph_free(g);
    ds_state_free(tensors);
    ds_backend_close(cpu);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_against_differences),
        cmocka_unit_test(test_accumulate_adds),
        cmocka_unit_test(test_errors_name_the_place),
        cmocka_unit_test(test_not_in_place_over_what_is_read_turned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

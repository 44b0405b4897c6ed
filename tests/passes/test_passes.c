/* What each pass does to the training graph of a small GPT: the graph before against the graph
 * after, and the memory that the plan needs. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "deepseek/models.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"
#include "support/graph_run.h"
#include "passes/plan.h"

static ds_graph *model(void) {
    ds_model_config c;
    assert_int_equal(ds_model_preset("tiny", &c), DS_OK);
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, &c, 2, 64);
    assert_true(ds_graph_ok(g));
    return g;
}

/* Frees the stage before; the next must be sound. */
static ds_graph *next(ds_graph *before, ds_graph *after) {
    ds_graph_free(before);
    assert_non_null(after);
    if (!ds_graph_ok(after))
        fail_msg("%s", ds_error());
    return after;
}

/* Experts behind a softmax router, RMS norms; attention over a score matrix after unfusing. */
static ds_graph *experts(void) {
    const ds_model_config c = {.architecture = DS_MOE,
                               .vocab_size = 96,
                               .n_layers = 1,
                               .hidden_size = 32,
                               .n_heads = 2,
                               .n_kv_heads = 2,
                               .head_dim = 16,
                               .intermediate_size = 48,
                               .max_seq_len = 16,
                               .norm_eps = 1e-5f,
                               .rope_theta = 10000,
                               .n_experts = 4,
                               .experts_per_token = 2,
                               .router_loss_weight = 0.01f};
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, &c, 2, 16);
    assert_true(ds_graph_ok(g));
    return g;
}

static bool is_one_of(const ds_op *op, const ds_op *const *ops, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (op == ops[i])
            return true;
    return false;
}

/* Products and attention in the low type; masters, all that softmax and losses see, and the
 * statistics and weight gradients of norms in f32. */
static void expect_types(const ds_node *x, ds_dtype low) {
    static const ds_op *const lowered[] = {&ds_op_matmul, &ds_op_grouped_matmul, &ds_op_attention,
                                           &ds_op_layer_norm, &ds_op_rms_norm};
    static const ds_op *const whole[] = {&ds_op_param,        &ds_op_softmax,
                                         &ds_op_log_softmax,  &ds_op_cross_entropy,
                                         &ds_op_softmax_grad, &ds_op_log_softmax_grad};
    static const ds_op *const norms[] = {&ds_op_layer_norm, &ds_op_rms_norm, &ds_op_layer_norm_grad,
                                         &ds_op_rms_norm_grad};
    const bool is_further = x->op == &ds_op_result;
    if (x->phase == DS_FORWARD && is_one_of(x->op, lowered, sizeof lowered / sizeof *lowered))
        assert_int_equal(x->type.dtype, low);
    if (is_one_of(x->op, whole, sizeof whole / sizeof *whole))
        assert_int_equal(x->type.dtype, DS_F32);
    if (x->op == &ds_op_softmax || x->op == &ds_op_log_softmax)
        assert_int_equal(x->inputs[0]->type.dtype, DS_F32);
    if (is_further &&
        (is_one_of(x->inputs[0]->op, norms, sizeof norms / sizeof *norms) ||
         x->inputs[0]->op == &ds_op_attention || x->inputs[0]->op == &ds_op_cross_entropy))
        assert_int_equal(x->type.dtype, DS_F32);
}

static void test_precision_lowers_products_and_keeps_masters(void **state) {
    (void)state;
    static const struct {
        ds_precision precision;
        ds_dtype low;
    } kinds[] = {{DS_PRECISION_BF16, DS_BF16}, {DS_PRECISION_FP16, DS_F16}};
    static ds_graph *(*const models[])(void) = {model, experts};
    for (int k = 0; k < 2; k++)
        for (int m = 0; m < 2; m++) {
            ds_graph *g = models[m]();
            const int products = count_ops(g, &ds_op_matmul), casts = count_ops(g, &ds_op_cast);
            g = next(g, ds_pass_precision(g, kinds[k].precision));
            assert_int_equal(count_ops(g, &ds_op_matmul), products);
            assert_true(count_ops(g, &ds_op_cast) > casts);
            if (m == 1)
                g = next(g, ds_pass_unfuse_attention(g));
            g = next(g, ds_pass_autodiff(g, "loss", false));
            assert_int_equal(count_ops(g, &ds_op_softmax), m == 0 ? 0 : 2); /* scores, router */
            for (size_t i = 0; i < g->n_nodes; i++)
                expect_types(g->nodes[i], kinds[k].low);
            ds_graph_free(g);
        }
}

static void test_autodiff_writes_every_gradient_once(void **state) {
    (void)state;
    ds_graph *g = model();
    const int params = count_ops(g, &ds_op_param), slices = count_ops(g, &ds_op_slice);
    g = next(g, ds_pass_autodiff(g, "loss", false));
    assert_int_equal(count_ops(g, &ds_op_assign), params);
    /* q, k, v of each layer come back as one concat, not as padded sums */
    assert_int_equal(count_ops(g, &ds_op_concat), slices / 3);
    ds_graph_free(g);
    g = model();
    ds_graph *wrong = ds_pass_autodiff(g, "nothing", false);
    assert_false(ds_graph_ok(wrong)); /* no such output */
    ds_graph_free(wrong);
    ds_graph_free(g);
}

static void test_fuse_joins_products_with_what_follows(void **state) {
    (void)state;
    ds_graph *g = model();
    g = next(g, ds_pass_precision(g, DS_PRECISION_BF16));
    g = next(g, ds_pass_autodiff(g, "loss", false));
    const int adds = count_ops(g, &ds_op_binary);
    assert_int_equal(count_ops(g, &ds_op_cross_entropy_grad), 1);
    g = next(g, ds_pass_fuse(g));
    assert_int_equal(count_ops(g, &ds_op_linear_cross_entropy), 1);
    assert_int_equal(count_ops(g, &ds_op_cross_entropy), 0);
    assert_int_equal(count_ops(g, &ds_op_cross_entropy_grad), 0);
    assert_true(count_ops(g, &ds_op_binary) < adds);
    bool *needed = ds_graph_reachable(g);
    int biases = 0, residuals = 0;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        if (!needed[i] || x->op != &ds_op_matmul)
            continue;
        const ds_matmul_attrs *a = x->attrs;
        biases += a->has_bias;
        residuals += a->has_residual;
        assert_int_not_equal(ds_node_dim(x, -1), 2048); /* no logits [rows, vocabulary] are left */
    }
    free(needed);
    assert_int_equal(biases, 16);   /* four a layer */
    assert_int_equal(residuals, 8); /* two a layer */
    ds_graph_free(g);
}

/* The embedding is also the projection: its rows' gradients are added to the projection's, which is
 * made in the gradient variable itself. */
static void test_fuse_adds_rows_where_the_other_gradient_lies(void **state) {
    (void)state;
    ds_backend *cpu = NULL;
    ds_plan plan;
    assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){1}, &cpu), DS_OK);
    ds_graph *g = model();
    g = next(g, ds_pass_autodiff(g, "loss", false));
    g = next(g, ds_pass_fuse(g));
    assert_int_equal(ds_plan_make(g, cpu, &plan), DS_OK);
    int found = 0;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        if (x->op != &ds_op_scatter_add || x->n_inputs != 3)
            continue;
        found++;
        const ds_node *onto = x->inputs[2];
        assert_ptr_equal(onto->op, &ds_op_result);
        const ds_value_plan *sum = &plan.values[x->id * DS_MAX_RESULTS];
        const ds_value_plan *made = &plan.values[onto->inputs[0]->id * DS_MAX_RESULTS + 2];
        assert_int_equal(sum->place, DS_PLACE_STATE);
        assert_int_equal(made->place, DS_PLACE_STATE);
        assert_ptr_equal(made->of, sum->of);
    }
    assert_int_equal(found, 1);
    ds_plan_free(&plan);
    ds_graph_free(g);
    ds_backend_close(cpu);
}

static size_t working_bytes(ds_recompute recompute, bool offload, size_t *host) {
    ds_backend *ref = NULL;
    ds_plan plan;
    assert_int_equal(ds_backend_open("ref", (ds_backend_opts){0}, &ref), DS_OK);
    ds_graph *g = model();
    g = next(g, ds_pass_autodiff(g, "loss", false));
    g = next(g, ds_pass_fuse(g));
    g = next(g, ds_pass_recompute(g, recompute));
    if (offload)
        g = next(g, ds_pass_offload(g));
    g = next(g, ds_pass_contiguous(g, ref));
    assert_int_equal(ds_plan_make(g, ref, &plan), DS_OK);
    for (size_t i = 0; i < plan.n_buffers; i++) /* none that live at once may meet */
        for (size_t k = 0; k < i; k++) {
            const ds_buffer *a = &plan.buffers[i], *b = &plan.buffers[k];
            const bool together = a->first <= b->last && b->first <= a->last;
            const bool apart =
                a->offset + a->size_bytes <= b->offset || b->offset + b->size_bytes <= a->offset;
            if (a->size_bytes && b->size_bytes && a->in_host_space == b->in_host_space)
                assert_true(!together || apart);
        }
    const size_t bytes = plan.working_bytes;
    *host = plan.host_bytes;
    ds_plan_free(&plan);
    ds_graph_free(g);
    ds_backend_close(ref);
    return bytes;
}

static void test_recompute_and_offload_need_less(void **state) {
    (void)state;
    size_t host = 0;
    const size_t none = working_bytes(DS_RECOMPUTE_NONE, false, &host);
    assert_int_equal(host, 0);
    const size_t selective = working_bytes(DS_RECOMPUTE_SELECTIVE, false, &host);
    const size_t full = working_bytes(DS_RECOMPUTE_FULL, false, &host);
    assert_true(selective < none);
    assert_true(full < selective);
    const size_t offloaded = working_bytes(DS_RECOMPUTE_NONE, true, &host);
    assert_true(offloaded < none);
    assert_true(host > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_precision_lowers_products_and_keeps_masters),
        cmocka_unit_test(test_autodiff_writes_every_gradient_once),
        cmocka_unit_test(test_fuse_joins_products_with_what_follows),
        cmocka_unit_test(test_fuse_adds_rows_where_the_other_gradient_lies),
        cmocka_unit_test(test_recompute_and_offload_need_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

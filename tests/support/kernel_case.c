#include "kernel_case.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/rng.h"
#include "graph/ops/ops.h"

enum { MAX_TENSORS = 40 };

ds_node *case_input(ds_graph *g, ds_dtype dtype, int rank, const int64_t *dims) {
    char name[32];
    snprintf(name, sizeof name, "input%zu", g->n_nodes);
    return ds_graph_input(g, name, dtype, rank, dims);
}

static uint32_t draw(uint64_t seed, uint64_t stream, int64_t i) {
    return ds_philox(ds_mix64(seed), (uint64_t)i, stream).word[0];
}

int64_t case_choice(uint64_t seed, int place, int64_t most) {
    return (int64_t)(draw(seed, 97, place) % (uint64_t)most);
}

int64_t case_size(uint64_t seed, int place, int64_t most) {
    const double u = (double)ds_uniform(draw(seed, 97, place));
    return 1 + (int64_t)(u * u * (double)(most - 1) + 0.5);
}

static void store(const ds_tensor *t, int64_t at, double x) {
    switch (t->dtype) {
    case DS_F32: ((float *)t->data)[at] = (float)x; break;
    case DS_BF16: ((uint16_t *)t->data)[at] = ds_f32_to_bf16((float)x); break;
    case DS_F16: ((uint16_t *)t->data)[at] = ds_f32_to_f16((float)x); break;
    case DS_I8: ((int8_t *)t->data)[at] = (int8_t)x; break;
    case DS_U8: ((uint8_t *)t->data)[at] = (uint8_t)x; break;
    case DS_I32: ((int32_t *)t->data)[at] = (int32_t)x; break;
    case DS_I64: ((int64_t *)t->data)[at] = (int64_t)x; break;
    case DS_DTYPES: break;
    }
}

static double load(const ds_tensor *t, int64_t at) {
    switch (t->dtype) {
    case DS_BF16: return (double)ds_bf16_to_f32(((const uint16_t *)t->data)[at]);
    case DS_F16: return (double)ds_f16_to_f32(((const uint16_t *)t->data)[at]);
    case DS_I8: return ((const int8_t *)t->data)[at];
    case DS_U8: return ((const uint8_t *)t->data)[at];
    case DS_I32: return ((const int32_t *)t->data)[at];
    case DS_I64: return (double)((const int64_t *)t->data)[at];
    default: return (double)((const float *)t->data)[at];
    }
}

/* Memory for a tensor: row-major; or axes stored in another order with a gap behind each; or one
 * element for all. */
static ds_tensor allocate(const ds_type *type, bool strided, bool repeated, uint64_t seed) {
    ds_tensor t = ds_tensor_of(NULL, type->dtype, type->rank, type->dims);
    int64_t size = ds_count(type->dims, type->rank);
    if (repeated) {
        memset(t.strides, 0, sizeof t.strides);
        size = 1;
    } else if (strided && type->rank > 0) {
        int order[DS_MAX_RANK];
        for (int i = 0; i < type->rank; i++)
            order[i] = i;
        for (int i = type->rank - 1; i > 0; i--) {
            const int j = (int)(draw(seed, 99, i) % (uint32_t)(i + 1)), swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        size = 1;
        for (int i = type->rank - 1; i >= 0; i--) {
            t.strides[order[i]] = size;
            size *= type->dims[order[i]] + (int64_t)(draw(seed, 98, i) % 3);
        }
    }
    t.data = calloc((size_t)size + 1, ds_dtype_size(type->dtype));
    assert_non_null(t.data);
    return t;
}

static int64_t offset_of(const ds_tensor *t, int64_t i) {
    int64_t offset = 0;
    for (int axis = t->rank - 1; axis >= 0; axis--) {
        offset += i % t->dims[axis] * t->strides[axis];
        i /= t->dims[axis];
    }
    return offset;
}

static void draw_input(const ds_tensor *t, int index, const kernel_case *c) {
    const int64_t n = ds_count(t->dims, t->rank);
    const double low = c->low == 0 && c->high == 0 ? -2 : (double)c->low;
    const double high = c->low == 0 && c->high == 0 ? 2 : (double)c->high;
    for (int64_t i = 0; i < n; i++) {
        const double u = (double)ds_uniform(draw(c->seed, (uint64_t)index, i));
        double x = low + (high - low) * u;
        if (!ds_dtype_is_float(t->dtype))
            x = floor(c->int_low + (c->int_high - c->int_low) * u);
        if (c->positive >> index & 1u)
            x = fabs(x);
        store(t, offset_of(t, i), x);
    }
}

static ds_tensor copy_of(const ds_tensor *t, const ds_type *type) {
    ds_tensor copy = allocate(type, false, false, 0);
    const int64_t n = ds_count(t->dims, t->rank);
    const size_t size = ds_dtype_size(t->dtype);
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)copy.data + (size_t)i * size,
               (const char *)t->data + (size_t)offset_of(t, i) * size, size);
    return copy;
}

/* "f32[4,16] bf16[16,3] ", the types of the inputs. */
static const char *inputs_text(const ds_node *node, char *out, size_t size) {
    size_t length = 0;
    *out = '\0';
    for (int i = 0; i < node->n_inputs && length < size; i++) {
        char type[64];
        ds_type_text(&node->inputs[i]->type, type, sizeof type);
        length += (size_t)snprintf(out + length, size - length, "%s ", type);
    }
    return out;
}

static void compare(const ds_node *node, const char *what, int index, const ds_tensor *expected,
                    const ds_tensor *got, const kernel_case *c, int n_threads) {
    const bool low = got->dtype == DS_BF16 || got->dtype == DS_F16;
    const double tolerance = low ? (c->low_tolerance > 0 ? c->low_tolerance : 1.6e-2)
                                 : (c->tolerance > 0 ? c->tolerance : 2e-5);
    const int64_t n = ds_count(expected->dims, expected->rank);
    for (int64_t i = 0; i < n; i++) {
        const double e = load(expected, i), g = load(got, i);
        if ((isnan(e) && isnan(g)) || e == g)
            continue;
        const bool is_float = ds_dtype_is_float(got->dtype) != 0;
        char text[256];
        if (!(fabs(e - g) <= tolerance * (1 + fabs(e))) || !is_float)
            fail_msg("%s of %s(seed %llu), %s %d, element %lld of %lld: expected %.9g, got %.9g "
                     "(%d threads)",
                     node->op->name, inputs_text(node, text, sizeof text),
                     (unsigned long long)c->seed, what, index, (long long)i, (long long)n, e, g,
                     n_threads);
    }
}

typedef struct call {
    ds_tensor tensors[MAX_TENSORS]; /* inputs, then outputs */
    ds_kernel_args args;
} call;

static const ds_type *result_type(const ds_node *node, int k) {
    return k == 0 || !node->result_types ? &node->type : &node->result_types[k];
}

static void set_up(call *x, const ds_node *node, const ds_tensor *inputs, const ds_kernel *kernel,
                   const kernel_case *c, int n_threads) {
    const int n_out = node->op->n_results ? node->op->n_results : 1;
    for (int i = 0; i < node->n_inputs; i++) {
        const bool free_strides = kernel->strided_inputs >> (i < 32 ? i : 31) & 1u;
        x->tensors[i] = inputs[i];
        if (!free_strides || (node->op->traits & DS_EFFECT && i < ds_node_n_changed(node)))
            x->tensors[i] = copy_of(&inputs[i], &node->inputs[i]->type);
    }
    for (int k = 0; k < n_out; k++) {
        ds_tensor *out = &x->tensors[node->n_inputs + k];
        if (k == 0 && node->op->traits & DS_EFFECT) {
            *out = x->tensors[0];
            continue;
        }
        *out = allocate(result_type(node, k), false, false, 0);
        memset(out->data, 0xFF, (size_t)ds_count(out->dims, out->rank) * ds_dtype_size(out->dtype));
    }
    x->args = (ds_kernel_args){.node = node,
                               .n_inputs = node->n_inputs,
                               .n_outputs = n_out,
                               .inputs = x->tensors,
                               .outputs = x->tensors + node->n_inputs,
                               .n_threads = n_threads};
    (void)c;
}

static void tear_down(call *x, const ds_tensor *inputs) {
    const int n = x->args.n_inputs + x->args.n_outputs;
    for (int i = 0; i < n; i++) {
        const bool is_variable = i == x->args.n_inputs && x->args.node->op->traits & DS_EFFECT;
        if (!is_variable && !(i < x->args.n_inputs && x->tensors[i].data == inputs[i].data))
            free(x->tensors[i].data);
    }
}

static void run(call *x, const ds_kernel *kernel) {
    size_t bytes = 0;
    void *data[MAX_TENSORS];
    const int n = x->args.n_inputs + x->args.n_outputs;
    for (int i = 0; i < n; i++) { /* as promised, prepare sees no data */
        data[i] = x->tensors[i].data;
        x->tensors[i].data = NULL;
    }
    if (kernel->prepare)
        assert_int_equal(kernel->prepare(&x->args, &x->args.state, &bytes), DS_OK);
    for (int i = 0; i < n; i++)
        x->tensors[i].data = data[i];
    if (bytes) {
        x->args.workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
        memset(x->args.workspace, 0xFF, bytes);
    }
    for (int repeat = 0; repeat < 1 + !(x->args.node->op->traits & DS_EFFECT); repeat++)
        if (kernel->run(&x->args, NULL) != DS_OK)
            fail_msg("%s: %s", x->args.node->op->name, ds_error());
    free(x->args.workspace);
    if (kernel->release)
        kernel->release(x->args.state);
}

void check_kernel(const ds_node *node, kernel_case c) {
    ds_backend *cpu = NULL;
    assert_non_null(node);
    assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){0}, &cpu), DS_OK);
    const ds_kernel *kernel = cpu->ops->find_kernel(cpu, node);
    assert_non_null(kernel);
    if (kernel == &ds_kernel_reference && !c.allow_fallback)
        fail_msg("%s: no fast kernel took the node", node->op->name);
    ds_tensor inputs[MAX_TENSORS];
    for (int i = 0; i < node->n_inputs; i++) {
        inputs[i] = allocate(&node->inputs[i]->type, c.strided >> i & 1u, c.broadcast >> i & 1u,
                             c.seed + (uint64_t)i);
        draw_input(&inputs[i], i, &c);
    }
    if (c.adjust)
        c.adjust(node, inputs, c.context);
    call expected = {0};
    set_up(&expected, node, inputs, &ds_kernel_reference, &c, 1);
    run(&expected, &ds_kernel_reference);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        call got = {0};
        set_up(&got, node, inputs, kernel, &c, n_threads);
        run(&got, kernel);
        for (int k = 0; k < got.args.n_outputs; k++)
            if (!c.results || c.results >> k & 1u)
                compare(node, "result", k, &expected.args.outputs[k], &got.args.outputs[k], &c,
                        n_threads);
        for (int i = 0; i < ds_node_n_changed(node); i++)
            compare(node, "changed input", i, &expected.args.inputs[i], &got.args.inputs[i], &c,
                    n_threads);
        tear_down(&got, inputs);
    }
    tear_down(&expected, inputs);
    for (int i = 0; i < node->n_inputs; i++)
        free(inputs[i].data);
    ds_backend_close(cpu);
}

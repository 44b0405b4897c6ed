/* A group of element-wise ops as one: a short list of instructions over registers, done element by
 * element, so that what is between them never lies in memory. Made by the fuse_elementwise pass
 * after autodiff; it has no gradient of its own. Registers are f32: between instructions nothing is
 * rounded to a lower precision, the result alone is. */
#include "base/rng.h"
#include "graph/ops/ops.h"

int ds_instruction_args(const ds_instruction *i) {
    static const int n_args[DS_STEP_KINDS] = {
        [DS_STEP_UNARY] = 1, [DS_STEP_BINARY] = 2, [DS_STEP_SELECT] = 3, [DS_STEP_DROPOUT] = 1};
    return n_args[i->step];
}

/* Inputs that have the result's shape: all but the seed. */
int ds_fused_operands(const ds_node *node) {
    const ds_fused_elementwise_attrs *a = node->attrs;
    return node->n_inputs - (a->is_random ? 1 : 0);
}

static ds_status check_instructions(const ds_fused_elementwise_attrs *a, int n_operands) {
    if (a->n < 1 || a->n > DS_MAX_INSTRUCTIONS)
        return ds_fail(DS_INVALID, "%d instructions are not in 1 … %d", a->n, DS_MAX_INSTRUCTIONS);
    for (int i = 0; i < a->n; i++) {
        const ds_instruction *in = &a->list[i];
        if ((unsigned)in->step >= DS_STEP_KINDS || (in->step == DS_STEP_DROPOUT && !a->is_random))
            return ds_fail(DS_INVALID, "instruction %d is none", i);
        for (int k = 0; k < ds_instruction_args(in); k++)
            if (in->args[k] < 0 || in->args[k] >= n_operands + i)
                return ds_fail(DS_INVALID, "instruction %d reads what is not made yet", i);
    }
    return DS_OK;
}

static ds_status fused_shape(const ds_node *node, ds_type *results) {
    const ds_fused_elementwise_attrs *a = node->attrs;
    const int n = ds_fused_operands(node);
    if (n < 1 || n > DS_MAX_FUSED_OPERANDS)
        return ds_fail(DS_INVALID, "%d operands are not in 1 … %d", n, DS_MAX_FUSED_OPERANDS);
    if (!ds_dtype_is_float(a->dtype))
        return ds_fail(DS_INVALID, "the result must be a float, not %s", ds_dtype_name(a->dtype));
    results[0] = node->inputs[0]->type;
    for (int i = 1; i < n; i++) {
        ds_type t = node->inputs[i]->type;
        t.dtype = results[0].dtype;
        if (!ds_type_equal(&results[0], &t))
            return ds_fail(DS_INVALID, "operands differ in shape");
    }
    results[0].dtype = a->dtype;
    if (a->is_random) {
        const ds_type *seed = &node->inputs[n]->type;
        if (seed->dtype != DS_I64 || seed->rank != 1 || seed->dims[0] != DS_SEED_WORDS)
            return ds_fail(DS_INVALID, "the last input must be the seed");
    }
    return check_instructions(a, n);
}

static float dropped(const ds_kernel_args *args, const ds_instruction *in, float x, int64_t i) {
    const ds_tensor *seed = &args->inputs[args->n_inputs - 1];
    const uint64_t counter = ds_dropout_first(seed, &args->outputs[0]) + (uint64_t)i;
    const ds_philox_block b = ds_philox(ds_dropout_key(seed, in->place), counter / 4, 0);
    return ds_uniform(b.word[counter % 4]) < in->alpha ? 0 : x / (1 - in->alpha);
}

static float value_of(const ds_kernel_args *args, const ds_instruction *in, const float *registers,
                      int64_t element) {
    const float x = registers[in->args[0]];
    switch (in->step) {
    case DS_STEP_UNARY: return ds_unary_value((ds_unary)in->kind, x, in->alpha);
    case DS_STEP_BINARY: return ds_binary_value((ds_binary)in->kind, x, registers[in->args[1]]);
    case DS_STEP_SELECT: return x != 0 ? registers[in->args[1]] : registers[in->args[2]];
    case DS_STEP_DROPOUT: return dropped(args, in, x, element);
    case DS_STEP_KINDS: break;
    }
    return 0;
}

static void fused_reference(const ds_kernel_args *args) {
    const ds_fused_elementwise_attrs *a = args->node->attrs;
    const int n_operands = ds_fused_operands(args->node);
    const int64_t n = ds_count(args->outputs[0].dims, args->outputs[0].rank);
    float registers[DS_MAX_FUSED_OPERANDS + DS_MAX_INSTRUCTIONS] = {0};
    for (int64_t e = 0; e < n; e++) {
        for (int k = 0; k < n_operands; k++)
            registers[k] = (float)ds_tensor_element(&args->inputs[k], e);
        for (int i = 0; i < a->n; i++)
            registers[n_operands + i] = value_of(args, &a->list[i], registers, e);
        ((float *)args->outputs[0].data)[e] = registers[n_operands + a->n - 1];
    }
}

static const char *name_of(const ds_instruction *in) {
    switch (in->step) {
    case DS_STEP_UNARY: return ds_unary_name((ds_unary)in->kind);
    case DS_STEP_BINARY: return ds_binary_name((ds_binary)in->kind);
    case DS_STEP_SELECT: return "select";
    default: return "dropout";
    }
}

/* "silu x0; mul t0 x1": x are inputs, t results of instructions. */
static void fused_describe(const ds_node *node, ds_text *out) {
    const ds_fused_elementwise_attrs *a = node->attrs;
    const int n_operands = ds_fused_operands(node);
    for (int i = 0; i < a->n; i++) {
        const ds_instruction *in = &a->list[i];
        ds_text_printf(out, "%s%s", i ? "; " : "", name_of(in));
        if (in->alpha != 0)
            ds_text_printf(out, " %g", (double)in->alpha);
        for (int k = 0; k < ds_instruction_args(in); k++) {
            const int arg = in->args[k];
            ds_text_printf(out, " %c%d", arg < n_operands ? 'x' : 't',
                           arg < n_operands ? arg : arg - n_operands);
        }
    }
}

const ds_op ds_op_fused_elementwise = {
    .name = "fused_elementwise",
    .attrs_size = sizeof(ds_fused_elementwise_attrs),
    .traits = DS_ELEMENTWISE,
    .precision = DS_PRECISION_KEEP,
    .shape = fused_shape,
    .reference = fused_reference,
    .describe = fused_describe,
};

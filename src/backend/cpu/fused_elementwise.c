/* A fused group of element-wise ops: the list of instructions is gone through for a block of
 * elements at a time, with the same inner loops that the single ops use, on registers that stay in
 * the cache. */
#include "backend/cpu/kernels.h"

/* Where each instruction writes: a register is free again once its last reader has run. */
typedef struct schedule {
    int slot[DS_MAX_INSTRUCTIONS];
} schedule;

static int last_reader(const ds_fused_elementwise_attrs *a, int value, int from) {
    int last = from;
    for (int i = from + 1; i < a->n; i++)
        for (int k = 0; k < ds_instruction_args(&a->list[i]); k++)
            if (a->list[i].args[k] == value)
                last = i;
    return last;
}

static schedule allocate(const ds_fused_elementwise_attrs *a, int n_operands) {
    schedule s;
    int busy_until[DS_MAX_INSTRUCTIONS];
    for (int i = 0; i < DS_MAX_INSTRUCTIONS; i++)
        busy_until[i] = -1;
    for (int i = 0; i < a->n; i++) {
        int slot = 0;
        while (busy_until[slot] > i) /* what instruction i reads last may be written over */
            slot++;
        busy_until[slot] = last_reader(a, n_operands + i, i);
        s.slot[i] = slot;
    }
    return s;
}

typedef struct block {
    const float *values[DS_MAX_FUSED_OPERANDS + DS_MAX_INSTRUCTIONS];
    int64_t first, n; /* elements */
} block;

static void execute(const ds_kernel_args *args, const ds_instruction *in, const block *b,
                    float *y) {
    const ds_simd *simd = ds_cpu_simd();
    const float *x = b->values[in->args[0]];
    switch (in->step) {
    case DS_STEP_UNARY: simd->unary((ds_unary)in->kind, in->alpha, x, y, b->n); break;
    case DS_STEP_BINARY:
        simd->binary((ds_binary)in->kind, x, b->values[in->args[1]], y, b->n);
        break;
    case DS_STEP_SELECT:
        simd->select(x, b->values[in->args[1]], b->values[in->args[2]], y, b->n);
        break;
    case DS_STEP_DROPOUT: {
        const ds_tensor *seed = &args->inputs[args->n_inputs - 1];
        const uint64_t first = ds_dropout_first(seed, &args->outputs[0]) + (uint64_t)b->first;
        simd->dropout(ds_dropout_key(seed, in->place), first, in->alpha, x, y, b->n);
        break;
    }
    case DS_STEP_KINDS: break;
    }
}

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_fused_elementwise_attrs *a = args->node->attrs;
    const int n_operands = ds_fused_operands(args->node);
    const ds_tensor *out = &args->outputs[0];
    const ds_tensor *operands[DS_MAX_OPERANDS] = {out};
    for (int k = 0; k < n_operands; k++)
        operands[1 + k] = &args->inputs[k];
    const ds_walk w = ds_walk_over(operands, 1 + n_operands);
    const schedule s = allocate(a, n_operands);
#pragma omp parallel for num_threads(ds_cpu_threads(w.count, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < w.n_pieces; i++) {
        const ds_piece p = ds_walk_piece(&w, i);
        float inputs[DS_MAX_FUSED_OPERANDS][DS_BLOCK], registers[DS_MAX_INSTRUCTIONS][DS_BLOCK];
        block b = {.first = p.offset[0], .n = p.n}; /* the result is row-major */
        for (int k = 0; k < n_operands; k++)
            b.values[k] = ds_cpu_fetch(&args->inputs[k], p.offset[1 + k], w.inner_stride[1 + k],
                                       p.n, inputs[k]);
        for (int k = 0; k < a->n; k++) {
            float *y = registers[s.slot[k]];
            if (k == a->n - 1) /* the result may lie over an input: nothing is read after it */
                y = ds_cpu_target(out, p.offset[0], y);
            execute(args, &a->list[k], &b, y);
            b.values[n_operands + k] = y;
        }
        ds_cpu_put(out, p.offset[0], b.values[n_operands + a->n - 1], p.n);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_fused_elementwise = {.op = &ds_op_fused_elementwise,
                                            .strided_inputs = (1u << DS_MAX_FUSED_OPERANDS) - 1,
                                            .in_place = (1u << DS_MAX_FUSED_OPERANDS) - 1,
                                            .run = run};

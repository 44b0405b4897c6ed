/* Dropout: the reference's own mask, drawn many counters at a time. */
#include "backend/cpu/kernels.h"

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_dropout_attrs *a = args->node->attrs;
    const ds_tensor *x = &args->inputs[0], *out = &args->outputs[0];
    const int64_t n = ds_count(out->dims, out->rank), blocks = (n + DS_BLOCK - 1) / DS_BLOCK;
    const uint64_t key = ds_dropout_key(&args->inputs[1], a->place);
    const uint64_t first = ds_dropout_first(&args->inputs[1], out);
#pragma omp parallel for num_threads(ds_cpu_threads(n, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t start = i * DS_BLOCK, left = n - start;
        const int64_t length = left < DS_BLOCK ? left : DS_BLOCK;
        float buffer[DS_BLOCK], result[DS_BLOCK];
        const float *v = ds_cpu_fetch(x, start, 1, length, buffer);
        float *y = ds_cpu_target(out, start, result);
        ds_cpu_simd()->dropout(key, first + (uint64_t)start, a->p, v, y, length);
        ds_cpu_put(out, start, y, length);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_dropout = {.op = &ds_op_dropout, .in_place = 1, .run = run};

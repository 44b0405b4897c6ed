/* The CPU backend: a table of fast kernels, and the reference kernel for what is not in it. */
#include <stdio.h>
#include <stdlib.h>

#include <omp.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/limits.h"
#include "base/alloc.h"

static const ds_kernel *const kernels[] = {
    &ds_cpu_matmul,
    &ds_cpu_grouped_matmul,
    &ds_cpu_grouped_matmul_weight,
    &ds_cpu_quantised_matmul,
    &ds_cpu_conv2d,
    &ds_cpu_conv2d_input_grad,
    &ds_cpu_conv2d_weight_grad,
    &ds_cpu_unary,
    &ds_cpu_binary,
    &ds_cpu_select,
    &ds_cpu_fused_elementwise,
    &ds_cpu_cast,
    &ds_cpu_concat,
    &ds_cpu_contiguous,
    &ds_cpu_fill,
    &ds_cpu_assign,
    &ds_cpu_accumulate,
    &ds_cpu_cache_write,
    &ds_cpu_reduce,
    &ds_cpu_sum_of_squares,
    &ds_cpu_gather,
    &ds_cpu_scatter_add,
    &ds_cpu_moe_route,
    &ds_cpu_argmax,
    &ds_cpu_topk,
    &ds_cpu_quantisation_scale,
    &ds_cpu_quantise,
    &ds_cpu_dequantise,
    &ds_cpu_fake_quantise,
    &ds_cpu_fake_quantise_grad,
    &ds_cpu_softmax,
    &ds_cpu_softmax_grad,
    &ds_cpu_log_softmax,
    &ds_cpu_log_softmax_grad,
    &ds_cpu_layer_norm,
    &ds_cpu_layer_norm_grad,
    &ds_cpu_rms_norm,
    &ds_cpu_rms_norm_grad,
    &ds_cpu_cross_entropy,
    &ds_cpu_cross_entropy_grad,
    &ds_cpu_linear_cross_entropy,
    &ds_cpu_attention,
    &ds_cpu_attention_grad,
    &ds_cpu_paged_write,
    &ds_cpu_paged_attention,
    &ds_cpu_rotary,
    &ds_cpu_dropout,
    &ds_cpu_adamw,
    &ds_cpu_sgd,
    &ds_cpu_lion,
};

static const ds_kernel *find_kernel(ds_backend *b, const ds_node *node) {
    (void)b;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (kernels[i]->op == node->op && (!kernels[i]->accepts || kernels[i]->accepts(node)))
            return kernels[i];
    return &ds_kernel_reference;
}

/* Where bf16 has no faster way of its own, its products go through f32. */
static double peak_flops(ds_backend *b, ds_dtype dtype) {
    const double budget_s = 0.04; /* it stands between the user and the first step */
    double f32 = 0, bf16 = 0;
    omp_set_num_threads(b->info.n_threads);
    if (ds_cpu_limit(DS_LIMIT_F32, budget_s, &f32) != DS_OK ||
        (dtype == DS_BF16 && ds_cpu_limit(DS_LIMIT_BF16, budget_s, &bf16) != DS_OK))
        return 0;
    return bf16 > f32 ? bf16 : f32;
}

static void close_cpu(ds_backend *b) {
    free(b);
}

/* libgomp counts the threads of all teams of the process; where they are more than the processors,
 * threads sleep at every barrier instead of waiting for it. */
static void rest(ds_backend *b) {
    (void)b;
    omp_pause_resource_all(omp_pause_soft);
}

static const ds_backend_ops cpu_ops = {
    .close = close_cpu,
    .alloc = ds_host_alloc,
    .release = ds_host_release,
    .use_in_parts = ds_host_use_in_parts,
    .rest = rest,
    .copy = ds_host_copy,
    .stream_new = ds_host_stream_new,
    .stream_free = ds_host_stream_free,
    .synchronise = ds_host_synchronise,
    .event_new = ds_host_event_new,
    .event_free = ds_host_event_free,
    .event_record = ds_host_event_record,
    .stream_wait = ds_host_stream_wait,
    .peak_flops = peak_flops,
    .find_kernel = find_kernel,
    .reads_host_memory = true,
};

ds_status ds_backend_open_cpu(ds_backend_opts opts, ds_backend **out) {
    ds_backend *b = ds_calloc(1, sizeof *b);
    if (!b)
        return DS_OUT_OF_MEMORY;
    b->ops = &cpu_ops;
    ds_host_info("cpu", opts, &b->info);
    snprintf(b->info.isa, sizeof b->info.isa, "%s", ds_cpu_simd()->name);
    *out = b;
    return DS_OK;
}

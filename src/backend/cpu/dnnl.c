/* oneDNN handles: one engine and stream for the process (they are free of state on a processor),
 * one primitive with its memory objects per product. */
#include "backend/cpu/dnnl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

static dnnl_engine_t engine;
static dnnl_stream_t stream;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_engine(void) {
    if (dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success)
        dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
}

dnnl_engine_t ds_dnnl_engine(void) {
    pthread_once(&once, open_engine);
    return engine;
}

dnnl_stream_t ds_dnnl_stream(void) {
    pthread_once(&once, open_engine);
    return stream;
}

ds_status ds_dnnl_check(dnnl_status_t status, const char *call) {
    if (status == dnnl_success)
        return DS_OK;
    if (status == dnnl_out_of_memory)
        return ds_fail(DS_OUT_OF_MEMORY, "oneDNN: %s: out of memory", call);
    if (status == dnnl_unimplemented)
        return ds_fail(DS_UNSUPPORTED, "oneDNN: %s: not implemented on this processor", call);
    return ds_fail(DS_INTERNAL, "oneDNN: %s failed with status %d", call, (int)status);
}

dnnl_data_type_t ds_dnnl_dtype(ds_dtype dtype) {
    switch (dtype) {
    case DS_F32: return dnnl_f32;
    case DS_BF16: return dnnl_bf16;
    case DS_I8: return dnnl_s8;
    case DS_I32: return dnnl_s32;
    default: return dnnl_data_type_undef;
    }
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static ds_status describe(const ds_product *p, const ds_operand *x, int64_t rows, int64_t columns,
                          bool shared, dnnl_memory_desc_t *out) {
    dnnl_dims_t dims = {rows, columns}, strides = {x->row_stride, x->column_stride};
    int rank = 2;
    if (p->batch != 1) {
        dims[0] = shared ? 1 : p->batch, dims[1] = rows, dims[2] = columns;
        strides[0] = x->batch_stride, strides[1] = x->row_stride, strides[2] = x->column_stride;
        rank = 3;
    }
    return ds_dnnl_check(
        dnnl_memory_desc_init_by_strides(out, rank, dims, ds_dnnl_dtype(x->dtype), strides),
        "memory_desc_init_by_strides");
}

static ds_status describe_any(ds_dtype dtype, int64_t k, int64_t n, dnnl_memory_desc_t *out) {
    dnnl_dims_t dims = {k, n};
    return ds_dnnl_check(
        dnnl_memory_desc_init_by_tag(out, 2, dims, ds_dnnl_dtype(dtype), dnnl_format_tag_any),
        "memory_desc_init_by_tag");
}

static bool is_reference(const_dnnl_primitive_desc_t pd) {
    const char *name = "";
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
    return strncmp(name, "ref", 3) == 0;
}

/* ---- packing --------------------------------------------------------------------------------- */

static ds_status packing_from(const dnnl_matmul_desc_t *op, ds_packing *out) {
    dnnl_primitive_desc_t pd = NULL;
    DS_TRY(ds_dnnl_check(
        dnnl_primitive_desc_create(&pd, (const_dnnl_op_desc_t)op, NULL, ds_dnnl_engine(), NULL),
        "matmul"));
    if (is_reference(pd)) {
        dnnl_primitive_desc_destroy(pd);
        return ds_fail(DS_UNSUPPORTED, "oneDNN: only its reference matmul runs here");
    }
    out->desc = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    out->bytes = dnnl_memory_desc_get_size(&out->desc);
    out->is_plain = out->desc.format_desc.blocking.inner_nblks == 0;
    dnnl_primitive_desc_destroy(pd);
    return DS_OK;
}

ds_status ds_packing_of(ds_dtype dtype, int64_t m, int64_t k, int64_t n, ds_packing *out) {
    const ds_product p = {.batch = 1};
    const ds_operand rows = {.dtype = dtype, .row_stride = k, .column_stride = 1};
    const ds_operand result = {
        .dtype = dtype == DS_I8 ? DS_I32 : dtype, .row_stride = n, .column_stride = 1};
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t op;
    DS_TRY(describe(&p, &rows, m, k, false, &a));
    DS_TRY(describe_any(dtype, k, n, &b));
    DS_TRY(describe(&p, &result, m, n, false, &c));
    DS_TRY(ds_dnnl_check(dnnl_matmul_desc_init(&op, &a, &b, NULL, &c), "matmul_desc_init"));
    return packing_from(&op, out);
}

struct ds_packer {
    dnnl_primitive_t primitive;
    dnnl_memory_t from, to;
};

static ds_status create_packer(const ds_packing *packing, const dnnl_memory_desc_t *from,
                               ds_packer *p) {
    dnnl_engine_t e = ds_dnnl_engine();
    dnnl_primitive_desc_t pd = NULL;
    DS_TRY(ds_dnnl_check(dnnl_reorder_primitive_desc_create(&pd, from, e, &packing->desc, e, NULL),
                         "reorder"));
    const dnnl_status_t made = dnnl_primitive_create(&p->primitive, pd);
    dnnl_primitive_desc_destroy(pd);
    DS_TRY(ds_dnnl_check(made, "primitive_create"));
    DS_TRY(ds_dnnl_check(dnnl_memory_create(&p->from, from, e, DNNL_MEMORY_NONE), "memory_create"));
    return ds_dnnl_check(dnnl_memory_create(&p->to, &packing->desc, e, DNNL_MEMORY_NONE),
                         "memory_create");
}

ds_status ds_packer_new(const ds_packing *packing, const ds_operand *from, int64_t k, int64_t n,
                        ds_packer **out) {
    const ds_product plain = {.batch = 1};
    dnnl_memory_desc_t desc;
    DS_TRY(describe(&plain, from, k, n, false, &desc));
    ds_packer *p = ds_calloc(1, sizeof *p);
    if (!p)
        return DS_OUT_OF_MEMORY;
    const ds_status status = create_packer(packing, &desc, p);
    if (status != DS_OK) {
        ds_packer_free(p);
        return status;
    }
    *out = p;
    return DS_OK;
}

ds_status ds_packer_run(ds_packer *p, const void *from, void *to) {
    dnnl_memory_set_data_handle(p->from, (void *)from);
    dnnl_memory_set_data_handle(p->to, to);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, p->from}, {DNNL_ARG_TO, p->to}};
    return ds_dnnl_check(dnnl_primitive_execute(p->primitive, ds_dnnl_stream(), 2, args),
                         "reorder");
}

void ds_packer_free(ds_packer *p) {
    if (!p)
        return;
    dnnl_primitive_destroy(p->primitive);
    dnnl_memory_destroy(p->from);
    dnnl_memory_destroy(p->to);
    free(p);
}

/* ---- products -------------------------------------------------------------------------------- */

struct ds_dnnl_gemm {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, bias, residual, scratchpad;
    int residual_index; /* among the post-ops */
    size_t workspace;
};

static dnnl_alg_kind_t activation_of(ds_unary kind) {
    switch (kind) {
    case DS_GELU: return dnnl_eltwise_gelu_erf;
    case DS_GELU_TANH: return dnnl_eltwise_gelu_tanh;
    case DS_SILU: return dnnl_eltwise_swish;
    case DS_RELU: return dnnl_eltwise_relu;
    default: return dnnl_alg_kind_undef;
    }
}

static ds_status make_attributes(const ds_product *p, const dnnl_memory_desc_t *c,
                                 dnnl_primitive_attr_t attr) {
    dnnl_post_ops_t ops = NULL;
    DS_TRY(ds_dnnl_check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user),
                         "scratchpad_mode"));
    DS_TRY(ds_dnnl_check(dnnl_post_ops_create(&ops), "post_ops_create"));
    dnnl_status_t status = dnnl_success;
    if (p->accumulates)
        status = dnnl_post_ops_append_sum(ops, 1.0f);
    if (status == dnnl_success && p->has_activation) {
        const dnnl_alg_kind_t kind = activation_of(p->activation);
        const float alpha = kind == dnnl_eltwise_swish ? 1.0f : 0.0f;
        status = kind == dnnl_alg_kind_undef
                     ? dnnl_unimplemented
                     : dnnl_post_ops_append_eltwise(ops, 1.0f, kind, alpha, 0.0f);
    }
    if (status == dnnl_success && p->has_residual)
        status = dnnl_post_ops_append_binary(ops, dnnl_binary_add, c);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(attr, ops);
    dnnl_post_ops_destroy(ops);
    return ds_dnnl_check(status, "post-ops");
}

static ds_status describe_bias(const ds_product *p, dnnl_memory_desc_t *out) {
    dnnl_dims_t dims = {1, p->n};
    if (p->batch != 1)
        dims[1] = 1, dims[2] = p->n;
    return ds_dnnl_check(dnnl_memory_desc_init_by_tag(out, p->batch != 1 ? 3 : 2, dims, dnnl_f32,
                                                      p->batch != 1 ? dnnl_abc : dnnl_ab),
                         "memory_desc_init_by_tag");
}

static ds_status make_memory(dnnl_memory_t *out, const dnnl_memory_desc_t *desc) {
    return ds_dnnl_check(dnnl_memory_create(out, desc, ds_dnnl_engine(), DNNL_MEMORY_NONE),
                         "memory_create");
}

typedef struct gemm_descs {
    dnnl_memory_desc_t a, b, c, bias;
} gemm_descs;

static ds_status describe_all(const ds_product *p, const ds_packing *packing, gemm_descs *d) {
    DS_TRY(describe(p, &p->a, p->m, p->k, false, &d->a));
    if (packing)
        d->b = packing->desc;
    else
        DS_TRY(describe(p, &p->b, p->k, p->n, p->b.batch_stride == 0, &d->b));
    DS_TRY(describe(p, &p->c, p->m, p->n, false, &d->c));
    return describe_bias(p, &d->bias);
}

/* Without VNNI oneDNN multiplies bytes by vpmaddubsw, which adds pairs of products in 16 bits and
 * cuts what does not fit (oneDNN, "Nuances of int8 computations"). Its reference is exact. */
static bool is_exact(const ds_product *p, const_dnnl_primitive_desc_t pd) {
    const unsigned vnni = (dnnl_cpu_isa_avx512_core_vnni & ~dnnl_cpu_isa_avx512_core) |
                          (dnnl_cpu_isa_avx2_vnni & ~dnnl_cpu_isa_avx2);
    return p->a.dtype != DS_I8 || is_reference(pd) || (dnnl_get_effective_cpu_isa() & vnni);
}

static ds_status create_gemm(const ds_product *p, const gemm_descs *d, dnnl_primitive_attr_t attr,
                             ds_dnnl_gemm *g) {
    dnnl_matmul_desc_t op;
    dnnl_primitive_desc_t pd = NULL;
    DS_TRY(make_attributes(p, &d->c, attr));
    DS_TRY(ds_dnnl_check(
        dnnl_matmul_desc_init(&op, &d->a, &d->b, p->has_bias ? &d->bias : NULL, &d->c),
        "matmul_desc_init"));
    DS_TRY(ds_dnnl_check(
        dnnl_primitive_desc_create(&pd, (const_dnnl_op_desc_t)&op, attr, ds_dnnl_engine(), NULL),
        "matmul"));
    const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    const dnnl_memory_desc_t scratchpad = *pad;
    g->workspace = dnnl_memory_desc_get_size(&scratchpad);
    dnnl_status_t made = dnnl_unimplemented; /* its reference: ours converts less */
    if (is_exact(p, pd) && (!is_reference(pd) || p->a.dtype == DS_F32 || p->a.dtype == DS_I8))
        made = dnnl_primitive_create(&g->primitive, pd);
    dnnl_primitive_desc_destroy(pd);
    DS_TRY(ds_dnnl_check(made, "primitive_create"));
    DS_TRY(make_memory(&g->a, &d->a));
    DS_TRY(make_memory(&g->b, &d->b));
    DS_TRY(make_memory(&g->c, &d->c));
    DS_TRY(make_memory(&g->scratchpad, &scratchpad));
    if (p->has_bias)
        DS_TRY(make_memory(&g->bias, &d->bias));
    if (p->has_residual)
        DS_TRY(make_memory(&g->residual, &d->c));
    g->residual_index = (p->accumulates ? 1 : 0) + (p->has_activation ? 1 : 0);
    return DS_OK;
}

ds_status ds_dnnl_gemm_new(const ds_product *p, const ds_packing *packing, ds_dnnl_gemm **out) {
    gemm_descs descs;
    dnnl_primitive_attr_t attr = NULL;
    if (ds_dnnl_dtype(p->a.dtype) == dnnl_data_type_undef ||
        ds_dnnl_dtype(p->c.dtype) == dnnl_data_type_undef)
        return ds_fail(DS_UNSUPPORTED, "oneDNN: no products of %s", ds_dtype_name(p->a.dtype));
    DS_TRY(describe_all(p, packing, &descs));
    DS_TRY(ds_dnnl_check(dnnl_primitive_attr_create(&attr), "attr_create"));
    ds_dnnl_gemm *g = ds_calloc(1, sizeof *g);
    ds_status status = g ? create_gemm(p, &descs, attr, g) : DS_OUT_OF_MEMORY;
    dnnl_primitive_attr_destroy(attr);
    if (status != DS_OK) {
        ds_dnnl_gemm_free(g);
        return status;
    }
    *out = g;
    return DS_OK;
}

size_t ds_dnnl_gemm_workspace(const ds_dnnl_gemm *g) {
    return g->workspace;
}

ds_status ds_dnnl_gemm_run(ds_dnnl_gemm *g, const void *a, const void *b, void *c,
                           const float *bias, const void *residual, void *workspace) {
    dnnl_exec_arg_t args[6] = {{DNNL_ARG_SRC, g->a},
                               {DNNL_ARG_WEIGHTS, g->b},
                               {DNNL_ARG_DST, g->c},
                               {DNNL_ARG_SCRATCHPAD, g->scratchpad}};
    int n = 4;
    dnnl_memory_set_data_handle(g->a, (void *)a);
    dnnl_memory_set_data_handle(g->b, (void *)b);
    dnnl_memory_set_data_handle(g->c, c);
    dnnl_memory_set_data_handle(g->scratchpad, workspace);
    if (g->bias) {
        dnnl_memory_set_data_handle(g->bias, (void *)bias);
        args[n++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, g->bias};
    }
    if (g->residual) {
        dnnl_memory_set_data_handle(g->residual, (void *)residual);
        args[n++] = (dnnl_exec_arg_t){
            DNNL_ARG_ATTR_MULTIPLE_POST_OP(g->residual_index) | DNNL_ARG_SRC_1, g->residual};
    }
    return ds_dnnl_check(dnnl_primitive_execute(g->primitive, ds_dnnl_stream(), n, args), "matmul");
}

void ds_dnnl_gemm_free(ds_dnnl_gemm *g) {
    if (!g)
        return;
    dnnl_primitive_destroy(g->primitive);
    dnnl_memory_t memories[] = {g->a, g->b, g->c, g->bias, g->residual, g->scratchpad};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
        if (memories[i])
            dnnl_memory_destroy(memories[i]);
    free(g);
}

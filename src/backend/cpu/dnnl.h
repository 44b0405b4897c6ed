/* Matrix products by oneDNN (https://oneapi-src.github.io/oneDNN), behind one small struct.
 * Operands must be dense. */
#ifndef DS_CPU_DNNL_H
#define DS_CPU_DNNL_H

#include <oneapi/dnnl/dnnl.h>

#include "backend/cpu/gemm.h"

dnnl_engine_t ds_dnnl_engine(void);
dnnl_stream_t ds_dnnl_stream(void);
/* DS_OK or DS_INTERNAL with a message naming the call. */
ds_status ds_dnnl_check(dnnl_status_t status, const char *call);
/* dnnl_data_type_undef where it has none. */
dnnl_data_type_t ds_dnnl_dtype(ds_dtype dtype);

/* The layout that oneDNN wants for the right operand. */
typedef struct ds_packing {
    dnnl_memory_desc_t desc;
    size_t bytes;
    bool is_plain; /* oneDNN has no better layout than row-major here */
} ds_packing;

/* How to pack a k × n matrix of dtype for products with about m rows. DS_UNSUPPORTED if this
 * processor multiplies no such matrices. */
ds_status ds_packing_of(ds_dtype dtype, int64_t m, int64_t k, int64_t n, ds_packing *out);

typedef struct ds_packer ds_packer; /* plain → packed, converting dtype */
ds_status ds_packer_new(const ds_packing *packing, const ds_operand *from, int64_t k, int64_t n,
                        ds_packer **out);
ds_status ds_packer_run(ds_packer *p, const void *from, void *to);
void ds_packer_free(ds_packer *p);

typedef struct ds_dnnl_gemm ds_dnnl_gemm;
/* packing: that of b, or NULL. DS_UNSUPPORTED when oneDNN has no fast implementation of it. */
ds_status ds_dnnl_gemm_new(const ds_product *p, const ds_packing *packing, ds_dnnl_gemm **out);
size_t ds_dnnl_gemm_workspace(const ds_dnnl_gemm *g); /* bytes */
ds_status ds_dnnl_gemm_run(ds_dnnl_gemm *g, const void *a, const void *b, void *c,
                           const float *bias, const void *residual, void *workspace);
void ds_dnnl_gemm_free(ds_dnnl_gemm *g);

#endif

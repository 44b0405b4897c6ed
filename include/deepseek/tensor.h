/* Element types and tensors in host memory.
 *
 *     int64_t dims[] = {2, 3};
 *     printf("%zu bytes\n", ds_dtype_size(DS_F32) * (size_t)ds_count(dims, 2));
 */
#ifndef DEEPSEEK_TENSOR_H
#define DEEPSEEK_TENSOR_H

#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DS_MAX_RANK = 6 };

typedef enum ds_dtype {
    DS_F32,
    DS_BF16,
    DS_F16,
    DS_I8,
    DS_U8, /* also truth values: 0 or 1 */
    DS_I32,
    DS_I64,
    DS_DTYPES
} ds_dtype;

DS_API size_t ds_dtype_size(ds_dtype dtype);      /* bytes per element */
DS_API const char *ds_dtype_name(ds_dtype dtype); /* "f32", "bf16", … static */
DS_API int ds_dtype_is_float(ds_dtype dtype);

/* Product of the dims: number of elements; 1 for rank 0. */
DS_API int64_t ds_count(const int64_t *dims, int rank);

/* Elements in host memory, described; the memory is borrowed. Row-major where strides are not
 * stated otherwise. */
typedef struct ds_tensor {
    void *data;
    ds_dtype dtype;
    int rank;
    int64_t dims[DS_MAX_RANK];
    int64_t strides[DS_MAX_RANK]; /* in elements; the last is 1 when row-major */
} ds_tensor;

/* A row-major tensor over data. */
DS_API ds_tensor ds_tensor_of(void *data, ds_dtype dtype, int rank, const int64_t *dims);

#ifdef __cplusplus
}
#endif
#endif

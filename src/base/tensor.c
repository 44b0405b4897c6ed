#include "deepseek/tensor.h"

static const struct {
    const char *name;
    size_t size; /* bytes */
    int is_float;
} dtypes[DS_DTYPES] = {
    [DS_F32] = {"f32", 4, 1}, [DS_BF16] = {"bf16", 2, 1}, [DS_F16] = {"f16", 2, 1},
    [DS_I8] = {"i8", 1, 0},   [DS_U8] = {"u8", 1, 0},     [DS_I32] = {"i32", 4, 0},
    [DS_I64] = {"i64", 8, 0},
};

size_t ds_dtype_size(ds_dtype dtype) {
    return dtypes[dtype].size;
}

const char *ds_dtype_name(ds_dtype dtype) {
    return dtypes[dtype].name;
}

int ds_dtype_is_float(ds_dtype dtype) {
    return dtypes[dtype].is_float;
}

int64_t ds_count(const int64_t *dims, int rank) {
    int64_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= dims[i];
    return n;
}

ds_tensor ds_tensor_of(void *data, ds_dtype dtype, int rank, const int64_t *dims) {
    ds_tensor t = {.data = data, .dtype = dtype, .rank = rank};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t.dims[i] = dims[i];
        t.strides[i] = stride;
        stride *= dims[i];
    }
    return t;
}

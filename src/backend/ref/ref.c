/* The reference backend: op->reference, called on plain f32 copies of its inputs. Slow and simple,
 * it is the oracle of every other backend; host backends also use its kernel for the ops they have
 * no faster one for. */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/half.h"

enum { MAX_TENSORS = 64 };

static bool is_row_major(const ds_tensor *t) {
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dims[i] != 1 && t->strides[i] != stride)
            return false;
        stride *= t->dims[i];
    }
    return true;
}

/* Element offset of the i-th element in row-major order. */
static int64_t offset_of(const ds_tensor *t, int64_t i) {
    int64_t offset = 0;
    for (int axis = t->rank - 1; axis >= 0; axis--) {
        offset += i % t->dims[axis] * t->strides[axis];
        i /= t->dims[axis];
    }
    return offset;
}

static float load_float(const ds_tensor *t, int64_t offset) {
    switch (t->dtype) {
    case DS_BF16: return ds_bf16_to_f32(((const uint16_t *)t->data)[offset]);
    case DS_F16: return ds_f16_to_f32(((const uint16_t *)t->data)[offset]);
    default: return ((const float *)t->data)[offset];
    }
}

static void store_float(const ds_tensor *t, int64_t offset, float x) {
    switch (t->dtype) {
    case DS_BF16: ((uint16_t *)t->data)[offset] = ds_f32_to_bf16(x); break;
    case DS_F16: ((uint16_t *)t->data)[offset] = ds_f32_to_f16(x); break;
    default: ((float *)t->data)[offset] = x; break;
    }
}

static bool needs_copy(const ds_tensor *t) {
    return !is_row_major(t) || t->dtype == DS_BF16 || t->dtype == DS_F16;
}

/* A row-major stand-in for t: floats as f32. Its contents are t's when `filled`. */
static ds_status stand_in(const ds_tensor *t, bool filled, ds_tensor *out) {
    const int64_t n = ds_count(t->dims, t->rank);
    const bool is_float = ds_dtype_is_float(t->dtype) != 0;
    const size_t size = is_float ? sizeof(float) : ds_dtype_size(t->dtype);
    *out = ds_tensor_of(ds_malloc((size_t)n * size), t->dtype, t->rank, t->dims);
    if (!out->data)
        return DS_OUT_OF_MEMORY;
    for (int64_t i = 0; filled && i < n; i++) {
        const int64_t from = offset_of(t, i);
        if (is_float)
            ((float *)out->data)[i] = load_float(t, from);
        else
            memcpy((char *)out->data + (size_t)i * size,
                   (const char *)t->data + (size_t)from * size, size);
    }
    return DS_OK;
}

static void write_back(const ds_tensor *from, const ds_tensor *to) {
    const int64_t n = ds_count(to->dims, to->rank);
    const size_t size = ds_dtype_size(to->dtype);
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = offset_of(to, i);
        if (ds_dtype_is_float(to->dtype))
            store_float(to, at, ((const float *)from->data)[i]);
        else
            memcpy((char *)to->data + (size_t)at * size,
                   (const char *)from->data + (size_t)i * size, size);
    }
}

static ds_status run_reference(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_op *op = args->node->op;
    ds_tensor few[MAX_TENSORS], *plain = few; /* inputs, then outputs */
    const int n_in = args->n_inputs, n = n_in + args->n_outputs;
    if (n > MAX_TENSORS && !(plain = ds_malloc((size_t)n * sizeof *plain)))
        return DS_OUT_OF_MEMORY;
    ds_status status = DS_OK;
    const int n_changed = ds_node_n_changed(args->node);
    int made = 0;
    for (; made < n && status == DS_OK; made++) {
        const ds_tensor *t = made < n_in ? &args->inputs[made] : &args->outputs[made - n_in];
        if (made == n_in && (op->traits & DS_EFFECT))
            plain[made] = plain[0]; /* the variable itself */
        else if (needs_copy(t))
            status = stand_in(t, made < n_in, &plain[made]);
        else
            plain[made] = *t;
    }
    if (status == DS_OK) {
        ds_kernel_args call = *args;
        call.inputs = plain;
        call.outputs = plain + n_in;
        op->reference(&call);
        for (int i = 0; i < n; i++) {
            const ds_tensor *t = i < n_in ? &args->inputs[i] : &args->outputs[i - n_in];
            const bool changed = i < n_in ? i < n_changed : !(op->traits & DS_EFFECT) || i > n_in;
            if (changed && plain[i].data != t->data)
                write_back(&plain[i], t);
        }
    }
    for (int i = 0; i < made; i++) {
        const ds_tensor *t = i < n_in ? &args->inputs[i] : &args->outputs[i - n_in];
        if (!(i == n_in && (op->traits & DS_EFFECT)) && plain[i].data != t->data)
            free(plain[i].data);
    }
    if (plain != few)
        free(plain);
    return status;
}

const ds_kernel ds_kernel_reference = {.strided_inputs = ~0u, .run = run_reference};

static const ds_kernel *find_kernel(ds_backend *b, const ds_node *node) {
    (void)b;
    if (node->op->reference)
        return &ds_kernel_reference;
    ds_fail(DS_UNSUPPORTED, "the op %s has no reference kernel", node->op->name);
    return NULL;
}

static void close_ref(ds_backend *b) {
    free(b);
}

static const ds_backend_ops ref_ops = {
    .close = close_ref,
    .alloc = ds_host_alloc,
    .release = ds_host_release,
    .use_in_parts = ds_host_use_in_parts,
    .copy = ds_host_copy,
    .stream_new = ds_host_stream_new,
    .stream_free = ds_host_stream_free,
    .synchronise = ds_host_synchronise,
    .event_new = ds_host_event_new,
    .event_free = ds_host_event_free,
    .event_record = ds_host_event_record,
    .stream_wait = ds_host_stream_wait,
    .find_kernel = find_kernel,
    .reads_host_memory = true,
};

ds_status ds_backend_open_ref(ds_backend_opts opts, ds_backend **out) {
    ds_backend *b = ds_calloc(1, sizeof *b);
    if (!b)
        return DS_OUT_OF_MEMORY;
    b->ops = &ref_ops;
    ds_host_info("ref", opts, &b->info);
    *out = b;
    return DS_OK;
}

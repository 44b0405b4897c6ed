/* What a device must offer so that programs can run on it. Everything is asynchronous in form: work
 * is put on a stream and events order streams; a host backend may do it at once. No host pointer
 * crosses this line unannounced: device memory is touched by kernels and by copy() alone. */
#ifndef DS_BACKEND_BACKEND_H
#define DS_BACKEND_BACKEND_H

#include "deepseek/compile.h"
#include "graph/node.h"

typedef struct ds_stream ds_stream; /* NULL: the backend's first, in-order stream */
typedef struct ds_event ds_event;

typedef enum ds_space { DS_SPACE_DEVICE, DS_SPACE_HOST } ds_space;
typedef enum ds_copy { DS_TO_DEVICE, DS_TO_HOST, DS_ON_DEVICE } ds_copy;

/* One implementation of one op. */
typedef struct ds_kernel {
    const ds_op *op;
    unsigned strided_inputs; /* bit i: input i may have any strides; else it comes row-major */
    unsigned in_place;       /* bit i: result 0 may share the memory of input i */
    /* NULL: every node of the op. The first kernel of a backend's table that accepts is used. */
    bool (*accepts)(const ds_node *node);
    /* Once per node when a program is made; data pointers are NULL, dims and strides are final.
     * NULL: nothing to prepare. */
    ds_status (*prepare)(const ds_kernel_args *args, void **state, size_t *workspace_bytes);
    void (*release)(void *state);
    /* Puts the work on the stream (or does it). */
    ds_status (*run)(const ds_kernel_args *args, ds_stream *stream);
} ds_kernel;

typedef struct ds_backend_ops {
    void (*close)(ds_backend *b);
    ds_status (*alloc)(ds_backend *b, ds_space space, size_t size_bytes, void **out);
    void (*release)(ds_backend *b, ds_space space, void *memory, size_t size_bytes);
    /* Fresh device memory of which only what is written shall take room. NULL: all does. */
    void (*use_in_parts)(ds_backend *b, void *memory, size_t size_bytes);
    /* The calling thread runs nothing for now: what waits for its programs may rest, so as not to
     * be in the way of another thread's. NULL: nothing waits. */
    void (*rest)(ds_backend *b);
    ds_status (*copy)(ds_backend *b, ds_copy kind, void *to, const void *from, size_t size_bytes,
                      ds_stream *stream);
    ds_status (*stream_new)(ds_backend *b, ds_stream **out);
    void (*stream_free)(ds_backend *b, ds_stream *stream);
    ds_status (*synchronise)(ds_backend *b, ds_stream *stream); /* waits; reports late errors */
    ds_status (*event_new)(ds_backend *b, ds_event **out);
    void (*event_free)(ds_backend *b, ds_event *event);
    ds_status (*event_record)(ds_backend *b, ds_event *event, ds_stream *stream);
    ds_status (*stream_wait)(ds_backend *b, ds_stream *stream, ds_event *event);
    /* Operations a second that matrix products of this dtype reach at best, measured; 0: unknown.
     * NULL: never known. */
    double (*peak_flops)(ds_backend *b, ds_dtype dtype);
    /* NULL and a thread message when this backend has none for the node. */
    const ds_kernel *(*find_kernel)(ds_backend *b, const ds_node *node);
    /* The backend's own rewrites, after all other passes; NULL: none. */
    ds_graph *(*lower)(ds_backend *b, const ds_graph *g);
    bool reads_host_memory; /* kernels may be given any memory of this process */
} ds_backend_ops;

struct ds_backend {
    const ds_backend_ops *ops;
    ds_backend_info info;
};

typedef ds_status ds_backend_opener(ds_backend_opts opts, ds_backend **out);
ds_backend_opener ds_backend_open_ref, ds_backend_open_cpu;

void ds_backend_rest(ds_backend *b); /* ops->rest, where there is one */

/* ref/ref.c: runs op->reference on host tensors of any dtype and strides. The kernel that every
 * host backend falls back to. */
extern const ds_kernel ds_kernel_reference;

/* host.c: alloc, copy, streams and events of backends whose device memory is host memory. */
ds_status ds_host_alloc(ds_backend *b, ds_space space, size_t size_bytes, void **out);
void ds_host_release(ds_backend *b, ds_space space, void *memory, size_t size_bytes);
void ds_host_use_in_parts(ds_backend *b, void *memory, size_t size_bytes);
ds_status ds_host_copy(ds_backend *b, ds_copy kind, void *to, const void *from, size_t size_bytes,
                       ds_stream *stream);
ds_status ds_host_stream_new(ds_backend *b, ds_stream **out);
void ds_host_stream_free(ds_backend *b, ds_stream *stream);
ds_status ds_host_synchronise(ds_backend *b, ds_stream *stream);
ds_status ds_host_event_new(ds_backend *b, ds_event **out);
void ds_host_event_free(ds_backend *b, ds_event *event);
ds_status ds_host_event_record(ds_backend *b, ds_event *event, ds_stream *stream);
ds_status ds_host_stream_wait(ds_backend *b, ds_stream *stream, ds_event *event);
void ds_host_info(const char *name, ds_backend_opts opts, ds_backend_info *info);

#endif

/* Memory, copies, streams and events of backends that compute in host memory: everything is done at
 * once, in order, so a stream or an event needs no state. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/error.h"

ds_status ds_host_alloc(ds_backend *b, ds_space space, size_t size_bytes, void **out) {
    (void)b, (void)space;
    *out = ds_pages_alloc(size_bytes);
    return *out ? DS_OK : DS_OUT_OF_MEMORY;
}

void ds_host_release(ds_backend *b, ds_space space, void *memory, size_t size_bytes) {
    (void)b, (void)space;
    ds_pages_free(memory, size_bytes);
}

void ds_host_use_in_parts(ds_backend *b, void *memory, size_t size_bytes) {
    (void)b;
    ds_pages_keep_small(memory, size_bytes);
}

ds_status ds_host_copy(ds_backend *b, ds_copy kind, void *to, const void *from, size_t size_bytes,
                       ds_stream *stream) {
    (void)b, (void)kind, (void)stream;
    if (size_bytes)
        memcpy(to, from, size_bytes);
    return DS_OK;
}

static char in_order; /* the one address all host streams and events share */

ds_status ds_host_stream_new(ds_backend *b, ds_stream **out) {
    (void)b;
    *out = (ds_stream *)&in_order;
    return DS_OK;
}

void ds_host_stream_free(ds_backend *b, ds_stream *stream) {
    (void)b, (void)stream;
}

ds_status ds_host_synchronise(ds_backend *b, ds_stream *stream) {
    (void)b, (void)stream;
    return DS_OK;
}

ds_status ds_host_event_new(ds_backend *b, ds_event **out) {
    (void)b;
    *out = (ds_event *)&in_order;
    return DS_OK;
}

void ds_host_event_free(ds_backend *b, ds_event *event) {
    (void)b, (void)event;
}

ds_status ds_host_event_record(ds_backend *b, ds_event *event, ds_stream *stream) {
    (void)b, (void)event, (void)stream;
    return DS_OK;
}

ds_status ds_host_stream_wait(ds_backend *b, ds_stream *stream, ds_event *event) {
    (void)b, (void)stream, (void)event;
    return DS_OK;
}

static void read_processor_name(char *out, size_t size) {
    snprintf(out, size, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            snprintf(out, size, "%.*s", (int)size - 1, strchr(line, ':') + 2);
            out[strcspn(out, "\n")] = '\0';
            break;
        }
    if (file)
        fclose(file);
}

void ds_host_info(const char *name, ds_backend_opts opts, ds_backend_info *info) {
    snprintf(info->name, sizeof info->name, "%s", name);
    snprintf(info->isa, sizeof info->isa, "plain C");
    read_processor_name(info->device, sizeof info->device);
    info->n_threads = opts.n_threads > 0 ? opts.n_threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    info->memory_size = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGE_SIZE);
}

/* The backends there are, by name. */
#include "backend/backend.h"

#include <string.h>

#include "base/error.h"

static const struct {
    const char *name;
    ds_backend_opener *open;
} backends[] = {
    {"cpu", ds_backend_open_cpu},
    {"ref", ds_backend_open_ref},
};

ds_status ds_backend_open(const char *name, ds_backend_opts opts, ds_backend **out) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (strcmp(backends[i].name, name) == 0)
            return backends[i].open(opts, out);
    return ds_fail(DS_NOT_FOUND, "there is no backend \"%s\"; there are: cpu, ref", name);
}

void ds_backend_close(ds_backend *backend) {
    if (backend)
        backend->ops->close(backend);
}

const ds_backend_info *ds_backend_get_info(const ds_backend *backend) {
    return &backend->info;
}

double ds_backend_peak_flops(ds_backend *backend, ds_dtype dtype) {
    return backend->ops->peak_flops ? backend->ops->peak_flops(backend, dtype) : 0;
}

void ds_backend_rest(ds_backend *b) {
    if (b->ops->rest)
        b->ops->rest(b);
}

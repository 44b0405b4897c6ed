/* From options and environment to a communicator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "comm/comm.h"
#include "comm/threads.h"

static const double DEFAULT_TIMEOUT_S = 600; /* of collectives, as users of torch know it */

/* ---- variables ------------------------------------------------------------------------------- */

static ds_status read_number(const char *name, double low, double high, double *out) {
    const char *text = getenv(name);
    if (!text || !*text)
        return DS_OK;
    char *end = NULL;
    const double value = strtod(text, &end);
    if (*end || !(value >= low && value <= high))
        return ds_fail(DS_INVALID, "%s=%s: a number from %g to %g is due", name, text, low, high);
    *out = value;
    return DS_OK;
}

static ds_status read_debug(ds_comm_debug *out) {
    static const struct {
        const char *word;
        ds_comm_debug level;
    } words[] = {{"VERSION", DS_COMM_DEBUG_WARN},
                 {"WARN", DS_COMM_DEBUG_WARN},
                 {"INFO", DS_COMM_DEBUG_INFO},
                 {"TRACE", DS_COMM_DEBUG_TRACE}};
    *out = DS_COMM_DEBUG_WARN;
    const char *text = getenv("NCCL_DEBUG");
    if (!text || !*text)
        return DS_OK;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(text, words[i].word) == 0) {
            *out = words[i].level;
            return DS_OK;
        }
    return ds_fail(DS_INVALID, "NCCL_DEBUG=%s: one of VERSION, WARN, INFO, TRACE is due", text);
}

static ds_status fabric_opts(const ds_comm_opts *opts, int rank, int size, ds_fabric_opts *out) {
    double timeout = DEFAULT_TIMEOUT_S, n_threads = 1, blocking = 1;
    DS_TRY(read_number("DS_COMM_TIMEOUT_S", 0.001, 1e9, &timeout));
    DS_TRY(read_number("NCCL_SOCKET_NTHREADS", 0, 256, &n_threads));
    DS_TRY(read_number("NCCL_BLOCKING_WAIT", 0, 1, &blocking));
    *out = (ds_fabric_opts){
        .rank = rank,
        .size = size,
        .timeout_s = opts->timeout_s > 0 ? opts->timeout_s : timeout,
        .n_threads = opts->n_threads < 0   ? 0
                     : opts->n_threads > 0 ? opts->n_threads
                                           : (int)n_threads,
        .warn_only = blocking == 0,
    };
    return read_debug(&out->debug);
}

/* ---- inside one process ---------------------------------------------------------------------- */

static ds_status join_hub(ds_hub *hub, ds_fabric_opts opts, ds_comm **out) {
    ds_transport *transport = NULL;
    ds_membership *membership = NULL;
    ds_status status = ds_hub_join(hub, opts.rank, &transport, &membership);
    if (status != DS_OK) {
        ds_hub_leave(hub);
        return status;
    }
    ds_fabric *fabric = NULL;
    DS_TRY(ds_fabric_new(opts, transport, membership, &fabric));
    return ds_comm_of_fabric(fabric, out);
}

ds_status ds_comm_open_threads(int size, ds_comm_opts opts, ds_comm **out) {
    if (size < 1 || size > 1024)
        return ds_fail(DS_INVALID, "ds_comm_open_threads: %d ranks; 1 to 1024 are possible", size);
    memset(out, 0, (size_t)size * sizeof *out);
    ds_fabric_opts fabric = {0};
    DS_TRY(fabric_opts(&opts, 0, size, &fabric));
    ds_hub *hub = NULL;
    DS_TRY(ds_hub_new(size, &hub));
    ds_status status = DS_OK;
    for (int rank = 0; rank < size; rank++) {
        fabric.rank = rank;
        if (status == DS_OK)
            status = join_hub(hub, fabric, &out[rank]);
        else
            ds_hub_leave(hub);
    }
    for (int rank = 0; rank < size && status != DS_OK; rank++)
        if (out[rank]) {
            ds_fabric_break(out[rank]->fabric, DS_CANCELLED, "opening failed");
            ds_comm_close(out[rank]);
            out[rank] = NULL;
        }
    return status;
}

/* ---- between processes ----------------------------------------------------------------------- */

ds_status ds_comm_open(ds_comm_opts opts, ds_comm **out) {
    *out = NULL;
    if (opts.size > 1 || (opts.transport && strcmp(opts.transport, "self") != 0))
        return ds_fail(DS_UNSUPPORTED, "this build has no transport between processes");
    return ds_comm_open_threads(1, opts, out);
}

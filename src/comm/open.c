/* From options and environment to a communicator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "comm/comm.h"
#include "comm/environment.h"
#include "comm/store.h"
#include "comm/threads.h"
#include "comm/ucx.h"

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

typedef struct place { /* all that opening needs to know */
    ds_rank_environment who;
    char interface[64];
    const char *transport;
} place;

static const double STORE_S = 60; /* ranks of a cluster do not start at once */

/* The store, by options or environment, and the transport's name. */
static ds_status find_place(const ds_comm_opts *opts, place *p) {
    DS_TRY(ds_rank_environment_read(&p->who));
    if (opts->size > 0) {
        p->who.rank = opts->rank;
        p->who.size = opts->size;
    }
    if (p->who.rank < 0 || p->who.rank >= p->who.size)
        return ds_fail(DS_INVALID, "rank %d of %d: ranks are counted from 0", p->who.rank,
                       p->who.size);
    if (opts->store)
        snprintf(p->who.store, sizeof p->who.store, "%s", opts->store);
    const char *variable = getenv("DS_COMM_TRANSPORT");
    p->transport = opts->transport         ? opts->transport
                   : variable && *variable ? variable
                   : p->who.size == 1      ? "self"
                                           : "ucx";
    if (strcmp(p->transport, "self") == 0 && p->who.size > 1)
        return ds_fail(DS_INVALID, "the transport \"self\" is for one rank; this run has %d",
                       p->who.size);
    if (strcmp(p->transport, "ucx") != 0 && strcmp(p->transport, "self") != 0)
        return ds_fail(DS_UNSUPPORTED, "no transport \"%s\"; there are: self, ucx", p->transport);
    if (strcmp(p->transport, "ucx") == 0 && !p->who.store[0])
        return ds_fail(DS_INVALID,
                       "no store for %d ranks to meet: set MASTER_ADDR and MASTER_PORT, or start "
                       "them by deepseek-run",
                       p->who.size);
    return DS_OK;
}

/* The network interface that is asked for, or the one through which the store is reached. */
static ds_status find_interface(const ds_store *store, place *p) {
    const char *asked = getenv("NCCL_SOCKET_IFNAME");
    char address[DS_ADDRESS];
    if (asked && *asked) {
        DS_TRY(ds_socket_interface_address(asked, address));
        snprintf(p->interface, sizeof p->interface, "%s", asked);
    } else {
        ds_socket_interface(ds_store_local_address(store), p->interface, sizeof p->interface);
    }
    return DS_OK;
}

static ds_status open_ucx(place *p, ds_fabric_opts fabric, ds_comm **out) {
    ds_store *store = NULL;
    ds_membership *membership = NULL;
    ds_transport *transport = NULL;
    ds_fabric *f = NULL;
    DS_TRY(ds_store_connect(p->who.store, p->who.token, -1, STORE_S, &store));
    ds_status status = find_interface(store, p);
    if (status == DS_OK)
        status = ds_liveness_start(store, p->who.token, p->who.rank, &membership);
    if (status != DS_OK) {
        ds_store_close(store);
        return status;
    }
    status = ds_ucx_open((ds_ucx_opts){.rank = p->who.rank,
                                       .size = p->who.size,
                                       .store = store,
                                       .membership = membership,
                                       .interface = p->interface,
                                       .timeout_s = fabric.timeout_s},
                         &transport);
    if (status != DS_OK) {
        membership->ops->close(membership, false);
        return status;
    }
    DS_TRY(ds_fabric_new(fabric, transport, membership, &f));
    ds_fabric_say(f, DS_COMM_DEBUG_INFO,
                  "%d ranks, started by %s, store %s, interface %s, UCX_TLS=%s", p->who.size,
                  p->who.started_by ? p->who.started_by : "the program", p->who.store,
                  p->interface[0] ? p->interface : "any", getenv("UCX_TLS"));
    return ds_comm_of_fabric(f, out);
}

/* Rank 0 serves the store where no launcher does. */
static ds_status serve_store(const place *p, ds_store_server **server) {
    *server = NULL;
    if (p->who.rank != 0 || p->who.store_is_elsewhere)
        return DS_OK;
    return ds_store_server_start(
        (ds_store_server_opts){.address = p->who.store, .token = p->who.token, .size = p->who.size},
        server);
}

ds_status ds_comm_open(ds_comm_opts opts, ds_comm **out) {
    *out = NULL;
    place p = {0};
    DS_TRY(find_place(&opts, &p));
    if (strcmp(p.transport, "self") == 0)
        return ds_comm_open_threads(1, opts, out);
    ds_fabric_opts fabric;
    DS_TRY(fabric_opts(&opts, p.who.rank, p.who.size, &fabric));
    if (!ds_ucx_is_there()) {
        ds_transport *none = NULL;
        return ds_ucx_open((ds_ucx_opts){0}, &none); /* says why */
    }
    ds_store_server *server = NULL;
    DS_TRY(serve_store(&p, &server));
    const ds_status status = open_ucx(&p, fabric, out);
    if (status != DS_OK) {
        ds_store_server_stop(server, 0);
        return status;
    }
    (*out)->server = server;
    return DS_OK;
}

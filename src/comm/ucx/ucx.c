/* UCX's tag interface, one worker per run. What had to be found out by trying:
 *   - shared memory takes part in error handling only if told so (UCX_POSIX_ERROR_HANDLING), and is
 *     silently replaced by TCP otherwise;
 *   - a receive is bound to no endpoint: only an endpoint to its sender makes the loss of it known;
 *   - receives that are matched and all sends cannot be cancelled: an abort closes every endpoint
 * by force, gives what is left 50 ms, and destroys the worker, after which nothing is written. */
#include "comm/ucx.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <ucp/api/ucp.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

typedef struct peer {
    void *address; /* its worker's, owned */
    ucp_ep_h endpoint;
    bool lost;
} peer;

typedef struct ucx {
    ds_transport base;
    ucp_context_h context;
    ucp_worker_h worker;
    int rank, size;
    peer *peers;         /* [size] */
    ds_message *pending; /* doubly linked */
} ucx;

bool ds_ucx_is_there(void) {
    return true;
}

/* ---- the library ----------------------------------------------------------------------------- */

#define FUNCTIONS(X)                                                                               \
    X(ucp, init_version)                                                                           \
    X(ucp, worker_create)                                                                          \
    X(ucp, worker_get_address)                                                                     \
    X(ucp, worker_release_address)                                                                 \
    X(ucp, ep_create)                                                                              \
    X(ucp, tag_send_nbx)                                                                           \
    X(ucp, tag_recv_nbx)                                                                           \
    X(ucp, worker_progress)                                                                        \
    X(ucp, request_cancel)                                                                         \
    X(ucp, ep_close_nbx)                                                                           \
    X(ucp, request_check_status)                                                                   \
    X(ucp, request_free)                                                                           \
    X(ucp, worker_destroy)                                                                         \
    X(ucp, cleanup)                                                                                \
    X(ucs, status_string)
#define MEMBER(prefix, name) __typeof__(prefix##_##name) *(name);
#define ROW(prefix, name)    {#prefix "_" #name, offsetof(struct ucx_api, name)},

static struct ucx_api { FUNCTIONS(MEMBER) } ucx_api;

static const struct {
    const char *name;
    size_t offset;
} functions[] = {FUNCTIONS(ROW)};

static const char *missing; /* what was not found; NULL: nothing */

static void load(void) {
    void *library = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL);
    missing = library ? NULL : "libucp.so.0";
    for (size_t i = 0; i < sizeof functions / sizeof *functions && !missing; i++) {
        void *function = dlsym(library, functions[i].name);
        memcpy((char *)&ucx_api + functions[i].offset, &function, sizeof function);
        if (!function)
            missing = functions[i].name;
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

static void enlist(ucx *u, ds_message *m) {
    m->previous = NULL;
    m->next = u->pending;
    if (m->next)
        m->next->previous = m;
    u->pending = m;
}

static void delist(ucx *u, ds_message *m) {
    if (m->previous)
        m->previous->next = m->next;
    else
        u->pending = m->next;
    if (m->next)
        m->next->previous = m->previous;
}

static int state_of(ucs_status_t status) {
    if (status == UCS_OK)
        return DS_MESSAGE_DONE;
    return status == UCS_ERR_MESSAGE_TRUNCATED ? DS_MESSAGE_TOO_LONG : DS_MESSAGE_FAILED;
}

/* A message keeps its transport where its source would be: there is no more use for that. UCX may
 * come here from within the call that begins the message; then that call has yet to return the
 * request. */
static void end_message(void *request, ds_message *m, ucs_status_t status) {
    delist((ucx *)(uintptr_t)m->source, m);
    atomic_store(&m->state, state_of(status));
    if (m->handle)
        ucx_api.request_free(request);
    m->handle = NULL;
}

static void sent(void *request, ucs_status_t status, void *user) {
    end_message(request, user, status);
}

static void received(void *request, ucs_status_t status, const ucp_tag_recv_info_t *info,
                     void *user) {
    ds_message *m = user;
    m->received = info->length;
    end_message(request, m, status);
}

static void on_error(void *user, ucp_ep_h endpoint, ucs_status_t status) {
    (void)endpoint;
    (void)status;
    ((peer *)user)->lost = true; /* nothing else is allowed in here */
}

static ucp_ep_h endpoint_to(ucx *u, int rank) {
    peer *p = &u->peers[rank];
    if (p->endpoint || p->lost)
        return p->endpoint;
    const ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = p->address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = on_error, .arg = p},
    };
    if (ucx_api.ep_create(u->worker, &params, &p->endpoint) != UCS_OK) {
        p->endpoint = NULL;
        p->lost = true;
    }
    return p->endpoint;
}

/* Before and after the call that begins a message. */
static void prepare(ucx *u, ds_message *m, ds_message blank) {
    *m = blank;
    m->source = u;
    enlist(u, m);
}

static void begin(ucx *u, ds_message *m, ucs_status_ptr_t request) {
    if (!UCS_PTR_IS_PTR(request)) { /* done, or refused, at once */
        delist(u, m);
        atomic_store(&m->state, state_of(UCS_PTR_RAW_STATUS(request)));
    } else if (atomic_load(&m->state) == DS_MESSAGE_PENDING) {
        m->handle = request;
    } else {
        ucx_api.request_free(request);
    }
}

static void ucx_send(ds_transport *t, int to, const void *data, size_t size_bytes, uint64_t tag,
                     ds_message *m) {
    ucx *u = (ucx *)t;
    ucp_ep_h endpoint = endpoint_to(u, to);
    if (!endpoint) {
        atomic_store(&m->state, DS_MESSAGE_FAILED);
        return;
    }
    prepare(u, m, (ds_message){.peer = to, .tag = tag, .size_bytes = size_bytes});
    const ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.send = sent,
        .user_data = m,
    };
    begin(u, m, ucx_api.tag_send_nbx(endpoint, data, size_bytes, tag, &param));
}

static void ucx_receive(ds_transport *t, int from, void *data, size_t size_bytes, uint64_t tag,
                        ds_message *m) {
    ucx *u = (ucx *)t;
    endpoint_to(u, from); /* what can fail when the sender dies */
    prepare(u, m,
            (ds_message){.peer = from, .tag = tag, .size_bytes = size_bytes, .destination = data});
    const ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.recv = received,
        .user_data = m,
    };
    const ucs_status_ptr_t request =
        ucx_api.tag_recv_nbx(u->worker, data, size_bytes, tag, UINT64_MAX, &param);
    /* of a message that was there already UCX 1.13 does not tell the length. The headers of the
     * call agree, so it is this one; a longer one would be an error */
    if (!UCS_PTR_IS_PTR(request))
        m->received = size_bytes;
    begin(u, m, request);
}

static void ucx_progress(ds_transport *t) {
    enum { AT_ONCE = 8 };
    for (int i = 0; i < AT_ONCE && ucx_api.worker_progress(((ucx *)t)->worker) > 0; i++)
        ;
}

static bool ucx_lost(const ds_transport *t, int rank) {
    return ((const ucx *)t)->peers[rank].lost;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Closes every endpoint and gives the closing, and what is pending, at most patience_s. */
static void close_endpoints(ucx *u, uint32_t flags, double patience_s) {
    ucs_status_ptr_t *closing = ds_calloc((size_t)u->size, sizeof *closing);
    const ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = flags};
    int n = 0;
    for (int i = 0; i < u->size && closing; i++) {
        if (!u->peers[i].endpoint)
            continue;
        const ucs_status_ptr_t request = ucx_api.ep_close_nbx(u->peers[i].endpoint, &param);
        u->peers[i].endpoint = NULL;
        if (UCS_PTR_IS_PTR(request))
            closing[n++] = request;
    }
    const double until = ds_clock_s() + patience_s;
    while ((n > 0 || u->pending) && ds_clock_s() < until) {
        ucx_api.worker_progress(u->worker);
        while (n > 0 && ucx_api.request_check_status(closing[n - 1]) != UCS_INPROGRESS)
            ucx_api.request_free(closing[--n]);
    }
    free(closing);
}

static void ucx_abort(ds_transport *t) {
    ucx *u = (ucx *)t;
    if (!u->worker)
        return;
    for (ds_message *m = u->pending, *next; m; m = next) {
        next = m->next;
        if (m->destination)
            ucx_api.request_cancel(u->worker, m->handle);
    }
    close_endpoints(u, UCP_EP_CLOSE_FLAG_FORCE, 0.05);
    ucx_api.worker_destroy(u->worker);
    u->worker = NULL;
    u->pending = NULL;
}

static void ucx_close(ds_transport *t) {
    ucx *u = (ucx *)t;
    ucx_abort(t);
    if (u->context)
        ucx_api.cleanup(u->context);
    for (int i = 0; i < u->size && u->peers; i++)
        free(u->peers[i].address);
    free(u->peers);
    free(u);
}

static const ds_transport_ops ops = {
    .name = "ucx",
    .send = ucx_send,
    .receive = ucx_receive,
    .progress = ucx_progress,
    .lost = ucx_lost,
    .abort = ucx_abort,
    .close = ucx_close,
};

/* ---- the beginning --------------------------------------------------------------------------- */

/* UCX and its transports read variables; whatever the user has set stays. */
static void set_variables(const char *interface) {
    const bool has_rdma = access("/sys/class/infiniband", F_OK) == 0;
    const struct {
        const char *name, *value;
    } defaults[] = {
        /* no CMA: slower than copies through shared memory in a ring */
        {"UCX_TLS", has_rdma ? "posix,self,tcp,ib" : "posix,self,tcp"},
        {"UCX_NET_DEVICES", has_rdma || !*interface ? "all" : interface},
        {"UCX_POSIX_ERROR_HANDLING", "y"},
        {"UCX_SYSV_ERROR_HANDLING", "y"},
        {"UCX_KEEPALIVE_INTERVAL", "500ms"},
        {"UCX_TCP_KEEPIDLE", "1s"},
        {"UCX_TCP_KEEPINTVL", "1s"},
        {"UCX_TCP_KEEPCNT", "2"},
        {"UCX_TCP_TX_SEG_SIZE", "64k"},
        {"UCX_TCP_RX_SEG_SIZE", "128k"},
        {"UCX_ERROR_SIGNALS", ""}, /* a crash is the program's own affair */
        {"UCX_WARN_UNUSED_ENV_VARS", "n"},
        {"UCX_LOG_LEVEL", "fatal"}, /* what fails is told by this library, with more words */
    };
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        setenv(defaults[i].name, defaults[i].value, 0);
}

static ds_status load_once(const char *interface) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    set_variables(interface);
    pthread_once(&once, load);
    return missing
               ? ds_fail(
                     DS_UNSUPPORTED,
                     "processes talk to each other by UCX, and %s is not there: install libucx0",
                     missing)
               : DS_OK;
}

static ds_status start_worker(ucx *u) {
    const ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS,
        .features = UCP_FEATURE_TAG,
        .estimated_num_eps = (size_t)u->size,
    };
    const ucp_worker_params_t worker = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
        .thread_mode = UCS_THREAD_MODE_SERIALIZED, /* the caller and its helper, never at once */
    };
    ucs_status_t status =
        ucx_api.init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, NULL, &u->context);
    if (status == UCS_OK)
        status = ucx_api.worker_create(u->context, &worker, &u->worker);
    if (status != UCS_OK)
        return ds_fail(DS_UNAVAILABLE,
                       "UCX does not start: %s (UCX_TLS=%s, UCX_NET_DEVICES=%s; UCX_LOG_LEVEL=info "
                       "says more)",
                       ucx_api.status_string(status), getenv("UCX_TLS"), getenv("UCX_NET_DEVICES"));
    return DS_OK;
}

static void name_key(char out[32], int rank) {
    snprintf(out, 32, "ucx/%d", rank);
}

static ds_status publish_address(ucx *u, ds_store *store) {
    ucp_address_t *address = NULL;
    size_t size = 0;
    char key[32];
    if (ucx_api.worker_get_address(u->worker, &address, &size) != UCS_OK)
        return ds_fail(DS_UNAVAILABLE, "UCX has no address for this rank");
    name_key(key, u->rank);
    const ds_status status = ds_store_set(store, key, address, size);
    ucx_api.worker_release_address(u->worker, address);
    return status;
}

/* In slices, so that a rank that dies meanwhile is not waited for. */
static ds_status fetch_address(ucx *u, int rank, const ds_ucx_opts *o, double until_s) {
    char key[32], reason[DS_ABORT_TEXT];
    name_key(key, rank);
    for (;;) {
        size_t size = 0;
        const ds_status status = ds_store_wait(o->store, key, 0.2, &u->peers[rank].address, &size);
        if (status != DS_TIMEOUT)
            return status;
        if (atomic_load(&o->membership->aborted)) {
            const ds_status told = o->membership->ops->reason(o->membership, reason);
            return ds_fail(told == DS_OK ? DS_UNAVAILABLE : told, "%s", reason);
        }
        if (ds_clock_s() > until_s)
            return ds_fail(DS_TIMEOUT, "rank %d of %d did not come within %.3g s", rank, u->size,
                           o->timeout_s);
    }
}

ds_status ds_ucx_open(ds_ucx_opts o, ds_transport **out) {
    *out = NULL;
    ucx *u = ds_calloc(1, sizeof *u);
    if (!u)
        return DS_OUT_OF_MEMORY;
    u->base.ops = &ops;
    u->rank = o.rank;
    u->size = o.size;
    u->peers = ds_calloc((size_t)o.size, sizeof *u->peers);
    ds_status status = u->peers ? load_once(o.interface) : DS_OUT_OF_MEMORY;
    if (status == DS_OK)
        status = start_worker(u);
    if (status == DS_OK)
        status = publish_address(u, o.store);
    const double until = ds_clock_s() + o.timeout_s;
    for (int rank = 0; rank < o.size && status == DS_OK; rank++)
        if (rank != o.rank)
            status = fetch_address(u, rank, &o, until);
    if (status != DS_OK) {
        ucx_close(&u->base);
        return status;
    }
    *out = &u->base;
    return DS_OK;
}

/* A model behind HTTP, in OpenAI's API:
 *
 *     ds_server *server;
 *     const ds_server_opts opts = {.host = "127.0.0.1", .port = 8080};
 *     ds_server_new(model, &opts, &server);
 *     …
 *     ds_server_drain(server, 30);
 *     ds_server_free(server);
 *
 * One thread of libmicrohttpd serves all connections. A connection that waits for tokens is
 * suspended, and the executor's callback wakes it; so thousands may wait and none is polled. A
 * suspended connection does not notice that its client has gone: a second thread watches the
 * sockets for that, and the clock for the time limit, and cancels.
 */
#ifndef DS_SERVE_SERVER_H
#define DS_SERVE_SERVER_H

#include "deepseek/inference.h"

typedef struct ds_server ds_server;

typedef struct ds_server_opts {
    const char *host;               /* address or name; NULL: 127.0.0.1 */
    int port;                       /* 0: any free one */
    const char *name;               /* of the model; NULL: its folder's */
    const char *folder;             /* where tokenizer_config.json lies */
    const char *api_key;            /* NULL: none is asked for */
    const char *tls_cert, *tls_key; /* PEM texts; both or none */
    size_t max_body_bytes;          /* 0: 8 MiB */
    bool plain_sampling; /* defaults of requests are OpenAI's, whatever the model's folder wants */
    int max_connections; /* 0: 256 */
    double timeout_s;    /* of a request; 0: 600 */
    ds_async_executor_opts executor;
} ds_server_opts;

/* Listens once it returns. The model is borrowed and must outlive the server; so must the strings
 * of opts. DS_INVALID for a model without tokenizer, DS_IO when it cannot listen. */
ds_status ds_server_new(ds_model *model, const ds_server_opts *opts, ds_server **out);
int ds_server_port(const ds_server *server);
/* The name of the chat template; *recognised: false when it is a stand-in. */
const char *ds_server_template(const ds_server *server, bool *recognised);
/* Whether the model answers; else it gives embeddings only. */
bool ds_server_generates(const ds_server *server);
/* Takes no new requests, and waits until those at work are answered, at most so long. Returns how
 * many were given up. */
int ds_server_drain(ds_server *server, double timeout_s);
void ds_server_free(ds_server *server); /* NULL is fine */

#endif

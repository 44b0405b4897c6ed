/* The store: where ranks find each other, and where it is decided who is alive. A server inside
 * deepseek-run, or inside rank 0 where something else started the ranks; a client in every rank. */
#ifndef DS_COMM_STORE_H
#define DS_COMM_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include "comm/membership.h"

/* ---- server (store_server.c) ----------------------------------------------------------------- */

typedef struct ds_store_server ds_store_server;

typedef struct ds_store_server_opts {
    const char
        *address; /* "HOST:PORT", the one interface that is listened on; port 0: any free one */
    const char *token; /* whoever does not know it is refused */
    int size;          /* ranks */
    double lease_s;    /* a rank that was not heard of for so long is dead; 0: 1.5 */
} ds_store_server_opts;

/* Starts a thread that serves. */
ds_status ds_store_server_start(ds_store_server_opts opts, ds_store_server **out);
const char *ds_store_server_address(const ds_store_server *server); /* "HOST:PORT", borrowed */
/* Tells all ranks to stop, if nobody has yet; for one who knows better why a rank died. */
void ds_store_server_abort(ds_store_server *server, ds_status status, const char *reason);
/* DS_OK, or what the ranks were told. */
ds_status ds_store_server_reason(ds_store_server *server, char reason[DS_ABORT_TEXT]);
/* Ends it, once all ranks that came have left, or after patience_s. */
void ds_store_server_stop(ds_store_server *server, double patience_s);

/* ---- client (store.c) ------------------------------------------------------------------------ */

typedef struct ds_store ds_store;

/* Connects, trying again until timeout_s: the server may start later. rank: announced, so that a
 * connection that breaks is this rank's death; −1: a visitor. */
ds_status ds_store_connect(const char *address, const char *token, int rank, double timeout_s,
                           ds_store **out);
void ds_store_close(ds_store *store);
/* Which of this machine's addresses leads to the store. Borrowed. */
const char *ds_store_local_address(const ds_store *store);
const char *ds_store_address(const ds_store *store);

ds_status ds_store_set(ds_store *store, const char *key, const void *value, size_t size_bytes);
/* Waits for the key to be set: the value is the caller's to free(). DS_TIMEOUT when it is not. */
ds_status ds_store_wait(ds_store *store, const char *key, double timeout_s, void **value,
                        size_t *size_bytes);
/* As of ds_membership_ops.read. */
bool ds_store_read(ds_store *store, int rank, ds_whereabouts *out, double *age_s);

/* One frame there, without an answer; and one that has come, or DS_TIMEOUT: for liveness.c. */
struct ds_frame;
ds_status ds_store_send(ds_store *store, const struct ds_frame *frame);
ds_status ds_store_receive(ds_store *store, double timeout_s, struct ds_frame *out);

/* ---- membership (liveness.c) ----------------------------------------------------------------- */

/* Announces this rank and keeps it alive by a thread of its own, which also hears of aborts.
 * `store` answers questions and is closed with the membership. */
ds_status ds_liveness_start(ds_store *store, const char *token, int rank, ds_membership **out);

#endif

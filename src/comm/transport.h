/* What carries messages between ranks. Collectives are written once, as schedules of messages
 * (schedule.h); a transport knows how one message goes from rank to rank and nothing of sums.
 *
 * A message is matched by its sender and its tag; messages of one sender with the same tag arrive
 * in the order in which they were sent. Calls of one transport are made under its fabric's lock. */
#ifndef DS_COMM_TRANSPORT_H
#define DS_COMM_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

typedef enum ds_message_state {
    DS_MESSAGE_PENDING,
    DS_MESSAGE_DONE,     /* the buffer is the caller's again */
    DS_MESSAGE_FAILED,   /* the peer is lost */
    DS_MESSAGE_TOO_LONG, /* more bytes came than were asked for */
} ds_message_state;

/* One message under way. The caller keeps it where it is until it is done or the transport was
 * aborted. */
typedef struct ds_message {
    _Atomic int state;                  /* a ds_message_state */
    size_t received;                    /* bytes, of a receive that is done */
    void *handle;                       /* the transport's own */
    struct ds_message *next, *previous; /* the transport's own: the rest */
    const void *source;
    void *destination;
    size_t size_bytes;
    uint64_t tag;
    int peer;
} ds_message;

typedef struct ds_transport ds_transport;

typedef struct ds_transport_ops {
    const char *name;
    /* Both start a message to or from another rank and return; small sends are done at once. */
    void (*send)(ds_transport *t, int peer, const void *data, size_t size_bytes, uint64_t tag,
                 ds_message *m);
    void (*receive)(ds_transport *t, int peer, void *data, size_t size_bytes, uint64_t tag,
                    ds_message *m);
    void (*progress)(ds_transport *t);
    /* True when this peer is known to be lost: an error of its connection. */
    bool (*lost)(const ds_transport *t, int peer);
    /* Ends all messages of this rank: none of them, and no buffer of theirs, is touched afterwards.
     */
    void (*abort)(ds_transport *t);
    void (*close)(ds_transport *t); /* and frees it */
} ds_transport_ops;

struct ds_transport {
    const ds_transport_ops *ops;
};

#endif

/* The store's language: frames of an operation and two byte strings, over TCP.
 *
 *     length of what follows (u32) | operation (u8) | length of key (u32) | key | value
 *
 * Little-endian. Numbers inside are bytes of fixed size, checked by who reads them. */
#ifndef DS_COMM_STORE_WIRE_H
#define DS_COMM_STORE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/text.h"

enum { DS_FRAME_MOST = 1 << 20 }; /* bytes of a frame; a worker's address is some hundred */

typedef enum ds_frame_op {
    DS_FRAME_HELLO = 1, /* key: token, value: rank (i32), −1: a visitor. First on a connection */
    DS_FRAME_SET,       /* key, value */
    DS_FRAME_WAIT,      /* key, value: milliseconds (u32) → OK with the value, or ABSENT */
    DS_FRAME_BEAT,      /* value: whereabouts → OK. "I am alive and here" */
    DS_FRAME_READ,  /* value: rank (i32) → OK: key milliseconds since its last beat (u32), value
                       whereabouts; or ABSENT */
    DS_FRAME_ABORT, /* key: status (u8), value: the reason. From the server too, unasked */
    DS_FRAME_BYE,   /* this rank leaves, and is not missed */
    DS_FRAME_OK,
    DS_FRAME_ABSENT,
    DS_FRAME_REFUSED, /* value: why; the connection is closed */
} ds_frame_op;

typedef struct ds_frame {
    uint8_t op;
    const uint8_t *key, *value; /* into the buffer that was parsed */
    size_t key_size, value_size;
} ds_frame;

typedef enum ds_frame_state { DS_FRAME_WHOLE, DS_FRAME_PARTIAL, DS_FRAME_BROKEN } ds_frame_state;

/* The first frame of n bytes; *used: what it took of them. */
ds_frame_state ds_frame_parse(const uint8_t *data, size_t n, ds_frame *out, size_t *used);
void ds_frame_append(ds_text *out, ds_frame frame);

/* Exactly this many bytes, or false. */
bool ds_frame_number(const uint8_t *data, size_t n, uint32_t *out);

#endif

#include "comm/store_wire.h"

#include <string.h>

static uint32_t number_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

ds_frame_state ds_frame_parse(const uint8_t *data, size_t n, ds_frame *out, size_t *used) {
    enum { LENGTH = 4, HEAD = 5 }; /* of the length; of operation and key's length */
    if (n < LENGTH)
        return DS_FRAME_PARTIAL;
    const size_t length = number_at(data);
    if (length < HEAD || length > DS_FRAME_MOST)
        return DS_FRAME_BROKEN;
    if (n - LENGTH < length)
        return DS_FRAME_PARTIAL;
    const size_t key_size = number_at(data + LENGTH + 1);
    if (key_size > length - HEAD)
        return DS_FRAME_BROKEN;
    const uint8_t *key = data + LENGTH + HEAD;
    *out = (ds_frame){.op = data[LENGTH],
                      .key = key,
                      .key_size = key_size,
                      .value = key + key_size,
                      .value_size = length - HEAD - key_size};
    *used = LENGTH + length;
    return DS_FRAME_WHOLE;
}

static void put_number(ds_text *out, size_t value) {
    const char bytes[4] = {(char)(value & 255), (char)(value >> 8 & 255), (char)(value >> 16 & 255),
                           (char)(value >> 24 & 255)};
    ds_text_append(out, bytes, sizeof bytes);
}

void ds_frame_append(ds_text *out, ds_frame frame) {
    const char op = (char)frame.op;
    put_number(out, 5 + frame.key_size + frame.value_size);
    ds_text_append(out, &op, 1);
    put_number(out, frame.key_size);
    if (frame.key_size > 0)
        ds_text_append(out, (const char *)frame.key, frame.key_size);
    if (frame.value_size > 0)
        ds_text_append(out, (const char *)frame.value, frame.value_size);
}

bool ds_frame_number(const uint8_t *data, size_t n, uint32_t *out) {
    if (n != 4)
        return false;
    *out = number_at(data);
    return true;
}

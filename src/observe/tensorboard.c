#include "observe/tensorboard.h"

#include <string.h>

/* Field numbers of the messages used, and protobuf's wire types. */
enum {
    EVENT_WALL_TIME = 1,
    EVENT_STEP = 2,
    EVENT_FILE_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION_LOG = 7
};
enum { SUMMARY_VALUE = 1 };
enum { VALUE_TAG = 1, VALUE_SIMPLE = 2, VALUE_TENSOR = 8, VALUE_METADATA = 9 };
enum { METADATA_PLUGIN_DATA = 1, PLUGIN_NAME = 1 };
enum { TENSOR_DTYPE = 1, TENSOR_SHAPE = 2, TENSOR_STRING_VAL = 8, SHAPE_DIM = 2, DIM_SIZE = 1 };
enum { SESSION_STATUS = 1, SESSION_START = 1, DT_STRING = 7 };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

uint32_t ds_crc32c(const void *data, size_t size) {
    const unsigned char *p = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1)); /* polynomial, bits reversed */
    }
    return ~crc;
}

static void append_fixed(ds_text *out, uint64_t value, int n_bytes) {
    for (int i = 0; i < n_bytes; i++)
        ds_text_append(out, (const char[]){(char)(value >> 8 * i & 0xff)}, 1);
}

/* A CRC of data that holds CRCs is weak, so TFRecord rotates and shifts it. */
static uint32_t masked(uint32_t crc) {
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

void ds_tfrecord_append(ds_text *out, const void *payload, size_t size) {
    const size_t start = out->length;
    append_fixed(out, size, 8);
    if (out->poisoned)
        return;
    append_fixed(out, masked(ds_crc32c(out->data + start, 8)), 4);
    ds_text_append(out, payload, size);
    append_fixed(out, masked(ds_crc32c(payload, size)), 4);
}

static void put_varint(ds_text *out, uint64_t value) {
    while (value >= 0x80) {
        append_fixed(out, (value & 0x7f) | 0x80, 1);
        value >>= 7;
    }
    append_fixed(out, value, 1);
}

static void put_key(ds_text *out, int field, int wire_type) {
    put_varint(out, (uint64_t)field << 3 | (uint64_t)wire_type);
}

static void put_integer(ds_text *out, int field, int64_t value) {
    put_key(out, field, WIRE_VARINT);
    put_varint(out, (uint64_t)value);
}

static void put_bytes(ds_text *out, int field, const char *bytes, size_t size) {
    put_key(out, field, WIRE_BYTES);
    put_varint(out, size);
    ds_text_append(out, bytes, size);
}

static void put_string(ds_text *out, int field, const char *string) {
    put_bytes(out, field, string, strlen(string));
}

/* Appends an inner message as a field and clears it. */
static void put_message(ds_text *out, int field, ds_text *inner) {
    if (inner->poisoned)
        out->poisoned = true;
    else
        put_bytes(out, field, inner->data ? inner->data : "", inner->length);
    ds_text_clear(inner);
}

static void begin_event(ds_text *event, double wall_time, int64_t step) {
    uint64_t bits = 0;
    memcpy(&bits, &wall_time, sizeof bits);
    put_key(event, EVENT_WALL_TIME, WIRE_64);
    append_fixed(event, bits, 8);
    put_integer(event, EVENT_STEP, step);
}

static void end_event(ds_text *out, ds_text *event) {
    if (event->poisoned)
        out->poisoned = true;
    else
        ds_tfrecord_append(out, event->data, event->length);
    ds_text_clear(event);
}

void ds_tensorboard_version(ds_text *out, double wall_time) {
    ds_text event = {0};
    begin_event(&event, wall_time, 0);
    put_string(&event, EVENT_FILE_VERSION, "brain.Event:2");
    end_event(out, &event);
}

void ds_tensorboard_session(ds_text *out, double wall_time, int64_t step) {
    ds_text event = {0}, session = {0};
    begin_event(&event, wall_time, step);
    put_integer(&session, SESSION_STATUS, SESSION_START);
    put_message(&event, EVENT_SESSION_LOG, &session);
    end_event(out, &event);
}

void ds_tensorboard_scalars(ds_text *out, double wall_time, int64_t step, const char *const *tags,
                            const double *values, size_t n) {
    ds_text event = {0}, summary = {0};
    begin_event(&event, wall_time, step);
    for (size_t i = 0; i < n; i++) {
        ds_text value = {0};
        const float narrow = (float)values[i];
        uint32_t bits = 0;
        memcpy(&bits, &narrow, sizeof bits);
        put_string(&value, VALUE_TAG, tags[i]);
        put_key(&value, VALUE_SIMPLE, WIRE_32);
        append_fixed(&value, bits, 4);
        put_message(&summary, SUMMARY_VALUE, &value);
    }
    put_message(&event, EVENT_SUMMARY, &summary);
    end_event(out, &event);
}

void ds_tensorboard_text(ds_text *out, double wall_time, int64_t step, const char *tag,
                         const char *text) {
    ds_text event = {0}, summary = {0}, value = {0}, metadata = {0}, plugin = {0};
    ds_text tensor = {0}, shape = {0}, dim = {0};
    put_string(&plugin, PLUGIN_NAME, "text");
    put_message(&metadata, METADATA_PLUGIN_DATA, &plugin);
    put_integer(&dim, DIM_SIZE, 1);
    put_message(&shape, SHAPE_DIM, &dim);
    put_integer(&tensor, TENSOR_DTYPE, DT_STRING);
    put_message(&tensor, TENSOR_SHAPE, &shape);
    put_string(&tensor, TENSOR_STRING_VAL, text);
    put_string(&value, VALUE_TAG, tag);
    put_message(&value, VALUE_TENSOR, &tensor);
    put_message(&value, VALUE_METADATA, &metadata);
    put_message(&summary, SUMMARY_VALUE, &value);
    begin_event(&event, wall_time, step);
    put_message(&event, EVENT_SUMMARY, &summary);
    end_event(out, &event);
}

/* Any bytes as what a connection sends to the store: answered or refused, within its limits. The
 * first byte says whether the connection has said hello already; the rest is cut into frames as a
 * socket's bytes are. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "comm/store_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RANKS = 3 };

static void say_hello(ds_store_table *table, ds_store_visitor *visitor, ds_text *out) {
    const uint8_t rank[4] = {1, 0, 0, 0};
    const ds_frame hello = {.op = DS_FRAME_HELLO,
                            .key = (const uint8_t *)"token",
                            .key_size = 5,
                            .value = rank,
                            .value_size = 4};
    if (!ds_store_table_answer(table, visitor, &hello, 1, out))
        __builtin_trap();
}

/* What the store says must be whole frames too. */
static void check_answers(const ds_text *out) {
    size_t at = 0, used = 0;
    ds_frame frame;
    while (at < out->length) {
        if (ds_frame_parse((const uint8_t *)out->data + at, out->length - at, &frame, &used) !=
            DS_FRAME_WHOLE)
            __builtin_trap();
        at += used;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    ds_store_table table;
    ds_store_visitor visitor = ds_store_visitor_new();
    ds_text out = {0};
    if (ds_store_table_init(&table, "token", RANKS, 1.5) != DS_OK)
        return 0;
    if (data[0] & 1)
        say_hello(&table, &visitor, &out);
    uint8_t *copy = malloc(size); /* a block of its own, so that ASan sees its end */
    memcpy(copy, data + 1, size - 1);
    size_t at = 0, used = 0;
    ds_frame frame;
    double now = 1;
    bool open = true;
    while (open && ds_frame_parse(copy + at, size - 1 - at, &frame, &used) == DS_FRAME_WHOLE) {
        open = ds_store_table_answer(&table, &visitor, &frame, now, &out);
        ds_store_table_judge(&table, now);
        ds_store_table_update(&table, &visitor, now, &out);
        at += used;
        now += 0.3;
    }
    if (table.status != DS_OK && !memchr(table.reason, 0, sizeof table.reason))
        __builtin_trap();
    check_answers(&out);
    ds_store_table_lost(&table, &visitor, now);
    ds_store_table_clear(&table);
    ds_text_clear(&out);
    free(copy);
    return 0;
}

/* GGUF files: values and tensors as ggml's own package wrote them, every element type against what
 * that package reads, and everything that must be refused. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/gguf.h"
#include "base/half.h"
#include "deepseek/status.h"

#define TYPES DS_TEST_DATA "/gguf/types.gguf"
#define LLAMA DS_TEST_DATA "/gguf/llama.gguf"

static ds_gguf *open_file(const char *path) {
    ds_gguf *g = NULL;
    if (ds_gguf_open(path, &g) != DS_OK)
        fail_msg("%s", ds_error());
    return g;
}

static void every_type_reads_as_ggml_reads_it(void **state) {
    (void)state;
    ds_gguf *g = open_file(TYPES);
    int n = 0;
    for (size_t i = 0; i < ds_gguf_count(g); i++) {
        const ds_gguf_tensor *t = ds_gguf_at(g, i);
        char name[64];
        if (strchr(t->name, '.'))
            continue;
        snprintf(name, sizeof name, "%s.expected", t->name);
        const ds_gguf_tensor *wanted = ds_gguf_find(g, name);
        assert_non_null(wanted);
        assert_string_equal(t->type->name, t->name);
        assert_int_equal(t->rank, 2);
        assert_int_equal(t->dims[0] * t->dims[1], 512);
        float values[512], expected[512];
        assert_int_equal(ds_gguf_read(t, DS_F32, values), DS_OK);
        assert_int_equal(ds_gguf_read(wanted, DS_F32, expected), DS_OK);
        for (int k = 0; k < 512; k++)
            if (fabsf(values[k] - expected[k]) > 1e-6f * (1 + fabsf(expected[k])))
                fail_msg("%s: element %d is %g, not %g", t->name, k, (double)values[k],
                         (double)expected[k]);
        uint16_t narrow[512];
        assert_int_equal(ds_gguf_read(t, DS_BF16, narrow), DS_OK);
        for (int k = 0; k < 512; k++)
            assert_int_equal(narrow[k], ds_f32_to_bf16(values[k]));
        assert_int_equal(ds_gguf_read(t, DS_F16, narrow), DS_OK);
        for (int k = 0; k < 512; k++)
            assert_int_equal(narrow[k], ds_f32_to_f16(values[k]));
        assert_int_equal(ds_gguf_read(t, DS_I32, narrow), DS_INVALID);
        n++;
    }
    assert_int_equal(n, 12);
    ds_gguf_close(g);
}

static void values_are_found_by_their_keys(void **state) {
    (void)state;
    ds_gguf *g = open_file(LLAMA);
    int64_t number = 0;
    float real = 0;
    assert_true(ds_gguf_is(LLAMA));
    assert_false(ds_gguf_is(DS_TEST_DATA));
    assert_string_equal(ds_gguf_text(g, "general.architecture"), "llama");
    assert_true(ds_gguf_integer(g, "llama.block_count", &number));
    assert_int_equal(number, 2);
    assert_true(ds_gguf_real(g, "llama.attention.layer_norm_rms_epsilon", &real));
    assert_true(real == 1e-5f);
    assert_false(ds_gguf_integer(g, "llama.attention.layer_norm_rms_epsilon", &number));
    assert_false(ds_gguf_integer(g, "general.architecture", &number));
    assert_false(ds_gguf_real(g, "no.such.key", &real));
    assert_null(ds_gguf_text(g, "llama.block_count"));
    ds_gguf_strings names;
    ds_gguf_numbers types;
    assert_true(ds_gguf_list_strings(g, "tokenizer.ggml.tokens", &names));
    assert_true(ds_gguf_list_numbers(g, "tokenizer.ggml.token_type", &types));
    assert_false(ds_gguf_list_numbers(g, "tokenizer.ggml.tokens", &types));
    assert_int_equal(names.n, 61);
    size_t length = 0;
    (void)ds_gguf_next_string(&names, &length);
    const char *second = ds_gguf_next_string(&names, &length);
    assert_int_equal(length, 2);
    assert_memory_equal(second, "\xc4\x81", 2);
    assert_non_null(ds_gguf_find(g, "blk.1.ffn_up.weight"));
    assert_null(ds_gguf_find(g, "blk.2.ffn_up.weight"));
    ds_gguf_close(g);
}

/* ---- refusals -------------------------------------------------------------------------------- */

/* A file in memory, written piece by piece. */
typedef struct bytes {
    unsigned char data[4096];
    size_t n;
} bytes;

static void put(bytes *b, const void *data, size_t n) {
    assert_true(b->n + n <= sizeof b->data);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put32(bytes *b, uint32_t x) {
    put(b, &x, sizeof x);
}

static void put64(bytes *b, uint64_t x) {
    put(b, &x, sizeof x);
}

static void put_text(bytes *b, const char *text) {
    put64(b, strlen(text));
    put(b, text, strlen(text));
}

static bytes header(uint32_t version, uint64_t tensors, uint64_t values) {
    bytes b = {.n = 0};
    put(&b, "GGUF", 4);
    put32(&b, version);
    put64(&b, tensors);
    put64(&b, values);
    return b;
}

static bytes with_tensor(uint32_t rank, uint64_t dim, uint32_t type, uint64_t place) {
    bytes b = header(3, 1, 0);
    put_text(&b, "t");
    put32(&b, rank);
    for (uint32_t i = 0; i < rank && i < 8; i++)
        put64(&b, dim);
    put32(&b, type);
    put64(&b, place);
    return b;
}

static void refuse(const bytes *b, ds_status status, const char *says) {
    ds_gguf *g = NULL;
    unsigned char *copy = malloc(b->n + 1); /* a block of its own, so that ASan sees its end */
    assert_non_null(copy);
    memcpy(copy, b->data, b->n);
    assert_int_equal(ds_gguf_parse(copy, b->n, "x.gguf", &g), status);
    if (!strstr(ds_error(), says))
        fail_msg("\"%s\" does not say %s", ds_error(), says);
    assert_null(g);
    free(copy);
}

static void wrong_headers_are_refused_by_name(void **state) {
    (void)state;
    bytes b = header(4, 0, 0);
    refuse(&b, DS_UNSUPPORTED, "version 4");
    b = header(0x03000000, 0, 0);
    refuse(&b, DS_UNSUPPORTED, "big-endian");
    b.data[0] = 'g';
    refuse(&b, DS_CORRUPT, "no GGUF file");
    b = header(3, UINT64_MAX, 0);
    refuse(&b, DS_CORRUPT, "not possible");
    b = header(3, 0, UINT64_MAX);
    refuse(&b, DS_CORRUPT, "not possible");
    b = header(3, 0, 1);
    put_text(&b, "k");
    put32(&b, 99);
    refuse(&b, DS_UNSUPPORTED, "\"k\" is of the kind 99");
    b = header(3, 0, 1);
    put64(&b, UINT64_MAX - 3); /* a length that wraps around */
    refuse(&b, DS_CORRUPT, "inside a key");
    b = header(3, 0, 1);
    put_text(&b, "k");
    put32(&b, 9);
    put32(&b, 4);
    put64(&b, UINT64_MAX / 2);
    refuse(&b, DS_CORRUPT, "inside k");
    b = header(3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_text(&b, "k");
        put32(&b, 7);
        put(&b, "\1", 1);
    }
    refuse(&b, DS_CORRUPT, "there twice");
}

static void wrong_tensors_are_refused_by_name(void **state) {
    (void)state;
    bytes b = with_tensor(0, 0, 0, 0);
    refuse(&b, DS_CORRUPT, "axes");
    b = with_tensor(7, 1, 0, 0);
    refuse(&b, DS_CORRUPT, "axes");
    b = with_tensor(1, 0, 0, 0);
    refuse(&b, DS_CORRUPT, "possible size");
    b = with_tensor(4, 1 << 30, 0, 0);
    refuse(&b, DS_CORRUPT, "possible");
    b = with_tensor(1, 8, 77, 0);
    refuse(&b, DS_UNSUPPORTED, "number 77");
    b = with_tensor(1, 33, 8, 0);
    refuse(&b, DS_CORRUPT, "whole blocks of Q8_0");
    b = with_tensor(1, 8, 0, 0);
    refuse(&b, DS_CORRUPT, "not inside");
    b = with_tensor(1, 8, 0, UINT64_MAX - 31);
    refuse(&b, DS_CORRUPT, "not inside");
}

static void a_type_without_decoder_is_named_when_read(void **state) {
    (void)state;
    bytes b = with_tensor(1, 256, 19, 0); /* IQ1_S */
    float values[256];
    ds_gguf *g = NULL;
    b.n = (b.n + 31) / 32 * 32 + 50;
    assert_int_equal(ds_gguf_parse(b.data, b.n, "x.gguf", &g), DS_OK);
    assert_int_equal(ds_gguf_read(ds_gguf_at(g, 0), DS_F32, values), DS_UNSUPPORTED);
    assert_non_null(strstr(ds_error(), "IQ1_S"));
    assert_non_null(strstr(ds_error(), "Q4_K"));
    ds_gguf_close(g);
}

/* Every beginning of a whole file is refused, and none is read past its end. */
static void a_file_cut_short_is_refused(void **state) {
    (void)state;
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(ds_file_read(LLAMA, 1 << 20, &data, &size), DS_OK);
    for (size_t n = 0; n < size; n += n < 3000 ? 1 : 997) {
        ds_gguf *g = NULL;
        unsigned char *copy = malloc(n + 1);
        assert_non_null(copy);
        memcpy(copy, data, n);
        assert_int_equal(ds_gguf_parse(copy, n, "x.gguf", &g), DS_CORRUPT);
        free(copy);
    }
    free(data);
}

static void running_out_of_memory_is_an_answer(void **state) {
    (void)state;
    int failures = 0;
    for (long n = 1;; n++) {
        ds_gguf *g = NULL;
        ds_fault_arm(DS_FAULT_ALLOC, n);
        const ds_status status = ds_gguf_open(LLAMA, &g);
        ds_fault_arm(DS_FAULT_ALLOC, 0);
        ds_gguf_close(g);
        if (status == DS_OK)
            break;
        assert_int_equal(status, DS_OUT_OF_MEMORY);
        failures++;
    }
    assert_true(failures > 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_reads_as_ggml_reads_it),
        cmocka_unit_test(values_are_found_by_their_keys),
        cmocka_unit_test(wrong_headers_are_refused_by_name),
        cmocka_unit_test(wrong_tensors_are_refused_by_name),
        cmocka_unit_test(a_type_without_decoder_is_named_when_read),
        cmocka_unit_test(a_file_cut_short_is_refused),
        cmocka_unit_test(running_out_of_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

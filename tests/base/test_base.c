/* The ground floor: text, md5, philox, half conversions, files that survive faults. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/half.h"
#include "base/md5.h"
#include "base/rng.h"
#include "base/text.h"

static void test_philox_known_answers(void **state) {
    (void)state;
    /* Random123's kat_vectors for philox4x32-10 */
    ds_philox_block b = ds_philox(0, 0, 0);
    assert_int_equal(b.word[0], 0x6627e8d5);
    assert_int_equal(b.word[3], 0x9b00dbd8);
    b = ds_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    assert_int_equal(b.word[0], 0x408f276d);
    b = ds_philox(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x0370734413198a2eu);
    assert_int_equal(b.word[0], 0xd16cfe09);
    assert_int_equal(b.word[1], 0x94fdcceb);
}

static void test_half_round_trip(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = ds_f16_to_f32((uint16_t)h), g = ds_bf16_to_f32((uint16_t)h);
        if (!isnan(f))
            assert_int_equal(ds_f32_to_f16(f), h);
        if (!isnan(g))
            assert_int_equal(ds_f32_to_bf16(g), h);
    }
    assert_true(isnan(ds_f16_to_f32(ds_f32_to_f16(NAN))));
    assert_true(isnan(ds_bf16_to_f32(ds_f32_to_bf16(NAN))));
    assert_int_equal(ds_f32_to_f16(65519.0f), 0x7BFF);
    assert_int_equal(ds_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(ds_f32_to_f16(0x1p-25f), 0); /* a tie goes to even */
    assert_int_equal(ds_f32_to_f16(0x1.8p-25f), 1);
}

static void test_text_formats(void **state) {
    (void)state;
    char out[32];
    assert_string_equal(ds_format_bytes(out, sizeof out, 1536.0 * 1024), "1.50 MiB");
    assert_string_equal(ds_format_count(out, sizeof out, 124.4e6), "124.4 M");
    assert_string_equal(ds_format_duration(out, sizeof out, 3723), "1 h 02 min");
    const char *names[] = {"learning_rate", "warmup_steps"};
    assert_string_equal(ds_nearest_name("lerning_rate", names, 2), "learning_rate");
    assert_null(ds_nearest_name("zzz", names, 2));
}

static void test_md5_of_known_text(void **state) {
    (void)state;
    char hex[DS_MD5_HEX];
    ds_md5 *sum;
    assert_int_equal(ds_md5_new(&sum), DS_OK);
    ds_md5_update(sum, "abc", 3);
    ds_md5_finish(sum, hex);
    assert_string_equal(hex, "900150983cd24fb0d6963f7d28e17f72"); /* RFC 1321 */
}

static void test_replace_keeps_the_old_file_on_every_fault(void **state) {
    (void)state;
    char path[] = "/tmp/ds-test-XXXXXX", *back;
    close(mkstemp(path));
    assert_int_equal(ds_file_replace(path, "old", 3), DS_OK);
    for (int kind = DS_FAULT_WRITE; kind < DS_FAULT_FAILURES; kind++) {
        ds_fault_arm((ds_fault)kind, 1);
        assert_int_equal(ds_file_replace(path, "new", 3), DS_IO);
        assert_non_null(strstr(ds_error(), path));
        assert_int_equal(ds_file_read(path, 100, &back, NULL), DS_OK);
        assert_string_equal(back, "old");
        free(back);
    }
    assert_int_equal(ds_file_replace(path, "new", 3), DS_OK);
    assert_int_equal(ds_file_read(path, 2, &back, NULL), DS_INVALID);
    assert_int_equal(ds_file_read(path, 3, &back, NULL), DS_OK);
    assert_string_equal(back, "new");
    free(back);
    unlink(path);
    assert_int_equal(ds_file_read(path, 3, &back, NULL), DS_NOT_FOUND);
}

static void test_arena_survives_a_failed_allocation(void **state) {
    (void)state;
    ds_arena *arena = ds_arena_new();
    ds_fault_arm(DS_FAULT_ALLOC, 1);
    assert_null(ds_arena_alloc(arena, 100));
    char *text = ds_arena_printf(arena, "%d-%s", 7, "x");
    assert_string_equal(text, "7-x");
    assert_non_null(ds_arena_alloc(arena, 1 << 20));
    ds_arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_half_round_trip),
        cmocka_unit_test(test_text_formats),
        cmocka_unit_test(test_md5_of_known_text),
        cmocka_unit_test(test_replace_keeps_the_old_file_on_every_fault),
        cmocka_unit_test(test_arena_survives_a_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

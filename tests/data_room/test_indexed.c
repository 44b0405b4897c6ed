/* Indexed datasets: what is written reads back, byte for byte as Megatron-LM would lay it out;
 * corrupt ones are refused by name; a failed write leaves the former pair whole. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/rng.h"
#include "data/indexed.h"

static char folder[] = "/tmp/ds-indexed-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return ds_folder_remove(folder) == DS_OK ? 0 : -1;
}

static void write_two_documents(const char *prefix, int token_bytes) {
    ds_indexed_writer *w = NULL;
    assert_int_equal(ds_indexed_writer_open(prefix, token_bytes, &w), DS_OK);
    assert_int_equal(ds_indexed_writer_add_document(w, (const int32_t[]){5, 300, 7}, 3), DS_OK);
    assert_int_equal(ds_indexed_writer_add_document(w, (const int32_t[]){65535, 1}, 2), DS_OK);
    assert_int_equal(ds_indexed_writer_tokens(w), 5);
    assert_int_equal(ds_indexed_writer_documents(w), 2);
    assert_int_equal(ds_indexed_writer_close(w), DS_OK);
}

static void test_bytes_are_megatrons(void **state) {
    (void)state;
    write_two_documents(in_folder("mega"), 2);
    static const unsigned char want[] =
        "MMIDIDX\0\0" /* magic */
        "\1\0\0\0\0\0\0\0"
        "\10"                                               /* uint16 */
        "\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"                  /* 2 sequences, 3 marks */
        "\3\0\0\0\2\0\0\0"                                  /* lengths */
        "\0\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0"                  /* pointers */
        "\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"; /* document marks */
    char *index = NULL, *bin = NULL;
    size_t size = 0;
    assert_int_equal(ds_file_read(in_folder("mega.idx"), 1000, &index, &size), DS_OK);
    assert_int_equal(size, sizeof want - 1);
    assert_memory_equal(index, want, size);
    assert_int_equal(ds_file_read(in_folder("mega.bin"), 1000, &bin, &size), DS_OK);
    assert_int_equal(size, 10);
    assert_memory_equal(bin, "\5\0\54\1\7\0\377\377\1\0", 10);
    free(index);
    free(bin);
}

static void test_documents_read_back(void **state) {
    (void)state;
    for (int width = 2; width <= 4; width += 2) {
        write_two_documents(in_folder("two"), width);
        ds_indexed *d = NULL;
        assert_int_equal(ds_indexed_open(in_folder("two.bin"), &d), DS_OK);
        assert_int_equal(ds_indexed_tokens(d), 5);
        assert_int_equal(ds_indexed_documents(d), 2);
        assert_int_equal(ds_indexed_token_bytes(d), width);
        int64_t first = -1, length = -1;
        assert_int_equal(ds_indexed_document(d, 1, &first, &length), DS_OK);
        assert_int_equal(first, 3);
        assert_int_equal(length, 2);
        assert_int_equal(ds_indexed_document(d, 2, &first, &length), DS_INVALID);
        int32_t ids[5];
        assert_int_equal(ds_indexed_read(d, 1, 4, ids), DS_OK);
        assert_memory_equal(ids, ((int32_t[]){300, 7, 65535, 1}), 16);
        assert_int_equal(ds_indexed_read(d, 2, 4, ids), DS_INVALID);
        assert_int_equal(ds_indexed_read(d, 5, 0, ids), DS_OK);
        assert_int_equal(ds_indexed_document_of(d, 2), 0);
        assert_int_equal(ds_indexed_document_of(d, 3), 1);
        assert_int_equal(ds_indexed_check_vocab(d, 65536), DS_OK);
        assert_int_equal(ds_indexed_check_vocab(d, 65535), DS_INVALID);
        assert_non_null(
            strstr(ds_error(), "two.bin: token 3 (document 1, position 0) is id 65535"));
        ds_indexed_close(d);
    }
}

/* Random documents, some empty, added whole or in pieces, against a plain array. */
static void test_random_documents_round_trip(void **state) {
    (void)state;
    enum { DOCUMENTS = 300, MOST = 5000 };
    int32_t *all = malloc(sizeof(int32_t) * DOCUMENTS * MOST);
    int64_t starts[DOCUMENTS + 1] = {0};
    ds_indexed_writer *w = NULL;
    assert_int_equal(ds_indexed_writer_open(in_folder("many"), 4, &w), DS_OK);
    for (int i = 0; i < DOCUMENTS; i++) {
        const int n = (int)(ds_philox(1, (uint64_t)i, 0).word[0] % MOST) * (i % 7 != 0);
        int32_t *ids = all + starts[i];
        for (int t = 0; t < n; t++)
            ids[t] = (int32_t)(ds_philox(2, (uint64_t)i, (uint64_t)t).word[0] >> 1);
        if (i % 2) {
            assert_int_equal(ds_indexed_writer_add_document(w, ids, (size_t)n), DS_OK);
        } else {
            assert_int_equal(ds_indexed_writer_add_tokens(w, ids, (size_t)(n / 3)), DS_OK);
            assert_int_equal(ds_indexed_writer_add_tokens(w, ids + n / 3, (size_t)(n - n / 3)),
                             DS_OK);
            assert_int_equal(ds_indexed_writer_end_document(w), DS_OK);
        }
        starts[i + 1] = starts[i] + n;
    }
    assert_int_equal(ds_indexed_writer_close(w), DS_OK);
    ds_indexed *d = NULL;
    assert_int_equal(ds_indexed_open(in_folder("many"), &d), DS_OK);
    assert_int_equal(ds_indexed_documents(d), DOCUMENTS);
    assert_int_equal(ds_indexed_tokens(d), starts[DOCUMENTS]);
    int32_t *back = malloc(sizeof(int32_t) * (size_t)starts[DOCUMENTS]);
    assert_int_equal(ds_indexed_read(d, 0, starts[DOCUMENTS], back), DS_OK);
    assert_memory_equal(back, all, sizeof(int32_t) * (size_t)starts[DOCUMENTS]);
    for (int i = 0; i < DOCUMENTS; i++) {
        int64_t first = -1, length = -1;
        assert_int_equal(ds_indexed_document(d, i, &first, &length), DS_OK);
        assert_int_equal(first, starts[i]);
        assert_int_equal(length, starts[i + 1] - starts[i]);
        if (length > 0) {
            assert_int_equal(ds_indexed_document_of(d, first), i);
            assert_int_equal(ds_indexed_document_of(d, first + length - 1), i);
        }
    }
    ds_indexed_close(d);
    free(all);
    free(back);
}

static void test_an_empty_dataset_is_whole(void **state) {
    (void)state;
    ds_indexed_writer *w = NULL;
    ds_indexed *d = NULL;
    assert_int_equal(ds_indexed_writer_open(in_folder("empty"), 2, &w), DS_OK);
    assert_int_equal(ds_indexed_writer_close(w), DS_OK);
    assert_int_equal(ds_indexed_open(in_folder("empty"), &d), DS_OK);
    assert_int_equal(ds_indexed_tokens(d), 0);
    assert_int_equal(ds_indexed_check_vocab(d, 1), DS_OK);
    ds_indexed_close(d);
}

static void test_unfit_ids_are_refused(void **state) {
    (void)state;
    ds_indexed_writer *w = NULL;
    assert_int_equal(ds_indexed_writer_open(in_folder("bad"), 3, &w), DS_INVALID);
    assert_int_equal(ds_indexed_writer_open(in_folder("bad"), 2, &w), DS_OK);
    assert_int_equal(ds_indexed_writer_add_document(w, (const int32_t[]){65536}, 1), DS_INVALID);
    assert_non_null(strstr(ds_error(), "65536"));
    ds_indexed_writer_abandon(w);
    assert_int_equal(ds_indexed_writer_open(in_folder("bad"), 4, &w), DS_OK);
    assert_int_equal(ds_indexed_writer_add_document(w, (const int32_t[]){-1}, 1), DS_INVALID);
    ds_indexed_writer_abandon(w);
    assert_false(ds_file_exists(in_folder("bad.bin.part")));
    assert_false(ds_file_exists(in_folder("bad.bin")));
}

/* Each entry changes one byte range of a good index; opening must say what is wrong. */
static void test_corrupt_indexes_are_named(void **state) {
    (void)state;
    static const struct {
        int at;
        const char *bytes;
        int count;
        ds_status status;
        const char *message;
    } cases[] = {
        {0, "X", 1, DS_CORRUPT, "MMIDIDX"},
        {9, "\2", 1, DS_UNSUPPORTED, "version 2"},
        {17, "\4", 1, DS_CORRUPT, "starts at byte 6"},
        {17, "\7", 1, DS_INVALID, "float32"},
        {17, "\0", 1, DS_CORRUPT, "type code 0"},
        {17, "\11", 1, DS_CORRUPT, "type code 9"},
        {18, "\3", 1, DS_CORRUPT, "counts"},
        {18, "\377\377\377\377\377\377\377\377", 8, DS_CORRUPT, "counts"},
        {26, "\377\377\377\377\377\377\377\37", 8, DS_CORRUPT, "counts"},
        {34, "\377\377\377\377", 4, DS_CORRUPT, "length -1"},
        {34, "\2", 1, DS_CORRUPT, "sequence 1 starts at byte 6; the lengths before it say 4"},
        {38, "\3", 1, DS_CORRUPT, "the .bin has 10"},
        {42, "\2", 1, DS_CORRUPT, "sequence 0 starts at byte 2"},
        {50, "\4", 1, DS_CORRUPT, "sequence 1 starts at byte 4"},
        {58, "\1", 1, DS_CORRUPT, "mark 0"},
        {66, "\3", 1, DS_CORRUPT, "mark 1"},
        {74, "\1", 1, DS_CORRUPT, "end at sequence 1 of 2"},
    };
    write_two_documents(in_folder("good"), 2);
    char *index = NULL;
    size_t size = 0;
    assert_int_equal(ds_file_read(in_folder("good.idx"), 1000, &index, &size), DS_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char damaged[128];
        memcpy(damaged, index, size);
        memcpy(damaged + cases[i].at, cases[i].bytes, (size_t)cases[i].count);
        ds_index_view view = {0};
        assert_int_equal(ds_index_parse(damaged, size, 10, "x.idx", &view), cases[i].status);
        assert_non_null(strstr(ds_error(), "x.idx"));
        if (!strstr(ds_error(), cases[i].message))
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, ds_error(), cases[i].message);
    }
    for (size_t n = 0; n < size; n++) { /* cut short anywhere */
        ds_index_view view = {0};
        assert_int_equal(ds_index_parse((unsigned char *)index, n, 10, "x.idx", &view), DS_CORRUPT);
    }
    free(index);
}

static void test_wrong_token_width_is_named(void **state) {
    (void)state;
    ds_indexed_writer *w = NULL;
    ds_indexed *d = NULL;
    assert_int_equal(ds_indexed_writer_open(in_folder("width"), 2, &w), DS_OK);
    assert_int_equal(ds_indexed_writer_add_document(w, (const int32_t[]){1, 2, 3}, 3), DS_OK);
    assert_int_equal(ds_indexed_writer_close(w), DS_OK);
    assert_int_equal(ds_file_replace(in_folder("width.bin"), "\1\0\0\0\2\0\0\0\3\0\0\0", 12),
                     DS_OK);
    assert_int_equal(ds_indexed_open(in_folder("width"), &d), DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "wrong token width"));
    assert_null(d);
    assert_int_equal(ds_file_replace(in_folder("width.bin"), "\1\0\2\0\3", 5), DS_OK);
    assert_int_equal(ds_indexed_open(in_folder("width"), &d), DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "the .bin has 5"));
    assert_int_equal(ds_indexed_open(in_folder("absent"), &d), DS_NOT_FOUND);
}

static void expect_two_documents(void) {
    ds_indexed *d = NULL;
    int32_t ids[5];
    assert_int_equal(ds_indexed_open(in_folder("kept"), &d), DS_OK);
    assert_int_equal(ds_indexed_tokens(d), 5);
    assert_int_equal(ds_indexed_read(d, 0, 5, ids), DS_OK);
    assert_memory_equal(ids, ((int32_t[]){5, 300, 7, 65535, 1}), 20);
    ds_indexed_close(d);
}

static ds_status write_one_document(const char *prefix) {
    ds_indexed_writer *w = NULL;
    ds_status status = ds_indexed_writer_open(prefix, 2, &w);
    if (status != DS_OK)
        return status;
    status = ds_indexed_writer_add_document(w, (const int32_t[]){9}, 1);
    if (status != DS_OK) {
        ds_indexed_writer_abandon(w);
        return status;
    }
    return ds_indexed_writer_close(w);
}

/* For every kind of fault and every n, the n-th call fails: the old pair or the new one is there.
 */
static void test_faults_leave_the_former_pair(void **state) {
    (void)state;
    for (int kind = 0; kind < DS_FAULT_FAILURES; kind++) {
        int failures = 0;
        for (int n = 1; n < 50; n++) {
            write_two_documents(in_folder("kept"), 2);
            ds_fault_arm((ds_fault)kind, n);
            const ds_status status = write_one_document(in_folder("kept"));
            ds_fault_arm((ds_fault)kind, 0);
            if (status == DS_OK)
                break;
            failures++;
            assert_int_equal(status, kind == DS_FAULT_ALLOC ? DS_OUT_OF_MEMORY : DS_IO);
            expect_two_documents();
            assert_false(ds_file_exists(in_folder("kept.bin.part")));
            assert_false(ds_file_exists(in_folder("kept.idx.part")));
        }
        assert_true(failures > 0 && failures < 49);
    }
    assert_int_equal(write_one_document(in_folder("fresh")), DS_OK);
    for (int n = 1; n <= 4; n++) { /* without a former pair no half of a new one stays */
        ds_fault_arm(DS_FAULT_SYNC, n);
        assert_int_equal(write_one_document(in_folder("virgin")), DS_IO);
        assert_false(ds_file_exists(in_folder("virgin.bin")));
        assert_false(ds_file_exists(in_folder("virgin.idx")));
    }
}

/* Whichever write takes only part of its bytes, the rest follows. */
static void test_short_writes_are_continued(void **state) {
    (void)state;
    for (int n = 1; n <= 4; n++) {
        ds_fault_arm(DS_FAULT_SHORT_WRITE, n);
        write_two_documents(in_folder("kept"), 2);
        ds_fault_arm(DS_FAULT_SHORT_WRITE, 0);
        expect_two_documents();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_megatrons),
        cmocka_unit_test(test_documents_read_back),
        cmocka_unit_test(test_random_documents_round_trip),
        cmocka_unit_test(test_an_empty_dataset_is_whole),
        cmocka_unit_test(test_unfit_ids_are_refused),
        cmocka_unit_test(test_corrupt_indexes_are_named),
        cmocka_unit_test(test_wrong_token_width_is_named),
        cmocka_unit_test(test_faults_leave_the_former_pair),
        cmocka_unit_test(test_short_writes_are_continued),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

/* safetensors: files of the reference implementation are read, and written byte for byte alike;
 * headers that lie are refused by name; a failed write leaves the former file whole. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/md5.h"
#include "base/safetensors.h"

static char folder[] = "/tmp/ds-safetensors-XXXXXX";
static const char reference[] = DS_TEST_DATA "/safetensors/reference.safetensors";

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

/* The tensors of tests/data/safetensors/make.py. */
static const ds_safetensors_entry entries[] = {
    {"b.weight", DS_F32, 2, {2, 3}},
    {"a.weight", DS_F16, 2, {1, 2}},
    {"scale", DS_F32, 0, {0}},
    {"bytes", DS_U8, 1, {3}},
    {"signed", DS_I8, 1, {2}},
    {"ids", DS_I64, 1, {3}},
    {"small", DS_I32, 1, {2}},
    {"empty", DS_F32, 2, {0, 4}},
    {"\xE5\x90\x8D \"quoted\"", DS_F32, 1, {1}},
};
enum { ENTRIES = sizeof entries / sizeof entries[0] };
static const char *const metadata[] = {"format", "np", NULL};

static void test_reads_the_reference_file(void **state) {
    (void)state;
    ds_safetensors *f = NULL;
    const ds_safetensor *t = NULL;
    assert_int_equal(ds_safetensors_open(reference, &f), DS_OK);
    assert_int_equal(ds_safetensors_count(f), ENTRIES);
    assert_string_equal(ds_safetensors_metadata(f, "format"), "np");
    assert_null(ds_safetensors_metadata(f, "absent"));
    for (int i = 0; i < ENTRIES; i++) {
        assert_int_equal(ds_safetensors_find(f, entries[i].name, &t), DS_OK);
        assert_int_equal(t->dtype, entries[i].dtype);
        assert_int_equal(t->rank, entries[i].rank);
        assert_memory_equal(t->dims, entries[i].dims, sizeof(int64_t) * (size_t)t->rank);
    }
    assert_int_equal(ds_safetensors_find(f, "b.weight", &t), DS_OK);
    assert_memory_equal(t->data, ((float[]){0, .25f, .5f, .75f, 1, 1.25f}), 24);
    assert_int_equal(ds_safetensors_find(f, "ids", &t), DS_OK);
    assert_memory_equal(t->data, ((int64_t[]){1, -2, 3}), 24);
    assert_int_equal(ds_safetensors_find(f, "b.wieght", &t), DS_NOT_FOUND);
    assert_non_null(strstr(ds_error(), "did you mean b.weight?"));
    assert_null(t);
    assert_string_equal(ds_safetensors_at(f, 0)->name, "ids");
    assert_null(ds_safetensors_at(f, ENTRIES));
    ds_safetensors_close(f);
}

/* Copies the reference's tensors to path, backwards and in two parts each. */
static ds_status copy_reference(const char *path, char *md5) {
    ds_safetensors *f = NULL;
    ds_safetensors_writer *w = NULL;
    ds_status status = ds_safetensors_open(reference, &f);
    if (status == DS_OK)
        status = ds_safetensors_writer_new(path, entries, ENTRIES, metadata, &w);
    for (size_t i = ENTRIES; i-- > 0 && status == DS_OK;) {
        const ds_safetensor *t = NULL;
        status = ds_safetensors_find(f, entries[i].name, &t);
        if (status != DS_OK)
            break;
        const size_t half = t->size_bytes / 2;
        const char *data = t->data;
        status = ds_safetensors_writer_write(w, i, half, data + half, t->size_bytes - half);
        if (status == DS_OK)
            status = ds_safetensors_writer_write(w, i, 0, data, half);
    }
    ds_safetensors_close(f);
    if (status != DS_OK) {
        ds_safetensors_writer_abandon(w);
        return status;
    }
    return ds_safetensors_writer_close(w, md5);
}

static void test_writes_what_the_reference_writes(void **state) {
    (void)state;
    char *want = NULL, *have = NULL, md5[33], md5_of_reference[33];
    size_t want_size = 0, have_size = 0;
    assert_int_equal(copy_reference(in_folder("copy.safetensors"), md5), DS_OK);
    assert_int_equal(ds_file_read(reference, 10000, &want, &want_size), DS_OK);
    assert_int_equal(ds_file_read(in_folder("copy.safetensors"), 10000, &have, &have_size), DS_OK);
    assert_int_equal(have_size, want_size);
    assert_memory_equal(have, want, want_size);
    assert_int_equal(ds_md5_of_file(reference, md5_of_reference), DS_OK);
    assert_string_equal(md5, md5_of_reference);
    free(want);
    free(have);
}

/* The sum is made on the way where bytes come in the order of the file; where some come twice, it
 * is that of the last. */
static void test_the_sum_is_that_of_the_file(void **state) {
    (void)state;
    enum { N = 3, SIZE = 1000 };
    static const ds_safetensors_entry three[N] = {
        {"c", DS_I8, 1, {SIZE}}, {"a", DS_I8, 1, {SIZE}}, {"b", DS_F32, 1, {SIZE / 4}}};
    unsigned char data[SIZE];
    for (int i = 0; i < SIZE; i++)
        data[i] = (unsigned char)(i * 7);
    for (int twice = 0; twice < 2; twice++) {
        ds_safetensors_writer *w = NULL;
        char md5[33], md5_of_file[33];
        const char *path = in_folder("sum.safetensors");
        assert_int_equal(ds_safetensors_writer_new(path, three, N, NULL, &w), DS_OK);
        assert_int_equal(ds_safetensors_writer_index(w, 0), 2); /* wider types come first */
        for (size_t place = 0; place < N; place++) {
            const size_t i = ds_safetensors_writer_index(w, place);
            data[0]++;
            assert_int_equal(ds_safetensors_writer_write(w, i, 0, data, SIZE), DS_OK);
            data[1]++;
            if (twice)
                assert_int_equal(ds_safetensors_writer_write(w, i, 0, data, SIZE), DS_OK);
        }
        assert_int_equal(ds_safetensors_writer_close(w, md5), DS_OK);
        assert_int_equal(ds_md5_of_file(path, md5_of_file), DS_OK);
        assert_string_equal(md5, md5_of_file);
    }
}

static ds_status parse(const char *header, size_t data_size) {
    unsigned char bytes[4096] = {0};
    const size_t n = strlen(header);
    assert_true(8 + n + data_size <= sizeof bytes);
    bytes[0] = (unsigned char)n, bytes[1] = (unsigned char)(n >> 8);
    memcpy(bytes + 8, header, n);
    ds_safetensors *f = NULL;
    const ds_status status = ds_safetensors_from_memory(bytes, 8 + n + data_size, "x", &f);
    ds_safetensors_close(f);
    return status;
}

static void test_lying_headers_are_named(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_size;
        ds_status status;
        const char *message;
    } cases[] = {
        {"{}", 0, DS_OK, ""},
        {"{\"__metadata__\":{\"k\":\"v\"}}   ", 0, DS_OK, ""},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, DS_OK, ""},
        {"{}", 3, DS_CORRUPT, "3 data bytes and no tensor"},
        {"[]", 0, DS_CORRUPT, "not a JSON object"},
        {"{\"a\"", 0, DS_CORRUPT, "not JSON"},
        {"{\"a\":1}", 0, DS_CORRUPT, "a: unknown \"dtype\""},
        {"{\"__metadata__\":{\"k\":1}}", 0, DS_CORRUPT, "metadata \"k\" is not a string"},
        {"{\"__metadata__\":[]}", 0, DS_CORRUPT, "not an object"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, DS_CORRUPT, "F31"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, DS_CORRUPT, "no \"shape\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, DS_CORRUPT,
         "axis 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, DS_CORRUPT,
         "axis 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8,
         DS_CORRUPT, "axis 1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
         DS_CORRUPT, "do not fill"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
         DS_UNSUPPORTED, "7 axes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, DS_CORRUPT, "pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9]}}", 8, DS_CORRUPT,
         "not inside its 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, DS_CORRUPT,
         "not inside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, DS_CORRUPT,
         "not inside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, DS_CORRUPT,
         "1 elements of F32 do not fill"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
         7, DS_CORRUPT, "b starts at data byte 3; it overlaps"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
         9, DS_CORRUPT, "b starts at data byte 5; there is a gap after byte 4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 5, DS_CORRUPT,
         "end at data byte 4 of 5"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, DS_CORRUPT, "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(cases[i].header, cases[i].data_size), cases[i].status);
        if (cases[i].status != DS_OK && !strstr(ds_error(), cases[i].message))
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, ds_error(), cases[i].message);
    }
    ds_safetensors *f = NULL;
    assert_int_equal(ds_safetensors_from_memory((const unsigned char *)"1234567", 7, "x", &f),
                     DS_CORRUPT);
    assert_int_equal(
        ds_safetensors_from_memory((const unsigned char *)"\11\0\0\0\0\0\0\0{}", 10, "x", &f),
        DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "cut short"));
    assert_int_equal(
        ds_safetensors_from_memory((const unsigned char *)"GGUF\3\0\0\1..", 10, "x", &f),
        DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "not a safetensors file"));
}

static void test_foreign_types_are_listed_but_not_found(void **state) {
    (void)state;
    static const char header[] =
        "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]},"
        "\"b\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[2,3]}}";
    unsigned char bytes[256] = {sizeof header - 1};
    memcpy(bytes + 8, header, sizeof header - 1);
    ds_safetensors *f = NULL;
    const ds_safetensor *t = NULL;
    assert_int_equal(ds_safetensors_from_memory(bytes, 8 + sizeof header - 1 + 3, "x", &f), DS_OK);
    assert_int_equal(ds_safetensors_at(f, 0)->dtype, DS_DTYPES);
    assert_int_equal(ds_safetensors_find(f, "a", &t), DS_UNSUPPORTED);
    assert_non_null(strstr(ds_error(), "F8_E4M3"));
    assert_int_equal(ds_safetensors_find(f, "b", &t), DS_OK);
    assert_int_equal(t->dtype, DS_U8);
    ds_safetensors_close(f);
}

static void write_one(const char *path, const char *name, float value) {
    ds_safetensors_writer *w = NULL;
    const ds_safetensors_entry entry = {name, DS_F32, 1, {1}};
    assert_int_equal(ds_safetensors_writer_new(path, &entry, 1, NULL, &w), DS_OK);
    assert_int_equal(ds_safetensors_writer_write(w, 0, 0, &value, 4), DS_OK);
    assert_int_equal(ds_safetensors_writer_close(w, NULL), DS_OK);
}

static void put_index(const char *text) {
    assert_int_equal(ds_file_replace(in_folder("model.safetensors.index.json"), text, strlen(text)),
                     DS_OK);
}

static void test_shards_open_as_one(void **state) {
    (void)state;
    ds_safetensors *f = NULL;
    const ds_safetensor *t = NULL;
    assert_int_equal(ds_safetensors_open(folder, &f), DS_NOT_FOUND);
    write_one(in_folder("s1.safetensors"), "x", 1);
    write_one(in_folder("s2.safetensors"), "y", 2);
    put_index("{\"weight_map\":{\"y\":\"s2.safetensors\",\"x\":\"s1.safetensors\"}}");
    const char *ways[] = {folder, in_folder("model.safetensors.index.json"),
                          in_folder("model.safetensors")};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ds_safetensors_open(ways[i], &f), DS_OK);
        assert_int_equal(ds_safetensors_count(f), 2);
        assert_int_equal(ds_safetensors_find(f, "y", &t), DS_OK);
        assert_true(*(const float *)t->data == 2);
        assert_string_equal(t->path, in_folder("s2.safetensors"));
        ds_safetensors_close(f);
    }
    put_index("{\"weight_map\":{\"y\":\"s1.safetensors\"}}");
    assert_int_equal(ds_safetensors_open(folder, &f), DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "y is not in s1.safetensors"));
    put_index("{\"weight_map\":{\"y\":\"../s1.safetensors\"}}");
    assert_int_equal(ds_safetensors_open(folder, &f), DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "not a plain file name"));
    put_index("{\"weight_map\":{\"y\":\"s3.safetensors\"}}");
    assert_int_equal(ds_safetensors_open(folder, &f), DS_NOT_FOUND);
    put_index("{\"weight_map\":{\"y\":3}}");
    assert_int_equal(ds_safetensors_open(folder, &f), DS_CORRUPT);
    put_index("{}");
    assert_int_equal(ds_safetensors_open(folder, &f), DS_CORRUPT);
    put_index("{");
    assert_int_equal(ds_safetensors_open(folder, &f), DS_CORRUPT);
}

static void test_bad_lists_are_refused(void **state) {
    (void)state;
    static const struct {
        ds_safetensors_entry entry[2];
        const char *message;
    } cases[] = {
        {{{"a", DS_F32, 1, {1}}, {"a", DS_F32, 1, {1}}}, "a is listed twice"},
        {{{"a", DS_F32, 1, {-1}}, {"b", DS_F32, 1, {1}}}, "axis 0"},
        {{{"a", DS_F32, 2, {INT64_MAX, 8}}, {"b", DS_F32, 1, {1}}}, "axis"},
        {{{"a", DS_F32, 7, {1}}, {"b", DS_F32, 1, {1}}}, "rank 7"},
        {{{"a", DS_DTYPES, 1, {1}}, {"b", DS_F32, 1, {1}}}, "element type"},
        {{{"__metadata__", DS_F32, 1, {1}}, {"b", DS_F32, 1, {1}}}, "reserved"},
        {{{"\xff", DS_F32, 1, {1}}, {"b", DS_F32, 1, {1}}}, "not UTF-8"},
    };
    ds_safetensors_writer *w = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(ds_safetensors_writer_new(in_folder("bad"), cases[i].entry, 2, NULL, &w),
                         DS_INVALID);
        if (!strstr(ds_error(), cases[i].message))
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, ds_error(), cases[i].message);
    }
    assert_int_equal(ds_safetensors_writer_new(in_folder("bad"), entries, 1, NULL, &w), DS_OK);
    assert_int_equal(ds_safetensors_writer_write(w, 0, 20, "12345678", 8), DS_INVALID);
    assert_int_equal(ds_safetensors_writer_write(w, 1, 0, "1", 1), DS_INVALID);
    assert_int_equal(ds_safetensors_writer_write(w, 0, 20, "1234", 4), DS_OK);
    assert_int_equal(ds_safetensors_writer_close(w, NULL), DS_INVALID);
    assert_non_null(strstr(ds_error(), "b.weight: only 4 of its 24 bytes"));
    assert_false(ds_file_exists(in_folder("bad")));
    assert_false(ds_file_exists(in_folder("bad.part")));
}

static void test_faults_leave_the_former_file(void **state) {
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s/kept.safetensors", folder);
    write_one(path, "old", 7);
    for (int kind = 0; kind < DS_FAULT_FAILURES; kind++) {
        int failures = 0;
        for (int n = 1; n < 200; n++) {
            ds_fault_arm((ds_fault)kind, n);
            const ds_status status = copy_reference(path, NULL);
            ds_fault_arm((ds_fault)kind, 0);
            if (status == DS_OK)
                break;
            failures++;
            assert_int_equal(status, kind == DS_FAULT_ALLOC ? DS_OUT_OF_MEMORY : DS_IO);
            assert_false(ds_file_exists(in_folder("kept.safetensors.part")));
            ds_safetensors *f = NULL;
            const ds_safetensor *t = NULL;
            assert_int_equal(ds_safetensors_open(path, &f), DS_OK);
            /* Only the folder's sync after the rename fails too late to keep the old file. */
            if (kind != DS_FAULT_SYNC || n == 1)
                assert_int_equal(ds_safetensors_find(f, "old", &t), DS_OK);
            ds_safetensors_close(f);
        }
        assert_true(failures > 0 && failures < 199);
        write_one(path, "old", 7);
    }
}

/* A real refusal by the kernel: the file may not grow beyond a limit. */
static void test_no_room_is_known_at_once(void **state) {
    (void)state;
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small = {.rlim_cur = 1 << 20, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    const ds_safetensors_entry large = {"w", DS_F32, 1, {1 << 20}};
    ds_safetensors_writer *w = NULL;
    const ds_status status = ds_safetensors_writer_new(in_folder("large"), &large, 1, NULL, &w);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(status, DS_IO);
    assert_non_null(strstr(ds_error(), "no room for"));
    assert_false(ds_file_exists(in_folder("large.part")));
}

static void test_real_checkpoints_open(void **state) {
    (void)state;
    ds_safetensors *f = NULL;
    const ds_safetensor *t = NULL;
    if (!ds_folder_exists(DS_ASSETS "/tinystories656k")) {
        print_message("skipped: %s is absent\n", DS_ASSETS);
        skip();
    }
    assert_int_equal(ds_safetensors_open(DS_ASSETS "/tinystories656k", &f), DS_OK);
    assert_int_equal(ds_safetensors_find(f, "lm_head.weight", &t), DS_OK);
    assert_int_equal(t->dtype, DS_F32);
    assert_int_equal(t->dims[0], 2048);
    ds_safetensors_close(f);
    assert_int_equal(ds_safetensors_open(DS_ASSETS "/gpt_nano_sort/partials.safetensors", &f),
                     DS_OK);
    assert_true(ds_safetensors_count(f) > 10);
    ds_safetensors_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_the_reference_file),
        cmocka_unit_test(test_writes_what_the_reference_writes),
        cmocka_unit_test(test_the_sum_is_that_of_the_file),
        cmocka_unit_test(test_lying_headers_are_named),
        cmocka_unit_test(test_foreign_types_are_listed_but_not_found),
        cmocka_unit_test(test_shards_open_as_one),
        cmocka_unit_test(test_bad_lists_are_refused),
        cmocka_unit_test(test_faults_leave_the_former_file),
        cmocka_unit_test(test_no_room_is_known_at_once),
        cmocka_unit_test(test_real_checkpoints_open),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

/* Text sources: every kind of file gives its documents, whole, in order; bad ones are named. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/text.h"
#include "deepseek/data.h"

static char folder[] = "/tmp/ds-text-XXXXXX";

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

static void put_file(const char *name, const char *contents, size_t n) {
    assert_int_equal(ds_file_replace(in_folder(name), contents, n), DS_OK);
}

static void put_gzip(const char *name, const char *contents) {
    gzFile f = gzopen(in_folder(name), "wb");
    assert_int_equal(gzwrite(f, contents, (unsigned)strlen(contents)), strlen(contents));
    gzclose(f);
}

/* All documents joined by '|', pieces of one document by nothing. */
static ds_status read_all(const char *path, char **out) {
    ds_text_source *source = NULL;
    ds_status status = ds_text_source_open(path, &source);
    ds_text all = {0};
    while (status == DS_OK) {
        const char *text = NULL;
        size_t length = 0;
        status = ds_text_source_next(source, &text, &length);
        if (!text)
            break;
        ds_text_append(&all, text, length);
        if (!ds_text_source_continues(source))
            ds_text_puts(&all, "|");
    }
    if (status == DS_OK) {
        int64_t done = -1, total = -2;
        ds_text_source_progress(source, &done, &total);
        assert_int_equal(done, total);
    }
    ds_text_source_close(source);
    ds_text_puts(&all, "");
    *out = ds_text_take(&all);
    return status;
}

static void expect_all(const char *name, const char *want) {
    char *all = NULL;
    assert_int_equal(read_all(in_folder(name), &all), DS_OK);
    assert_string_equal(all, want);
    free(all);
}

static void expect_failure(const char *name, ds_status status, const char *message) {
    char *all = NULL;
    assert_int_equal(read_all(in_folder(name), &all), status);
    if (!strstr(ds_error(), message))
        fail_msg("\"%s\" lacks \"%s\"", ds_error(), message);
    free(all);
}

static void test_each_kind_of_file(void **state) {
    (void)state;
    put_file("a.txt", "one\ntwo", 7);
    expect_all("a.txt", "one\ntwo|");
    put_file("bom.txt", "\xEF\xBB\xBFone", 6);
    expect_all("bom.txt", "one|");
    put_file("noending", "plain", 5);
    expect_all("noending", "plain|");
    put_file("empty.txt", "", 0);
    expect_all("empty.txt", "");
    static const char lines[] =
        "{\"text\": \"a\\nb\", \"id\": 3}\r\n\n{\"text\":\"\"}\n{\"text\":\"c\"}";
    put_file("b.jsonl", lines, strlen(lines));
    expect_all("b.jsonl", "a\nb|c|");
    put_gzip("c.jsonl.gz", lines);
    expect_all("c.jsonl.gz", "a\nb|c|");
    put_gzip("d.txt.gz", "zipped");
    expect_all("d.txt.gz", "zipped|");
}

static void test_folders_in_byte_order(void **state) {
    (void)state;
    assert_int_equal(ds_folder_make(in_folder("tree/b/deep")), DS_OK);
    put_file("tree/B.txt", "1", 1);
    put_file("tree/a.txt", "2", 1);
    put_file("tree/b/deep/x.jsonl", "{\"text\":\"3\"}\n", 13);
    put_file("tree/b/y.txt", "4", 1);
    put_file("tree/c.png", "no", 2);
    assert_int_equal(symlink("..", in_folder("tree/b/cycle")), 0);
    expect_all("tree", "1|2|3|4|");
    assert_int_equal(ds_folder_make(in_folder("bare")), DS_OK);
    expect_failure("bare", DS_NOT_FOUND, "bare: no .txt");
    expect_failure("absent", DS_NOT_FOUND, "absent");
}

static void test_bad_lines_are_named(void **state) {
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"{\"text\": ", "bad.jsonl:3: not JSON"},
        {"[1]", "bad.jsonl:3: not a JSON object"},
        {"{\"txt\": 1}", "bad.jsonl:3: no \"text\""},
        {"{\"text\": 1}", "3: \"text\" is not a string"},
        {"{\"text\": \"\xff\"}", "bad.jsonl:3: not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char contents[256];
        const int n =
            snprintf(contents, sizeof contents, "{\"text\":\"a\"}\n\n%s\n", cases[i].line);
        put_file("bad.jsonl", contents, (size_t)n);
        expect_failure("bad.jsonl", DS_INVALID, cases[i].message);
    }
}

static void test_damaged_gzip_is_named(void **state) {
    (void)state;
    char *zipped = NULL;
    size_t size = 0;
    put_gzip("cut.txt.gz", "a text that is long enough to be cut short somewhere in its middle");
    assert_int_equal(ds_file_read(in_folder("cut.txt.gz"), 10000, &zipped, &size), DS_OK);
    put_file("cut.txt.gz", zipped, size - 12);
    expect_failure("cut.txt.gz", DS_CORRUPT, "cut.txt.gz: damaged gzip data");
    put_file("cut.txt.gz", "plain", 5);
    expect_failure("cut.txt.gz", DS_CORRUPT, "not gzip");
    free(zipped);
}

/* A .txt larger than one piece is whole again when its pieces are joined, and is one document. */
static void check_large(size_t size, const char *unit) {
    ds_text want = {0};
    while (want.length < size)
        ds_text_puts(&want, unit);
    want.length = size;
    put_file("large.txt", want.data, size);
    ds_text_source *source = NULL;
    assert_int_equal(ds_text_source_open(in_folder("large.txt"), &source), DS_OK);
    size_t at = 0;
    bool continues = true;
    for (;;) {
        const char *text = NULL;
        size_t length = 0;
        assert_int_equal(ds_text_source_next(source, &text, &length), DS_OK);
        if (!text)
            break;
        assert_true(continues && length <= (4 << 20));
        assert_memory_equal(text, want.data + at, length);
        at += length;
        continues = ds_text_source_continues(source);
        if (continues && strchr(unit, '\n'))
            assert_int_equal(text[length - 1], '\n');
        else if (continues) /* between characters */
            assert_true(((unsigned char)want.data[at] & 0xC0) != 0x80);
    }
    assert_false(continues);
    assert_int_equal(at, size);
    ds_text_source_close(source);
    ds_text_clear(&want);
}

static void test_what_is_no_text_is_named(void **state) {
    (void)state;
    put_file("tokens.txt", "PK\3\4\0\0", 6);
    expect_failure("tokens.txt", DS_INVALID, "tokens.txt: not text (byte 4 is zero)");
}

static void test_large_files_come_in_pieces(void **state) {
    (void)state;
    check_large((9 << 20) + 17, "a line of text\n");
    check_large(4 << 20, "x\n"); /* exactly one piece */
    check_large((4 << 20) + 1, "x\n");
    check_large((5 << 20) + 1, "\xE4\xB8\xAD"); /* no line end: cut between characters */
}

static void test_allocation_failures_are_reported(void **state) {
    (void)state;
    put_file("m.jsonl", "{\"text\":\"a\"}\n", 13);
    for (int n = 1; n < 40; n++) {
        ds_fault_arm(DS_FAULT_ALLOC, n);
        ds_text_source *source = NULL;
        ds_status status = ds_text_source_open(in_folder("m.jsonl"), &source);
        const char *text = "";
        size_t length = 0;
        while (status == DS_OK && text)
            status = ds_text_source_next(source, &text, &length);
        ds_text_source_close(source);
        ds_fault_arm(DS_FAULT_ALLOC, 0);
        if (status == DS_OK) {
            assert_true(n > 3);
            return;
        }
        assert_int_equal(status, DS_OUT_OF_MEMORY);
    }
    fail();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_of_file),
        cmocka_unit_test(test_folders_in_byte_order),
        cmocka_unit_test(test_bad_lines_are_named),
        cmocka_unit_test(test_damaged_gzip_is_named),
        cmocka_unit_test(test_what_is_no_text_is_named),
        cmocka_unit_test(test_large_files_come_in_pieces),
        cmocka_unit_test(test_allocation_failures_are_reported),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

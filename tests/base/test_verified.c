/* The record of files whose sums were right: believed while nothing of the file has changed, and a
 * damaged or missing record is none. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checkpoint_folder.h"
#include "base/error.h"
#include "base/file.h"
#include "base/md5.h"
#include "base/verified.h"

static char folder[] = "/tmp/ds-verified-XXXXXX", model[600], sums[600], record[600];
static char md5[DS_MD5_HEX];

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

/* A file that has been there for a while: its time of change, which nobody can set, is waited for.
 */
static void settle(void) {
    struct stat st;
    assert_int_equal(stat(model, &st), 0);
    while (time(NULL) < st.st_ctim.tv_sec + 2)
        usleep(50000);
}

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(model, sizeof model, "%s/model.safetensors", folder);
    snprintf(sums, sizeof sums, "%s/MD5SUMS", folder);
    snprintf(record, sizeof record, "%s/deepseek/verified", folder);
    setenv("XDG_CACHE_HOME", folder, 1);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    return ds_folder_remove(folder) == DS_OK ? 0 : -1;
}

static void write_model(const char *text) {
    char line[128];
    require(ds_file_replace(model, text, strlen(text)));
    require(ds_md5_of_file(model, md5));
    snprintf(line, sizeof line, "%s  model.safetensors\n", md5);
    require(ds_file_replace(sums, line, strlen(line)));
}

static void test_unchanged_files_are_known(void **unused) {
    (void)unused;
    write_model("some weights");
    assert_false(ds_verified_knows(model, md5));
    ds_verified_note(model, md5); /* too fresh */
    assert_false(ds_verified_knows(model, md5));
    settle();
    require(ds_checkpoint_verify_model(folder, DS_VERIFY_CHANGED));
    assert_true(ds_verified_knows(model, md5));
    assert_false(ds_verified_knows(model, "00000000000000000000000000000000"));
    assert_false(ds_verified_knows(sums, md5));
}

/* Only the file's own times tell of a change that keeps size and modification time. */
static void test_changed_files_are_not(void **unused) {
    (void)unused;
    write_model("some weights");
    settle();
    require(ds_checkpoint_verify_model(folder, DS_VERIFY_CHANGED));
    assert_true(ds_verified_knows(model, md5));
    struct stat st;
    assert_int_equal(stat(model, &st), 0);
    FILE *file = fopen(model, "r+");
    assert_non_null(file);
    fputs("other bytes!", file);
    fclose(file);
    const struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, model, times, 0), 0);
    assert_false(ds_verified_knows(model, md5));
    assert_int_equal(ds_checkpoint_verify_model(folder, DS_VERIFY_CHANGED), DS_CORRUPT);
    assert_int_equal(ds_checkpoint_verify_model(folder, DS_VERIFY_ALL), DS_CORRUPT);
}

/* A record that says so is believed: only --verify reads the file. */
static void test_all_reads_again(void **unused) {
    (void)unused;
    static const char wrong[] = "00000000000000000000000000000000";
    char line[128];
    write_model("some weights");
    snprintf(line, sizeof line, "%s  model.safetensors\n", wrong);
    require(ds_file_replace(sums, line, strlen(line)));
    settle();
    ds_verified_note(model, wrong);
    require(ds_checkpoint_verify_model(folder, DS_VERIFY_CHANGED));
    assert_int_equal(ds_checkpoint_verify_model(folder, DS_VERIFY_ALL), DS_CORRUPT);
}

static void test_damaged_records(void **unused) {
    (void)unused;
    write_model("some weights");
    settle();
    ds_verified_note(model, md5);
    char *text = NULL;
    size_t size = 0;
    require(ds_file_read(record, 1 << 20, &text, &size));
    const size_t last = size - 1; /* of the line of this file */
    size_t first = last;
    while (first > 0 && text[first - 1] != '\n')
        first--;
    require(ds_file_replace(record, text + first, last - first)); /* torn: no end of line */
    assert_false(ds_verified_knows(model, md5));
    require(ds_file_replace(record, text + first + 1, size - first - 1));
    assert_false(ds_verified_knows(model, md5));
    require(ds_file_replace(record, text + first, size - first));
    assert_true(ds_verified_knows(model, md5));
    memset(text, '\0', size);
    require(ds_file_replace(record, text, size));
    assert_false(ds_verified_knows(model, md5));
    free(text);
    unlink(record);
    assert_false(ds_verified_knows(model, md5));
}

/* It does not grow without end. */
static void test_long_records_begin_anew(void **unused) {
    (void)unused;
    enum { LONG = 300 * 1024 };
    char *text = malloc(LONG);
    memset(text, '\n', LONG);
    require(ds_file_replace(record, text, LONG));
    write_model("some weights");
    settle();
    ds_verified_note(model, md5);
    struct stat st;
    assert_int_equal(stat(record, &st), 0);
    assert_true(st.st_size < 1024);
    assert_true(ds_verified_knows(model, md5));
    free(text);
}

static void test_without_a_home(void **unused) {
    (void)unused;
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    write_model("some weights");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    require(ds_checkpoint_verify_model(folder, DS_VERIFY_CHANGED));
    assert_false(ds_verified_knows(model, md5));
    setenv("XDG_CACHE_HOME", folder, 1);
    if (home)
        setenv("HOME", home, 1);
    free(home);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unchanged_files_are_known),
        cmocka_unit_test(test_changed_files_are_not),
        cmocka_unit_test(test_all_reads_again),
        cmocka_unit_test(test_damaged_records),
        cmocka_unit_test(test_long_records_begin_anew),
        cmocka_unit_test(test_without_a_home),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

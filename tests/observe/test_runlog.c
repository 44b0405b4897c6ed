/* The run's record: what is written reads back, a resumed run leaves one story, a full disk leaves
 * whole lines, and an event is the bytes that TensorFlow writes (test_tensorboard.c reads files).
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "observe/runlog.h"
#include "observe/tensorboard.h"

static char *read_all(const char *folder, const char *name, size_t *size) {
    char path[512], *data = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(ds_file_read(path, 1 << 20, &data, size), DS_OK);
    return data;
}

static void test_crc32c(void **state) {
    (void)state;
    /* RFC 3720, appendix B.4. */
    unsigned char zeros[32] = {0}, ones[32], rising[32];
    memset(ones, 0xff, sizeof ones);
    for (int i = 0; i < 32; i++)
        rising[i] = (unsigned char)i;
    assert_int_equal(ds_crc32c(zeros, 32), 0x8a9136aa);
    assert_int_equal(ds_crc32c(ones, 32), 0x62a8ab43);
    assert_int_equal(ds_crc32c(rising, 32), 0x46dd794e);
    assert_int_equal(ds_crc32c("123456789", 9), 0xe3069283);
}

/* Bytes that TensorFlow's own writer gives for the same event. */
static void test_event_bytes(void **state) {
    (void)state;
    ds_text out = {0};
    ds_tensorboard_scalars(&out, 1.0, 5, (const char *const[]){"a"}, (const double[]){1.0}, 1);
    static const unsigned char payload[] = {
        0x09, 0,  0,   0,    0,    0, 0, 0xf0, 0x3f, /* wall_time = 1.0 */
        0x10, 5,                                     /* step = 5 */
        0x2a, 10,                                    /* summary { */
        0x0a, 8,                                     /*   value { */
        0x0a, 1,  'a',                               /*     tag = "a" */
        0x15, 0,  0,   0x80, 0x3f,                   /*     simple_value = 1.0 } } */
    };
    assert_int_equal(out.length, 8 + 4 + sizeof payload + 4);
    assert_memory_equal(out.data, ((unsigned char[]){sizeof payload, 0, 0, 0, 0, 0, 0, 0}), 8);
    assert_memory_equal(out.data + 12, payload, sizeof payload);
    ds_text_clear(&out);
}

static void write_step(ds_runlog *log, int64_t step, double loss) {
    const ds_metric metrics[] = {{"loss", loss}, {"learning_rate", 1e-3}};
    assert_int_equal(ds_runlog_metrics(log, step, metrics, 2), DS_OK);
}

static void test_write_and_resume(void **state) {
    (void)state;
    char folder[] = "/tmp/ds-runlog-XXXXXX";
    assert_non_null(mkdtemp(folder));
    ds_runlog *log = NULL;
    assert_int_equal(ds_runlog_open(folder, 0, &log), DS_OK);
    for (int step = 1; step <= 5; step++)
        write_step(log, step, 10.0 - step);
    write_step(log, 6, NAN);
    assert_int_equal(ds_runlog_text(log, 6, "sample", "In the \"beginning\"\n\xff\xc3\xa4\xe2\x82"),
                     DS_OK);
    ds_runlog_close(log);
    size_t size = 0;
    char *text = read_all(folder, "metrics.jsonl", &size);
    assert_int_equal(strncmp(text, "{\"step\":1,\"time\":", 17), 0);
    assert_non_null(strstr(text, ",\"loss\":9.0,\"learning_rate\":0.001}\n"));
    assert_non_null(strstr(text, "\"loss\":null"));
    assert_non_null(strstr(
        text,
        "\"sample\":\"In the \\\"beginning\\\"\\n\xef\xbf\xbd\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\""));
    free(text);
    double *steps = NULL, *losses = NULL;
    size_t n = 0;
    assert_int_equal(ds_runlog_read(folder, "loss", &steps, &losses, &n), DS_OK);
    assert_int_equal(n, 5);
    assert_true(steps[4] == 5 && losses[4] == 5);
    free(steps);
    free(losses);

    /* The process died in the middle of a line and resumes from the checkpoint of step 3. */
    char path[512];
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    fputs("{\"step\":7,\"lo", file);
    fclose(file);
    assert_int_equal(ds_runlog_open(folder, 4, &log), DS_OK);
    write_step(log, 4, 1.5);
    ds_runlog_close(log);
    assert_int_equal(ds_runlog_read(folder, "loss", &steps, &losses, &n), DS_OK);
    assert_int_equal(n, 4);
    assert_true(steps[2] == 3 && losses[2] == 7 && steps[3] == 4 && losses[3] == 1.5);
    free(steps);
    free(losses);
    assert_int_equal(ds_runlog_open(folder, 0, &log), DS_OK);
    ds_runlog_close(log);
    assert_int_equal(ds_runlog_read(folder, "loss", &steps, &losses, &n), DS_OK);
    assert_int_equal(n, 0);
    free(steps);
    free(losses);
    assert_int_equal(ds_folder_remove(folder), DS_OK);
}

static void test_disk_full(void **state) {
    (void)state;
    char folder[] = "/tmp/ds-runlog-XXXXXX";
    assert_non_null(mkdtemp(folder));
    ds_runlog *log = NULL;
    assert_int_equal(ds_runlog_open(folder, 0, &log), DS_OK);
    write_step(log, 1, 1);
    const ds_metric metric = {"loss", 2};
    ds_fault_arm(DS_FAULT_WRITE, 1);
    assert_int_equal(ds_runlog_metrics(log, 2, &metric, 1), DS_IO);
    ds_fault_arm(DS_FAULT_WRITE, 2); /* the event file */
    assert_int_equal(ds_runlog_metrics(log, 3, &metric, 1), DS_IO);
    ds_fault_arm(DS_FAULT_WRITE, 0);
    write_step(log, 4, 4);
    ds_runlog_close(log);
    double *steps = NULL, *losses = NULL;
    size_t n = 0;
    assert_int_equal(ds_runlog_read(folder, "loss", &steps, &losses, &n), DS_OK);
    assert_int_equal(n, 3);
    assert_true(steps[2] == 4);
    free(steps);
    free(losses);
    assert_int_equal(ds_folder_remove(folder), DS_OK);
    assert_int_equal(ds_runlog_open("/dev/null/x", 0, &log), DS_IO);
    assert_null(log);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c),
        cmocka_unit_test(test_event_bytes),
        cmocka_unit_test(test_write_and_resume),
        cmocka_unit_test(test_disk_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The event files of a run that was resumed, read by a reader of this file's own: TFRecord framing,
 * the CRC computed from the polynomial's definition, protobuf's wire format by field numbers. It
 * shares no line with src/observe/tensorboard.c. DS_RUNLOG_EXAMPLE=FOLDER leaves the run there, for
 * TensorBoard itself (read_events.py). */
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

#include "base/file.h"
#include "observe/runlog.h"

enum { MOST_STEPS = 200, RESUMED_AT = 51, LAST = 60 };

/* What TensorBoard would show. */
typedef struct story {
    int n_files, n_texts;
    double loss[MOST_STEPS], rate[MOST_STEPS]; /* NAN: nothing at this step */
    char text[64];
} story;

/* ---- framing --------------------------------------------------------------------------------- */

static uint32_t reversed(uint32_t x, int bits) {
    uint32_t y = 0;
    for (int i = 0; i < bits; i++)
        y |= (x >> i & 1) << (bits - 1 - i);
    return y;
}

/* Polynomial division from the left, as CRC-32C is defined; bytes and result come in reversed. */
static uint32_t crc32c(const unsigned char *bytes, size_t n) {
    uint32_t remainder = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        remainder ^= reversed(bytes[i], 8) << 24;
        for (int bit = 0; bit < 8; bit++)
            remainder = remainder & 0x80000000 ? remainder << 1 ^ 0x1edc6f41 : remainder << 1;
    }
    return reversed(~remainder, 32);
}

static uint64_t little_endian(const unsigned char *bytes, int n) {
    uint64_t value = 0;
    while (n-- > 0)
        value = value << 8 | bytes[n];
    return value;
}

/* tensorflow/core/lib/hash/crc32c.h, Unmask. */
static bool is_masked_crc(const unsigned char *stored, const unsigned char *bytes, size_t n) {
    const uint32_t rotated = (uint32_t)little_endian(stored, 4) - 0xa282ead8;
    return (rotated >> 17 | rotated << 15) == crc32c(bytes, n);
}

/* ---- protobuf -------------------------------------------------------------------------------- */

typedef struct message {
    const unsigned char *at, *end;
} message;

typedef struct field {
    int number, wire_type;
    uint64_t value; /* of numbers; bits of floating-point ones */
    message bytes;  /* of strings and messages */
} field;

static bool read_varint(message *m, uint64_t *value) {
    *value = 0;
    for (int shift = 0; m->at < m->end && shift < 64; shift += 7) {
        const unsigned char byte = *m->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool read_fixed(message *m, int n, uint64_t *value) {
    if (m->end - m->at < n)
        return false;
    *value = little_endian(m->at, n);
    m->at += n;
    return true;
}

/* False at the end. Damage fails the test. */
static bool next_field(message *m, field *f) {
    uint64_t key = 0, size = 0;
    if (m->at == m->end)
        return false;
    assert_true(read_varint(m, &key));
    *f = (field){.number = (int)(key >> 3), .wire_type = (int)(key & 7)};
    switch (f->wire_type) {
    case 0: assert_true(read_varint(m, &f->value)); break;
    case 1: assert_true(read_fixed(m, 8, &f->value)); break;
    case 5: assert_true(read_fixed(m, 4, &f->value)); break;
    case 2:
        assert_true(read_varint(m, &size));
        assert_true(size <= (uint64_t)(m->end - m->at));
        f->bytes = (message){m->at, m->at + size};
        m->at += size;
        break;
    default: fail_msg("wire type %d", f->wire_type);
    }
    return true;
}

static bool is_text(message m, const char *text) {
    return (size_t)(m.end - m.at) == strlen(text) && memcmp(m.at, text, strlen(text)) == 0;
}

/* ---- events: tensorflow/core/util/event.proto and framework/summary.proto -------------------- */

static void read_tensor(story *s, message tensor) {
    for (field f; next_field(&tensor, &f);)
        if (f.number == 8) { /* string_val */
            const size_t n = (size_t)(f.bytes.end - f.bytes.at);
            assert_true(n < sizeof s->text);
            memcpy(s->text, f.bytes.at, n);
            s->text[n] = '\0';
            s->n_texts++;
        }
}

static void read_value(story *s, uint64_t step, message value) {
    double *series = NULL;
    for (field f; next_field(&value, &f);) {
        if (f.number == 1) /* tag, which the writer puts first */
            series = is_text(f.bytes, "train/loss")            ? s->loss
                     : is_text(f.bytes, "train/learning_rate") ? s->rate
                                                               : NULL;
        if (f.number == 2) { /* simple_value */
            const uint32_t bits = (uint32_t)f.value;
            float number = 0;
            memcpy(&number, &bits, sizeof number);
            assert_int_equal(f.wire_type, 5);
            assert_non_null(series);
            assert_true(isnan(series[step])); /* each step once */
            series[step] = (double)number;
        }
        if (f.number == 8)
            read_tensor(s, f.bytes);
    }
}

static void forget_from(story *s, uint64_t step) {
    for (; step < MOST_STEPS; step++)
        s->loss[step] = s->rate[step] = NAN;
}

static void read_event(story *s, message event, bool first) {
    uint64_t step = 0;
    bool has_version = false;
    for (field f; next_field(&event, &f);) {
        if (f.number == 2) {
            step = f.value;
            assert_true(step < MOST_STEPS);
        }
        if (f.number == 3)
            has_version = is_text(f.bytes, "brain.Event:2");
        if (f.number == 5)
            for (field value; next_field(&f.bytes, &value);)
                read_value(s, step, value.bytes);
        if (f.number == 7) /* session_log: training starts at this step */
            forget_from(s, step);
    }
    assert_int_equal(has_version, first);
}

/* False: the file is damaged. */
static bool read_records(story *s, const unsigned char *bytes, size_t size) {
    for (size_t at = 0; at < size;) {
        if (size - at < 16 || !is_masked_crc(bytes + at + 8, bytes + at, 8))
            return false;
        const uint64_t n = little_endian(bytes + at, 8);
        const unsigned char *payload = bytes + at + 12;
        if (n > size - at - 16 || !is_masked_crc(payload + n, payload, n))
            return false;
        read_event(s, (message){payload, payload + n}, at == 0);
        at += 16 + n;
    }
    return true;
}

static int is_event_file(const struct dirent *entry) {
    return strstr(entry->d_name, ".tfevents.") != NULL;
}

static void read_folder(story *s, const char *folder) {
    struct dirent **names = NULL;
    s->n_files = scandir(folder, &names, is_event_file, alphasort);
    assert_true(s->n_files >= 0);
    forget_from(s, 0);
    for (int i = 0; i < s->n_files; i++) {
        char path[512], *data = NULL;
        size_t size = 0;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        assert_int_equal(ds_file_read(path, 1 << 20, &data, &size), DS_OK);
        assert_true(read_records(s, (const unsigned char *)data, size));
        data[size / 2] ^= 1; /* one bit anywhere must not pass */
        story damaged = {0};
        forget_from(&damaged, 0);
        assert_false(read_records(&damaged, (const unsigned char *)data, size));
        free(data);
        free(names[i]);
    }
    free(names);
}

/* ---- the run --------------------------------------------------------------------------------- */

static void write_steps(const char *folder, int first, int last, double scale) {
    ds_runlog *log = NULL;
    assert_int_equal(ds_runlog_open(folder, first, &log), DS_OK);
    for (int step = first ? first : 1; step <= last; step++) {
        const ds_metric metrics[] = {{"loss", scale / step}, {"learning_rate", 1e-3}};
        assert_int_equal(ds_runlog_metrics(log, step, metrics, 2), DS_OK);
    }
    if (first == 0)
        assert_int_equal(ds_runlog_text(log, last, "sample", "In the beginning"), DS_OK);
    ds_runlog_close(log);
}

static void test_resumed_run(void **state) {
    (void)state;
    char made[] = "/tmp/ds-tensorboard-XXXXXX";
    const char *kept = getenv("DS_RUNLOG_EXAMPLE");
    const char *folder = kept ? kept : mkdtemp(made);
    assert_non_null(folder);
    write_steps(folder, 0, 100, 3);
    sleep(1); /* files are ordered by the second of their start */
    write_steps(folder, RESUMED_AT, LAST, 7);
    story s = {0};
    read_folder(&s, folder);
    assert_int_equal(s.n_files, 2);
    assert_int_equal(s.n_texts, 1);
    assert_string_equal(s.text, "In the beginning");
    for (int step = 0; step < MOST_STEPS; step++) {
        const double scale = step < RESUMED_AT ? 3 : 7;
        if (step == 0 || step > LAST) {
            assert_true(isnan(s.loss[step]) && isnan(s.rate[step]));
            continue;
        }
        assert_true(s.loss[step] == (double)(float)(scale / step));
        assert_true(s.rate[step] == (double)1e-3f);
    }
    if (!kept)
        assert_int_equal(ds_folder_remove(folder), DS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_resumed_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

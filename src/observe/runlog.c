#include "observe/runlog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "observe/tensorboard.h"

enum { MAX_METRICS = 256 };

/* A file that only grows, by whole records. */
typedef struct record_file {
    char path[PATH_MAX];
    int fd;
    off_t size; /* of the records that were written whole */
} record_file;

struct ds_runlog {
    record_file json, events;
};

static double wall_time_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static ds_status open_records(record_file *file, int flags) {
    file->fd = open(file->path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666);
    if (file->fd < 0)
        return ds_fail_errno("%s: cannot be opened", file->path);
    file->size = lseek(file->fd, 0, SEEK_END);
    return DS_OK;
}

static ds_status append_record(record_file *file, const ds_text *text) {
    if (text->poisoned)
        return DS_OUT_OF_MEMORY;
    const ds_status status = ds_fd_write(file->fd, text->data, text->length, file->path);
    if (status == DS_OK) {
        file->size += (off_t)text->length;
        return DS_OK;
    }
    /* Half a record would make the rest unreadable. Shrinking needs no space on the disk. */
    if (ftruncate(file->fd, file->size) != 0 || lseek(file->fd, file->size, SEEK_SET) < 0)
        return ds_fail_within(status, "%s: and cannot be cut back", file->path);
    return status;
}

/* Whether a line is whole and belongs to a step before first_step. */
static bool line_is_kept(const char *line, size_t length, int64_t first_step) {
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *step = json_object_get(object, "step");
    const bool kept = json_is_integer(step) && json_integer_value(step) < first_step;
    json_decref(object);
    return kept;
}

/* Rewrites metrics.jsonl without what the resumed run will write again. */
static ds_status drop_lines(const char *path, int64_t first_step) {
    char *data = NULL;
    size_t size = 0;
    if (!ds_file_exists(path))
        return DS_OK;
    if (first_step <= 0)
        return unlink(path) == 0 ? DS_OK : ds_fail_errno("%s: cannot be removed", path);
    DS_TRY(ds_file_read(path, SIZE_MAX - 1, &data, &size));
    size_t kept = 0;
    for (char *line = data, *end; (end = memchr(line, '\n', size - (size_t)(line - data)));
         line = end + 1) {
        const size_t length = (size_t)(end - line) + 1;
        if (line_is_kept(line, length, first_step)) {
            memmove(data + kept, line, length);
            kept += length;
        }
    }
    const ds_status status = kept == size ? DS_OK : ds_file_replace(path, data, kept);
    free(data);
    return status;
}

/* TensorBoard orders the files of a folder by name: the start time must lead. */
static ds_status open_events(ds_runlog *log, const char *folder, int64_t first_step) {
    char host[65] = "localhost";
    gethostname(host, sizeof host - 1);
    const double now = wall_time_s();
    ds_status status = DS_OK;
    int n = 0;
    do {
        const int length = snprintf(log->events.path, sizeof log->events.path,
                                    "%s/events.out.tfevents.%010" PRId64 ".%s.%d.%d", folder,
                                    (int64_t)now, host, (int)getpid(), n);
        if (length >= (int)sizeof log->events.path)
            return ds_fail(DS_INVALID, "%s: path too long", folder);
        status = open_records(&log->events, O_EXCL);
    } while (status != DS_OK && errno == EEXIST && ++n < 1000);
    DS_TRY(status);
    ds_text text = {0};
    ds_tensorboard_version(&text, now);
    ds_tensorboard_session(&text, now, first_step);
    status = append_record(&log->events, &text);
    ds_text_clear(&text);
    return status;
}

ds_status ds_runlog_open(const char *folder, int64_t first_step, ds_runlog **out) {
    *out = NULL;
    DS_TRY(ds_folder_make(folder));
    ds_runlog *log = ds_calloc(1, sizeof *log);
    if (!log)
        return DS_OUT_OF_MEMORY;
    log->json.fd = log->events.fd = -1;
    ds_status status = DS_OK;
    if (snprintf(log->json.path, sizeof log->json.path, "%s/metrics.jsonl", folder) >=
        (int)sizeof log->json.path)
        status = ds_fail(DS_INVALID, "%s: path too long", folder);
    if (status == DS_OK)
        status = drop_lines(log->json.path, first_step);
    if (status == DS_OK)
        status = open_records(&log->json, 0);
    if (status == DS_OK)
        status = open_events(log, folder, first_step);
    if (status != DS_OK) {
        ds_runlog_close(log);
        return status;
    }
    *out = log;
    return DS_OK;
}

void ds_runlog_close(ds_runlog *log) {
    if (!log)
        return;
    if (log->json.fd >= 0)
        close(log->json.fd);
    if (log->events.fd >= 0)
        close(log->events.fd);
    free(log);
}

/* Takes the object and appends it as one line. */
static ds_status append_json(ds_runlog *log, json_t *object) {
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(13)) : NULL;
    json_decref(object);
    if (!line)
        return ds_fail(DS_OUT_OF_MEMORY, "%s: out of memory", log->json.path);
    ds_text text = {0};
    ds_text_puts(&text, line);
    ds_text_puts(&text, "\n");
    free(line);
    const ds_status status = append_record(&log->json, &text);
    ds_text_clear(&text);
    return status;
}

ds_status ds_runlog_metrics(ds_runlog *log, int64_t step, const ds_metric *metrics, size_t n) {
    const double now = wall_time_s();
    const char *tags[MAX_METRICS];
    double values[MAX_METRICS];
    char names[MAX_METRICS][64];
    if (n > MAX_METRICS)
        return ds_fail(DS_INVALID, "%zu metrics in one step; accepted: up to %d", n, MAX_METRICS);
    json_t *object = json_pack("{s:I,s:f}", "step", (json_int_t)step, "time", now);
    for (size_t i = 0; i < n; i++) {
        const double value = metrics[i].value;
        json_object_set_new(object, metrics[i].name,
                            isfinite(value) ? json_real(value) : json_null());
        snprintf(names[i], sizeof names[i], "%s%s", strchr(metrics[i].name, '/') ? "" : "train/",
                 metrics[i].name);
        tags[i] = names[i];
        values[i] = value;
    }
    DS_TRY(append_json(log, object));
    ds_text text = {0};
    ds_tensorboard_scalars(&text, now, step, tags, values, n);
    const ds_status status = append_record(&log->events, &text);
    ds_text_clear(&text);
    return status;
}

/* A copy of text in which every byte that is not part of a UTF-8 character is U+FFFD. */
static char *valid_utf8(const char *text) {
    ds_text out = {0};
    ds_text_puts(&out, "");
    size_t left = strlen(text);
    for (const char *s = text; left > 0;) {
        const size_t valid = ds_utf8_valid(s, left);
        ds_text_append(&out, s, valid);
        s += valid;
        left -= valid;
        if (left > 0) {
            ds_text_puts(&out, "\xef\xbf\xbd");
            s++;
            left--;
        }
    }
    return ds_text_take(&out);
}

ds_status ds_runlog_text(ds_runlog *log, int64_t step, const char *tag, const char *text) {
    const double now = wall_time_s();
    char *clean = valid_utf8(text);
    if (!clean)
        return DS_OUT_OF_MEMORY;
    ds_status status = append_json(
        log, json_pack("{s:I,s:f,s:s}", "step", (json_int_t)step, "time", now, tag, clean));
    if (status == DS_OK) {
        ds_text event = {0};
        ds_tensorboard_text(&event, now, step, tag, clean);
        status = append_record(&log->events, &event);
        ds_text_clear(&event);
    }
    free(clean);
    return status;
}

/* One growing pair of arrays. */
static ds_status append_point(double **steps, double **values, size_t *capacity, size_t n,
                              double step, double value) {
    size_t same = *capacity;
    double *x = ds_grow(*steps, &same, n + 1, sizeof *x);
    if (!x)
        return DS_OUT_OF_MEMORY;
    *steps = x;
    double *y = ds_grow(*values, capacity, n + 1, sizeof *y);
    if (!y)
        return DS_OUT_OF_MEMORY;
    *values = y;
    x[n] = step;
    y[n] = value;
    return DS_OK;
}

ds_status ds_runlog_read(const char *folder, const char *name, double **steps, double **values,
                         size_t *n) {
    char path[PATH_MAX];
    char *data = NULL;
    size_t size = 0, capacity = 0;
    *steps = *values = NULL;
    *n = 0;
    if (snprintf(path, sizeof path, "%s/metrics.jsonl", folder) >= (int)sizeof path)
        return ds_fail(DS_INVALID, "%s: path too long", folder);
    DS_TRY(ds_file_read(path, SIZE_MAX - 1, &data, &size));
    ds_status status = DS_OK;
    for (char *line = data, *end;
         status == DS_OK && (end = memchr(line, '\n', size - (size_t)(line - data)));
         line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        const json_t *step = json_object_get(object, "step");
        const json_t *value = json_object_get(object, name);
        if (json_is_number(step) && json_is_number(value)) {
            status = append_point(steps, values, &capacity, *n, json_number_value(step),
                                  json_number_value(value));
            *n += status == DS_OK;
        }
        json_decref(object);
    }
    free(data);
    if (status != DS_OK) {
        free(*steps);
        free(*values);
        *steps = *values = NULL;
        *n = 0;
    }
    return status;
}

#include "train/progress_state.h"

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

/* One table reads and writes: a field that is saved is a field that is restored. Checkpoints made
 * before the last ones were there leave those as they are. */
static const struct {
    const char *name;
    enum { INT64, DOUBLE, INT, FLOAT, BOOL } kind;
    size_t offset;
} fields[] = {
    {"step", INT64, offsetof(ds_train_progress, step)},
    {"samples", INT64, offsetof(ds_train_progress, samples)},
    {"tokens", INT64, offsetof(ds_train_progress, tokens)},
    {"train_seconds", DOUBLE, offsetof(ds_train_progress, train_seconds)},
    {"loss_scale", FLOAT, offsetof(ds_train_progress, scaler.scale)},
    {"loss_scale_dynamic", BOOL, offsetof(ds_train_progress, scaler.is_dynamic)},
    {"loss_scale_min", FLOAT, offsetof(ds_train_progress, scaler.min_scale)},
    {"loss_scale_max", FLOAT, offsetof(ds_train_progress, scaler.max_scale)},
    {"loss_scale_growth_interval", INT, offsetof(ds_train_progress, scaler.growth_interval)},
    {"loss_scale_hysteresis", INT, offsetof(ds_train_progress, scaler.hysteresis)},
    {"loss_scale_hysteresis_left", INT, offsetof(ds_train_progress, scaler.hysteresis_left)},
    {"clean_steps", INT64, offsetof(ds_train_progress, scaler.clean_steps)},
    {"scaled_steps", INT64, offsetof(ds_train_progress, scaler.total_steps)},
    {"skipped_steps", INT64, offsetof(ds_train_progress, scaler.skipped_steps)},
    {"stuck_steps", INT64, offsetof(ds_train_progress, scaler.stuck_steps)},
    {"batch_level", DOUBLE, offsetof(ds_train_progress, batch.level)},
    {"batch_smoothed", DOUBLE, offsetof(ds_train_progress, batch.smoothed)},
    {"batch_direction", INT, offsetof(ds_train_progress, batch.direction)},
    {"rewinds", INT64, offsetof(ds_train_progress, rewinds)},
    {"planned_steps", INT64, offsetof(ds_train_progress, planned_steps)},
    {"planned_seconds", DOUBLE, offsetof(ds_train_progress, planned_seconds)},
};

enum { N_FIELDS = sizeof fields / sizeof *fields, N_REQUIRED = N_FIELDS - 6 };

char *ds_train_progress_json(const ds_train_progress *progress) {
    json_t *root = json_object();
    for (int i = 0; i < N_FIELDS; i++) {
        const char *at = (const char *)progress + fields[i].offset;
        json_t *value = NULL;
        switch (fields[i].kind) {
        case INT64: value = json_integer(*(const int64_t *)at); break;
        case INT: value = json_integer(*(const int *)at); break;
        case DOUBLE: value = json_real(*(const double *)at); break;
        case FLOAT: value = json_real((double)*(const float *)at); break;
        case BOOL: value = json_boolean(*(const bool *)at); break;
        }
        json_object_set_new(root, fields[i].name, value);
    }
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(root);
    return text;
}

static ds_status read_field(const char *where, const json_t *root, int i, ds_train_progress *out) {
    const json_t *value = json_object_get(root, fields[i].name);
    char *at = (char *)out + fields[i].offset;
    const bool wants_bool = fields[i].kind == BOOL;
    if (!value && i >= N_REQUIRED)
        return DS_OK;
    if (wants_bool ? !json_is_boolean(value) : !json_is_number(value))
        return ds_fail(DS_CORRUPT, "%s: \"%s\" is missing or not %s", where, fields[i].name,
                       wants_bool ? "true or false" : "a number");
    switch (fields[i].kind) {
    case INT64: *(int64_t *)at = json_integer_value(value); break;
    case INT: *(int *)at = (int)json_integer_value(value); break;
    case DOUBLE: *(double *)at = json_number_value(value); break;
    case FLOAT: *(float *)at = (float)json_number_value(value); break;
    case BOOL: *(bool *)at = json_is_true(value); break;
    }
    return DS_OK;
}

static bool is_batch_sound(const ds_dynamic_batch_scheduler *s) {
    return s->level >= 0 && s->level <= 1e9 && s->smoothed <= 1 && s->direction >= -1 &&
           s->direction <= 1;
}

ds_status ds_train_progress_parse(const char *where, const char *json, ds_train_progress *out) {
    json_error_t error;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(root)) {
        json_decref(root);
        return ds_fail(DS_CORRUPT, "%s:%d:%d: %s", where, error.line, error.column, error.text);
    }
    ds_train_progress read = *out;
    ds_status status = DS_OK;
    for (int i = 0; i < N_FIELDS && status == DS_OK; i++)
        status = read_field(where, root, i, &read);
    json_decref(root);
    if (status == DS_OK && (read.step < 0 || read.samples < 0 || read.planned_steps < 0))
        status = ds_fail(DS_CORRUPT, "%s: a negative count", where);
    if (status == DS_OK && !is_batch_sound(&read.batch))
        status = ds_fail(DS_CORRUPT, "%s: the state of the dynamic batch is out of range", where);
    if (status == DS_OK)
        *out = read;
    return status;
}

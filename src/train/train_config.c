/* Loading a training configuration: the table, the sources, and the rules between keys. */
#include "train/train_config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"

ds_status ds_train_config_default(ds_train_config *out) {
    ds_config *reader = NULL;
    DS_TRY(ds_config_new(&ds_train_config_table, out, &reader));
    ds_config_free(reader);
    return DS_OK;
}

/* One of path and text, then the overrides, then the rules. */
static ds_status load(const char *path, const char *text, size_t size, const char *const *overrides,
                      size_t n, int data_parallel_size, ds_train_config *out) {
    ds_config *reader = NULL;
    DS_TRY(ds_config_new(&ds_train_config_table, out, &reader));
    ds_status status = DS_OK;
    if (text)
        status = ds_config_read_text(reader, path, text, size);
    else if (path)
        status = ds_config_read_file(reader, path);
    for (size_t i = 0; i < n && status == DS_OK; i++)
        status = ds_config_override(reader, overrides[i]);
    if (status == DS_OK)
        status = ds_train_config_check(reader, data_parallel_size, out);
    ds_config_free(reader);
    if (status != DS_OK)
        ds_train_config_free(out);
    return status;
}

ds_status ds_train_config_load(const char *path, const char *const *overrides, size_t n,
                               ds_train_config *out) {
    return load(path, NULL, 0, overrides, n, 1, out);
}

ds_status ds_train_config_load_ranks(const char *path, const char *const *overrides, size_t n,
                                     int data_parallel_size, ds_train_config *out) {
    return load(path, NULL, 0, overrides, n, data_parallel_size, out);
}

ds_status ds_train_config_parse(const char *name, const char *yaml, size_t size,
                                const char *const *overrides, size_t n, ds_train_config *out) {
    return load(name, yaml, size, overrides, n, 1, out);
}

void ds_train_config_free(ds_train_config *config) {
    ds_config_release(&ds_train_config_table, config);
}

int64_t ds_train_config_steps(const ds_train_config *config, int64_t seq_len) {
    const int64_t steps = config->training.steps, tokens = config->training.tokens;
    if (tokens == DS_TRAIN_AUTO)
        return steps == DS_TRAIN_AUTO ? DS_TRAIN_MOST_STEPS : steps;
    /* In double, since the batch alone may reach 1e12 samples. */
    const double per_step = (double)config->training.global_batch * (double)seq_len;
    const double quotient = (double)tokens / per_step;
    int64_t needed = quotient < 1 ? 1 : (int64_t)quotient;
    needed += (double)needed * per_step < (double)tokens;
    return steps != DS_TRAIN_AUTO && steps < needed ? steps : needed;
}

ds_dtype ds_train_config_dtype(const ds_train_config *config) {
    if (config->precision.mode == DS_TRAIN_FULL)
        return DS_F32;
    return config->precision.fp16 ? DS_F16 : DS_BF16;
}

bool ds_train_config_equal(const ds_train_config *a, const ds_train_config *b,
                           const char **difference) {
    return ds_config_equal(&ds_train_config_table, a, b, difference);
}

char *ds_train_config_dump_yaml(const ds_train_config *config) {
    ds_text text = {0};
    ds_config_dump(&ds_train_config_table, config, &text);
    return ds_text_take(&text);
}

char *ds_train_config_help(void) {
    ds_text text = {0};
    ds_config_help(&ds_train_config_table, &text);
    return ds_text_take(&text);
}

char *ds_train_config_schema(void) {
    ds_text text = {0};
    ds_config_schema(&ds_train_config_table, &text);
    return ds_text_take(&text);
}

char *ds_train_config_docs_markdown(void) {
    ds_text text = {0};
    ds_config_markdown(&ds_train_config_table, &text);
    return ds_text_take(&text);
}

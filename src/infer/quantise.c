/* A trained model's folder again, its weights quantised: tensor by tensor from the mapped file to
 * the new one. Everything is written into a folder beside the wanted one, renamed at the end. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/half.h"
#include "base/text.h"
#include "infer/model.h"
#include "infer/quantised_folder.h"
#include "infer/smoothing.h"
#include "models/load.h"
#include "passes/passes.h"

enum { NAME_SIZE = 512, MOST_PARTS = 6, PART_NAME = NAME_SIZE + 32 };

/* One tensor of the old file and what it becomes. */
typedef struct item {
    const ds_safetensor *tensor;
    const ds_calibrated *product; /* NULL: it is copied */
    const ds_smoothed *smoothed;  /* of the product */
    const ds_smoothed *divided;   /* a norm's weight or bias: divided by its factors */
    size_t first, n_parts;        /* entries of the new file */
} item;

typedef struct job {
    const ds_quantise_opts *opts;
    ds_weight_format format;
    ds_model *model;
    ds_calibration *calibration;
    ds_smoothed *smoothed;
    ds_safetensors *file;
    item *items;
    size_t n_items;
    ds_safetensors_entry *entries;
    char (*names)[PART_NAME];
    size_t n_entries;
    ds_text left_out;
    ds_safetensors_writer *writer;
    ds_quantise_report *report;
} job;

/* ---- options --------------------------------------------------------------------------------- */

static ds_status check_options(const ds_quantise_opts *o, ds_weight_format *format) {
    *format = (ds_weight_format){.bits = o->bits ? o->bits : 8,
                                 .group = o->group_size ? o->group_size : 64};
    if (format->bits != 8 && format->bits != 4)
        return ds_fail(DS_INVALID, "weights of %d bits; there are 8 and 4", o->bits);
    if (format->group < 8 || format->group % 8 != 0)
        return ds_fail(DS_INVALID, "groups of %lld columns: they must be multiples of 8",
                       (long long)o->group_size);
    if (format->bits == 8 && o->group_size)
        return ds_fail(DS_INVALID, "groups are for weights of 4 bits: those of 8 have one scale a "
                                   "row");
    if (format->bits == 4 && (o->outliers > 0 || o->smooth_all))
        return ds_fail(DS_INVALID,
                       "outliers, and inputs smoothed apart, are for weights of 8 bits");
    if (!(o->smooth >= 0 && o->smooth <= 1) || !(o->outliers >= 0))
        return ds_fail(DS_INVALID, "smooth must be in 0 … 1, outliers 0 or more");
    if (o->smooth_all && o->smooth == 0)
        return ds_fail(DS_INVALID, "smoothing every input wants to know how much");
    if ((o->smooth > 0 || o->outliers > 0) && !o->calibration)
        return ds_fail(DS_INVALID, "smoothing and outliers want a calibration text");
    return DS_OK;
}

/* ---- calibration ----------------------------------------------------------------------------- */

static ds_status read_calibration(job *j) {
    enum { MOST_BYTES = 1 << 28, USUAL_TOKENS = 8192 };
    const ds_tokenizer *tokenizer = ds_model_get_tokenizer(j->model);
    const int64_t most = j->opts->calibration_tokens ? j->opts->calibration_tokens : USUAL_TOKENS;
    char *text = NULL;
    int32_t *ids = NULL;
    size_t size = 0, n = 0;
    if (!tokenizer)
        return ds_fail(DS_NOT_FOUND, "%s has no tokenizer for the calibration text",
                       j->model->path);
    DS_TRY(ds_file_read(j->opts->calibration, MOST_BYTES, &text, &size));
    ds_status status = ds_tokenizer_encode(tokenizer, text, size, &ids, &n);
    free(text);
    if (status == DS_OK)
        status = ds_calibration_read(j->calibration, j->model, ids,
                                     (int64_t)n < most ? (int64_t)n : most);
    free(ids);
    return status;
}

static ds_status rows_of(const ds_calibrated *p, const ds_safetensor *t, float **out) {
    *out = ds_malloc((size_t)(p->n_out * p->n_in + 1) * sizeof **out);
    if (!*out)
        return DS_OUT_OF_MEMORY;
    ds_floats_to_rows(t, p->n_out, p->n_in, p->side == DS_BY_COLUMNS, *out);
    return DS_OK;
}

static ds_status weight_ranges(const ds_calibrated *p, float *most, void *context) {
    const job *j = context;
    const ds_safetensor *t = NULL;
    float *w = NULL;
    DS_TRY(ds_model_find_tensor(j->file, &j->model->config, p->param->name, &t));
    DS_TRY(rows_of(p, t, &w));
    memset(most, 0, (size_t)p->n_in * sizeof *most);
    for (int64_t r = 0; r < p->n_out; r++)
        for (int64_t k = 0; k < p->n_in; k++)
            most[k] = fmaxf(most[k], fabsf(w[r * p->n_in + k]));
    free(w);
    return DS_OK;
}

/* ---- plan ------------------------------------------------------------------------------------ */

static item *item_of(const job *j, const ds_safetensor *t) {
    for (size_t i = 0; i < j->n_items; i++)
        if (j->items[i].tensor == t)
            return &j->items[i];
    return NULL;
}

/* The norm that takes a product's factors divides its weight, and its bias if it has one. */
static ds_status mark_norm(job *j, const ds_calibrated *p, const ds_smoothed *s) {
    for (int k = 1; k < p->norm->n_inputs; k++) {
        const ds_safetensor *t = NULL;
        DS_TRY(ds_model_find_tensor(j->file, &j->model->config, p->norm->inputs[k]->name, &t));
        item *norm = item_of(j, t);
        if (norm)
            norm->divided = s;
    }
    return DS_OK;
}

static ds_status mark_products(job *j) {
    for (size_t i = 0; i < j->calibration->n; i++) {
        const ds_calibrated *p = &j->calibration->products[i];
        const ds_safetensor *t = NULL;
        DS_TRY(ds_model_find_tensor(j->file, &j->model->config, p->param->name, &t));
        item *x = item_of(j, t);
        if (!x)
            continue;
        x->product = p;
        x->smoothed = j->smoothed ? &j->smoothed[i] : NULL;
        if (x->smoothed && x->smoothed->factor && x->smoothed->by_norm)
            DS_TRY(mark_norm(j, p, x->smoothed));
    }
    return DS_OK;
}

static void add_entry(job *j, const item *x, const char *suffix, ds_dtype dtype, int rank,
                      const int64_t *dims) {
    ds_safetensors_entry *e = &j->entries[j->n_entries];
    snprintf(j->names[j->n_entries], PART_NAME, "%s%s", x->tensor->name, suffix);
    *e = (ds_safetensors_entry){.name = j->names[j->n_entries], .dtype = dtype, .rank = rank};
    memcpy(e->dims, dims, (size_t)rank * sizeof *dims);
    j->n_entries++;
}

static bool has_own_factor(const item *x) {
    return x->smoothed &&
           ((x->smoothed->factor && !x->smoothed->by_norm) || x->smoothed->n_outliers > 0);
}

static void plan_product(job *j, const item *x) {
    const ds_calibrated *p = x->product;
    const bool is_bytes = j->format.bits == 8;
    const int64_t columns = ds_weight_code_columns(j->format, p->n_in);
    const int64_t n_groups = ds_weight_groups(j->format, p->n_in);
    add_entry(j, x, is_bytes ? "" : DS_PACKED_WEIGHT, is_bytes ? DS_I8 : DS_I32, 2,
              (int64_t[]){p->n_out, columns});
    add_entry(j, x, DS_WEIGHT_SCALE, DS_BF16, 2, (int64_t[]){p->n_out, n_groups});
    if (!is_bytes)
        add_entry(j, x, "_shape", DS_I64, 1, (int64_t[]){2});
    if (has_own_factor(x))
        add_entry(j, x, DS_INPUT_FACTOR, DS_F32, 1, &p->n_in);
    if (x->smoothed && x->smoothed->n_outliers > 0) {
        const int64_t n = x->smoothed->n_outliers;
        add_entry(j, x, DS_OUTLIER_COLUMNS, DS_I32, 1, &n);
        add_entry(j, x, DS_OUTLIERS, DS_BF16, 2, (int64_t[]){p->n_out, n});
    }
}

static void note_left_out(job *j, const ds_safetensor *t) {
    const size_t n = strlen(t->name), suffix = sizeof ".weight" - 1;
    if (t->rank == 2 && n > suffix && strcmp(t->name + n - suffix, ".weight") == 0)
        ds_text_printf(&j->left_out, "%.*s\n", (int)(n - suffix), t->name);
}

static ds_status plan_entries(job *j) {
    for (size_t i = 0; i < j->n_items; i++) {
        item *x = &j->items[i];
        const ds_safetensor *t = x->tensor;
        j->report->bytes_before += t->size_bytes;
        x->first = j->n_entries;
        if (strlen(t->name) >= NAME_SIZE || t->dtype == DS_DTYPES)
            return ds_fail(DS_UNSUPPORTED, "%s: tensor \"%s\" is %s", t->path, t->name,
                           t->dtype_name);
        if (x->product) {
            plan_product(j, x);
        } else {
            note_left_out(j, t);
            add_entry(j, x, "", x->divided ? DS_F32 : t->dtype, t->rank, t->dims);
        }
        x->n_parts = j->n_entries - x->first;
    }
    if (j->model->config.tie_embeddings)
        ds_text_puts(&j->left_out, "lm_head\n");
    for (size_t i = 0; i < j->n_entries; i++)
        j->report->bytes_after += (size_t)ds_count(j->entries[i].dims, j->entries[i].rank) *
                                  ds_dtype_size(j->entries[i].dtype);
    return j->left_out.poisoned ? DS_OUT_OF_MEMORY : DS_OK;
}

static ds_status plan(job *j) {
    const size_t n = ds_safetensors_count(j->file);
    j->items = ds_calloc(n + 1, sizeof *j->items);
    j->entries = ds_calloc(n * MOST_PARTS + 1, sizeof *j->entries);
    j->names = ds_calloc(n * MOST_PARTS + 1, sizeof *j->names);
    if (!j->items || !j->entries || !j->names)
        return DS_OUT_OF_MEMORY;
    for (; j->n_items < n; j->n_items++)
        j->items[j->n_items].tensor = ds_safetensors_at(j->file, j->n_items);
    DS_TRY(mark_products(j));
    return plan_entries(j);
}

/* ---- tensors --------------------------------------------------------------------------------- */

static ds_status put(job *j, size_t entry, const void *data, size_t size_bytes) {
    return ds_safetensors_writer_write(j->writer, entry, 0, data, size_bytes);
}

/* Weights of outlying columns, for x as its product is given it; then they are 0 in w. */
static ds_status put_outliers(job *j, const item *x, size_t entry, float *w) {
    const ds_calibrated *p = x->product;
    const ds_smoothed *s = x->smoothed;
    const size_t n = (size_t)(p->n_out * s->n_outliers);
    uint16_t *kept = ds_malloc(n * sizeof *kept);
    if (!kept)
        return DS_OUT_OF_MEMORY;
    for (int64_t r = 0; r < p->n_out; r++)
        for (int64_t i = 0; i < s->n_outliers; i++) {
            float *at = &w[r * p->n_in + s->outliers[i]];
            const float divided = s->factor && !s->by_norm ? s->factor[s->outliers[i]] : 1;
            kept[r * s->n_outliers + i] = ds_f32_to_bf16(*at / divided);
            *at = 0;
        }
    ds_status status = put(j, entry, s->outliers, (size_t)s->n_outliers * sizeof *s->outliers);
    if (status == DS_OK)
        status = put(j, entry + 1, kept, n * sizeof *kept);
    free(kept);
    j->report->n_outliers += s->n_outliers;
    return status;
}

/* What x is multiplied by before it is quantised: 1 / factor, 0 where a column is kept apart. */
static ds_status put_factor(job *j, const item *x, size_t entry) {
    const ds_smoothed *s = x->smoothed;
    const int64_t n = x->product->n_in;
    float *factor = ds_malloc((size_t)n * sizeof *factor);
    if (!factor)
        return DS_OUT_OF_MEMORY;
    for (int64_t k = 0; k < n; k++)
        factor[k] = s->factor && !s->by_norm ? 1 / s->factor[k] : 1;
    for (int64_t i = 0; i < s->n_outliers; i++)
        factor[s->outliers[i]] = 0;
    const ds_status status = put(j, entry, factor, (size_t)n * sizeof *factor);
    free(factor);
    return status;
}

static ds_status put_codes(job *j, const item *x, const float *w) {
    const ds_calibrated *p = x->product;
    const ds_safetensors_entry *codes = &j->entries[x->first], *scale = codes + 1;
    const size_t codes_bytes = (size_t)ds_count(codes->dims, 2) * ds_dtype_size(codes->dtype);
    const size_t scale_bytes = (size_t)ds_count(scale->dims, 2) * sizeof(uint16_t);
    void *c = ds_malloc(codes_bytes), *s = ds_malloc(scale_bytes);
    ds_status status = c && s ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK)
        status = ds_quantise_weights(w, p->n_out, p->n_in, j->format, c, s);
    if (status == DS_NUMERIC)
        status = ds_fail_within(status, "%s: tensor \"%s\"", x->tensor->path, x->tensor->name);
    if (status == DS_OK)
        status = put(j, x->first, c, codes_bytes);
    if (status == DS_OK)
        status = put(j, x->first + 1, s, scale_bytes);
    free(c);
    free(s);
    return status;
}

static ds_status put_product(job *j, const item *x) {
    const ds_calibrated *p = x->product;
    const ds_smoothed *s = x->smoothed;
    size_t entry = x->first + 2;
    float *w = NULL;
    DS_TRY(rows_of(p, x->tensor, &w));
    for (int64_t i = 0; s && s->factor && i < p->n_out * p->n_in; i++)
        w[i] *= s->factor[i % p->n_in];
    ds_status status = DS_OK;
    if (j->format.bits == 4)
        status = put(j, entry++, (int64_t[]){p->n_out, p->n_in}, 2 * sizeof(int64_t));
    if (status == DS_OK && has_own_factor(x))
        status = put_factor(j, x, entry++);
    if (status == DS_OK && s && s->n_outliers > 0)
        status = put_outliers(j, x, entry, w);
    if (status == DS_OK)
        status = put_codes(j, x, w);
    free(w);
    j->report->n_quantised++;
    j->report->n_smoothed += s && s->factor;
    return status;
}

static ds_status put_divided(job *j, const item *x) {
    const int64_t n = ds_count(x->tensor->dims, x->tensor->rank);
    float *values = ds_malloc((size_t)(n + 1) * sizeof *values);
    if (!values)
        return DS_OUT_OF_MEMORY;
    ds_floats_to_rows(x->tensor, 1, n, false, values);
    for (int64_t k = 0; k < n; k++)
        values[k] /= x->divided->factor[k];
    const ds_status status = put(j, x->first, values, (size_t)n * sizeof *values);
    free(values);
    return status;
}

static ds_status put_tensors(job *j) {
    for (size_t i = 0; i < j->n_items; i++) {
        const item *x = &j->items[i];
        const ds_quantise_progress progress = {
            .n_done = i, .n_tensors = j->n_items, .tensor = x->tensor->name};
        if (j->opts->on_progress)
            j->opts->on_progress(&progress, j->opts->context);
        DS_TRY(x->product   ? put_product(j, x)
               : x->divided ? put_divided(j, x)
                            : put(j, x->first, x->tensor->data, x->tensor->size_bytes));
    }
    return DS_OK;
}

/* ---- the folder ------------------------------------------------------------------------------ */

static bool is_of_this_library(const job *j) {
    for (size_t i = 0; i < j->n_items; i++)
        if (j->items[i].product && has_own_factor(&j->items[i]))
            return true;
    return false;
}

static ds_status write_folder(job *j, const char *folder) {
    char path[PATH_MAX];
    static const char *const metadata[] = {"format", "pt", NULL};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    DS_TRY(ds_folder_make(folder));
    DS_TRY(ds_safetensors_writer_new(path, j->entries, j->n_entries, metadata, &j->writer));
    DS_TRY(put_tensors(j));
    ds_safetensors_writer *writer = j->writer;
    j->writer = NULL;
    DS_TRY(ds_safetensors_writer_close(writer, NULL));
    DS_TRY(ds_model_files_copy(j->model->path, folder));
    return ds_quantised_config_write(j->model->path, folder, j->format, j->left_out.data,
                                     is_of_this_library(j));
}

static ds_status write_whole(job *j, const char *to) {
    char part[PATH_MAX];
    if ((size_t)snprintf(part, sizeof part, "%s.part", to) >= sizeof part)
        return ds_fail(DS_INVALID, "%s: the path is too long", to);
    DS_TRY(ds_folder_remove(part));
    ds_status status = write_folder(j, part);
    if (status == DS_OK)
        status = ds_folder_sync(part);
    if (status == DS_OK)
        status = ds_file_rename(part, to);
    if (status != DS_OK)
        ds_folder_remove(part);
    return status;
}

static ds_status open_model(job *j, const char *from) {
    DS_TRY(ds_model_from_pretrained(from, (ds_model_opts){.tokenizer = j->opts->tokenizer},
                                    &j->model));
    if (!ds_folder_exists(j->model->path))
        return ds_fail(DS_UNSUPPORTED,
                       "%s: is no Hugging Face folder, which alone can be quantised",
                       j->model->path);
    DS_TRY(ds_safetensors_open(j->model->path, &j->file));
    for (size_t i = 0; i < ds_state_count(j->model->state); i++) {
        const ds_dtype dtype = ds_state_get(j->model->state, i)->dtype;
        if (dtype == DS_I8 || dtype == DS_I32)
            return ds_fail(DS_UNSUPPORTED, "%s: is quantised already", j->model->path);
    }
    return ds_calibration_new(&j->model->config, &j->calibration);
}

static ds_status run(job *j, const char *from, const char *to) {
    DS_TRY(open_model(j, from));
    if (j->opts->smooth > 0 || j->opts->outliers > 0) {
        DS_TRY(read_calibration(j));
        DS_TRY(ds_smoothing_choose(j->calibration, j->opts, weight_ranges, j, &j->smoothed));
    }
    DS_TRY(plan(j));
    return write_whole(j, to);
}

ds_status ds_model_quantise(const char *from, const char *to, ds_quantise_opts opts,
                            ds_quantise_report *report) {
    job j = {.opts = &opts, .report = report};
    *report = (ds_quantise_report){0};
    DS_TRY(check_options(&opts, &j.format));
    if (ds_folder_exists(to) || ds_file_exists(to))
        return ds_fail(DS_INVALID, "%s: is there already; name a folder that is not", to);
    const ds_status status = run(&j, from, to);
    ds_safetensors_writer_abandon(j.writer);
    ds_smoothing_free(j.smoothed, j.calibration ? j.calibration->n : 0);
    ds_calibration_free(j.calibration);
    ds_safetensors_close(j.file);
    ds_model_free(j.model);
    ds_text_clear(&j.left_out);
    free(j.names);
    free(j.entries);
    free(j.items);
    return status;
}

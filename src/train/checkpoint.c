#include "train/checkpoint.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/md5.h"
#include "base/text.h"
#include "deepseek/safetensors.h"
#include "program/stacked.h"
#include "program/state.h"

static const char MODEL_FILE[] = "model.safetensors";
static const char OPTIMIZER_FILE[] = "optimizer.safetensors";

/* What a checkpoint holds of the state: all but gradients (made anew each step) and caches. */
static bool is_saved(const ds_state_entry *e) {
    return e->is_param ||
           (strncmp(e->name, DS_GRADIENT_PREFIX, sizeof DS_GRADIENT_PREFIX - 1) != 0 &&
            strncmp(e->name, "cache/", 6) != 0);
}

/* In how many tensors a file holds it: stacked parameters one by one, as Hugging Face does. */
static size_t n_parts(const ds_state_entry *e) {
    return e->is_param && ds_name_is_stacked(e->name) ? (size_t)e->dims[0] : 1;
}

/* The type and name of one of them. */
static ds_safetensors_entry part_of(const ds_state_entry *e, size_t part,
                                    char name[DS_STACKED_NAME_SIZE]) {
    ds_safetensors_entry out = {.name = name, .dtype = e->dtype, .rank = e->rank};
    memcpy(out.dims, e->dims, sizeof out.dims);
    if (!e->is_param || !ds_name_is_stacked(e->name)) {
        snprintf(name, DS_STACKED_NAME_SIZE, "%s", e->name);
        return out;
    }
    ds_name_in_stack(e->name, (int64_t)part, name);
    memmove(out.dims, out.dims + 1, (size_t)--out.rank * sizeof *out.dims);
    return out;
}

struct ds_checkpoint_writer {
    char folder[PATH_MAX];
    int keep_last;
    bool async;

    /* the one under way: everything the writing thread needs is its own copy */
    pthread_t thread;
    bool running; /* a thread was started and not joined yet */
    pthread_mutex_t lock;
    bool done; /* under lock: the thread has nothing left to do */
    ds_status status;
    char message[1024];
    ds_checkpoint_stats stats;
    const ds_state *live; /* written from directly when not async; else NULL */
    ds_state_entry *entries;
    char **names;
    size_t n_entries;
    unsigned char *snapshot; /* tensor after tensor, each aligned to 64; kept for the next time */
    size_t snapshot_bytes;
    size_t *offsets;
    ds_checkpoint_file *files;
    size_t n_files;
};

ds_status ds_checkpoint_writer_new(const char *folder, int keep_last, bool async,
                                   ds_checkpoint_writer **out) {
    DS_TRY(ds_folder_make(folder));
    ds_checkpoint_writer *w = ds_calloc(1, sizeof *w);
    if (!w)
        return DS_OUT_OF_MEMORY;
    if (snprintf(w->folder, sizeof w->folder, "%s", folder) >= (int)sizeof w->folder - 64) {
        free(w);
        return ds_fail(DS_INVALID, "%s: path too long", folder);
    }
    w->keep_last = keep_last;
    w->async = async;
    pthread_mutex_init(&w->lock, NULL);
    *out = w;
    return DS_OK;
}

/* ---- the snapshot ---------------------------------------------------------------------------- */

static void forget_job(ds_checkpoint_writer *w) {
    for (size_t i = 0; i < w->n_entries; i++)
        free(w->names[i]);
    for (size_t i = 0; i < w->n_files; i++) {
        free((char *)(uintptr_t)w->files[i].name);
        free((char *)(uintptr_t)w->files[i].contents);
    }
    free(w->entries);
    free(w->names);
    free(w->offsets);
    free(w->files);
    w->entries = NULL;
    w->names = NULL;
    w->offsets = NULL;
    w->files = NULL;
    w->n_entries = w->n_files = 0;
    w->live = NULL;
}

static ds_status list_tensors(ds_checkpoint_writer *w, const ds_state *state, size_t *total) {
    const size_t n = ds_state_count(state);
    w->entries = ds_calloc(n, sizeof *w->entries);
    w->names = ds_calloc(n, sizeof *w->names);
    w->offsets = ds_calloc(n, sizeof *w->offsets);
    if (!w->entries || !w->names || !w->offsets)
        return DS_OUT_OF_MEMORY;
    *total = 0;
    for (size_t i = 0; i < n; i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        if (!is_saved(e))
            continue;
        const size_t k = w->n_entries;
        w->entries[k] = *e;
        if (!(w->names[k] = ds_strdup(e->name)))
            return DS_OUT_OF_MEMORY;
        w->n_entries++;
        w->entries[k].name = w->names[k];
        w->offsets[k] = *total;
        w->stats.size_bytes += ds_state_entry_size(e);
        *total += (ds_state_entry_size(e) + 63) / 64 * 64;
    }
    return DS_OK;
}

static ds_status copy_files(ds_checkpoint_writer *w, const ds_checkpoint_file *files, size_t n) {
    w->files = ds_calloc(n, sizeof *w->files);
    if (!w->files)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const ds_checkpoint_file copy = {ds_strdup(files[i].name), ds_strdup(files[i].contents)};
        w->files[w->n_files++] = copy;
        if (!copy.name || !copy.contents)
            return DS_OUT_OF_MEMORY;
    }
    return DS_OK;
}

static ds_status take_snapshot(ds_checkpoint_writer *w, const ds_state *state, size_t total) {
    if (w->snapshot_bytes < total) {
        ds_pages_free(w->snapshot, w->snapshot_bytes);
        w->snapshot_bytes = 0;
        if (!(w->snapshot = ds_pages_alloc(total)))
            return DS_OUT_OF_MEMORY;
        w->snapshot_bytes = total;
    }
    for (size_t i = 0; i < w->n_entries; i++)
        DS_TRY(ds_state_read(state, w->names[i], w->snapshot + w->offsets[i],
                             ds_state_entry_size(&w->entries[i])));
    return DS_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* One tensor of a file: a part of an entry of the state. */
typedef struct piece {
    size_t entry, part;
} piece;

/* One file of tensors, parameters or the others. The two are written by a thread each: their sums
 * take longer than the disk does. */
typedef struct tensor_file {
    ds_checkpoint_writer *w;
    const char *name;
    bool params;
    char path[PATH_MAX];
    char md5[DS_MD5_HEX];
    ds_status status;
    char message[1024];
} tensor_file;

static size_t list_pieces(const ds_checkpoint_writer *w, bool params, piece *pieces,
                          ds_safetensors_entry *entries, char (*names)[DS_STACKED_NAME_SIZE]) {
    size_t n = 0;
    for (size_t i = 0; i < w->n_entries; i++)
        for (size_t k = 0; k < n_parts(&w->entries[i]) && w->entries[i].is_param == params; k++) {
            entries[n] = part_of(&w->entries[i], k, names[n]);
            pieces[n++] = (piece){.entry = i, .part = k};
        }
    return n;
}

/* From the snapshot, or read from the state by way of *buffer, which grows. */
static ds_status write_piece(const ds_checkpoint_writer *w, ds_safetensors_writer *file,
                             size_t index, piece p, unsigned char **buffer, size_t *capacity) {
    const ds_state_entry *e = &w->entries[p.entry];
    const size_t size = ds_state_entry_size(e) / n_parts(e), offset = p.part * size;
    if (!w->live)
        return ds_safetensors_writer_write(file, index, 0,
                                           w->snapshot + w->offsets[p.entry] + offset, size);
    unsigned char *grown = ds_grow(*buffer, capacity, size, 1);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    *buffer = grown;
    DS_TRY(ds_state_read_at(w->live, w->names[p.entry], offset, grown, size));
    return ds_safetensors_writer_write(file, index, 0, grown, size);
}

/* In the order of the file, so that its sum is made on the way. */
static ds_status write_pieces(const ds_checkpoint_writer *w, ds_safetensors_writer *file,
                              const piece *pieces, size_t n) {
    unsigned char *buffer = NULL;
    size_t capacity = 0;
    ds_status status = DS_OK;
    for (size_t place = 0; place < n && status == DS_OK; place++) {
        const size_t index = ds_safetensors_writer_index(file, place);
        status = write_piece(w, file, index, pieces[index], &buffer, &capacity);
    }
    free(buffer);
    return status;
}

static ds_status write_tensors(tensor_file *f) {
    static const char *const metadata[] = {"format", "pt", NULL}; /* what transformers looks for */
    const ds_checkpoint_writer *w = f->w;
    size_t most = 0;
    for (size_t i = 0; i < w->n_entries; i++)
        most += n_parts(&w->entries[i]);
    ds_safetensors_entry *entries = ds_calloc(most, sizeof *entries);
    char(*names)[DS_STACKED_NAME_SIZE] = ds_calloc(most, sizeof *names);
    piece *pieces = ds_calloc(most, sizeof *pieces);
    ds_safetensors_writer *file = NULL;
    ds_status status = DS_OUT_OF_MEMORY;
    if (entries && names && pieces) {
        const size_t n = list_pieces(w, f->params, pieces, entries, names);
        status = ds_safetensors_writer_new(f->path, entries, n, metadata, &file);
        if (status == DS_OK)
            status = write_pieces(w, file, pieces, n);
    }
    free(pieces);
    free(names);
    free(entries);
    if (status != DS_OK) {
        ds_safetensors_writer_abandon(file);
        return status;
    }
    return ds_safetensors_writer_close(file, f->md5);
}

static void *run_tensor_file(void *context) {
    tensor_file *f = context;
    f->status = write_tensors(f);
    if (f->status != DS_OK)
        snprintf(f->message, sizeof f->message, "%s", ds_error());
    return NULL;
}

static ds_status write_tensor_files(ds_checkpoint_writer *w, const char *folder, ds_text *sums) {
    tensor_file files[] = {{.w = w, .name = MODEL_FILE, .params = true},
                           {.w = w, .name = OPTIMIZER_FILE, .params = false}};
    for (int i = 0; i < 2; i++)
        snprintf(files[i].path, sizeof files[i].path, "%s/%s", folder, files[i].name);
    pthread_t thread;
    /* a state is read by one thread at a time */
    const bool both = !w->live && pthread_create(&thread, NULL, run_tensor_file, &files[1]) == 0;
    run_tensor_file(&files[0]);
    if (both)
        pthread_join(thread, NULL);
    else
        run_tensor_file(&files[1]);
    for (int i = 0; i < 2; i++) {
        if (files[i].status != DS_OK)
            return ds_fail(files[i].status, "%s", files[i].message);
        ds_text_printf(sums, "%s  %s\n", files[i].md5, files[i].name);
    }
    return DS_OK;
}

static ds_status write_contents(ds_checkpoint_writer *w, const char *folder) {
    char path[PATH_MAX], md5[DS_MD5_HEX] = "";
    ds_text sums = {0};
    ds_status status = write_tensor_files(w, folder, &sums);
    for (size_t i = 0; i < w->n_files && status == DS_OK; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, w->files[i].name);
        status = ds_file_replace(path, w->files[i].contents, strlen(w->files[i].contents));
        if (status == DS_OK)
            status = ds_md5_of_file(path, md5);
        ds_text_printf(&sums, "%s  %s\n", md5, w->files[i].name);
    }
    if (status == DS_OK && sums.poisoned)
        status = DS_OUT_OF_MEMORY;
    snprintf(path, sizeof path, "%s/%s", folder, DS_CHECKPOINT_SUMS);
    if (status == DS_OK)
        status = ds_file_replace(path, sums.data, sums.length);
    ds_text_clear(&sums);
    return status;
}

/* Where the same step was saved before (a stop right after a checkpoint, a rewind), the two change
 * places at once, so that there is a whole one at any moment. */
static ds_status put_in_place(const ds_checkpoint_writer *w, const char *part, const char *whole) {
    if (!ds_folder_exists(whole))
        return ds_file_rename(part, whole);
    if (renameat2(AT_FDCWD, part, AT_FDCWD, whole, RENAME_EXCHANGE) == 0) {
        DS_TRY(ds_folder_sync(w->folder));
        return ds_folder_remove(part);
    }
    DS_TRY(ds_folder_remove(whole)); /* a file system that cannot exchange */
    return ds_file_rename(part, whole);
}

static ds_status write_folder(ds_checkpoint_writer *w) {
    char whole[PATH_MAX], part[PATH_MAX + 8];
    snprintf(whole, sizeof whole, "%.*s/step-%08lld", PATH_MAX - 64, w->folder,
             (long long)w->stats.step);
    snprintf(part, sizeof part, "%s.part", whole);
    DS_TRY(ds_folder_remove(part));
    DS_TRY(ds_folder_make(part));
    ds_status status = write_contents(w, part);
    if (status == DS_OK)
        status = ds_folder_sync(part);
    if (status == DS_OK)
        status = put_in_place(w, part, whole);
    if (status != DS_OK) {
        char message[sizeof w->message];
        snprintf(message, sizeof message, "%s", ds_error());
        ds_folder_remove(part); /* best effort; the first failure is the one to report */
        return ds_fail(status, "%s", message);
    }
    return w->keep_last > 0 ? ds_checkpoint_prune(w->folder, w->keep_last, w->stats.step) : DS_OK;
}

static void *run_job(void *context) {
    ds_checkpoint_writer *w = context;
    const double start = ds_clock_s();
    const ds_status status = write_folder(w);
    w->stats.write_s = ds_clock_s() - start;
    if (status != DS_OK)
        snprintf(w->message, sizeof w->message, "%s", ds_error());
    pthread_mutex_lock(&w->lock);
    w->status = status;
    w->done = true;
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

bool ds_checkpoint_busy(ds_checkpoint_writer *w) {
    pthread_mutex_lock(&w->lock);
    const bool busy = w->running && !w->done;
    pthread_mutex_unlock(&w->lock);
    return busy;
}

ds_status ds_checkpoint_wait(ds_checkpoint_writer *w) {
    if (w->running) {
        pthread_join(w->thread, NULL);
        w->running = false;
        forget_job(w);
    }
    const ds_status status = w->status;
    w->status = DS_OK;
    return status == DS_OK ? DS_OK : ds_fail(status, "%s", w->message);
}

ds_status ds_checkpoint_write(ds_checkpoint_writer *w, const ds_state *state, int64_t step,
                              const ds_checkpoint_file *files, size_t n_files) {
    DS_TRY(ds_checkpoint_wait(w));
    const double start = ds_clock_s();
    size_t total = 0;
    w->stats = (ds_checkpoint_stats){.step = step};
    w->done = false;
    ds_status status = list_tensors(w, state, &total);
    if (status == DS_OK)
        status = copy_files(w, files, n_files);
    /* without room for a copy the checkpoint is written while training waits */
    const bool background = w->async && status == DS_OK && take_snapshot(w, state, total) == DS_OK;
    w->live = background ? NULL : state;
    w->stats.snapshot_s = ds_clock_s() - start;
    if (status == DS_OK && background && pthread_create(&w->thread, NULL, run_job, w) == 0) {
        w->running = true;
        return DS_OK;
    }
    if (status == DS_OK) {
        run_job(w);
        status = w->status;
        w->status = DS_OK;
    }
    forget_job(w);
    return status;
}

ds_checkpoint_stats ds_checkpoint_last(const ds_checkpoint_writer *w) {
    return w->stats;
}

void ds_checkpoint_writer_free(ds_checkpoint_writer *w) {
    if (!w)
        return;
    ds_checkpoint_wait(w);
    forget_job(w);
    ds_pages_free(w->snapshot, w->snapshot_bytes);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

/* ---- loading --------------------------------------------------------------------------------- */

static ds_status check_tensor(const ds_safetensors_entry *want, const ds_safetensor *t) {
    bool same = t->dtype == want->dtype && t->rank == want->rank;
    for (int i = 0; same && i < want->rank; i++)
        same = t->dims[i] == want->dims[i];
    if (same)
        return DS_OK;
    ds_text text = {0};
    ds_text_printf(&text, "%s: tensor \"%s\" is %s[", t->path, t->name, t->dtype_name);
    for (int i = 0; i < t->rank; i++)
        ds_text_printf(&text, "%s%lld", i ? "," : "", (long long)t->dims[i]);
    ds_text_printf(&text, "], the model wants %s[", ds_dtype_name(want->dtype));
    for (int i = 0; i < want->rank; i++)
        ds_text_printf(&text, "%s%lld", i ? "," : "", (long long)want->dims[i]);
    const ds_status status = ds_fail(DS_INVALID, "%s]", text.data ? text.data : "");
    ds_text_clear(&text);
    return status;
}

/* One tensor of the state, which the file may hold in parts. */
static ds_status load_tensor(const ds_safetensors *file, const ds_state_entry *e, ds_state *state,
                             bool write) {
    const size_t parts = n_parts(e), size = ds_state_entry_size(e) / parts;
    unsigned char *whole = write && parts > 1 ? ds_malloc(size * parts) : NULL;
    const void *data = whole;
    ds_status status = write && parts > 1 && !whole ? DS_OUT_OF_MEMORY : DS_OK;
    for (size_t k = 0; k < parts && status == DS_OK; k++) {
        char name[DS_STACKED_NAME_SIZE];
        const ds_safetensors_entry want = part_of(e, k, name);
        const ds_safetensor *t = NULL;
        status = ds_safetensors_find(file, name, &t);
        if (status == DS_OK)
            status = check_tensor(&want, t);
        if (status == DS_OK && whole)
            memcpy(whole + k * size, t->data, size);
        else if (status == DS_OK)
            data = t->data;
    }
    if (status == DS_OK && write)
        status = ds_state_write(state, e->name, data, size * parts);
    free(whole);
    return status;
}

static bool is_of_state(const ds_state *state, const char *name) {
    bool found = ds_state_find(state, name) >= 0;
    for (size_t i = 0; i < ds_state_count(state) && !found; i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        const int64_t number = e->is_param ? ds_number_in_stack(e->name, name) : -1;
        found = number >= 0 && number < e->dims[0];
    }
    return found;
}

/* First pass (write = false) only checks, so that a bad file changes nothing. */
static ds_status load_tensors(const ds_safetensors *file, const char *path, ds_state *state,
                              bool params, bool write) {
    size_t n = 0;
    for (size_t i = 0; i < ds_state_count(state); i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        if (!is_saved(e) || e->is_param != params)
            continue;
        n += n_parts(e);
        DS_TRY(load_tensor(file, e, state, write));
    }
    if (n == ds_safetensors_count(file))
        return DS_OK;
    for (size_t i = 0; i < ds_safetensors_count(file); i++) {
        const char *name = ds_safetensors_at(file, i)->name;
        if (!is_of_state(state, name))
            return ds_fail(DS_INVALID, "%s: tensor \"%s\" is not one of the model's", path, name);
    }
    return DS_OK;
}

ds_status ds_checkpoint_load(const char *path, ds_state *state, bool parameters_only) {
    ds_safetensors *files[2] = {NULL, NULL};
    ds_status status = DS_OK;
    const int n = parameters_only ? 1 : 2;
    for (int i = 0; i < n && status == DS_OK; i++) {
        char name[PATH_MAX];
        snprintf(name, sizeof name, "%s/%s", path, i == 0 ? MODEL_FILE : OPTIMIZER_FILE);
        status = ds_safetensors_open(name, &files[i]);
    }
    for (int write = 0; write < 2; write++)
        for (int i = 0; i < n && status == DS_OK; i++)
            status = load_tensors(files[i], path, state, i == 0, write == 1);
    ds_safetensors_close(files[0]);
    ds_safetensors_close(files[1]);
    return status;
}

#include "base/checkpoint_folder.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/md5.h"
#include "base/verified.h"

/* "step-00000200" → 200; -1 for any other name, unfinished ones included. */
static int64_t step_of(const char *name) {
    char *end = NULL;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
        return -1;
    const long long step = strtoll(name + 5, &end, 10);
    return *end == '\0' ? step : -1;
}

int64_t ds_checkpoint_step(const char *path) {
    const char *slash = strrchr(path, '/');
    return step_of(slash ? slash + 1 : path);
}

static int newest_first(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The steps there are, newest first; *steps is the caller's to free(). */
static ds_status list_steps(const char *folder, int64_t **steps, size_t *n) {
    size_t capacity = 0;
    *steps = NULL;
    *n = 0;
    DIR *dir = opendir(folder);
    if (!dir)
        return DS_OK; /* none yet */
    ds_status status = DS_OK;
    for (struct dirent *d = readdir(dir); d && status == DS_OK; d = readdir(dir)) {
        const int64_t step = step_of(d->d_name);
        if (step < 0)
            continue;
        int64_t *grown = ds_grow(*steps, &capacity, *n + 1, sizeof **steps);
        if (!grown) {
            status = DS_OUT_OF_MEMORY;
            break;
        }
        *steps = grown;
        grown[(*n)++] = step;
    }
    closedir(dir);
    if (status == DS_OK && *n > 0)
        qsort(*steps, *n, sizeof **steps, newest_first);
    if (status != DS_OK) {
        free(*steps);
        *steps = NULL;
    }
    return status;
}

static void path_of(const char *folder, int64_t step, char path[PATH_MAX]) {
    snprintf(path, PATH_MAX, "%s/step-%08lld", folder, (long long)step);
}

ds_status ds_checkpoint_prune(const char *folder, int keep_last, int64_t step) {
    int64_t *steps = NULL;
    size_t n = 0;
    DS_TRY(list_steps(folder, &steps, &n));
    ds_status status = DS_OK;
    int kept = 0;
    for (size_t i = 0; i < n && status == DS_OK; i++) {
        char path[PATH_MAX];
        if (steps[i] > step || kept++ < keep_last)
            continue;
        path_of(folder, steps[i], path);
        status = ds_folder_remove(path);
    }
    free(steps);
    return status;
}

int64_t ds_checkpoint_newest(const char *folder, char path[PATH_MAX]) {
    int64_t *steps = NULL;
    size_t n = 0;
    const int64_t newest = list_steps(folder, &steps, &n) == DS_OK && n > 0 ? steps[0] : -1;
    free(steps);
    if (newest >= 0)
        path_of(folder, newest, path);
    return newest;
}

/* One of them, under the first name of its kind that is free. */
static ds_status set_aside(const char *folder, int64_t step, const char *why) {
    char from[PATH_MAX], to[PATH_MAX];
    path_of(folder, step, from);
    snprintf(to, sizeof to, "%s/%s-step-%08lld", folder, why, (long long)step);
    for (int i = 2; ds_folder_exists(to); i++)
        snprintf(to, sizeof to, "%s/%s-step-%08lld-%d", folder, why, (long long)step, i);
    DS_TRY(ds_file_rename(from, to));
    ds_log(DS_LOG_WARN, "%s is %s: set aside as %s", from, why, to);
    return DS_OK;
}

ds_status ds_checkpoint_set_aside(const char *folder, int64_t step, const char *why) {
    int64_t *steps = NULL;
    size_t n = 0;
    DS_TRY(list_steps(folder, &steps, &n));
    ds_status status = DS_OK;
    for (size_t i = 0; i < n && steps[i] > step && status == DS_OK; i++)
        status = set_aside(folder, steps[i], why);
    free(steps);
    return status;
}

ds_status ds_checkpoint_read_file(const char *path, const char *name, char **out) {
    char full[PATH_MAX];
    snprintf(full, sizeof full, "%s/%s", path, name);
    return ds_file_read(full, (size_t)64 << 20, out, NULL);
}

/* ---- verifying ------------------------------------------------------------------------------- */

static const char *const required[] = {"model.safetensors", "optimizer.safetensors",
                                       "trainer.json"};
enum { N_REQUIRED = sizeof required / sizeof *required };

/* The file has the sum that MD5SUMS says. */
static ds_status verify_file(const char *file, const char *wanted, ds_verify which) {
    char md5[DS_MD5_HEX];
    if (which == DS_VERIFY_CHANGED && ds_verified_knows(file, wanted))
        return DS_OK;
    DS_TRY(ds_md5_of_file(file, md5));
    if (strcmp(md5, wanted) != 0)
        return ds_fail(DS_CORRUPT,
                       "%s: its MD5 sum is %s, %s says %s: the file was changed or torn", file, md5,
                       DS_CHECKPOINT_SUMS, wanted);
    if (which == DS_VERIFY_CHANGED)
        ds_verified_note(file, wanted);
    return DS_OK;
}

/* partial: a file that is not there is no fault. */
static ds_status verify_line(const char *path, char *line, ds_verify which, bool partial,
                             unsigned *seen) {
    char file[PATH_MAX];
    if (strlen(line) < DS_MD5_HEX + 2 || line[DS_MD5_HEX - 1] != ' ')
        return ds_fail(DS_CORRUPT, "%s/%s: the line \"%.60s\" is not `sum  file`", path,
                       DS_CHECKPOINT_SUMS, line);
    line[DS_MD5_HEX - 1] = '\0';
    const char *name = line + DS_MD5_HEX + 1;
    if (strchr(name, '/'))
        return ds_fail(DS_CORRUPT, "%s/%s: \"%s\" is not in this folder", path, DS_CHECKPOINT_SUMS,
                       name);
    snprintf(file, sizeof file, "%s/%s", path, name);
    if (partial && !ds_file_exists(file))
        return DS_OK;
    DS_TRY(verify_file(file, line, which));
    for (int i = 0; i < N_REQUIRED; i++)
        if (strcmp(name, required[i]) == 0)
            *seen |= 1u << i;
    return DS_OK;
}

static ds_status verify_lines(const char *path, ds_verify which, bool partial, unsigned *seen) {
    char *sums = NULL, *rest = NULL;
    DS_TRY(ds_checkpoint_read_file(path, DS_CHECKPOINT_SUMS, &sums));
    ds_status status = DS_OK;
    for (char *line = strtok_r(sums, "\n", &rest); line && status == DS_OK;
         line = strtok_r(NULL, "\n", &rest))
        status = verify_line(path, line, which, partial, seen);
    free(sums);
    return status;
}

static ds_status verify_checkpoint(const char *path, ds_verify which) {
    unsigned seen = 0;
    DS_TRY(verify_lines(path, which, false, &seen));
    for (int i = 0; i < N_REQUIRED; i++)
        if (!(seen >> i & 1u))
            return ds_fail(DS_CORRUPT, "%s/%s does not list %s", path, DS_CHECKPOINT_SUMS,
                           required[i]);
    return DS_OK;
}

ds_status ds_checkpoint_verify(const char *path) {
    return verify_checkpoint(path, DS_VERIFY_ALL);
}

ds_status ds_checkpoint_verify_model(const char *path, ds_verify which) {
    char sums[PATH_MAX];
    unsigned seen = 0;
    snprintf(sums, sizeof sums, "%s/%s", path, DS_CHECKPOINT_SUMS);
    return ds_file_exists(sums) ? verify_lines(path, which, true, &seen) : DS_OK;
}

ds_status ds_checkpoint_find(const char *folder, ds_verify which, char path[PATH_MAX]) {
    int64_t *steps = NULL;
    size_t n = 0;
    DS_TRY(list_steps(folder, &steps, &n));
    ds_status status = DS_NOT_FOUND;
    for (size_t i = 0; i < n && status != DS_OK; i++) {
        path_of(folder, steps[i], path);
        status = verify_checkpoint(path, which);
        if (status != DS_OK)
            ds_log(DS_LOG_WARN, "passing over a damaged checkpoint: %s", ds_error());
    }
    free(steps);
    if (status != DS_OK)
        return ds_fail(DS_NOT_FOUND, "%s holds no whole checkpoint", folder);
    return DS_OK;
}

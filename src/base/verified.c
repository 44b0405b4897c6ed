#include "base/verified.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

enum {
    LINE = 192,              /* of the record */
    MOST_BYTES = 256 * 1024, /* of it; then it begins anew */
    SETTLED_S = 2,           /* times of change are told apart by then on any file system */
};

/* PATH/verified; false where there is no home. */
static bool find_record(char path[PATH_MAX], bool make) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char folder[PATH_MAX];
    int n = -1;
    if (cache && *cache == '/')
        n = snprintf(folder, sizeof folder, "%s/deepseek", cache);
    else if (home && *home == '/')
        n = snprintf(folder, sizeof folder, "%s/.cache/deepseek", home);
    if (n < 0 || n >= (int)sizeof folder || (make && ds_folder_make(folder) != DS_OK))
        return false;
    return snprintf(path, PATH_MAX, "%s/verified", folder) < PATH_MAX;
}

/* What the record says of a file as it is now. */
static bool describe(const struct stat *st, const char *md5, char line[LINE]) {
    return snprintf(line, LINE, "%s %llx %llx %llu %lld.%09ld %lld.%09ld\n", md5,
                    (unsigned long long)st->st_dev, (unsigned long long)st->st_ino,
                    (unsigned long long)st->st_size, (long long)st->st_mtim.tv_sec,
                    st->st_mtim.tv_nsec, (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec) < LINE;
}

bool ds_verified_knows(const char *path, const char *md5) {
    char record[PATH_MAX], line[LINE], *text = NULL;
    struct stat st;
    if (!find_record(record, false) || stat(path, &st) != 0 || !describe(&st, md5, line) ||
        !ds_file_exists(record) || ds_file_read(record, 2 * MOST_BYTES, &text, NULL) != DS_OK)
        return false;
    bool known = false;
    for (const char *at = text; !known && (at = strstr(at, line)); at++)
        known = at == text || at[-1] == '\n';
    free(text);
    return known;
}

void ds_verified_note(const char *path, const char *md5) {
    char record[PATH_MAX], line[LINE];
    struct stat st;
    if (stat(path, &st) != 0 || st.st_ctim.tv_sec + SETTLED_S > time(NULL) ||
        !describe(&st, md5, line) || !find_record(record, true))
        return;
    const int fd = open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    const bool is_full = fstat(fd, &st) == 0 && st.st_size > MOST_BYTES;
    if (!is_full || ftruncate(fd, 0) == 0) /* one line, one write: writers do not mix theirs */
        ds_fd_write(fd, line, strlen(line), record);
    close(fd);
}

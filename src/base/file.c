#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"

static ds_status open_for_reading(const char *path, int *fd, size_t *size) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) {
        if (errno == ENOENT)
            return ds_fail(DS_NOT_FOUND, "%s: no such file", path);
        return ds_fail_errno("%s: cannot be opened", path);
    }
    struct stat st;
    if (fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(*fd);
        return ds_fail(DS_INVALID, "%s: not a regular file", path);
    }
    *size = (size_t)st.st_size;
    return DS_OK;
}

ds_status ds_file_map(const char *path, ds_mapped *out) {
    int fd;
    *out = (ds_mapped){0};
    size_t size;
    DS_TRY(open_for_reading(path, &fd, &size));
    if (size > 0) {
        void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            close(fd);
            return ds_fail_errno("%s: cannot be mapped", path);
        }
        out->data = p;
        out->size = size;
    }
    close(fd);
    return DS_OK;
}

void ds_file_unmap(ds_mapped *mapped) {
    if (mapped->data)
        munmap((void *)(uintptr_t)mapped->data, mapped->size);
    *mapped = (ds_mapped){0};
}

ds_status ds_file_read(const char *path, size_t limit_bytes, char **out, size_t *out_size) {
    int fd;
    size_t size, done = 0;
    DS_TRY(open_for_reading(path, &fd, &size));
    ds_status status = DS_OK;
    char *data = NULL;
    if (size > limit_bytes)
        status = ds_fail(DS_INVALID, "%s: %zu bytes, more than the %zu accepted", path, size,
                         limit_bytes);
    else if (!(data = ds_malloc(size + 1)))
        status = DS_OUT_OF_MEMORY;
    while (status == DS_OK && done < size) {
        const ssize_t n = read(fd, data + done, size - done);
        if (n < 0 && errno != EINTR)
            status = ds_fail_errno("%s: cannot be read", path);
        else if (n == 0)
            size = done; /* it shrank while we read */
        else if (n > 0)
            done += (size_t)n;
    }
    close(fd);
    if (status != DS_OK) {
        free(data);
        return status;
    }
    data[size] = '\0';
    *out = data;
    if (out_size)
        *out_size = size;
    return DS_OK;
}

/* One call of write, or of pwrite where there is an offset; it may take only part of the bytes. */
static ssize_t write_some(int fd, const char *data, size_t size_bytes, const uint64_t *offset) {
    const size_t most = (size_t)1 << 30;
    size_t n = size_bytes < most ? size_bytes : most;
    if (ds_fault_hit(DS_FAULT_WRITE)) {
        errno = ENOSPC;
        return -1;
    }
    if (ds_fault_hit(DS_FAULT_SHORT_WRITE))
        n = (n + 1) / 2;
    return offset ? pwrite(fd, data, n, (off_t)*offset) : write(fd, data, n);
}

static ds_status write_all(int fd, const char *data, size_t size_bytes, uint64_t *offset,
                           const char *path) {
    while (size_bytes > 0) {
        const ssize_t n = write_some(fd, data, size_bytes, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ds_fail_errno("%s: cannot be written", path);
        data += n;
        size_bytes -= (size_t)n;
        if (offset)
            *offset += (uint64_t)n;
    }
    return DS_OK;
}

ds_status ds_fd_write(int fd, const void *data, size_t size_bytes, const char *path) {
    return write_all(fd, data, size_bytes, NULL, path);
}

ds_status ds_fd_write_at(int fd, const void *data, size_t size_bytes, uint64_t offset,
                         const char *path) {
    return write_all(fd, data, size_bytes, &offset, path);
}

ds_status ds_fd_sync(int fd, const char *path) {
    if (ds_fault_hit(DS_FAULT_SYNC)) {
        errno = EIO;
        return ds_fail_errno("%s: cannot be synced", path);
    }
    return fsync(fd) == 0 ? DS_OK : ds_fail_errno("%s: cannot be synced", path);
}

ds_status ds_folder_sync(const char *path) {
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ds_fail_errno("%s: cannot be opened", path);
    const ds_status status = ds_fd_sync(fd, path);
    close(fd);
    return status;
}

static ds_status sync_parent(const char *path) {
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash)
        return ds_folder_sync(".");
    slash[slash == folder] = '\0';
    return ds_folder_sync(folder);
}

ds_status ds_file_rename(const char *from, const char *to) {
    if (ds_fault_hit(DS_FAULT_RENAME)) {
        errno = EIO;
        return ds_fail_errno("%s: cannot be renamed to %s", from, to);
    }
    if (rename(from, to) != 0)
        return ds_fail_errno("%s: cannot be renamed to %s", from, to);
    return sync_parent(to);
}

ds_status ds_file_replace(const char *path, const void *data, size_t size_bytes) {
    char beside[PATH_MAX];
    if (snprintf(beside, sizeof beside, "%s.part", path) >= (int)sizeof beside)
        return ds_fail(DS_INVALID, "%s: path too long", path);
    const int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return ds_fail_errno("%s: cannot be created", beside);
    ds_status status = ds_fd_write(fd, data, size_bytes, beside);
    if (status == DS_OK)
        status = ds_fd_sync(fd, beside);
    if (close(fd) != 0 && status == DS_OK)
        status = ds_fail_errno("%s: cannot be closed", beside);
    if (status == DS_OK)
        status = ds_file_rename(beside, path);
    if (status != DS_OK)
        unlink(beside);
    return status;
}

ds_status ds_folder_make(const char *path) {
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return ds_fail(DS_INVALID, "%s: path too long", path);
    for (char *slash = part + 1;; slash++) {
        if (*slash != '/' && *slash != '\0')
            continue;
        const char kept = *slash;
        *slash = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return ds_fail_errno("%s: folder cannot be made", part);
        if (kept == '\0')
            break;
        *slash = kept;
    }
    return ds_folder_exists(path) ? DS_OK : ds_fail(DS_INVALID, "%s: not a folder", path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

ds_status ds_folder_remove(const char *path) {
    if (!ds_folder_exists(path))
        return DS_OK;
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0)
        return ds_fail_errno("%s: cannot be removed", path);
    return DS_OK;
}

bool ds_file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool ds_folder_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

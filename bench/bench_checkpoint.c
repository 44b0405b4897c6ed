/* Checkpoints against the disk: a model's parameters and AdamW state are written and read back by
 * the library, and as many bytes by plain system calls into the same folder, in turn.
 *     bench_checkpoint PRESET FOLDER [ROUNDS]
 * Reads are cold (the pages are dropped from the cache first) and warm. Prints one JSON line of
 * bytes a second, the median of the rounds. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "deepseek/models.h"
#include "deepseek/optim.h"
#include "train/checkpoint.h"
#include "support.h"

typedef enum figure {
    SNAPSHOT, /* what training waits for when writing is asynchronous: a copy */
    WRITE,    /* tensors and sums, synced */
    LOAD_COLD,
    LOAD_WARM,
    VERIFY_WARM, /* MD5 of every file */
    RAW_WRITE,   /* one file by write and fsync */
    RAW_READ_COLD,
    RAW_READ_WARM,
    COPY, /* from memory to memory, pages mapped */
    FIGURES
} figure;

static const char *const names[FIGURES] = {"snapshot",      "write",         "load_cold",
                                           "load_warm",     "verify_warm",   "raw_write",
                                           "raw_read_cold", "raw_read_warm", "copy"};

enum { MOST_ROUNDS = 16, CHUNK = 8 << 20 };

typedef struct bench {
    ds_state *state;
    size_t size_bytes;
    char *from, *to;            /* size_bytes each */
    char folder[PATH_MAX - 64]; /* made below the one given, and removed */
    double seconds[FIGURES][MOST_ROUNDS];
} bench;

static void check_call(long result, const char *call) {
    if (result < 0) {
        perror(call);
        exit(1);
    }
}

/* ---- plain system calls ---------------------------------------------------------------------- */

/* Drops what is written from the cache, where the file system lets it be dropped. */
static void drop_pages(const char *path) {
    const int fd = open(path, O_RDONLY);
    if (fd < 0)
        return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static double raw_write(const bench *b, const char *path) {
    const double start = ds_clock_s();
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    check_call(fd, "open");
    for (size_t at = 0; at < b->size_bytes;) {
        const size_t left = b->size_bytes - at;
        const ssize_t n = write(fd, b->from + at, left < CHUNK ? left : CHUNK);
        check_call(n, "write");
        at += (size_t)n;
    }
    check_call(fsync(fd), "fsync");
    close(fd);
    return ds_clock_s() - start;
}

static double raw_read(const bench *b, const char *path) {
    const double start = ds_clock_s();
    const int fd = open(path, O_RDONLY);
    check_call(fd, "open");
    for (size_t at = 0; at < b->size_bytes;) {
        const size_t left = b->size_bytes - at;
        const ssize_t n = read(fd, b->to + at, left < CHUNK ? left : CHUNK);
        check_call(n, "read");
        if (n == 0)
            break;
        at += (size_t)n;
    }
    close(fd);
    return ds_clock_s() - start;
}

static double copy(const bench *b) {
    const double start = ds_clock_s();
    memcpy(b->to, b->from, b->size_bytes);
    return ds_clock_s() - start;
}

/* ---- the library ----------------------------------------------------------------------------- */

static ds_checkpoint_stats write_checkpoint(const bench *b, bool async, double *waited_s) {
    const ds_checkpoint_file files[] = {{"trainer.json", "{}"}}; /* every checkpoint has one */
    ds_checkpoint_writer *writer = NULL;
    check(ds_checkpoint_writer_new(b->folder, 1, async, &writer));
    if (async) { /* the first one maps the pages of the copy */
        check(ds_checkpoint_write(writer, b->state, 1, files, 1));
        check(ds_checkpoint_wait(writer));
    }
    const double start = ds_clock_s();
    check(ds_checkpoint_write(writer, b->state, 1, files, 1));
    *waited_s = ds_clock_s() - start;
    check(ds_checkpoint_wait(writer));
    const ds_checkpoint_stats stats = ds_checkpoint_last(writer);
    ds_checkpoint_writer_free(writer);
    return stats;
}

static double load(const bench *b, const char *path) {
    const double start = ds_clock_s();
    check(ds_checkpoint_load(path, b->state, false));
    return ds_clock_s() - start;
}

static double verify(const char *path) {
    const double start = ds_clock_s();
    check(ds_checkpoint_verify(path));
    return ds_clock_s() - start;
}

static void run_round(bench *b, int round) {
    char raw[PATH_MAX], path[PATH_MAX], file[PATH_MAX + 32];
    snprintf(raw, sizeof raw, "%s/raw", b->folder);
    snprintf(path, sizeof path, "%s/step-00000001", b->folder);
    b->seconds[RAW_WRITE][round] = raw_write(b, raw);
    write_checkpoint(b, false, &b->seconds[WRITE][round]);
    write_checkpoint(b, true, &b->seconds[SNAPSHOT][round]);
    drop_pages(raw);
    b->seconds[RAW_READ_COLD][round] = raw_read(b, raw);
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors"};
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "%s/%s", path, files[i]);
        drop_pages(file);
    }
    b->seconds[LOAD_COLD][round] = load(b, path);
    b->seconds[RAW_READ_WARM][round] = raw_read(b, raw);
    b->seconds[LOAD_WARM][round] = load(b, path);
    b->seconds[VERIFY_WARM][round] = verify(path);
    b->seconds[COPY][round] = copy(b);
    unlink(raw);
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* The state of a training run: parameters drawn, AdamW's moments zero. */
static void set_up(bench *b, const char *preset, ds_backend **backend) {
    ds_model_config config;
    ds_graph *g = ds_graph_new(), *update = NULL;
    ds_program *program = NULL;
    check(ds_model_preset(preset, &config));
    check(ds_backend_open("cpu", (ds_backend_opts){0}, backend));
    check(ds_state_new(*backend, &b->state));
    ds_model_build_training(g, &config, 1, 64);
    check(ds_compile(g, b->state, (ds_compile_opts){.loss = "loss"}, &program));
    const size_t gradients = ds_program_memory(program)->gradients;
    check(ds_optimizer_graph(b->state, ds_optimizer_defaults(DS_OPTIMIZER_ADAMW), &update));
    check(ds_state_declare(b->state, update));
    check(ds_state_init(b->state, 1));
    b->size_bytes = ds_state_size(b->state) - gradients; /* which checkpoints do not hold */
    ds_program_free(program);
    ds_graph_free(update);
    ds_graph_free(g);
    b->from = ds_pages_alloc(b->size_bytes);
    b->to = ds_pages_alloc(b->size_bytes);
    check(b->from && b->to ? DS_OK : DS_OUT_OF_MEMORY);
    for (size_t i = 0; i < b->size_bytes; i++) /* nothing that compresses to nothing */
        b->from[i] = (char)(i * 2654435761u >> 13);
    memset(b->to, 1, b->size_bytes);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fputs("usage: bench_checkpoint PRESET FOLDER [ROUNDS]\n", stderr);
        return 2;
    }
    bench b = {0};
    snprintf(b.folder, sizeof b.folder, "%s/bench-checkpoint-%d", argv[2], (int)getpid());
    int rounds = argc > 3 ? atoi(argv[3]) : 3;
    rounds = rounds < 1 ? 1 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds;
    ds_backend *backend = NULL;
    check(ds_folder_make(b.folder));
    set_up(&b, argv[1], &backend);
    for (int i = 0; i < rounds; i++)
        run_round(&b, i);
    printf("{\"who\": \"ours\", \"checkpoint\": \"%s\", \"size_bytes\": %zu", argv[1],
           b.size_bytes);
    for (int i = 0; i < FIGURES; i++) {
        qsort(b.seconds[i], (size_t)rounds, sizeof *b.seconds[i], by_value);
        printf(", \"%s_bytes_per_s\": %.4g", names[i],
               (double)b.size_bytes / b.seconds[i][rounds / 2]);
    }
    puts("}");
    check(ds_folder_remove(b.folder));
    ds_pages_free(b.from, b.size_bytes);
    ds_pages_free(b.to, b.size_bytes);
    ds_state_free(b.state);
    ds_backend_close(backend);
    return 0;
}

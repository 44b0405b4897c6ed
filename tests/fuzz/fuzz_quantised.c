/* Any bytes as the safetensors file of a small quantised Llama: refused with a message, or the
 * model can be run. Read as it is, and quantised while it is loaded. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "models/storage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* That of tests/data/goldens/quantised/seed_*, the seeds. */
static const ds_model_config config = {.architecture = DS_LLAMA,
                                       .vocab_size = 4,
                                       .n_layers = 1,
                                       .hidden_size = 8,
                                       .n_heads = 1,
                                       .n_kv_heads = 1,
                                       .head_dim = 8,
                                       .intermediate_size = 16,
                                       .max_seq_len = 16,
                                       .norm_eps = 1e-6f,
                                       .rope_theta = 10000,
                                       .tie_embeddings = true,
                                       .int8_inputs = true};

static void run(ds_state *state, const ds_graph *g) {
    static const int32_t tokens[4] = {1, 3, 0, 2};
    ds_program *program = NULL;
    if (ds_compile(g, state, (ds_compile_opts){0}, &program) != DS_OK ||
        ds_program_write(program, "tokens", tokens, sizeof tokens) != DS_OK ||
        ds_program_run(program) != DS_OK)
        __builtin_trap(); /* what was loaded must be usable */
    ds_program_free(program);
}

static void load(ds_backend *backend, const char *path, const char *dtype) {
    const ds_storage *storage = NULL;
    ds_state *state = NULL;
    ds_graph *g = ds_graph_new();
    if (!g || ds_state_new(backend, &state) != DS_OK || ds_storage_find(dtype, &storage) != DS_OK)
        __builtin_trap();
    ds_model_build_logits(g, &config, 1, 4);
    if (ds_model_load_stored(path, &config, g, storage, state) == DS_OK)
        run(state, g);
    ds_graph_free(g);
    ds_state_free(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ds_backend *backend;
    char path[64];
    if (!backend && ds_backend_open("cpu", (ds_backend_opts){1}, &backend) != DS_OK)
        __builtin_trap();
    snprintf(path, sizeof path, "/tmp/ds-fuzz-%ld.safetensors", (long)getpid());
    const int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    const ssize_t written = fd < 0 ? -1 : write(fd, data, size);
    if (fd >= 0)
        close(fd);
    if (written == (ssize_t)size) {
        load(backend, path, "auto");
        load(backend, path, "int4-32");
    }
    unlink(path);
    return 0;
}

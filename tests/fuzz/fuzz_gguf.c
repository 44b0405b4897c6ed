/* Any bytes as a GGUF file: refused with a message, or all that it tells can be looked at: its
 * values, its tensors, the model's configuration, the tokenizer in it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/gguf.h"
#include "base/text.h"
#include "models/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_tensors(const ds_gguf *g) {
    for (size_t i = 0; i < ds_gguf_count(g); i++) {
        const ds_gguf_tensor *t = ds_gguf_at(g, i);
        if (ds_gguf_find(g, t->name) != t)
            __builtin_trap();
        const size_t n = (size_t)ds_count(t->dims, t->rank);
        if (n > 1 << 16)
            continue;
        float *values = malloc(n * sizeof *values); /* ASan sees what is written past it */
        (void)ds_gguf_read(t, DS_F32, values);
        (void)ds_gguf_read(t, DS_F16, values);
        free(values);
    }
}

static void read_values(const ds_gguf *g) {
    ds_gguf_strings strings;
    ds_gguf_numbers numbers;
    double sum = 0;
    if (ds_gguf_list_strings(g, "tokenizer.ggml.tokens", &strings))
        for (size_t i = 0, n = 0; i < strings.n; i++) {
            const char *text = ds_gguf_next_string(&strings, &n);
            sum += n > 0 ? text[0] + text[n - 1] : 0;
        }
    if (ds_gguf_list_numbers(g, "tokenizer.ggml.scores", &numbers))
        for (size_t i = 0; i < numbers.n; i++)
            sum += ds_gguf_number(&numbers, i);
    if (sum == 0.123)
        __builtin_trap(); /* so that the reading is not optimised away */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    unsigned char *copy = malloc(size + 1); /* a block of its own, so that ASan sees its end */
    memcpy(copy, data, size);
    copy[size] = 0;
    ds_gguf *g = NULL;
    if (ds_gguf_parse(copy, size, "fuzz.gguf", &g) == DS_OK) {
        ds_model_config config;
        read_tensors(g);
        read_values(g);
        if (ds_gguf_config(g, &config) == DS_OK && ds_model_config_check(&config) != DS_OK)
            __builtin_trap();
    }
    ds_gguf_close(g);
    free(copy);
    return 0;
}

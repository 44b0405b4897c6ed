/* Any bytes as a config.json and as a llama2.c model: refused with a message, or a configuration
 * that is sound, comes back from its own JSON, and whose parameters can be counted. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "models/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const ds_model_config *c) {
    ds_model_config back;
    if (ds_model_config_check(c) != DS_OK)
        __builtin_trap();
    char *text = ds_model_config_json(c);
    if (!text || ds_model_config_parse(text, strlen(text), "own", &back) != DS_OK)
        __builtin_trap();
    free(text);
    if (c->n_layers <= 8 && ds_model_n_params(c) <= 0)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ds_model_config c;
    unsigned char *copy = malloc(size + 1); /* a block of its own, so that ASan sees its end */
    memcpy(copy, data, size);
    if (ds_model_config_parse((const char *)copy, size, "config.json", &c) == DS_OK)
        use(&c);
    if (ds_llama2c_parse(copy, size, "model.bin", &c) == DS_OK)
        use(&c);
    free(copy);
    return 0;
}

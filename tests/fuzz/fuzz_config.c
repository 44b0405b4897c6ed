/* Any bytes as a training configuration: refused with a message, or accepted and then equal to what
 * its own dump reads back to. Bytes behind a first zero byte are a command-line override. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    const size_t yaml_size = zero ? (size_t)(zero - data) : size;
    char *override = NULL;
    if (zero) {
        const size_t length = size - yaml_size - 1;
        override = malloc(length + 1);
        if (!override)
            return 0;
        memcpy(override, zero + 1, length);
        override[length] = '\0';
    }
    const char *overrides[] = {override};
    ds_train_config config, again;
    const char *difference = NULL;
    if (ds_train_config_parse("fuzz", (const char *)data, yaml_size, overrides, zero ? 1 : 0,
                              &config) == DS_OK) {
        char *dump = ds_train_config_dump_yaml(&config);
        if (!dump || ds_train_config_parse("dump", dump, strlen(dump), NULL, 0, &again) != DS_OK ||
            !ds_train_config_equal(&config, &again, &difference))
            abort();
        ds_train_config_free(&again);
        ds_train_config_free(&config);
        free(dump);
    }
    free(override);
    return 0;
}

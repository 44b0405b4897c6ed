#include "models/storage.h"

#include <string.h>

#include "base/error.h"
#include "base/text.h"

static const ds_storage storages[] = {
    {.name = "auto", .dtype = DS_DTYPES},
    {.name = "f32", .dtype = DS_F32},
    {.name = "bf16", .dtype = DS_BF16},
    {.name = "f16", .dtype = DS_F16},
    {.name = "int8", .dtype = DS_DTYPES, .weights = {.bits = 8}, .inputs = DS_INPUTS_INT8},
    {.name = "w8a16", .dtype = DS_DTYPES, .weights = {.bits = 8}, .inputs = DS_INPUTS_FLOAT},
    {.name = "int4", .dtype = DS_DTYPES, .weights = {.bits = 4, .group = 64}},
    {.name = "int4-32", .dtype = DS_DTYPES, .weights = {.bits = 4, .group = 32}},
    {.name = "int4-128", .dtype = DS_DTYPES, .weights = {.bits = 4, .group = 128}},
};
enum { N_STORAGES = sizeof storages / sizeof *storages };

ds_status ds_storage_find(const char *name, const ds_storage **out) {
    ds_text names = {0};
    for (int i = 0; i < N_STORAGES; i++) {
        if (!name || strcmp(storages[i].name, name) == 0) {
            *out = &storages[i];
            ds_text_clear(&names);
            return DS_OK;
        }
        ds_text_printf(&names, "%s%s", i ? ", " : "", storages[i].name);
    }
    const ds_status status = ds_fail(DS_INVALID, "weights cannot be kept as \"%s\"; there are: %s",
                                     name, names.data ? names.data : "auto");
    ds_text_clear(&names);
    return status;
}

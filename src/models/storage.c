#include "models/storage.h"

#include <string.h>

#include "base/error.h"
#include "base/text.h"

static const ds_storage storages[] = {
    {"auto", DS_DTYPES},
    {"f32", DS_F32},
    {"bf16", DS_BF16},
    {"f16", DS_F16},
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

/* In place of ucx.c where UCX's headers were not found when this was configured. */
#include "comm/ucx.h"

#include "base/error.h"

bool ds_ucx_is_there(void) {
    return false;
}

ds_status ds_ucx_open(ds_ucx_opts opts, ds_transport **out) {
    (void)opts;
    *out = NULL;
    return ds_fail(DS_UNSUPPORTED,
                   "this build is without UCX, by which processes talk to each other: "
                   "install libucx-dev and configure again");
}

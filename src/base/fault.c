#include "base/fault.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_long countdowns[DS_FAULT_KINDS];
static atomic_bool armed;

void ds_fault_arm(ds_fault kind, long countdown) {
    atomic_store(&countdowns[kind], countdown);
    if (countdown > 0)
        atomic_store(&armed, true);
}

bool ds_fault_hit(ds_fault kind) {
    if (!atomic_load_explicit(&armed, memory_order_relaxed))
        return false;
    if (atomic_load(&countdowns[kind]) <= 0)
        return false;
    return atomic_fetch_sub(&countdowns[kind], 1) == 1;
}

__attribute__((constructor)) static void arm_from_environment(void) {
    static const char *const kinds[] = {"alloc:", "write:", "sync:", "rename:", "short:"};
    const char *wish = getenv("DS_FAULT");
    for (int k = 0; wish && k < DS_FAULT_KINDS; k++)
        if (strncmp(wish, kinds[k], strlen(kinds[k])) == 0)
            ds_fault_arm((ds_fault)k, atol(wish + strlen(kinds[k])));
}

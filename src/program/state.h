/* The state from inside: where each tensor lies, and copies derived from parameters. */
#ifndef DS_PROGRAM_STATE_H
#define DS_PROGRAM_STATE_H

#include "backend/backend.h"

/* A value computed from parameters alone (a cast), shared by all programs of the
 * state and made anew when the parameters have changed. */
typedef struct ds_derived {
    uint64_t key; /* hash of the expression */
    void *memory;
    size_t size_bytes;
    uint64_t version; /* of the state when it was last made; 0 = never */
} ds_derived;

ds_backend *ds_state_backend(const ds_state *state);
/* Takes the memory that declared entries have not got yet, and gives new ones their first values.
 */
ds_status ds_state_allocate(ds_state *state);
void *ds_state_memory(const ds_state *state, size_t i); /* device memory of entry i */
size_t ds_state_entry_size(const ds_state_entry *entry);

/* Changes whenever a parameter may have changed. Starts at 1. */
uint64_t ds_state_version(const ds_state *state);
void ds_state_touch(ds_state *state);

/* The derived value of this key, made room for if new. Stable until the state is freed. */
ds_status ds_state_derive(ds_state *state, uint64_t key, size_t size_bytes, ds_derived **out);

#endif

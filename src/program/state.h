/* The state from inside: where each tensor lies, and copies derived from parameters. */
#ifndef DS_PROGRAM_STATE_H
#define DS_PROGRAM_STATE_H

#include "backend/backend.h"
#include "passes/passes.h"

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

/* ---- parameters kept as a trained model's files have them ------------------------------------ */

/* Makes room for a parameter in another float type than its leaf's f32. Programs of the state read
 * it as it is (passes/stored.c); it cannot be trained. */
ds_status ds_state_declare_stored(ds_state *state, const ds_node *param, ds_dtype dtype);
/* Makes room for a tensor that stands for a parameter of which there is no leaf: codes and scales
 * of a quantised one (passes/passes.h). */
ds_status ds_state_declare_tensor(ds_state *state, const char *name, const ds_type *type);
/* A ds_quantised_lookup of a state. */
bool ds_state_find_quantised(const char *param, int64_t n_in, const void *state,
                             ds_quantised_weight *out);
/* Columns of n_in that share one of n scales, the last ones perhaps fewer: a power of two if that
 * is possible, since such are published; else as many as divide the columns; 0 if none fits. */
int64_t ds_state_group_size(int64_t n_in, int64_t n);
/* Products with 8-bit weights quantise their inputs too. */
void ds_state_quantise_inputs(ds_state *state, bool quantise);
/* The type that a parameter of this name is kept in; DS_F32 if there is none. */
ds_dtype ds_state_stored_dtype(const ds_state *state, const char *name);
/* Whether some parameter is kept in another type than f32, or borrowed: it cannot be trained. */
bool ds_state_is_read_only(const ds_state *state);
/* Lets entry i lie where its elements are already, for as long as the state lives: nothing is
 * copied and nothing may be written there. False where the device cannot read it. */
bool ds_state_borrow(ds_state *state, size_t i, const void *data);
/* What borrowed entries need to live, released with the state. */
ds_status ds_state_keep(ds_state *state, void *owner, void (*release)(void *owner));
/* Elements [first, first + n) of entry i, a float, from host memory of any float type and
 * alignment.
 */
ds_status ds_state_write_floats(ds_state *state, size_t i, int64_t first, int64_t n, ds_dtype from,
                                const void *data);

/* Changes whenever a parameter may have changed. Starts at 1. */
uint64_t ds_state_version(const ds_state *state);
void ds_state_touch(ds_state *state);

/* The derived value of this key, made room for if new. Stable until the state is freed. */
ds_status ds_state_derive(ds_state *state, uint64_t key, size_t size_bytes, ds_derived **out);

#endif

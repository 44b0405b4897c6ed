/* How the matrices of a trained model are kept in memory, by the name that users choose: a row for
 * each way. Vectors (norms, biases), and what is read by other ops than products and look-ups, are
 * f32 whatever is chosen: they are few. */
#ifndef DS_MODELS_STORAGE_H
#define DS_MODELS_STORAGE_H

#include "models/quantised.h"
#include "deepseek/models.h"

typedef struct ds_storage {
    const char *name;
    ds_dtype dtype; /* DS_DTYPES: each matrix in the type that its file has */
    /* Parameters that only products read, where the file has not quantised them already. */
    ds_weight_format weights;
    enum { DS_INPUTS_OF_FILE, DS_INPUTS_INT8, DS_INPUTS_FLOAT } inputs; /* of 8-bit products */
} ds_storage;

/* NULL: "auto". DS_INVALID names those there are. */
ds_status ds_storage_find(const char *name, const ds_storage **out);

/* Declares the parameters of the graph in an empty state and reads them from a model's files.
 * Matrices whose file has the wanted type stay in the file, mapped, where the device can read them
 * there; the state keeps the mapping. Quantised weights of the file stay so whatever is chosen;
 * others are quantised one matrix after the other, if that is chosen; beside weights of 4 bits an
 * embedding that is the projection too gives the projection a copy of 8 bits. The graph: the
 * model's logits, or what its last layer gives. */
ds_status ds_model_load_stored(const char *path, const ds_model_config *config, const ds_graph *g,
                               const ds_storage *storage, ds_state *state);

#endif

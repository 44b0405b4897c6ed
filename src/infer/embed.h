/* How a model's files say that embeddings are made of it. */
#ifndef DS_INFER_EMBED_H
#define DS_INFER_EMBED_H

#include "deepseek/embeddings.h"

typedef struct ds_embed_config {
    ds_pooling pooling; /* never DS_POOL_AS_TRAINED */
    bool normalised;    /* to length 1 */
    int64_t longest;    /* tokens */
} ds_embed_config;

/* path: the model's folder or file (embed_config.c). DS_UNSUPPORTED names what is not there. */
ds_status ds_embed_config_load(const char *path, const ds_model_config *config,
                               ds_embed_config *out);

/* The programs and buffers of a model (embed.c). */
typedef struct ds_embedder ds_embedder;
void ds_embedder_free(ds_embedder *embedder); /* NULL is fine */

#endif

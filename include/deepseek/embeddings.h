/* Embeddings: texts as vectors, near each other where the texts mean alike.
 *
 *     static float vectors[2][384];
 *     const char *texts[] = {"A cat sleeps.", "A kitten is napping."};
 *     ds_model *model;
 *     if (ds_model_from_pretrained("all-MiniLM-L6-v2", (ds_model_opts){0}, &model) != DS_OK ||
 *         ds_model_embedding_size(model) != 384 ||
 *         ds_model_embed(model, texts, 2, (ds_embed_opts){0}, vectors[0]) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     ds_model_free(model);
 *
 * The model is a BERT (Reimers & Gurevych 2019 train such ones for it) or any decoder. How a text's
 * tokens become one vector is told by the folder's files of sentence-transformers (modules.json,
 * 1_Pooling/config.json) or by the GGUF file; where nothing is told, BERT takes the mean, a decoder
 * the last token, and vectors are scaled to length 1.
 */
#ifndef DEEPSEEK_EMBEDDINGS_H
#define DEEPSEEK_EMBEDDINGS_H

#include "deepseek/inference.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What becomes of the vectors of a text's tokens. */
typedef enum ds_pooling {
    DS_POOL_AS_TRAINED, /* what the model's files say */
    DS_POOL_MEAN,
    DS_POOL_FIRST, /* the first token's, BERT's [CLS] */
    DS_POOL_LAST,
} ds_pooling;

typedef struct ds_embed_opts {
    ds_pooling pooling;
    bool raw;      /* vectors keep the length they have, even if the model's files say otherwise */
    bool truncate; /* of a text that is too long take the beginning; else it is DS_INVALID */
    void (*on_batch)(void *context); /* after each batch that the model computed; may be NULL */
    void *context;
} ds_embed_opts;

typedef struct ds_token_list {
    const int32_t *ids; /* [n], borrowed */
    size_t n;
} ds_token_list;

/* Numbers in a vector, and the longest text in tokens, marks included. */
DS_API int64_t ds_model_embedding_size(const ds_model *model);
DS_API int64_t ds_model_embedding_length(const ds_model *model);

/* Vectors of n texts into out, f32 [n, size]. Texts get the marks that the model expects around
 * them, and go through it in batches of similar lengths; what stands beside a text in a batch
 * changes nothing but rounding. Safe from any thread; calls on one model wait for each other.
 * DS_INVALID for a text that is too long or has no tokens, or a model without tokenizer;
 * DS_UNSUPPORTED for files that ask for what is not there (a layer after the pooling). */
DS_API ds_status ds_model_embed(ds_model *model, const char *const *texts, size_t n,
                                ds_embed_opts opts, float *out);
/* The same of tokens, to which nothing is added. */
DS_API ds_status ds_model_embed_tokens(ds_model *model, const ds_token_list *texts, size_t n,
                                       ds_embed_opts opts, float *out);

#ifdef __cplusplus
}
#endif
#endif

/* Which text is nearest in meaning:
 *     embed MODEL QUESTION TEXT [TEXT …]
 * MODEL is a sentence encoder (all-MiniLM-L6-v2) or any decoder. Prints each text with the cosine
 * of its angle to the question. */
#include <stdio.h>
#include <stdlib.h>

#include "deepseek/embeddings.h"

int main(int argc, char **argv) {
    ds_model *model = NULL;
    if (argc < 4) {
        fputs("usage: embed MODEL QUESTION TEXT [TEXT …]\n", stderr);
        return 2;
    }
    if (ds_model_from_pretrained(argv[1], (ds_model_opts){0}, &model) != DS_OK) {
        fprintf(stderr, "%s\n", ds_error());
        return 1;
    }
    const size_t n = (size_t)argc - 2, width = (size_t)ds_model_embedding_size(model);
    float *vectors = malloc(n * width * sizeof *vectors);
    const ds_embed_opts opts = {.truncate = true};
    const bool done =
        vectors && ds_model_embed(model, (const char *const *)argv + 2, n, opts, vectors) == DS_OK;
    for (size_t i = 1; done && i < n; i++) {
        double cosine = 0; /* of vectors of length 1 */
        for (size_t k = 0; k < width; k++)
            cosine += (double)vectors[k] * (double)vectors[i * width + k];
        printf("%6.3f  %s\n", cosine, argv[2 + i]);
    }
    if (!done)
        fprintf(stderr, "%s\n", ds_error());
    free(vectors);
    ds_model_free(model);
    return done ? 0 : 1;
}

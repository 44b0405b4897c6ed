/* A model goes on from a text, always with the likeliest token:
 *     generate MODEL PROMPT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/inference.h"

static void must(ds_status status) {
    if (status != DS_OK)
        exit((fprintf(stderr, "%s\n", ds_error()), 1));
}

int main(int argc, char **argv) {
    enum { CAPACITY = 128 }; /* tokens of prompt and answer */
    ds_model *model;
    ds_generator *generator;
    int32_t *ids, id;
    size_t n, length;
    if (argc != 3)
        return fputs("usage: generate MODEL PROMPT\n", stderr), 2;
    must(ds_model_from_pretrained(argv[1], (ds_model_opts){0}, &model));
    ds_state *state = ds_model_get_state(model);
    const ds_model_config *config = ds_model_get_config(model);
    const ds_tokenizer *tokenizer = ds_model_get_tokenizer(model);
    must(ds_generator_new(state, config, CAPACITY, DS_PRECISION_FULL, &generator));
    must(ds_tokenizer_encode_marked(tokenizer, argv[2], strlen(argv[2]), 0, &ids, &n));
    must(ds_generator_feed(generator, ids, (int64_t)n));
    ds_detokenizer *words = ds_detokenizer_new(tokenizer);
    fputs(argv[2], stdout);
    while (ds_generator_next(generator, (ds_sampling){0}, &id) == DS_OK &&
           id != config->eos_token) {
        const char *text;
        must(ds_detokenizer_push(words, id, &text, &length));
        printf("%.*s", (int)length, text);
    }
    puts("");
    ds_detokenizer_free(words);
    free(ids);
    ds_generator_free(generator);
    ds_model_free(model);
}

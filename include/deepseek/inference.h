/* Generation: tokens out of a decoder, with a key-value cache.
 *
 *     ds_backend *cpu;  ds_state *state;  ds_model_config config;  ds_generator *generator;
 *     const ds_sampling sampling = {.temperature = 0.8f, .top_k = 40, .seed = 1};
 *     int32_t prompt[] = {464, 3726}, id = -1;
 *     ds_backend_open("cpu", (ds_backend_opts){0}, &cpu);
 *     ds_state_new(cpu, &state);
 *     ds_model_config_load("model", &config);
 *     ds_generator_new(state, &config, 256, DS_PRECISION_FULL, &generator); // declares parameters
 *     ds_model_load("model", &config, state);                               // reads them
 *     ds_generator_feed(generator, prompt, 2);
 *     while (ds_generator_next(generator, sampling, &id) == DS_OK && id != config.eos_token)
 *         printf("%d ", id);
 *     ds_generator_free(generator);
 */
#ifndef DEEPSEEK_INFERENCE_H
#define DEEPSEEK_INFERENCE_H

#include "deepseek/compile.h"
#include "deepseek/models.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ds_sampling {
    float temperature; /* 0: always the likeliest */
    int top_k;         /* among the k likeliest; 0: all */
    float top_p;       /* among the likeliest that hold p of the probability; 0 or 1: all */
    uint64_t seed;
} ds_sampling;

typedef struct ds_generator ds_generator;

/* For the parameters of this state (their programs share it). capacity: tokens that the cache
 * holds, prompt and answer together; at most config->max_seq_len. */
DS_API ds_status ds_generator_new(ds_state *state, const ds_model_config *config, int64_t capacity,
                                  ds_precision precision, ds_generator **out);
DS_API void ds_generator_free(ds_generator *generator);

/* Forgets everything fed. */
DS_API void ds_generator_reset(ds_generator *generator);
/* Appends n tokens. DS_INVALID when an id is no token or the cache would overflow; then nothing was
 * appended. */
DS_API ds_status ds_generator_feed(ds_generator *generator, const int32_t *ids, int64_t n);
/* Draws the next token after what was fed. It is appended by the next call of next or feed. The
 * draw depends on logits, seed and position alone. DS_NOT_FOUND when the cache is full, DS_NUMERIC
 * when the logits are not numbers. */
DS_API ds_status ds_generator_next(ds_generator *generator, ds_sampling sampling, int32_t *id);
/* Logits [vocab_size] after what was fed; borrowed, valid until the next call. NULL before any. */
DS_API const float *ds_generator_logits(const ds_generator *generator);
/* Tokens in the cache. */
DS_API int64_t ds_generator_length(const ds_generator *generator);

/* Draws a token from logits [n] (overwritten). position selects the random number. */
DS_API int32_t ds_sample(float *logits, int64_t n, ds_sampling sampling, int64_t position);

#ifdef __cplusplus
}
#endif
#endif

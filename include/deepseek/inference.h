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
#include "deepseek/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ds_logit_bias {
    int32_t token;
    float bias; /* added to the token's logit */
} ds_logit_bias;

typedef struct ds_sampling {
    float temperature; /* 0: always the likeliest */
    int top_k;         /* among the k likeliest; 0: all */
    float top_p;       /* among the likeliest that hold p of the probability; 0 or 1: all */
    uint64_t seed;
    float min_p; /* among those at least so likely, as a part of the likeliest; 0: all */
    /* Logits above 0 of tokens that stand in prompt or answer are divided by it, others multiplied
     * (Keskar et al. 2019); 0 or 1: none. */
    float repetition_penalty;
    float presence_penalty;    /* taken from logits of tokens that stand in the answer */
    float frequency_penalty;   /* the same, for each time they do */
    const ds_logit_bias *bias; /* [n_bias] */
    size_t n_bias;
} ds_sampling;

typedef struct ds_generator ds_generator;
/* Forms that answers must have: deepseek/grammar.h. */
typedef struct ds_grammar ds_grammar;
typedef struct ds_grammar_cursor ds_grammar_cursor;

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
/* From now on next draws only tokens that the cursor allows, and moves it; NULL: any again. Tokens
 * of end_tokens [n_end_tokens] may be drawn where the text can end. DS_NOT_FOUND is next's answer
 * where it must. All is borrowed; what is fed does not move the cursor. */
DS_API void ds_generator_constrain(ds_generator *generator, ds_grammar_cursor *cursor,
                                   const int32_t *end_tokens, size_t n_end_tokens);
/* Draws the next token after what was fed. It is appended by the next call of next or feed. The
 * draw depends on logits, seed and position alone. DS_NOT_FOUND when the cache is full, DS_NUMERIC
 * when the logits are not numbers. */
DS_API ds_status ds_generator_next(ds_generator *generator, ds_sampling sampling, int32_t *id);
/* Logits [vocab_size] after what was fed; borrowed, valid until the next call. NULL before any. */
DS_API const float *ds_generator_logits(const ds_generator *generator);
/* Tokens in the cache. */
DS_API int64_t ds_generator_length(const ds_generator *generator);

/* Penalties and biases of the sampling, applied to logits [n]. */
DS_API void ds_sampling_penalise(float *logits, int64_t n, const ds_sampling *sampling,
                                 const int32_t *prompt, int64_t n_prompt, const int32_t *answer,
                                 int64_t n_answer);
/* Draws a token from logits [n] (overwritten). position selects the random number. */
DS_API int32_t ds_sample(float *logits, int64_t n, ds_sampling sampling, int64_t position);

/* ---- models ready to answer ---------------------------------------------------------------- */

/* A trained model in memory: parameters, tokenizer, and what its folder says about generation. */
typedef struct ds_model ds_model;

typedef struct ds_model_opts {
    const char *device;    /* NULL: "cpu" */
    int n_threads;         /* 0: as many as there are cores */
    const char *tokenizer; /* its file or folder; NULL: beside the model */
    /* How matrices are kept in memory: "auto" (NULL: the same) as the file has them, "f32", "bf16",
     * "f16"; or quantised while loading, one after the other: "int8" (8 bits, as are the inputs of
     * their products), "w8a16" (8 bits, inputs as they are), "int4", "int4-32", "int4-128" (4 bits,
     * groups of 64, 32, 128 columns), but for embeddings and gates. Weights that the file has
     * quantised stay as they are. Where the file has the wanted type they stay in the mapped file
     * and nothing is read before it is needed: the file must not change while the model is open. */
    const char *dtype;
    bool verify; /* check all sums of MD5SUMS anew, not only those of files changed since */
} ds_model_opts;

/* Opens a Hugging Face folder (config.json, model*.safetensors, tokenizer.json, …), a run folder of
 * deepseek-train (its newest whole checkpoint), a .gguf, a llama2.c .bin, or a preset's name, whose
 * folder is looked for in $DEEPSEEK_MODELS and in ~/.cache/deepseek. MD5SUMS are checked where
 * there are any, each file once as long as it does not change (base/verified.h). DS_NOT_FOUND says
 * where was looked. A BERT without the heads of its pre-training is good for embeddings
 * (embeddings.h). */
DS_API ds_status ds_model_from_pretrained(const char *path_or_preset, ds_model_opts opts,
                                          ds_model **out);
DS_API void ds_model_free(ds_model *model); /* NULL is fine; after everything that uses it */

DS_API const ds_model_config *ds_model_get_config(const ds_model *model);
DS_API ds_state *ds_model_get_state(ds_model *model);                     /* borrowed */
DS_API const ds_tokenizer *ds_model_get_tokenizer(const ds_model *model); /* NULL: it has none */
/* The folder's last part, for people and the API. */
DS_API const char *ds_model_get_name(const ds_model *model);
/* Tokens that end an answer, *n of them: of generation_config.json, config.json, the tokenizer. */
DS_API const int32_t *ds_model_end_tokens(const ds_model *model, size_t *n);
/* How its makers want it drawn from: sets those of temperature, top_p, min_p, top_k and
 * repetition_penalty that the folder's generation_config.json names. */
DS_API void ds_model_wanted_sampling(const ds_model *model, ds_sampling *sampling);

/* How well a model predicts a text. Perplexity is exp(loss / n_predicted). */
typedef struct ds_text_score {
    double loss; /* Σ −log probability of each predicted token, natural logarithm */
    int64_t n_predicted;
    int64_t n_scored; /* tokens gone through, the first of each window included */
} ds_text_score;

typedef struct ds_score_opts {
    int64_t window; /* tokens that see each other; 0: 512, or the longest the model takes */
    ds_precision precision;
    /* After each window; false: enough. May be NULL. */
    bool (*on_window)(const ds_text_score *so_far, void *context);
    void *context;
} ds_score_opts;

/* Goes through tokens [n] in windows that follow one another, each predicted without those before;
 * what is left after the last whole window is not counted. likeliest: [n] or NULL; after each token
 * gone through the one that the model thinks most likely to come. DS_INVALID when there is not one
 * window, or a token is none. */
DS_API ds_status ds_model_score_text(ds_model *model, const int32_t *tokens, int64_t n,
                                     ds_score_opts opts, int32_t *likeliest, ds_text_score *out);

/* ---- quantised folders ----------------------------------------------------------------------- */

typedef struct ds_quantise_progress {
    size_t n_done, n_tensors;
    const char *tensor; /* now at work; borrowed */
} ds_quantise_progress;

typedef struct ds_quantise_opts {
    int bits;              /* 8 (the default, 0) or 4 */
    int64_t group_size;    /* 4 bits: columns that share a scale; 0: 64 */
    const char *tokenizer; /* its file or folder; NULL: beside the model */
    /* A text whose tokens the model reads first, so many at most (0: 8192), to see the magnitudes
     * of what products are given. NULL: none is needed. */
    const char *calibration; /* a file */
    int64_t calibration_tokens;
    /* 0 … 1: how much of the inputs' range is moved into the weights (Xiao et al. 2022,
     * SmoothQuant): factors max|x|^smooth / max|W|^(1−smooth) a column, taken from the norm before
     * the product, so that nobody need know of them. 0: none. Wants a calibration. */
    float smooth;
    /* The same for inputs that no norm makes; the file then is one of this library alone. */
    bool smooth_all;
    /* 8 bits: input columns whose largest magnitude is more than so many times the median column's
     * keep their weights as bf16 (Dettmers et al. 2022, LLM.int8()); the file then is one of this
     * library alone. 0: none. Wants a calibration. */
    float outliers;
    void (*on_progress)(const ds_quantise_progress *progress, void *context); /* may be NULL */
    void *context;
} ds_quantise_opts;

typedef struct ds_quantise_report {
    size_t bytes_before, bytes_after; /* of all tensors */
    size_t n_quantised, n_smoothed;   /* matrices */
    int64_t n_outliers;               /* columns kept, all matrices together */
} ds_quantise_report;

/* Writes a folder with the weights of a trained model's (a Hugging Face folder, or a run's newest
 * checkpoint) quantised, in the format of compressed-tensors, tokenizer and all beside them. A
 * crash leaves no folder of that name. DS_INVALID when `to` exists or options do not fit,
 * DS_UNSUPPORTED for a model that is quantised already or is no folder. */
DS_API ds_status ds_model_quantise(const char *from, const char *to, ds_quantise_opts opts,
                                   ds_quantise_report *report);

/* ---- many requests at once ------------------------------------------------------------------- */

/* Answers requests of any number of threads: their tokens go through the model together (continuous
 * batching, Yu et al. 2022), long prompts in chunks between other requests' tokens, over a cache in
 * blocks whose beginnings are shared between requests (Kwon et al. 2023). Every call is safe from
 * any thread, callbacks included, but for new and free. */
typedef struct ds_async_executor ds_async_executor;

/* Speculative decoding: several tokens of a request are computed in one step where the next ones
 * can be guessed. Answers stay the same, token for token, at any temperature; only the number of
 * steps changes. */
typedef enum ds_speculate_kind {
    DS_SPECULATE_NONE,
    DS_SPECULATE_LOOKUP, /* guess what followed the same tokens earlier in prompt and answer */
    DS_SPECULATE_DRAFT,  /* guess by a smaller model */
} ds_speculate_kind;

typedef struct ds_speculate_opts {
    ds_speculate_kind kind;
    int n_tokens; /* guessed at once, at most 15; fewer where few are right, and where many requests
                     are at work; 0: 7 for look-up, 3 for a model */
    ds_model *draft; /* of the same vocabulary; borrowed, freed after the executor */
} ds_speculate_opts;

typedef struct ds_async_executor_opts {
    int max_batch_size; /* requests in work at once; 0: 32 */
    int stream_count;   /* lanes that draw tokens and call on_event beside each other, and while
                           the next step is computed; 1: all on one thread; 0: 4, but at most as
                           many as there are cores */
    int max_queue;      /* requests waiting; 0: 1024 */
    int64_t tokens_per_step; /* prompt and answer tokens at once; 0: 256 */
    int64_t max_seq_len;     /* of prompt and answer together; 0: the model's */
    size_t cache_bytes;      /* of keys and values, never exceeded, a draft model's included; 0: for
                                max_batch_size sequences of max_seq_len, but at most a quarter of the
                                memory */
    ds_precision precision;
    bool int8_cache; /* keys and values as 8 bits with a scale for each token and head, a little
                        over a quarter of f32; else in the type that is computed in */
    ds_speculate_opts speculate;
} ds_async_executor_opts;

typedef enum ds_finish {
    DS_FINISH_NONE,   /* still at work */
    DS_FINISH_STOP,   /* a stop token */
    DS_FINISH_LENGTH, /* max_tokens, or the longest sequence */
    DS_FINISH_CANCELLED,
    DS_FINISH_ERROR,
} ds_finish;

enum { DS_MOST_TOP_LOGPROBS = 20 };

typedef struct ds_token_logprob {
    int32_t token;
    float logprob; /* natural logarithm, before penalties */
} ds_token_logprob;

/* What a request tells of itself. */
typedef struct ds_event {
    uint64_t request;
    int32_t token;     /* -1 with the last event */
    int64_t index;     /* of the token in the answer */
    float logprob;     /* of the token, natural logarithm, before penalties; 0 if not asked for */
    ds_finish finish;  /* of the last event, which has no token */
    const char *error; /* with DS_FINISH_ERROR; borrowed */
    const ds_token_logprob *top; /* [n_top] likeliest tokens at its place, likeliest first; */
    int n_top;                   /* borrowed until the call returns */
} ds_event;

typedef struct ds_request {
    const int32_t *prompt; /* [n_prompt], copied */
    int64_t n_prompt;      /* 1 or more */
    int64_t max_tokens;    /* of the answer; 0: as many as fit */
    ds_sampling sampling;
    const int32_t *stop_tokens; /* copied; they end the answer and are not part of it */
    size_t n_stop_tokens;
    bool logprobs;    /* tell each token's probability */
    int top_logprobs; /* and so many of the likeliest beside it, at most DS_MOST_TOP_LOGPROBS */
    /* Higher ones first, and in place of lower ones where there is no room. One that has waited for
     * 1000 steps goes before newer ones of the next higher priority. */
    int priority;
    /* Called by the executor before each draw with the logits [n], penalties and biases applied;
     * it may change them: -INFINITY forbids a token, and where all are forbidden the request fails.
     * answer: the tokens drawn so far, so that a grammar learns of each as the next is due.
     * Must not wait. NULL: none. */
    void (*on_logits)(float *logits, int64_t n, const int32_t *answer, int64_t n_answer,
                      void *context);
    ds_grammar *grammar; /* of the answer, kept alive until it ends; NULL: any answer */
    /* Called from a thread of the executor for each token, then once with `finish`; must not wait.
     * Calls for one request come one after the other, those for others at the same time unless
     * stream_count is 1. NULL: the answer is kept, for ds_async_executor_wait. */
    void (*on_event)(const ds_event *event, void *context);
    void *context; /* of both */
} ds_request;

typedef struct ds_answer {
    int32_t *tokens; /* the caller's to free() */
    int64_t n_tokens;
    int64_t n_cached; /* prompt tokens whose keys and values it found, computed by others */
    ds_finish finish;
    char error[256]; /* with DS_FINISH_ERROR */
} ds_answer;

DS_API ds_status ds_async_executor_new(ds_model *model, ds_async_executor_opts opts,
                                       ds_async_executor **out);
/* Cancels what is at work and ends its thread. */
DS_API void ds_async_executor_free(ds_async_executor *executor);

/* Tokens that prompt and answer may have together, by max_seq_len and the cache's size. */
DS_API int64_t ds_async_executor_longest(const ds_async_executor *executor);

/* Returns at once. *id: for the other calls. DS_INVALID for tokens that are none or a prompt that
 * is too long; DS_BUSY when max_queue requests wait. */
DS_API ds_status ds_async_executor_submit(ds_async_executor *executor, const ds_request *request,
                                          uint64_t *id);
/* Whether the request has ended. Only for requests without on_event, until they are waited for; as
 * for the calls below, DS_NOT_FOUND for any other. */
DS_API ds_status ds_async_executor_poll(ds_async_executor *executor, uint64_t id, bool *done);
/* Waits for the end, at most so long (negative: for ever; DS_TIMEOUT then), and hands over the
 * answer; the id is gone. */
DS_API ds_status ds_async_executor_wait(ds_async_executor *executor, uint64_t id, double timeout_s,
                                        ds_answer *out);
/* The request ends soon, with DS_FINISH_CANCELLED unless it ends first. DS_NOT_FOUND if it has. */
DS_API ds_status ds_async_executor_cancel(ds_async_executor *executor, uint64_t id);

typedef struct ds_executor_stats {
    int64_t n_running, n_waiting;
    /* Ends count when they are known: with several streams their callbacks may be yet to come. */
    int64_t submitted, finished, cancelled, failed;
    int64_t prompt_tokens, cached_tokens, generated_tokens, preemptions, steps;
    int64_t proposed_tokens, accepted_tokens; /* by speculation; accepted: that were right */
    int64_t blocks, blocks_in_use,
        blocks_cached; /* cached: kept for later requests, free to take */
    int64_t tokens_in_last_step;
    size_t cache_bytes;
    double last_step_s; /* when the last step ended, on the monotonic clock; for health checks */
} ds_executor_stats;

DS_API void ds_async_executor_stats(ds_async_executor *executor, ds_executor_stats *out);

#ifdef __cplusplus
}
#endif
#endif

/* Quantised weights in memory and in files: made from floats while loading, and read from folders
 * that compressed-tensors wrote. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/rng.h"
#include "deepseek/inference.h"
#include "deepseek/safetensors.h"
#include "graph/ops/ops.h"
#include "models/load.h"
#include "models/quantised.h"

#define GOLDENS DS_TEST_DATA "/goldens/"

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

/* ---- numbers --------------------------------------------------------------------------------- */

enum { N_OUT = 5, N_IN = 77 };

static void draw(float *w) {
    for (int i = 0; i < N_OUT * N_IN; i++)
        w[i] = ds_uniform(ds_philox(9, (uint64_t)i, 0).word[0]) - 0.5f;
    memset(w + N_IN, 0, N_IN * sizeof *w); /* a row of zeros */
}

static void bytes_are_off_by_half_a_step(void **unused) {
    (void)unused;
    float w[N_OUT * N_IN];
    int8_t codes[N_OUT * N_IN];
    uint16_t scale[N_OUT];
    draw(w);
    require(ds_quantise_weights(w, N_OUT, N_IN, (ds_weight_format){.bits = 8}, codes, scale));
    for (int j = 0; j < N_OUT; j++) {
        const float step = ds_bf16_to_f32(scale[j]);
        int most = 0;
        for (int i = 0; i < N_IN; i++) {
            const int code = codes[j * N_IN + i];
            most = abs(code) > most ? abs(code) : most;
            assert_true(fabsf(w[j * N_IN + i] - step * (float)code) <= step * 0.5001f);
        }
        assert_true(j == 1 ? most == 0 && step == 0 : most >= 126); /* the range is used */
    }
}

/* No worse, group by group, than a range that just reaches the largest magnitude. */
static void four_bits_lose_little(void **unused) {
    (void)unused;
    const ds_weight_format format = {.bits = 4, .group = 32};
    float w[N_OUT * N_IN];
    int32_t codes[N_OUT * 10];
    uint16_t scale[N_OUT * 3];
    draw(w);
    assert_int_equal(ds_weight_groups(format, N_IN), 3);
    assert_int_equal(ds_weight_code_columns(format, N_IN), 10);
    require(ds_quantise_weights(w, N_OUT, N_IN, format, codes, scale));
    for (int j = 0; j < N_OUT; j++)
        for (int first = 0; first < N_IN; first += 32) {
            const float step = ds_bf16_to_f32(scale[j * 3 + first / 32]);
            double lost = 0, plain = 0;
            float most = 0;
            for (int i = first; i < N_IN && i < first + 32; i++)
                most = fmaxf(most, fabsf(w[j * N_IN + i]));
            for (int i = first; i < N_IN && i < first + 32; i++) {
                const float x = w[j * N_IN + i], wide = most / 7;
                lost += pow((double)(x - step * (float)ds_int4_at(codes + j * 10, i)), 2);
                plain += most > 0 ? pow((double)(x - wide * nearbyintf(x / wide)), 2) : 0;
            }
            assert_true(lost <= plain * 1.02);
        }
}

static void infinite_weights_are_refused(void **unused) {
    (void)unused;
    float w[N_IN] = {0};
    int32_t codes[N_IN];
    uint16_t scale[8];
    w[40] = INFINITY;
    for (int bits = 4; bits <= 8; bits += 4)
        assert_int_equal(ds_quantise_weights(w, 1, N_IN,
                                             (ds_weight_format){.bits = bits, .group = 32}, codes,
                                             scale),
                         DS_NUMERIC);
}

/* ---- which parameters ------------------------------------------------------------------------ */

static void products_are_found(void **unused) {
    (void)unused;
    static const char *const folders[] = {"gpt2", "llama", "mixtral", "qwen2_moe"};
    for (int f = 0; f < 4; f++) {
        char path[256];
        ds_model_config c;
        snprintf(path, sizeof path, GOLDENS "%s", folders[f]);
        require(ds_model_config_load(path, &c));
        ds_graph *g = ds_graph_new();
        ds_model_build_logits(g, &c, 1, 4);
        ds_product_side *sides = ds_product_parameters(g);
        int n = 0;
        for (size_t i = 0; i < g->n_nodes; i++) {
            const ds_node *x = g->nodes[i];
            const bool is_projection = x->op == &ds_op_param &&
                                       (strstr(x->name, "proj") || strstr(x->name, "c_attn")) &&
                                       x->type.rank == 2;
            if (is_projection)
                assert_int_equal(sides[i], f == 0 ? DS_BY_COLUMNS : DS_BY_ROWS);
            if (x->op == &ds_op_param && strstr(x->name, "gate.weight"))
                assert_int_equal(sides[i], DS_NO_PRODUCT);
            if (x->op == &ds_op_param &&
                (strstr(x->name, "wte") || strstr(x->name, "embed_tokens")))
                assert_int_equal(sides[i], c.tie_embeddings ? DS_TIED : DS_NO_PRODUCT);
            n += is_projection;
        }
        assert_true(n > 0);
        free(sides);
        ds_graph_free(g);
    }
}

/* ---- whole models ---------------------------------------------------------------------------- */

/* [n_tokens, vocab_size], the caller's. */
static float *logits_by(const char *folder, const char *dtype, const char *device, int32_t *tokens,
                        int64_t n_tokens, ds_compile_opts opts, size_t *state_bytes) {
    ds_model *model = NULL;
    ds_program *program = NULL;
    require(ds_model_from_pretrained(folder, (ds_model_opts){.dtype = dtype, .device = device},
                                     &model));
    const ds_model_config *c = ds_model_get_config(model);
    ds_graph *g = ds_graph_new();
    ds_model_build_logits(g, c, 1, n_tokens);
    require(ds_compile(g, ds_model_get_state(model), opts, &program));
    const size_t size = (size_t)(n_tokens * c->vocab_size) * sizeof(float);
    float *logits = malloc(size);
    require(ds_program_write(program, "tokens", tokens, (size_t)n_tokens * sizeof *tokens));
    require(ds_program_run(program));
    require(ds_program_read(program, "logits", logits, size));
    *state_bytes = ds_state_size(ds_model_get_state(model));
    ds_program_free(program);
    ds_graph_free(g);
    ds_model_free(model);
    return logits;
}

static float *logits_of(const char *folder, const char *dtype, const char *device, int32_t *tokens,
                        int64_t n_tokens, size_t *state_bytes) {
    return logits_by(folder, dtype, device, tokens, n_tokens, (ds_compile_opts){0}, state_bytes);
}

/* What quantisation-aware training saw is what the quantised parameters compute, bit for bit. */
static void training_sees_the_numbers_of_inference(void **unused) {
    (void)unused;
    static const char *const folders[] = {GOLDENS "gpt2", GOLDENS "llama", GOLDENS "mixtral",
                                          GOLDENS "deepseek_v2"};
    static const char *const devices[] = {"ref", "cpu"};
    static const struct {
        ds_quantisation training;
        const char *dtype;
    } kinds[] = {{DS_QUANTISE_W8A16, "w8a16"}, {DS_QUANTISE_W8A8, "int8"}};
    int32_t tokens[] = {1, 5, 9, 3, 7, 2};
    size_t bytes = 0;
    for (int i = 0; i < 4 * 2 * 2; i++) {
        const char *folder = folders[i / 4], *device = devices[i / 2 % 2];
        const ds_compile_opts opts = {.quantisation = kinds[i % 2].training};
        ds_model_config c;
        require(ds_model_config_load(folder, &c));
        const size_t size = 6 * (size_t)c.vocab_size * sizeof(float);
        float *trained = logits_by(folder, "f32", device, tokens, 6, opts, &bytes);
        float *quantised = logits_of(folder, kinds[i % 2].dtype, device, tokens, 6, &bytes);
        float *plain = logits_of(folder, "f32", device, tokens, 6, &bytes);
        if (memcmp(trained, quantised, size) != 0)
            fail_msg("%s as %s on %s differs from training", folder, kinds[i % 2].dtype, device);
        assert_memory_not_equal(trained, plain, size);
        free(trained);
        free(quantised);
        free(plain);
    }
}

/* Root of the mean square of the difference, relative to that of a. */
static double distance(const float *a, const float *b, size_t n) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += pow((double)(a[i] - b[i]), 2);
        size += pow((double)a[i], 2);
    }
    return sqrt(difference / size);
}

static void weights_are_quantised_while_loading(void **unused) {
    (void)unused;
    static const char *const folders[] = {GOLDENS "gpt2", GOLDENS "llama", GOLDENS "mixtral",
                                          GOLDENS "deepseek_v2"};
    static const struct {
        const char *dtype;
        double most; /* how far from the logits of f32 */
    } kinds[] = {{"w8a16", 0.08}, {"int8", 0.12}, {"int4-32", 0.6}};
    int32_t tokens[] = {1, 5, 9, 3, 7, 2};
    for (int f = 0; f < 4; f++) {
        size_t whole = 0, bytes = 0;
        ds_model_config c;
        require(ds_model_config_load(folders[f], &c));
        const size_t n = 6 * (size_t)c.vocab_size;
        float *exact = logits_of(folders[f], "f32", "cpu", tokens, 6, &whole);
        for (int k = 0; k < 3; k++) {
            float *fast = logits_of(folders[f], kinds[k].dtype, "cpu", tokens, 6, &bytes);
            float *slow = logits_of(folders[f], kinds[k].dtype, "ref", tokens, 6, &bytes);
            assert_true(bytes < whole);
            if (distance(exact, fast, n) >= kinds[k].most)
                fail_msg("%s as %s: %g", folders[f], kinds[k].dtype, distance(exact, fast, n));
            assert_true(distance(exact, fast, n) > 1e-5); /* they are quantised */
            /* where a number lies between two codes rounding decides, differently */
            assert_true(distance(slow, fast, n) < (k == 1 ? 5e-3 : 1e-5));
            free(fast);
            free(slow);
        }
        free(exact);
    }
}

/* The logits of the very weights that the folder stands for. */
static void folders_of_compressed_tensors_are_read(void **unused) {
    (void)unused;
    static const struct {
        const char *folder, *dtype;
        double most;
    } cases[] = {{GOLDENS "quantised/int8", "w8a16", 1e-5},
                 {GOLDENS "quantised/int8", NULL, 5e-2}, /* inputs of 8 bits, as it says */
                 {GOLDENS "quantised/int4", NULL, 1e-5},
                 {GOLDENS "quantised/int4", "f32", 1e-5}}; /* which is for what is not quantised */
    for (int i = 0; i < 4; i++) {
        char path[256];
        ds_safetensors *file = NULL;
        const ds_safetensor *tokens = NULL, *logits = NULL;
        size_t bytes = 0;
        snprintf(path, sizeof path, "%s/expected.safetensors", cases[i].folder);
        require(ds_safetensors_open(path, &file));
        require(ds_safetensors_find(file, "tokens", &tokens));
        require(ds_safetensors_find(file, "logits", &logits));
        int32_t ids[8];
        memcpy(ids, tokens->data, sizeof ids);
        float *got = logits_of(cases[i].folder, cases[i].dtype, "cpu", ids, 8, &bytes);
        const double off = distance(logits->data, got, logits->size_bytes / sizeof(float));
        if (off > cases[i].most)
            fail_msg("%s as %s: %g", cases[i].folder, cases[i].dtype, off);
        assert_true(!cases[i].dtype || i != 1 || off > 1e-4);
        free(got);
        ds_safetensors_close(file);
    }
}

static void other_ways_of_quantising_are_named(void **unused) {
    (void)unused;
    static const char base[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 96, \"hidden_size\": 64, "
        "\"num_hidden_layers\": 2, \"intermediate_size\": 96, \"max_position_embeddings\": 64, "
        "\"rms_norm_eps\": 1e-6, \"num_attention_heads\": 4, "
        "\"quantization_config\": %s}";
    static const struct {
        const char *config, *says;
    } cases[] = {
        {"{\"quant_method\": \"gptq\"}", "gptq"},
        {"{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\"}",
         "float-quantized"},
        {"{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
         "\"config_groups\": {\"a\": {\"weights\": {\"num_bits\": 3}}}}",
         "3 bits"},
        {"{\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", "
         "\"config_groups\": {\"a\": {\"weights\": {\"num_bits\": 8}, \"input_activations\": "
         "{\"num_bits\": 8, \"strategy\": \"tensor\", \"dynamic\": false}}}}",
         "input_activations"},
    };
    for (int i = 0; i < 4; i++) {
        char text[1024];
        ds_model_config c;
        snprintf(text, sizeof text, base, cases[i].config);
        const ds_status status = ds_model_config_parse(text, strlen(text), "config.json", &c);
        if (status != DS_UNSUPPORTED)
            fail_msg("%d: %s", (int)status, ds_error());
        assert_non_null(strstr(ds_error(), cases[i].says));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_off_by_half_a_step),
        cmocka_unit_test(four_bits_lose_little),
        cmocka_unit_test(infinite_weights_are_refused),
        cmocka_unit_test(products_are_found),
        cmocka_unit_test(weights_are_quantised_while_loading),
        cmocka_unit_test(training_sees_the_numbers_of_inference),
        cmocka_unit_test(folders_of_compressed_tensors_are_read),
        cmocka_unit_test(other_ways_of_quantising_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

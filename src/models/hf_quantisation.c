/* The quantization_config of a config.json, in the form of compressed-tensors, which llm-compressor
 * writes and vLLM and transformers read. What the tensors are is seen from the file; here is
 * decided whether their numbers mean what this library takes them for, and how inputs are treated.
 */
#include "models/hf.h"

#include <string.h>

#include "base/error.h"

static bool is_one_of(const char *text, const char *const *names) {
    for (; text && *names; names++)
        if (strcmp(text, *names) == 0)
            return true;
    return false;
}

static bool is_symmetric_int(const json_t *o) {
    const char *type = json_string_value(json_object_get(o, "type"));
    return (!type || strcmp(type, "int") == 0) && !json_is_false(json_object_get(o, "symmetric"));
}

static ds_status check_weights(const json_t *w, const char *path, bool is_packed) {
    static const char *const strategies[] = {"channel", "group", NULL};
    const json_int_t bits = json_integer_value(json_object_get(w, "num_bits"));
    const char *strategy = json_string_value(json_object_get(w, "strategy"));
    if (bits != (is_packed ? 4 : 8) || !is_symmetric_int(w))
        return ds_fail(DS_UNSUPPORTED,
                       "%s: quantization_config: weights of %lld bits, or not symmetric ints; read "
                       "are 8 bits (int-quantized) and 4 (pack-quantized)",
                       path, (long long)bits);
    if (strategy && !is_one_of(strategy, strategies))
        return ds_fail(DS_UNSUPPORTED,
                       "%s: quantization_config: strategy \"%s\"; read are channel and group", path,
                       strategy);
    return DS_OK;
}

/* Scales found anew for each token, or no quantisation of inputs at all. */
static ds_status read_inputs(const json_t *in, const char *path, bool *int8_inputs) {
    *int8_inputs = in && !json_is_null(in);
    if (!*int8_inputs)
        return DS_OK;
    const char *strategy = json_string_value(json_object_get(in, "strategy"));
    if (json_integer_value(json_object_get(in, "num_bits")) != 8 || !is_symmetric_int(in) ||
        !json_is_true(json_object_get(in, "dynamic")) || !strategy ||
        strcmp(strategy, "token") != 0)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: quantization_config: input_activations must be symmetric ints of 8 "
                       "bits, dynamic, by token",
                       path);
    return DS_OK;
}

ds_status ds_hf_read_quantisation(const json_t *root, const char *path, ds_model_config *out) {
    static const char *const formats[] = {"int-quantized", "naive-quantized", "pack-quantized",
                                          DS_OUTLIERS_FORMAT, NULL};
    json_t *q = json_object_get(root, "quantization_config");
    if (!q || json_is_null(q))
        return DS_OK;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    const char *format = json_string_value(json_object_get(q, "format"));
    if (!method || strcmp(method, "compressed-tensors") != 0 || !is_one_of(format, formats))
        return ds_fail(DS_UNSUPPORTED,
                       "%s: quantised by \"%s\", format \"%s\"; read is compressed-tensors, "
                       "int-quantized and pack-quantized",
                       path, method ? method : "", format ? format : "");
    const char *name;
    json_t *group;
    json_object_foreach(json_object_get(q, "config_groups"), name, group) {
        DS_TRY(check_weights(json_object_get(group, "weights"), path,
                             strcmp(format, "pack-quantized") == 0));
        DS_TRY(read_inputs(json_object_get(group, "input_activations"), path, &out->int8_inputs));
    }
    return DS_OK;
}

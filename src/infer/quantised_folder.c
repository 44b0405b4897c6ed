#include "infer/quantised_folder.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "models/hf.h"

static json_t *weights_config(ds_weight_format f) {
    if (f.bits == 8)
        return json_pack("{s:i, s:s, s:b, s:s, s:b}", "num_bits", 8, "type", "int", "symmetric", 1,
                         "strategy", "channel", "dynamic", 0);
    return json_pack("{s:i, s:s, s:b, s:s, s:I, s:b}", "num_bits", 4, "type", "int", "symmetric", 1,
                     "strategy", "group", "group_size", (json_int_t)f.group, "dynamic", 0);
}

static json_t *inputs_config(ds_weight_format f) {
    if (f.bits != 8)
        return json_null();
    return json_pack("{s:i, s:s, s:b, s:s, s:b}", "num_bits", 8, "type", "int", "symmetric", 1,
                     "strategy", "token", "dynamic", 1);
}

static json_t *list_of_lines(const char *lines) {
    json_t *list = json_array();
    for (const char *at = lines; at && *at;) {
        const size_t n = strcspn(at, "\n");
        json_array_append_new(list, json_stringn(at, n));
        at += n + (at[n] == '\n');
    }
    return list;
}

static json_t *quantisation(ds_weight_format f, const char *left_out, bool of_this_library) {
    const char *format = of_this_library ? DS_OUTLIERS_FORMAT
                         : f.bits == 8   ? "int-quantized"
                                         : "pack-quantized";
    json_t *group =
        json_pack("{s:[s], s:o, s:o, s:n}", "targets", "Linear", "weights", weights_config(f),
                  "input_activations", inputs_config(f), "output_activations");
    return json_pack("{s:s, s:s, s:s, s:o, s:{s:o}}", "quant_method", "compressed-tensors",
                     "format", format, "quantization_status", "compressed", "ignore",
                     list_of_lines(left_out), "config_groups", "group_0", group);
}

ds_status ds_quantised_config_write(const char *from, const char *to, ds_weight_format format,
                                    const char *left_out, bool of_this_library) {
    char path[PATH_MAX], *text = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/config.json", from);
    DS_TRY(ds_file_read(path, (size_t)1 << 20, &text, &size));
    json_t *root = json_loadb(text, size, 0, NULL);
    free(text);
    if (!json_is_object(root)) {
        json_decref(root);
        return ds_fail(DS_INVALID, "%s: is not a JSON object", path);
    }
    json_object_set_new(root, "quantization_config",
                        quantisation(format, left_out, of_this_library));
    char *out = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!out)
        return DS_OUT_OF_MEMORY;
    snprintf(path, sizeof path, "%s/config.json", to);
    const ds_status status = ds_file_replace(path, out, strlen(out));
    free(out);
    return status;
}

ds_status ds_model_files_copy(const char *from, const char *to) {
    enum { MOST_BYTES = 1 << 28 };
    static const char *const names[] = {
        "tokenizer.json",     "tokenizer.model",     "tokenizer_config.json",   "vocab.json",
        "merges.txt",         "vocab.txt",           "special_tokens_map.json", "added_tokens.json",
        "chat_template.json", "chat_template.jinja", "generation_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char source[PATH_MAX], target[PATH_MAX], *text = NULL;
        size_t size = 0;
        snprintf(source, sizeof source, "%s/%s", from, names[i]);
        snprintf(target, sizeof target, "%s/%s", to, names[i]);
        if (!ds_file_exists(source))
            continue;
        DS_TRY(ds_file_read(source, MOST_BYTES, &text, &size));
        const ds_status status = ds_file_replace(target, text, size);
        free(text);
        DS_TRY(status);
    }
    return DS_OK;
}

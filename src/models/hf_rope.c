/* How a config.json says that rotary frequencies are scaled: "rope_scaling" beside "rope_theta",
 * or, since transformers 5, all of it in "rope_parameters". */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "models/family.h"
#include "models/hf.h"

static const char *const kind_names[DS_ROPE_KINDS] = {
    [DS_ROPE_PLAIN] = "default",
    [DS_ROPE_LINEAR] = "linear",
    [DS_ROPE_LLAMA3] = "llama3",
    [DS_ROPE_YARN] = "yarn",
};

/* The number under key, or what it is when missing. */
static ds_status read_number(const json_t *rope, const char *path, const char *key, double missing,
                             float *out) {
    const json_t *value = json_object_get(rope, key);
    *out = (float)missing;
    if (!value || json_is_null(value))
        return DS_OK;
    if (!json_is_number(value))
        return ds_fail(DS_INVALID, "%s: \"%s\" is not a number", path, key);
    *out = (float)json_number_value(value);
    return DS_OK;
}

static ds_status read_kind(const json_t *rope, const char *path, ds_rope_kind *out) {
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    if (!type)
        type = json_string_value(json_object_get(rope, "type"));
    *out = DS_ROPE_PLAIN;
    if (!type)
        return DS_OK;
    for (int i = 0; i < DS_ROPE_KINDS; i++)
        if (strcmp(type, kind_names[i]) == 0) {
            *out = (ds_rope_kind)i;
            return DS_OK;
        }
    return ds_fail(DS_UNSUPPORTED,
                   "%s: rotary positions of type \"%s\" are not supported; supported are: default, "
                   "linear, llama3, yarn",
                   path, type);
}

static double yarn_scale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static void set_magnitude(ds_model_config *c, float given) {
    const double factor = (double)c->rope_scaling.factor;
    const double m = (double)c->rope_mscale, all = (double)c->rope_mscale_all;
    double magnitude = yarn_scale(factor, 1);
    if (given > 0)
        magnitude = (double)given;
    else if (m != 0 && all != 0)
        magnitude = yarn_scale(factor, m) / yarn_scale(factor, all);
    c->rope_scaling.magnitude = (float)magnitude;
}

float ds_model_score_scale(const ds_model_config *c) {
    const ds_latent_config *l = &c->latent;
    if (l->kv_rank == 0 || c->rope_scaling.kind != DS_ROPE_YARN || c->rope_mscale_all == 0)
        return 0;
    const double m = yarn_scale((double)c->rope_scaling.factor, (double)c->rope_mscale_all);
    return (float)(m * m / sqrt((double)(l->plain_dim + l->rotary_dim)));
}

static ds_status read_scaling(const json_t *root, const json_t *rope, const char *path,
                              ds_model_config *c) {
    ds_rope_scaling *s = &c->rope_scaling;
    float original = 0, magnitude = 0, part = 1;
    DS_TRY(read_kind(rope, path, &s->kind));
    DS_TRY(read_number(rope, path, "partial_rotary_factor", 1, &part));
    if (part != 1)
        return ds_fail(DS_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported; 1 is", path,
                       (double)part);
    if (s->kind == DS_ROPE_PLAIN)
        return DS_OK;
    const json_t *longest = json_object_get(root, "max_position_embeddings");
    DS_TRY(read_number(rope, path, "factor", 0, &s->factor));
    DS_TRY(read_number(rope, path, "original_max_position_embeddings", json_number_value(longest),
                       &original));
    DS_TRY(read_number(rope, path, "low_freq_factor", 1, &s->low_freq_factor));
    DS_TRY(read_number(rope, path, "high_freq_factor", 4, &s->high_freq_factor));
    DS_TRY(read_number(rope, path, "beta_fast", 32, &s->beta_fast));
    DS_TRY(read_number(rope, path, "beta_slow", 1, &s->beta_slow));
    DS_TRY(read_number(rope, path, "mscale", 0, &c->rope_mscale));
    DS_TRY(read_number(rope, path, "mscale_all_dim", 0, &c->rope_mscale_all));
    DS_TRY(read_number(rope, path, "attention_factor", 0, &magnitude));
    if (!(s->factor > 0) || !(original >= 1 && original < 1e9f))
        return ds_fail(DS_INVALID,
                       "%s: rotary positions of type \"%s\" need a \"factor\" above 0 and a length "
                       "of the first training, not %g and %g",
                       path, kind_names[s->kind], (double)s->factor, (double)original);
    s->original = (int64_t)original;
    if (s->kind == DS_ROPE_YARN)
        set_magnitude(c, magnitude);
    return DS_OK;
}

ds_status ds_hf_read_rope(const json_t *root, const char *path, ds_model_config *c) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        const json_t *rope = json_object_get(root, keys[i]);
        if (!json_is_object(rope))
            continue;
        DS_TRY(read_scaling(root, rope, path, c));
        DS_TRY(read_number(rope, path, "rope_theta", (double)c->rope_theta, &c->rope_theta));
    }
    return DS_OK;
}

static void put(json_t *rope, const char *key, float value) {
    json_object_set_new(rope, key, json_real((double)value));
}

void ds_hf_write_rope(json_t *root, const ds_model_config *c) {
    const ds_rope_scaling *s = &c->rope_scaling;
    if (s->kind == DS_ROPE_PLAIN)
        return;
    json_t *rope = json_object();
    json_object_set_new(rope, "rope_type", json_string(kind_names[s->kind]));
    put(rope, "factor", s->factor);
    if (s->kind != DS_ROPE_LINEAR)
        json_object_set_new(rope, "original_max_position_embeddings", json_integer(s->original));
    if (s->kind == DS_ROPE_LLAMA3) {
        put(rope, "low_freq_factor", s->low_freq_factor);
        put(rope, "high_freq_factor", s->high_freq_factor);
    } else if (s->kind == DS_ROPE_YARN) {
        put(rope, "beta_fast", s->beta_fast);
        put(rope, "beta_slow", s->beta_slow);
        put(rope, "attention_factor", s->magnitude);
        if (c->rope_mscale != 0)
            put(rope, "mscale", c->rope_mscale);
        if (c->rope_mscale_all != 0)
            put(rope, "mscale_all_dim", c->rope_mscale_all);
    }
    json_object_set_new(root, "rope_scaling", rope);
}

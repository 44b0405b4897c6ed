#include "data/masking.h"

#include <stdbool.h>
#include <string.h>

#include "base/rng.h"

enum { IGNORED = -100, DRAW_SPLIT = 1u << 30, DRAW_NEXT };

uint32_t ds_masking_draw(const ds_masking *m, uint32_t place) {
    return ds_philox(m->key, m->sample, place).word[0];
}

void ds_masking_begin(const ds_masking *m, const int32_t *text, ds_masked_sample *out) {
    const int64_t n = m->seq_len - 3; /* tokens of text: [CLS] and two [SEP] take three */
    const int64_t quarter = n / 4;
    out->n_first =
        quarter + (int64_t)(ds_masking_draw(m, DRAW_SPLIT) % (uint32_t)(n - 2 * quarter + 1));
    if (out->n_first < 1)
        out->n_first = 1;
    if (out->n_first > n - 1)
        out->n_first = n - 1;
    out->next_sentence = (int32_t)(ds_masking_draw(m, DRAW_NEXT) & 1u);
    out->tokens[0] = m->cls;
    memcpy(out->tokens + 1, text, (size_t)out->n_first * sizeof *text);
    out->tokens[1 + out->n_first] = m->sep;
    memcpy(out->tokens + 2 + out->n_first, text + out->n_first,
           (size_t)(n - out->n_first) * sizeof *text);
    out->tokens[m->seq_len - 1] = m->sep;
    for (int64_t i = 0; i < m->seq_len; i++)
        out->segment_ids[i] = i >= out->n_first + 2 ? 1 : 0;
}

void ds_masking_replace_second(const ds_masking *m, const int32_t *text, ds_masked_sample *out) {
    const int64_t n = m->seq_len - 3 - out->n_first;
    memcpy(out->tokens + 2 + out->n_first, text, (size_t)n * sizeof *text);
}

static int32_t masked_token(const ds_masking *m, int32_t token, const ds_philox_block *random) {
    const float u = ds_uniform(random->word[1]);
    if (u < 0.8f)
        return m->mask;
    return u < 0.9f ? (int32_t)(random->word[2] % (uint32_t)m->vocab_size) : token;
}

void ds_masking_finish(const ds_masking *m, ds_masked_sample *out) {
    out->n_predicted = 0;
    for (int64_t i = 0; i < m->seq_len; i++) {
        const ds_philox_block random = ds_philox(m->key, m->sample, (uint64_t)i);
        const bool is_mark = i == 0 || i == out->n_first + 1 || i == m->seq_len - 1;
        out->labels[i] = IGNORED;
        if (is_mark || (double)ds_uniform(random.word[0]) >= m->probability)
            continue;
        out->labels[i] = out->tokens[i];
        out->tokens[i] = masked_token(m, out->tokens[i], &random);
        out->n_predicted++;
    }
}

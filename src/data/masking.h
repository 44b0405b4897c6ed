/* Samples of BERT's pre-training (Devlin et al. 2019): [CLS] A [SEP] B [SEP], B following A half of
 * the time; 15 % of the tokens are to be predicted, of which 80 % read [MASK], 10 % a random token,
 * 10 % themselves. Random numbers are drawn by (key, sample number) alone. */
#ifndef DS_DATA_MASKING_H
#define DS_DATA_MASKING_H

#include <stdint.h>

enum { DS_MASKED_MIN_TOKENS = 8 };

typedef struct ds_masking {
    int64_t seq_len, vocab_size;
    double probability;
    int32_t mask, cls, sep;
    uint64_t key, sample;
} ds_masking;

typedef struct ds_masked_sample {
    int32_t *tokens, *labels, *segment_ids; /* [seq_len] */
    int64_t n_first;                        /* tokens of A */
    int32_t next_sentence;                  /* 1: B is from elsewhere */
    int64_t n_predicted;
} ds_masked_sample;

/* The random word of this sample for a purpose or place. */
uint32_t ds_masking_draw(const ds_masking *m, uint32_t place);
/* Lays out [CLS] A [SEP] B [SEP] from seq_len - 3 tokens of text and draws next_sentence. */
void ds_masking_begin(const ds_masking *m, const int32_t *text, ds_masked_sample *out);
/* Puts other text in B's place. */
void ds_masking_replace_second(const ds_masking *m, const int32_t *text, ds_masked_sample *out);
/* Masks, and fills labels. */
void ds_masking_finish(const ds_masking *m, ds_masked_sample *out);

#endif

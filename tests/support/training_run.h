/* Whole runs of a tiny model in a folder of their own below /tmp. Failures are cmocka's. */
#ifndef SUPPORT_TRAINING_RUN_H
#define SUPPORT_TRAINING_RUN_H

#include <stddef.h>
#include <stdio.h>
#include "deepseek/train.h"

enum { VOCAB = 48 };

/* Group fixtures: a stream in which each token mostly follows from the one before, something to
 * learn; and the end of all folders. */
int make_corpus(void **state);
int remove_corpus(void **state);

/* The tiny model's configuration with these overrides, in this run folder: 20 steps in f32, no
 * checkpoint but the last, written while training waits. */
void configure(const char *folder, const char *const *overrides, size_t n, ds_train_config *out);
/* Overrides that make it a BERT, which learns to fill in masked tokens of the same stream. Its
 * vocabulary has the marks that this needs behind the stream's tokens. */
enum { BERT_OVERRIDES = 3 };
void bert_overrides(const char *out[BERT_OVERRIDES]);
ds_trainer *open_trainer(const ds_train_config *config);
/* One whose display goes to a file of the run folder. */
ds_trainer *open_speaking(const char *folder, const ds_train_config *config, FILE **said);
/* From the beginning, or from where the folder's checkpoint is, to the last step. */
void run(const char *folder, const char *const *overrides, size_t n);

const char *file_in(const char *folder, const char *name, char out[512]);
/* One metric by step, from the record of the run; steps may be NULL. The caller's to free(). */
size_t recorded(const char *folder, const char *name, double **steps, double **values);
size_t losses(const char *folder, double **values);
void assert_same_checkpoint(const char *a, const char *b, int step);

#endif

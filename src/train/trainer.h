/* The trainer from inside. Its parts: setup.c makes it, training_data.c opens what it learns from,
 * trainer.c runs it, duration.c finds how many steps fit into a time, adaptive_batch.c chooses the
 * batch, evaluate.c looks at the model in between, ranks.c joins those that train together,
 * not_finite.c deals with NaN and overflow, save.c writes and reads checkpoints.
 */
#ifndef DS_TRAIN_TRAINER_H
#define DS_TRAIN_TRAINER_H

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>

#include "deepseek/data.h"
#include "deepseek/inference.h"
#include "deepseek/optim.h"
#include "deepseek/tokenizer.h"
#include "deepseek/train.h"
#include "observe/progress.h"
#include "observe/runlog.h"
#include "parallel/gradients.h"
#include "train/checkpoint.h"
#include "train/progress_state.h"

/* The micro-batches of one step, copied out of the loader so that their labels can be counted
 * before the first one runs. */
typedef struct ds_step_batch {
    int32_t *tokens, *labels;         /* [max_micro, micro_batch, seq_len] */
    int32_t *segment_ids;             /* BERT, same shape; else NULL */
    int32_t *lengths, *next_sentence; /* BERT: [max_micro, micro_batch]; else NULL */
    int32_t *positions;               /* data.reset_positions, same shape as tokens; else NULL */
    int32_t *first_keys;              /* data.mask_documents, same shape as tokens; else NULL */
    int64_t n_predicted;              /* labels that are not ignored */
} ds_step_batch;

/* Utilisation by step of another run. */
typedef struct ds_batch_record {
    double *steps, *values;
    size_t n, at;
} ds_batch_record;

struct ds_trainer {
    const ds_train_config *config;
    ds_trainer_opts opts;
    ds_model_config model;
    int64_t seq_len, micro_batch;
    int n_micro;   /* micro-batches of the next step */
    int max_micro; /* of any step */
    int64_t steps; /* of the run */
    ds_precision precision;
    ds_schedule schedule;
    ds_optimizer_opts optimizer;

    ds_backend *backend;
    ds_state *state;
    ds_program *first, *more; /* gradients of a micro-batch: written, added */
    ds_program *update;
    ds_program *evaluate;
    ds_memory_report memory;
    double flops_per_token;

    ds_tokenizer *tokenizer;                 /* NULL: no samples */
    char tokenizer_path[PATH_MAX];           /* its tokenizer.json, which checkpoints carry */
    ds_generator *generator;                 /* made when first needed */
    ds_loader *train_data, *validation_data; /* validation: NULL if there is none */
    const char *missing_data;                /* plan_only: a path that is not there, else NULL */
    ds_step_batch batch;

    ds_train_progress progress;
    ds_gradient_sync *sync; /* NULL: one rank */
    bool all_stop;          /* with several ranks: they agreed to stop */
    struct {
        ds_batch_record record;                   /* empty: utilisation is measured */
        double start_s, start_cpu_s, gradients_s; /* of the step at hand */
    } adaptive;
    ds_checkpoint_writer *checkpoints;
    ds_runlog *log;
    ds_progress *display;
    char resumed_from[PATH_MAX]; /* "" if begun anew */

    double start_s, run_start_s; /* clock at the start of this process's run */
    int64_t steps_this_run;
    double smoothed_tokens_per_s;
    double last_loss, last_validation_loss, last_grad_norm, peak_flops_per_s;
    struct { /* steps whose gradients were not finite; the run's totals are in progress */
        int skipped_in_a_row;
        int rewinds_in_a_row; /* without getting past failed_step in between */
        int64_t failed_step;  /* the furthest step that led to a rewind */
    } not_finite;
    bool is_log_failing; /* the record could not be written, and that was said */
    atomic_int stop;
};

/* One line of the run's story, on the display. */
void ds_trainer_note(ds_trainer *t, const char *fmt, ...) DS_PRINTF(2, 3);
/* Numbers of the present step, into the run's record. A full disk is told once and ends nothing. */
void ds_trainer_record(ds_trainer *t, const ds_metric *metrics, size_t n);

/* save.c */
ds_status ds_trainer_resume(ds_trainer *t);
/* To the newest whole checkpoint, as though the steps since then had not been, but for their
 * samples, which are left out. */
ds_status ds_trainer_rewind(ds_trainer *t);
/* A checkpoint of this step. The last of a run has to succeed; while the run goes on (is_last
 * false) a failure is only told, and the checkpoint before it stays. */
ds_status ds_trainer_save(ds_trainer *t, bool is_last);

/* training_data.c: tokenizer and loaders; the model gets the tokenizer's vocabulary. A plan is made
 * without data that are missing, and of the model's own vocabulary then. */
ds_status ds_trainer_open_data(ds_trainer *t);

/* evaluate.c */
ds_status ds_trainer_evaluate(ds_trainer *t);
void ds_trainer_sample(ds_trainer *t); /* what fails is only told: it is there to look at */

/* not_finite.c: the update did nothing since the norm was not finite. Does what the configuration
 * wants then. *rewound: the run is back at a checkpoint, and there is no step to report. */
ds_status ds_trainer_handle_not_finite(ds_trainer *t, bool *rewound);
/* After a step that went well. */
void ds_trainer_note_finite(ds_trainer *t);

/* setup.c: a run of so many steps, its learning rate with it */
void ds_trainer_set_steps(ds_trainer *t, int64_t steps);

/* trainer.c: the gradients of t->batch, and its mean loss */
ds_status ds_trainer_gradients(ds_trainer *t, double *loss);

/* duration.c: as many steps as fit into training.duration, where it is given */
ds_status ds_trainer_fit_duration(ds_trainer *t);

/* ranks.c */
int ds_trainer_rank(const ds_trainer *t);
int ds_trainer_n_ranks(const ds_trainer *t);
/* Whether the configuration is one that several ranks can follow. */
ds_status ds_trainer_check_ranks(const ds_trainer *t);
/* The work on rank 0, then on the others, which find what it left in the run folder. */
ds_status ds_trainer_in_turn(ds_trainer *t, ds_status (*work)(ds_trainer *));
/* What rank 0 resumed from, to all. */
ds_status ds_trainer_share_progress(ds_trainer *t);
/* The steps that rank 0 planned, to all. */
ds_status ds_trainer_share_plan(ds_trainer *t);
/* The whole batch's predicted tokens, and whether any rank was asked to stop. */
ds_status ds_trainer_join_batch(ds_trainer *t);
/* The whole batch's gradients and its loss. */
ds_status ds_trainer_join_gradients(ds_trainer *t, double *loss);

/* adaptive_batch.c: the number of micro-batches, and the state that it follows, of a new run */
ds_status ds_trainer_batch_new(ds_trainer *t);
void ds_trainer_batch_free(ds_trainer *t);
/* After progress was read: takes the batch that it says. */
void ds_trainer_follow_batch(ds_trainer *t);
/* By how much the batch of the next step changes the learning rate. */
float ds_trainer_batch_rate_factor(const ds_trainer *t);
/* Around a step: measures, records, and chooses the batch of the next one. */
void ds_trainer_batch_begin(ds_trainer *t);
void ds_trainer_batch_end(ds_trainer *t);

/* batch.c */
ds_status ds_step_batch_new(const ds_trainer *t, ds_step_batch *out);
void ds_step_batch_free(ds_step_batch *batch);
/* Fills it with the next samples of the loader; of training data with this rank's share of the next
 * micro-batches of all ranks. */
ds_status ds_step_batch_fill(ds_trainer *t, ds_loader *loader, int n_micro, ds_step_batch *batch);
/* Writes micro-batch i to the inputs of a program. tokens_per_sample: of the whole step, for models
 * whose loss has a part of each sample (DS_TOKENS_PER_SAMPLE). */
ds_status ds_step_batch_write(const ds_trainer *t, const ds_step_batch *batch, int i,
                              float tokens_per_sample, ds_program *program);

#endif

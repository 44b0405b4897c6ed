/* What a person sees of a run while it goes on.
 *
 * On a terminal: two lines drawn over and over, at most ten times a second, as wide as the window
 * is at that moment.
 *
 *     step 1,234/6,000 ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  21 %  3 min 05 s left
 *     loss 3.214  lr 9.8e-04  grad 0.42  12.3 k tok/s  410 GFLOP/s (41 % of peak)  1.2 GiB
 *
 * Elsewhere (a file, a pipe, a log of a cluster): plain lines, one every so many steps. The bytes
 * go to a file descriptor that the caller names; the library itself owns no output. */
#ifndef DS_OBSERVE_PROGRESS_H
#define DS_OBSERVE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include "deepseek/status.h"

/* The state of a run after a step. Numbers that are not known are NAN or 0 and are left out. */
typedef struct ds_progress_fields {
    int64_t step, steps;    /* done, of all */
    double loss;            /* nats per predicted token */
    double validation_loss; /* the last one; NAN before the first */
    double learning_rate;
    double grad_norm; /* global L2, before clipping */
    double tokens_per_s;
    double flops_per_s;
    double peak_flops_per_s; /* of this machine, measured; 0: unknown */
    double memory_bytes;     /* peak so far */
    double elapsed_s;        /* since this process began to train */
    double seconds_left;
    double loss_scale;     /* fp16 only; else NAN */
    int64_t skipped_steps; /* by overflow or nan_policy */
} ds_progress_fields;

typedef struct ds_progress ds_progress;

/* A display on fd, borrowed. log_interval: steps between plain lines. NULL when out of memory. */
ds_progress *ds_progress_new(int fd, int64_t log_interval);

/* Shows a step. Failing to write is no error: a closed terminal must not end a run. */
void ds_progress_update(ds_progress *progress, const ds_progress_fields *fields);

/* Prints whole lines that stay, above the display: a validation, a sample, a checkpoint. */
void ds_progress_note(ds_progress *progress, const char *fmt, ...) DS_PRINTF(2, 3);

/* Draws the last state for good, leaves the cursor below it, and frees. NULL is fine. */
void ds_progress_free(ds_progress *progress);

/* Whether the display redraws (a terminal) or prints plain lines. */
bool ds_progress_is_live(const ds_progress *progress);

#endif

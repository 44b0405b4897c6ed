/* What a run must remember to go on exactly where it was: trainer.json of a checkpoint. */
#ifndef DS_TRAIN_PROGRESS_STATE_H
#define DS_TRAIN_PROGRESS_STATE_H

#include "deepseek/optim.h"

typedef struct ds_train_progress {
    int64_t step;    /* optimizer steps done */
    int64_t samples; /* consumed: the loader's whole state */
    int64_t tokens;  /* predicted, in all */
    ds_loss_scaler scaler;
    ds_dynamic_batch_scheduler batch; /* its level and what moves it; the rest is configured */
    double train_seconds;             /* over all processes of the run */
    int64_t planned_steps;            /* of the run, as training.duration was planned */
    double planned_seconds;           /* the duration that they were planned for; 0: none */
    int64_t rewinds; /* of the run, by nan_policy; skipped steps are the scaler's */
} ds_train_progress;

/* As JSON text, the caller's to free(); NULL when out of memory. */
char *ds_train_progress_json(const ds_train_progress *progress);
/* `where` stands for the file in messages. */
ds_status ds_train_progress_parse(const char *where, const char *json, ds_train_progress *out);

#endif

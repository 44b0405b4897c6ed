/* The real numbers that a draw is told by, as requests, lines of prompts and generation_config.json
 * name them. */
#ifndef DS_INFER_SAMPLING_KEYS_H
#define DS_INFER_SAMPLING_KEYS_H

#include "deepseek/inference.h"

enum { DS_SAMPLING_REALS = 6 };

typedef struct ds_sampling_key {
    const char *name;
    double low, high;
    size_t offset;      /* of a float in ds_sampling */
    bool is_models_own; /* generation_config.json may say it */
} ds_sampling_key;

extern const ds_sampling_key ds_sampling_reals[DS_SAMPLING_REALS];

#endif

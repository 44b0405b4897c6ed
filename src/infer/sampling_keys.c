#include "infer/sampling_keys.h"

#include <stddef.h>

#define FIELD(field) offsetof(ds_sampling, field)

const ds_sampling_key ds_sampling_reals[DS_SAMPLING_REALS] = {
    {"temperature", 0, 100, FIELD(temperature), true},
    {"top_p", 0, 1, FIELD(top_p), true},
    {"min_p", 0, 1, FIELD(min_p), true},
    {"repetition_penalty", 0.01, 100, FIELD(repetition_penalty), true},
    {"presence_penalty", -2, 2, FIELD(presence_penalty), false},
    {"frequency_penalty", -2, 2, FIELD(frequency_penalty), false},
};

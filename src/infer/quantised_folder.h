/* The small files of a quantised model's folder. */
#ifndef DS_INFER_QUANTISED_FOLDER_H
#define DS_INFER_QUANTISED_FOLDER_H

#include "base/text.h"
#include "deepseek/inference.h"
#include "models/quantised.h"

/* `from`'s config.json with a quantization_config, into `to`. left_out: names of the modules whose
 * matrices stay floats, a line each. of_this_library: columns are kept or scaled apart. */
ds_status ds_quantised_config_write(const char *from, const char *to, ds_weight_format format,
                                    const char *left_out, bool of_this_library);
/* Tokenizer, templates, generation settings: what there is of them. */
ds_status ds_model_files_copy(const char *from, const char *to);

#endif

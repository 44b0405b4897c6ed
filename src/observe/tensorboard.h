/* Event files that TensorBoard reads, written without TensorFlow or protobuf.
 *
 * A file is a sequence of TFRecords (length, masked CRC32C of the length, payload, masked CRC32C of
 * the payload); each payload is one tensorflow.Event message. Only the fields that scalars and
 * texts need are encoded, straight from event.proto, summary.proto and tensor.proto of TensorFlow.
 */
#ifndef DS_OBSERVE_TENSORBOARD_H
#define DS_OBSERVE_TENSORBOARD_H

#include <stdint.h>
#include "base/text.h"
#include "deepseek/status.h"

/* CRC-32C (Castagnoli) of size bytes, as iSCSI and TFRecord define it. */
uint32_t ds_crc32c(const void *data, size_t size);

/* Appends payload framed as one TFRecord. */
void ds_tfrecord_append(ds_text *out, const void *payload, size_t size);

/* Each appends one framed Event. wall_time in seconds since 1970. */
void ds_tensorboard_version(ds_text *out, double wall_time); /* must be the first of a file */
/* Says that training (re)starts at step: what earlier files hold from there on is void. */
void ds_tensorboard_session(ds_text *out, double wall_time, int64_t step);
void ds_tensorboard_scalars(ds_text *out, double wall_time, int64_t step, const char *const *tags,
                            const double *values, size_t n);
void ds_tensorboard_text(ds_text *out, double wall_time, int64_t step, const char *tag,
                         const char *text);

#endif

/* Numbers about the server for Prometheus, and their text form. Thread-safe. */
#ifndef DS_SERVE_METRICS_H
#define DS_SERVE_METRICS_H

#include <pthread.h>

#include "base/text.h"
#include "deepseek/inference.h"

enum { DS_HISTOGRAM_BUCKETS = 14, DS_MOST_CODES = 16 };

typedef struct ds_histogram {
    int64_t counts[DS_HISTOGRAM_BUCKETS + 1]; /* the last: above all bounds */
    int64_t n;
    double sum;
} ds_histogram;

typedef struct ds_metrics {
    pthread_mutex_t lock;
    struct {
        unsigned code;
        int64_t n;
    } codes[DS_MOST_CODES];                 /* answers by HTTP status; as they come up */
    ds_histogram first_token, later_tokens; /* seconds */
    int64_t disconnects, timeouts;
} ds_metrics;

void ds_metrics_init(ds_metrics *m);
void ds_metrics_destroy(ds_metrics *m);
void ds_metrics_count_code(ds_metrics *m, unsigned code);
void ds_metrics_count_disconnect(ds_metrics *m);
void ds_metrics_count_timeout(ds_metrics *m);
void ds_metrics_first_token(ds_metrics *m, double seconds);
void ds_metrics_later_token(ds_metrics *m, double seconds);

/* Whether the model hangs: requests are at work, and neither has it taken a step for a minute nor
 * did the oldest of them begin within it (HUGE_VAL for none). Times of the monotonic clock. */
bool ds_metrics_stalled(const ds_executor_stats *stats, double oldest_s, double now_s);
enum { DS_STALL_S = 60 };

/* Appends the text format, version 0.0.4. */
void ds_metrics_write(ds_metrics *m, const ds_executor_stats *stats, ds_text *out);

#endif

/* Which of several weighted sources the g-th sample of a run comes from: always the one that lags
 * its share most. The pattern repeats after a period, in which shares are exact to one part in
 * DS_MIXTURE_PERIOD, so a table answers for any g at once and nothing depends on history. */
#ifndef DS_DATA_MIXTURE_H
#define DS_DATA_MIXTURE_H

#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

enum { DS_MIXTURE_PERIOD = 1 << 14 };

typedef struct ds_mixture {
    int n_sources;
    int32_t period;
    int32_t *per_period; /* [n_sources] samples of each source in a period, at least 1 */
    int32_t *source;     /* [period] */
    int32_t *before;     /* [period] samples of that same source earlier in the period */
} ds_mixture;

/* weights: [n], finite and above 0; their sum is the whole. */
ds_status ds_mixture_init(ds_mixture *mixture, const double *weights, size_t n);
void ds_mixture_clear(ds_mixture *mixture);

/* Sample g of the run is sample *index of *source. */
void ds_mixture_at(const ds_mixture *mixture, int64_t g, size_t *source, int64_t *index);

#endif

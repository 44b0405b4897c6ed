#include "data/mixture.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

/* Whole numbers of samples that sum to the period, each at least 1: the floor of each share, then
 * one more for the largest remainders. */
static ds_status apportion(ds_mixture *m, const double *weights) {
    const int n = m->n_sources;
    double sum = 0;
    for (int s = 0; s < n; s++)
        sum += weights[s];
    double *remainder = ds_malloc((size_t)n * sizeof *remainder);
    if (!remainder)
        return DS_OUT_OF_MEMORY;
    int32_t left = m->period - n; /* one each is given already */
    for (int s = 0; s < n; s++) {
        const double share = weights[s] / sum * m->period - 1;
        const double whole = share > 0 ? floor(share) : 0;
        m->per_period[s] = 1 + (int32_t)whole;
        remainder[s] = share - whole;
        left -= (int32_t)whole;
    }
    while (left != 0) { /* below 0 when shares under 1 were rounded up */
        int best = -1;
        for (int s = 0; s < n; s++)
            if ((left > 0 || m->per_period[s] > 1) &&
                (best < 0 || (left > 0 ? remainder[s] > remainder[best]
                                       : m->per_period[s] > m->per_period[best])))
                best = s;
        const int32_t step = left > 0 ? 1 : -1;
        m->per_period[best] += step;
        remainder[best] -= step;
        left -= step;
    }
    free(remainder);
    return DS_OK;
}

/* Each turn goes to the source with the largest deficit, share × turns − turns had; in whole
 * numbers, so that every machine breaks ties alike (the first one wins). */
static ds_status schedule(ds_mixture *m) {
    int32_t *had = ds_calloc((size_t)m->n_sources, sizeof *had);
    if (!had)
        return DS_OUT_OF_MEMORY;
    for (int32_t turn = 0; turn < m->period; turn++) {
        int best = -1;
        int64_t largest = 0;
        for (int s = 0; s < m->n_sources; s++) {
            const int64_t deficit =
                (int64_t)m->per_period[s] * (turn + 1) - (int64_t)had[s] * m->period;
            if (had[s] < m->per_period[s] && (best < 0 || deficit > largest)) {
                best = s;
                largest = deficit;
            }
        }
        m->source[turn] = best;
        m->before[turn] = had[best]++;
    }
    free(had);
    return DS_OK;
}

ds_status ds_mixture_init(ds_mixture *m, const double *weights, size_t n) {
    *m = (ds_mixture){.period = n == 1 ? 1 : DS_MIXTURE_PERIOD};
    if (n < 1 || n > DS_MIXTURE_PERIOD / 4)
        return ds_fail(DS_INVALID, "%zu data sources; 1 to %d can be mixed", n,
                       DS_MIXTURE_PERIOD / 4);
    m->n_sources = (int)n;
    for (int s = 0; s < m->n_sources; s++)
        if (!isfinite(weights[s]) || weights[s] <= 0)
            return ds_fail(DS_INVALID, "data source %d has weight %g; it should be above 0", s,
                           weights[s]);
    m->per_period = ds_calloc(n, sizeof *m->per_period);
    m->source = ds_calloc((size_t)m->period, sizeof *m->source);
    m->before = ds_calloc((size_t)m->period, sizeof *m->before);
    ds_status status = m->per_period && m->source && m->before ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK)
        status = apportion(m, weights);
    if (status == DS_OK)
        status = schedule(m);
    if (status != DS_OK)
        ds_mixture_clear(m);
    return status;
}

void ds_mixture_clear(ds_mixture *m) {
    free(m->per_period);
    free(m->source);
    free(m->before);
    *m = (ds_mixture){0};
}

void ds_mixture_at(const ds_mixture *m, int64_t g, size_t *source, int64_t *index) {
    const int64_t turn = g % m->period;
    *source = (size_t)m->source[turn];
    *index = g / m->period * m->per_period[*source] + m->before[turn];
}

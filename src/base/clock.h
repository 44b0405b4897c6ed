/* Monotonic time, for rates and deadlines. */
#ifndef DS_BASE_CLOCK_H
#define DS_BASE_CLOCK_H

/* Seconds since an arbitrary start; never goes back. */
double ds_clock_s(void);

#endif

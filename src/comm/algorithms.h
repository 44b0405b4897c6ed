/* The algorithms: each writes down a schedule for this rank. */
#ifndef DS_COMM_ALGORITHMS_H
#define DS_COMM_ALGORITHMS_H

#include "comm/schedule.h"

/* Data of a message in the rings: as large as keeps the costs of one message small, as small as
 * lets receiving, adding and sending overlap and stay in the caches. bench/allreduce.sh measures
 * it. */
enum { DS_RING_CHUNK_BYTES = 256 << 10 };
/* Up to here an all-reduce is done by recursive doubling. Measured with two ranks (Zen 3, busy,
 * least of many times, bench_allreduce): 256 KiB take 54 us by doubling and 68 us by the ring
 * through shared memory, 162 and 477 us through TCP. Beyond, the ring sends less when there are
 * more than two ranks. */
enum { DS_DOUBLING_BYTES = 256 << 10 };

typedef struct ds_collective {
    int rank, size; /* in the group; size > 1 */
    const void *in;
    void *out;
    int64_t count; /* as in comm.h */
    ds_dtype dtype;
    ds_comm_op op;
    int peer; /* root, or the other end */
} ds_collective;

typedef void ds_algorithm(const ds_collective *c, ds_schedule *s);

ds_algorithm ds_write_all_reduce; /* by doubling or by a ring, as the size is */
ds_algorithm ds_write_all_reduce_doubling;
ds_algorithm ds_write_all_reduce_ring;
ds_algorithm ds_write_reduce_scatter;
ds_algorithm ds_write_all_gather;
ds_algorithm ds_write_broadcast;
ds_algorithm ds_write_all_to_all;
ds_algorithm ds_write_barrier; /* after a message from each rank to the next one */

#endif

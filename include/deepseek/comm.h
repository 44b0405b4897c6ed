/* Ranks that compute together: collectives between processes, or between threads of one.
 *
 *     ds_comm *comm; // one process per rank, started by deepseek-run, srun, torchrun, mpirun …
 *     if (ds_comm_open((ds_comm_opts){0}, &comm) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     float gradient[1000] = {0};
 *     if (ds_comm_all_reduce(comm, gradient, gradient, 1000, DS_F32, DS_COMM_AVG,
 *                            (ds_comm_call){.name = "grad/wte"}) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error()); // which rank was missing, and in which call
 *     ds_comm_close(comm);
 *
 * A communicator is a group of ranks numbered from 0. Every rank of it makes the same calls in the
 * same order; what a call is told apart by is its place in that order, and `name` says in messages
 * what it was about. Calls that differ between two ranks (other operation, count, dtype, root,
 * order) are refused on all ranks, naming both; where a rank's part needed nothing of those that
 * differ (a broadcast's), by its next call.
 *
 * Results have the same bits on every rank, and the same bits each time for a given number of
 * ranks. bf16 and f16 are added in f32 and rounded after each addition. Integers wrap around.
 *
 * A call ends: by its result, at its deadline (DS_TIMEOUT, naming the ranks that had not arrived),
 * or when a rank died or became unreachable (DS_UNAVAILABLE, naming it, within two seconds). After
 * such an error the communicator, its parents and all groups split from them are broken: every
 * further call returns the same error, the results of unfinished calls are undefined, and
 * ds_comm_close is what remains.
 *
 * A communicator and the groups split from it are used by one thread at a time. Data may be
 * anywhere in host memory and belongs to the call until it is done. */
#ifndef DEEPSEEK_COMM_H
#define DEEPSEEK_COMM_H

#include <stdbool.h>
#include "deepseek/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ds_comm ds_comm;
typedef struct ds_work ds_work; /* a call that was started and not yet waited for */

/* ---- opening -------------------------------------------------------------------------------- */

typedef struct ds_comm_opts {
    const char *transport; /* "self", "ucx"; NULL: the variable DS_COMM_TRANSPORT, or "self" where
                              there is one rank and "ucx" where there are more */
    int rank, size;        /* of this process; size 0: both from the environment */
    const char *store;     /* "HOST:PORT" where ranks find each other; NULL: from the environment */
    double timeout_s;      /* of each call; 0: the variable DS_COMM_TIMEOUT_S, or 600 */
    int n_threads; /* as NCCL_SOCKET_NTHREADS, see below; 0: that variable, or 1; −1: none */
} ds_comm_opts;

/* Joins the ranks of this run and returns the communicator of all of them. Who this process is, is
 * read from the variables of deepseek-run and torchrun (RANK, WORLD_SIZE, MASTER_ADDR,
 * MASTER_PORT), Slurm, Open MPI, MPICH (PMI), or a Kubernetes indexed job, unless opts say it;
 * without any of them it is a run of one rank. Variables that every transport heeds:
 *
 *   NCCL_DEBUG: VERSION, WARN (the default), INFO (transport, addresses and groups as they are
 *   opened) or TRACE (every call as well), by the library's log.
 *
 *   NCCL_BLOCKING_WAIT: with 1 (the default) a call that reaches its deadline fails with
 *   DS_TIMEOUT. With 0 it warns, naming the missing ranks, and goes on waiting for another timeout,
 *   as one who holds a rank in a debugger wants it; a rank that died ends it all the same.
 *
 *   NCCL_SOCKET_NTHREADS: threads of each rank that communicate. With 1 or more, one of them moves
 *   started calls on in the background while the caller computes, and that many share the additions
 *   of large chunks; with 0 started calls move only inside ds_work_test, ds_work_wait and other
 *   calls.
 *
 *   NCCL_SOCKET_IFNAME: the network interface to use ("eth0"); default: the one through which the
 *   store is reached. Ignored by "self".
 *
 * DS_INVALID when the variables contradict each other; DS_UNSUPPORTED for a transport that this
 * build lacks; DS_TIMEOUT naming the ranks that did not come; DS_UNAVAILABLE when the store cannot
 * be reached. *out is the caller's, NULL on failure; close it with ds_comm_close. */
DS_API ds_status ds_comm_open(ds_comm_opts opts, ds_comm **out);

/* `size` ranks inside this process, out[0 … size): each is for a thread of its own. They share
 * nothing with ranks of other calls. opts.transport, rank and store are ignored. Each is closed by
 * ds_comm_close, in any order, by its own thread. */
DS_API ds_status ds_comm_open_threads(int size, ds_comm_opts opts, ds_comm **out);

/* Waits until every rank of the run closes too (with the deadline of a call; not if broken), then
 * frees it. Works that were not waited for are abandoned. Groups are closed before what they were
 * split from, and without waiting. NULL is fine. A rank that leaves because of a trouble of its
 * own calls ds_comm_abort first. */
DS_API void ds_comm_close(ds_comm *comm);

/* A call of all ranks of `comm`: those with the same colour form a group, numbered by key and,
 * where keys are equal, by their rank in comm (as MPI_Comm_split). colour −1: none, *out is NULL.
 * The group is the caller's and is closed before comm. */
DS_API ds_status ds_comm_split(ds_comm *comm, int colour, int key, ds_comm **out);

/* Breaks the communicator on all ranks: their calls return DS_CANCELLED with this reason. */
DS_API void ds_comm_abort(ds_comm *comm, const char *reason);

DS_API int ds_comm_rank(const ds_comm *comm); /* of this process or thread in comm */
DS_API int ds_comm_size(const ds_comm *comm);
/* The number of `rank` of comm among all ranks of the run. */
DS_API int ds_comm_world_rank(const ds_comm *comm, int rank);
/* "self", "threads", "ucx". Static. */
DS_API const char *ds_comm_transport(const ds_comm *comm);
/* DS_OK, or why it is broken (then ds_error says it). Never waits. */
DS_API ds_status ds_comm_check(ds_comm *comm);

/* ---- calls ---------------------------------------------------------------------------------- */

typedef enum ds_comm_op {
    DS_COMM_SUM,
    DS_COMM_MAX, /* NaN if any is */
    DS_COMM_MIN, /* NaN if any is */
    DS_COMM_AVG, /* the sum times 1/size, before the last rounding; floating-point types only */
    DS_COMM_OPS
} ds_comm_op;

typedef struct ds_comm_call {
    const char *name; /* for messages: the tensor's, or the caller's place. Copied; may be NULL */
    double timeout_s; /* 0: the communicator's */
    ds_work **work;   /* NULL: the call returns when it is done. Else it returns at once with a
                         work, the caller's to wait for; NULL in it when the call is refused */
} ds_comm_call;

/* All calls: DS_INVALID for arguments that cannot be right and for calls that differ between ranks;
 * DS_TIMEOUT, DS_UNAVAILABLE, DS_CANCELLED as above. Reductions take f32, bf16, f16, i32, i64, i8;
 * the others every dtype. Counts are of elements and may be 0. */

/* out[i] = op over ranks of in[i], i < count. in == out is allowed; otherwise they do not overlap.
 * Up to 256 KiB by recursive doubling, above by a ring of reduce-scatter and all-gather in chunks
 * (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"), where each rank sends
 * 2 (size − 1) / size times the data. */
DS_API ds_status ds_comm_all_reduce(ds_comm *comm, const void *in, void *out, int64_t count,
                                    ds_dtype dtype, ds_comm_op op, ds_comm_call call);

/* in: [size, count]; out: [count] = op over ranks of in[rank]. `in` keeps its values. out may be
 * in + rank · count (then that block alone is overwritten); otherwise they do not overlap. */
DS_API ds_status ds_comm_reduce_scatter(ds_comm *comm, const void *in, void *out, int64_t count,
                                        ds_dtype dtype, ds_comm_op op, ds_comm_call call);

/* in: [count]; out: [size, count], out[r] = in of rank r. in may be out + rank · count; otherwise
 * they do not overlap. */
DS_API ds_status ds_comm_all_gather(ds_comm *comm, const void *in, void *out, int64_t count,
                                    ds_dtype dtype, ds_comm_call call);

/* data: [count], that of rank `root` to all. */
DS_API ds_status ds_comm_broadcast(ds_comm *comm, void *data, int64_t count, ds_dtype dtype,
                                   int root, ds_comm_call call);

/* in, out: [size, count]; out[r] = in[rank] of rank r. They do not overlap. */
DS_API ds_status ds_comm_all_to_all(ds_comm *comm, const void *in, void *out, int64_t count,
                                    ds_dtype dtype, ds_comm_call call);

/* data: [count] to rank `peer`, which receives it by ds_comm_recv with the same count and dtype.
 * Between two ranks the n-th send meets the n-th receive. A send may wait for its receive. The
 * other ranks take no part. Sending to oneself is refused. */
DS_API ds_status ds_comm_send(ds_comm *comm, const void *data, int64_t count, ds_dtype dtype,
                              int peer, ds_comm_call call);
DS_API ds_status ds_comm_recv(ds_comm *comm, void *data, int64_t count, ds_dtype dtype, int peer,
                              ds_comm_call call);

/* Returns once every rank has called it. */
DS_API ds_status ds_comm_barrier(ds_comm *comm, ds_comm_call call);

/* Waits until the work is done, or fails, and frees it. */
DS_API ds_status ds_work_wait(ds_work *work);
/* Moves it on and says whether it is done or has failed; ds_work_wait is due in either case. */
DS_API bool ds_work_test(ds_work *work);

#ifdef __cplusplus
}
#endif
#endif

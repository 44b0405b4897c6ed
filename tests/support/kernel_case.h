/* Runs one node's fast kernel and its reference on the same random inputs and compares. */
#ifndef DS_TESTS_KERNEL_CASE_H
#define DS_TESTS_KERNEL_CASE_H

#include "backend/backend.h"

typedef struct kernel_case {
    uint64_t seed;
    double tolerance;     /* of each element, relative to 1 + |expected| · 1; 0: 2e-5 for f32 */
    double low_tolerance; /* the same for bf16 and f16 results; 0: 1.6e-2 */
    unsigned strided;   /* inputs (bits) laid out with permuted axes and gaps, if the kernel may */
    unsigned broadcast; /* inputs (bits) all of whose strides are 0, if the kernel may */
    float low, high;    /* floats are uniform in [low, high); both 0: [−2, 2) */
    int int_low, int_high; /* ints are uniform in [int_low, int_high) */
    unsigned positive;     /* inputs (bits) whose absolute value is taken */
    unsigned results;      /* results (bits) compared; 0: all */
    bool allow_fallback;   /* the reference kernel itself may be chosen */
    /* Called after the inputs are drawn; may be NULL. */
    void (*adjust)(const ds_node *node, ds_tensor *inputs, void *context);
    void *context;
} kernel_case;

/* Fails the cmocka test when they differ, with 1, 2 and 3 threads, and tells shapes and seed. */
void check_kernel(const ds_node *node, kernel_case c);

/* For random shapes: the place-th whole number from 0 to most − 1 that the seed gives. */
int64_t case_choice(uint64_t seed, int place, int64_t most);
/* The same from 1 to most, small ones more often. */
int64_t case_size(uint64_t seed, int place, int64_t most);

/* Graph inputs for tests: f32 unless said otherwise. */
ds_node *case_input(ds_graph *g, ds_dtype dtype, int rank, const int64_t *dims);
#define CASE_DIMS(...)                                                                             \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                       \
        __VA_ARGS__                                                                                \
    }

#endif

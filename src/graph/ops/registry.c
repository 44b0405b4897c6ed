#include "graph/ops/ops.h"

const ds_op *const ds_all_ops[] = {
    &ds_op_input,   &ds_op_param,      &ds_op_variable,       &ds_op_seed,
    &ds_op_fill,    &ds_op_iota,       &ds_op_result,         &ds_op_unary,
    &ds_op_binary,  &ds_op_select,     &ds_op_cast,           &ds_op_stop_gradient,
    &ds_op_reshape, &ds_op_permute,    &ds_op_slice,          &ds_op_broadcast,
    &ds_op_concat,  &ds_op_contiguous, &ds_op_reduce,         &ds_op_argmax,
    &ds_op_topk,    &ds_op_matmul,     &ds_op_grouped_matmul, &ds_op_grouped_matmul_weight,
    &ds_op_assign,  &ds_op_accumulate, &ds_op_cache_write,    &ds_op_sum_of_squares,
};

const int ds_n_ops = (int)(sizeof ds_all_ops / sizeof *ds_all_ops);

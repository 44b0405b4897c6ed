/* Between the file that builds an update graph and those of the single optimizers. */
#ifndef DS_OPTIM_OPTIMIZER_H
#define DS_OPTIM_OPTIMIZER_H

#include "deepseek/optim.h"
#include "graph/ops/ops.h"

enum { DS_MOST_UPDATE_PARTS = 4 }; /* parameter, states, gradient */

/* One parameter's share in an update op. Those alike in all but the tensors become one node. */
typedef struct ds_update_share {
    const ds_op *op;
    ds_update_attrs attrs;
    ds_node *lr;
    ds_node *parts[DS_MOST_UPDATE_PARTS];
} ds_update_share;

typedef struct ds_update_builder {
    ds_graph *g;
    const ds_optimizer_opts *opts;
    ds_node *lr, *step; /* f32 rank 0 */
    ds_node *scale;     /* 1 / loss scale, times the clipping coefficient; NaN to change nothing */
    ds_node *is_finite; /* 1 where scale is finite, else 0 */
    ds_node *adamw_lr;  /* of parameters left to AdamW: lr, or Muon's share of it */
    ds_update_share *shares; /* room for one a parameter */
    int n_shares;
} ds_update_builder;

/* Adds the update of one parameter by its gradient (not yet scaled). */
typedef void ds_update_rule(ds_update_builder *u, ds_node *param, ds_node *grad);

ds_update_rule ds_update_adamw, ds_update_adafactor, ds_update_muon;

/* The state variable "prefix/NAME" of a parameter, zeros at first. */
ds_node *ds_update_state(const ds_update_builder *u, const char *prefix, const ds_node *param,
                         int rank, const int64_t *dims);
/* Overwrites a parameter or state variable if the step is finite. */
void ds_update_assign(const ds_update_builder *u, ds_node *variable, ds_node *value);
/* Weight decay of this parameter. */
float ds_update_decay(const ds_update_builder *u, const ds_node *param);
/* param · (1 − lr · decay) − change */
ds_node *ds_update_decayed(const ds_update_builder *u, ds_node *param, ds_node *change);
/* from + weight · (to − from); weight: rank 0. As torch.lerp. */
ds_node *ds_update_lerp(const ds_update_builder *u, ds_node *from, ds_node *to, ds_node *weight);

#endif

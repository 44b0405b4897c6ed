/* Telling a request's caller what happened: at once, or on the request's lane, where it costs the
 * next step no time. A request's events come in order and one at a time either way. */
#ifndef DS_INFER_TELL_H
#define DS_INFER_TELL_H

#include "infer/lanes.h"
#include "infer/request_list.h"

/* Tells of a token. event->top is copied. lanes: NULL for at once. False: out of memory. */
bool ds_tell_token(ds_lanes *lanes, const ds_live_request *r, const ds_event *event);
/* Tells that it has ended (r->finish, r->error) and frees it. Cannot fail. */
void ds_tell_end(ds_lanes *lanes, ds_live_request *r);

#endif

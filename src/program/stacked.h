/* Parameters that stack tensors of one shape: the experts of a layer. In a graph and a state they
 * are one tensor [n, ...] whose name has a * where the tensors' numbers stand; files hold them one
 * by one, as Hugging Face's do: "experts.*.w1.weight" [8, 24, 32] is "experts.0.w1.weight" [24, 32]
 * to "experts.7.w1.weight". */
#ifndef DS_PROGRAM_STACKED_H
#define DS_PROGRAM_STACKED_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DS_STACKED_NAME_SIZE = 640 };

static inline bool ds_name_is_stacked(const char *name) {
    return strchr(name, '*') != NULL;
}

/* The name of tensor i of a stack. */
static inline void ds_name_in_stack(const char *name, int64_t i, char out[DS_STACKED_NAME_SIZE]) {
    const char *star = strchr(name, '*');
    snprintf(out, DS_STACKED_NAME_SIZE, "%.*s%lld%s", (int)(star - name), name, (long long)i,
             star + 1);
}

/* Which tensor of a stack a name is, -1 for none. */
static inline int64_t ds_number_in_stack(const char *stack, const char *name) {
    const char *star = strchr(stack, '*');
    const size_t n = star ? (size_t)(star - stack) : 0;
    char *end = NULL;
    if (!star || strncmp(stack, name, n) != 0 || name[n] < '0' || name[n] > '9')
        return -1;
    const int64_t i = strtoll(name + n, &end, 10);
    return strcmp(end, star + 1) == 0 ? i : -1;
}

#endif

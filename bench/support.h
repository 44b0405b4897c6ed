/* What the benchmarks' programs have in common. */
#ifndef DS_BENCH_SUPPORT_H
#define DS_BENCH_SUPPORT_H

#include <stdbool.h>

#include "deepseek/status.h"

/* Ends the program with the thread's message unless the status is DS_OK. */
void check(ds_status status);

/* Prints "ready" (bench_in_turn) and runs each line of the input, until there are no more. `run` is
 * false for a line that is no case. Returns the program's status. */
int answer_cases(bool (*run)(void *context, const char *line), void *context);

#endif

/* Numbers among a tool's options: read whole or refused, with what would be right. */
#ifndef CLI_NUMBERS_H
#define CLI_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>

/* A whole number in [low, high], or a message on standard error that names the tool and the option
 * ("--threads"), and false. */
bool ds_cli_integer(const char *tool, const char *option, const char *text, int64_t low,
                    int64_t high, int64_t *out);
/* The same for any finite number. */
bool ds_cli_real(const char *tool, const char *option, const char *text, double low, double high,
                 double *out);

#endif

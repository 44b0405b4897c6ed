#include "cli/numbers.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* strtoll and strtod pass over leading space, and strtod takes hexadecimal and "inf": none of these
 * is a number that someone meant to write. */
static bool begins_as_number(const char *text, const char *first) {
    return *text && strchr(first, *text) && !strpbrk(text, "xXnN");
}

bool ds_cli_integer(const char *tool, const char *option, const char *text, int64_t low,
                    int64_t high, int64_t *out) {
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (begins_as_number(text, "+-0123456789") && *end == '\0' && errno == 0 && value >= low &&
        value <= high) {
        *out = value;
        return true;
    }
    fprintf(stderr, "%s: %s %s: should be a whole number from %" PRId64 " to %" PRId64 "\n", tool,
            option, text, low, high);
    return false;
}

bool ds_cli_real(const char *tool, const char *option, const char *text, double low, double high,
                 double *out) {
    char *end = NULL;
    const double value = strtod(text, &end);
    if (begins_as_number(text, "+-.0123456789") && *end == '\0' && isfinite(value) &&
        value >= low && value <= high) {
        *out = value;
        return true;
    }
    fprintf(stderr, "%s: %s %s: should be a number from %g to %g\n", tool, option, text, low, high);
    return false;
}

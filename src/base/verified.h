/* Which files' sums were found right before. Reading a model of some gigabytes to check its sums
 * takes seconds, each time it is opened; a file that has not changed since then need not be read
 * again. The record is a text file of the user's, $XDG_CACHE_HOME/deepseek/verified or
 * ~/.cache/deepseek/verified: a line for each file with its sum, device, inode, size and times of
 * change. What it says is only believed while all of that is so. It may be deleted at any time. */
#ifndef DS_BASE_VERIFIED_H
#define DS_BASE_VERIFIED_H

#include <stdbool.h>

/* Whether the file had this sum (32 digits) and has not changed since. */
bool ds_verified_knows(const char *path, const char *md5);
/* Notes that the file has this sum, as well as it can: without a home nothing is noted, nor of a
 * file that was changed within the last seconds, whose times would not tell of another change. */
void ds_verified_note(const char *path, const char *md5);

#endif

/* MD5 sums as md5sum(1) prints them: a guard against bit rot and torn writes, not against forgery.
 */
#ifndef DS_BASE_MD5_H
#define DS_BASE_MD5_H

#include <stddef.h>
#include "deepseek/status.h"

enum { DS_MD5_HEX = 33 }; /* 32 digits and a zero */

typedef struct ds_md5 ds_md5;
ds_status ds_md5_new(ds_md5 **out);
void ds_md5_update(ds_md5 *sum, const void *data, size_t size_bytes);
void ds_md5_finish(ds_md5 *sum, char hex[DS_MD5_HEX]); /* and frees sum */
void ds_md5_free(ds_md5 *sum);                         /* without a result; NULL is fine */

ds_status ds_md5_of_file(const char *path, char hex[DS_MD5_HEX]);

#endif

#include "base/md5.h"

#include <openssl/evp.h>
#include <stdio.h>

#include "base/error.h"
#include "base/file.h"

struct ds_md5; /* an EVP_MD_CTX by another name: the library's headers do not show OpenSSL */

ds_status ds_md5_new(ds_md5 **out) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!context || EVP_DigestInit_ex(context, EVP_md5(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        return ds_fail(DS_UNSUPPORTED, "MD5 is not offered by this system's OpenSSL");
    }
    *out = (ds_md5 *)context;
    return DS_OK;
}

void ds_md5_update(ds_md5 *sum, const void *data, size_t size_bytes) {
    EVP_DigestUpdate((EVP_MD_CTX *)sum, data, size_bytes);
}

void ds_md5_finish(ds_md5 *sum, char hex[DS_MD5_HEX]) {
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    EVP_DigestFinal_ex((EVP_MD_CTX *)sum, digest, NULL);
    ds_md5_free(sum);
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void ds_md5_free(ds_md5 *sum) {
    EVP_MD_CTX_free((EVP_MD_CTX *)sum);
}

ds_status ds_md5_of_file(const char *path, char hex[DS_MD5_HEX]) {
    ds_mapped file;
    ds_md5 *sum = NULL;
    DS_TRY(ds_file_map(path, &file));
    const ds_status status = ds_md5_new(&sum);
    if (status == DS_OK) {
        ds_md5_update(sum, file.data, file.size);
        ds_md5_finish(sum, hex);
    }
    ds_file_unmap(&file);
    return status;
}

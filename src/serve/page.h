/* The chat page, page.html, as the build wrote it into the program. */
#ifndef DS_SERVE_PAGE_H
#define DS_SERVE_PAGE_H

#include <stddef.h>

extern const unsigned char ds_serve_page[];
extern const size_t ds_serve_page_size;

#endif

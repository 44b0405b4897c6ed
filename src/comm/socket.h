/* TCP by "HOST:PORT". */
#ifndef DS_COMM_SOCKET_H
#define DS_COMM_SOCKET_H

#include <stddef.h>
#include "deepseek/status.h"

enum { DS_ADDRESS = 300 }; /* bytes of an address with its port */

/* Listens on that one address; the port that it got is in `bound`, HOST as given. */
ds_status ds_socket_listen(const char *address, int *fd, char bound[DS_ADDRESS]);
/* One attempt, of at most timeout_s. */
ds_status ds_socket_connect(const char *address, double timeout_s, int *fd);
/* The numeric address of this end, without its port. */
void ds_socket_local(int fd, char out[DS_ADDRESS]);
/* The interface that has this numeric address, or "". */
void ds_socket_interface(const char *numeric, char *out, size_t size);
/* The numeric address of an interface; DS_NOT_FOUND lists those there are. */
ds_status ds_socket_interface_address(const char *interface, char out[DS_ADDRESS]);

#endif

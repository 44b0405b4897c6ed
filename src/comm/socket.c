#include "comm/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/text.h"

/* "host:port" or "[v6]:port" into its two parts. */
static ds_status split(const char *address, char host[DS_ADDRESS], const char **port) {
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || !colon[1] || strlen(address) >= DS_ADDRESS)
        return ds_fail(DS_INVALID, "\"%s\" is no HOST:PORT", address);
    char *end = NULL;
    const unsigned long number = strtoul(colon + 1, &end, 10);
    if (*end || number > 65535)
        return ds_fail(DS_INVALID, "\"%s\": \"%s\" is no port; 0 to 65535 is due", address,
                       colon + 1);
    size_t n = (size_t)(colon - address);
    if (address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    }
    memcpy(host, address, n);
    host[n] = '\0';
    *port = colon + 1;
    return DS_OK;
}

static ds_status resolve(const char *address, struct addrinfo **out) {
    char host[DS_ADDRESS];
    const char *port = NULL;
    DS_TRY(split(address, host, &port));
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    const int error = getaddrinfo(host, port, &hints, out);
    if (error != 0)
        return ds_fail(DS_UNAVAILABLE, "%s: %s", address, gai_strerror(error));
    return DS_OK;
}

/* The port that a listening socket got; 0 if it does not say. */
static unsigned port_of(int s) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } name;
    socklen_t size = sizeof name;
    memset(&name, 0, sizeof name);
    if (getsockname(s, &name.any, &size) != 0)
        return 0;
    return ntohs(name.any.sa_family == AF_INET6 ? name.v6.sin6_port : name.v4.sin_port);
}

ds_status ds_socket_listen(const char *address, int *fd, char bound[DS_ADDRESS]) {
    struct addrinfo *list = NULL;
    DS_TRY(resolve(address, &list));
    const int s = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int one = 1;
    ds_status status = DS_OK;
    if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(s, list->ai_addr, list->ai_addrlen) != 0 || listen(s, 1024) != 0)
        status = ds_fail_errno("cannot listen on %s", address);
    freeaddrinfo(list);
    if (status != DS_OK) {
        if (s >= 0)
            close(s);
        return status;
    }
    snprintf(bound, DS_ADDRESS, "%.*s:%u", (int)(strrchr(address, ':') - address), address,
             port_of(s));
    *fd = s;
    return DS_OK;
}

/* Waits for a connect to end; errno tells how. */
static bool connected(int s, double timeout_s) {
    struct pollfd p = {.fd = s, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof error;
    if (poll(&p, 1, (int)(timeout_s * 1e3) + 1) <= 0) {
        errno = ETIMEDOUT;
        return false;
    }
    if (getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        return false;
    errno = error;
    return error == 0;
}

ds_status ds_socket_connect(const char *address, double timeout_s, int *fd) {
    struct addrinfo *list = NULL;
    DS_TRY(resolve(address, &list));
    ds_status status = DS_UNAVAILABLE;
    for (const struct addrinfo *a = list; a && status != DS_OK; a = a->ai_next) {
        const int s = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (s >= 0 && (connect(s, a->ai_addr, a->ai_addrlen) == 0 ||
                       (errno == EINPROGRESS && connected(s, timeout_s)))) {
            const int one = 1;
            setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            *fd = s;
            status = DS_OK;
        } else {
            const int error = errno;
            if (s >= 0)
                close(s);
            status = ds_fail(DS_UNAVAILABLE, "%s: %s", address, strerror(error));
        }
    }
    freeaddrinfo(list);
    return status;
}

static void numeric(const struct sockaddr *s, char out[DS_ADDRESS]) {
    out[0] = '\0';
    if (s->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)s)->sin_addr, out, DS_ADDRESS);
    else if (s->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)s)->sin6_addr, out, DS_ADDRESS);
}

void ds_socket_local(int fd, char out[DS_ADDRESS]) {
    struct sockaddr_storage name = {0};
    socklen_t size = sizeof name;
    out[0] = '\0';
    if (getsockname(fd, (struct sockaddr *)&name, &size) == 0)
        numeric((const struct sockaddr *)&name, out);
}

void ds_socket_interface(const char *wanted, char *out, size_t size) {
    struct ifaddrs *list = NULL;
    out[0] = '\0';
    if (getifaddrs(&list) != 0)
        return;
    for (const struct ifaddrs *i = list; i && !out[0]; i = i->ifa_next) {
        char text[DS_ADDRESS] = "";
        if (i->ifa_addr)
            numeric(i->ifa_addr, text);
        if (text[0] && strcmp(text, wanted) == 0)
            snprintf(out, size, "%s", i->ifa_name);
    }
    freeifaddrs(list);
}

ds_status ds_socket_interface_address(const char *interface, char out[DS_ADDRESS]) {
    struct ifaddrs *list = NULL;
    ds_text names = {0};
    out[0] = '\0';
    if (getifaddrs(&list) != 0)
        return ds_fail_errno("the network interfaces");
    for (const struct ifaddrs *i = list; i && !out[0]; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET)
            continue;
        ds_text_printf(&names, "%s%s", names.length ? ", " : "", i->ifa_name);
        if (strcmp(i->ifa_name, interface) == 0)
            numeric(i->ifa_addr, out);
    }
    freeifaddrs(list);
    const ds_status status =
        out[0] ? DS_OK
               : ds_fail(DS_NOT_FOUND, "no network interface \"%s\" with an address; there are: %s",
                         interface, names.data ? names.data : "none");
    ds_text_clear(&names);
    return status;
}

# Every library the project stands on, as one imported target each. The Debian package that brings
# it is listed in deploy/debian-packages.txt.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(ZLIB REQUIRED)
# not by find_package(dnnl): the file that Debian ships asks for OpenCL's headers, which only oneDNN's GPU
# engine needs and this project does not use
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(DNNL::dnnl UNKNOWN IMPORTED)
set_target_properties(DNNL::dnnl PROPERTIES
    IMPORTED_LOCATION ${DNNL_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
# Ranks in several processes talk by UCX. Without it everything else is built; ds_comm_open then serves one
# rank only, and says why.
pkg_check_modules(UCX IMPORTED_TARGET ucx)
if(NOT UCX_FOUND)
    message(WARNING "UCX was not found (Debian: libucx-dev): this build runs on one rank only")
endif()

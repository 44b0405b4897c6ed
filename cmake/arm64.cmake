# Toolchain: from x86-64 to arm64, by Debian's cross compiler (preset `arm64`).
#
# Where Debian's arm64 libraries are installed beside the machine's own (dpkg --add-architecture arm64;
# apt install libdnnl-dev:arm64 …), everything is linked, and tests run under qemu-user. Where they
# are not, every source is still compiled, with all warnings, against the headers that are there,
# and linking is left out: the programs are empty files.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

if(EXISTS /usr/lib/aarch64-linux-gnu/libdnnl.so)
    set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
    find_program(QEMU NAMES qemu-aarch64-static qemu-aarch64)
    if(QEMU)
        set(CMAKE_CROSSCOMPILING_EMULATOR ${QEMU})
    endif()
else()
    # Debian keeps a few of OpenSSL's headers in a folder per processor; they differ in nothing used.
    set(CMAKE_C_FLAGS_INIT "-idirafter /usr/include/x86_64-linux-gnu")
    set(CMAKE_LIBRARY_PATH /usr/lib/x86_64-linux-gnu) # found, never linked
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
    set(CMAKE_C_LINK_EXECUTABLE "<CMAKE_COMMAND> -E touch <TARGET>")
    set(CMAKE_C_CREATE_SHARED_LIBRARY "<CMAKE_COMMAND> -E touch <TARGET>")
endif()

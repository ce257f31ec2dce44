/* What the stub libraries of both kinds of accelerator share. */
#ifndef REHEARSAL_STUB_H
#define REHEARSAL_STUB_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NUM_DEVICES = 8 };

/* A handle is never looked into; large enough for callers that copy what it points to. */
static inline int make_handle(void *handle) {
    *(void **)handle = calloc(1, 4096);
    return 0;
}

/* Device memory. The kernel maps a page when it is first touched, and since neither kernels nor
   copies to a device do anything, none ever is: the 14B model takes a few MB here, and whatever is
   read from a device is zero, which is finite as numbers of any type. */
static inline void *reserve(void *hint, size_t size) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *memory = mmap(hint, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* What a device reports; REHEARSAL_DEVICE_GIB replaces it. Allocating more does not fail. */
static inline size_t device_bytes(size_t num_gib) {
    const char *given = getenv("REHEARSAL_DEVICE_GIB");
    return (given ? (size_t)atoi(given) : num_gib) << 30;
}

/* Setting up a real communicator takes seconds; REHEARSAL_COMMUNICATOR_S makes it so here. */
static inline void set_up_communicator(void) {
    const char *seconds = getenv("REHEARSAL_COMMUNICATOR_S");
    if (seconds)
        sleep((unsigned)atoi(seconds));
}

/* Whether a device is broken: it is if the file REHEARSAL_BROKEN_DEVICE names holds its index, and
   stays so in this process, as a sticky error does. */
static inline int is_broken(int device) {
    static int broken;
    const char *path = getenv("REHEARSAL_BROKEN_DEVICE");
    if (broken || !path)
        return broken;
    int file = open(path, O_RDONLY);
    if (file < 0)
        return 0;
    char index = '?';
    broken = read(file, &index, 1) == 1 && index == '0' + device;
    close(file);
    return broken;
}

#endif

/* A disk that does not answer, for a process that has this preloaded: reading SLOW_LEAST bytes or more of the file SLOW_FILE
   from byte SLOW_FROM on blocks while the named pipe SLOW_GATE exists and nobody has opened it for writing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef ssize_t (*reader)(int, void*, size_t, off64_t);

static void wait_for_disk(int fd, size_t count, off64_t offset) {
    const char* slow = getenv("SLOW_FILE");
    const char* from = getenv("SLOW_FROM");
    const char* least = getenv("SLOW_LEAST");
    const char* gate = getenv("SLOW_GATE");
    char link[64], path[PATH_MAX];
    if (!slow || !from || !least || !gate || offset < atoll(from) || count < strtoull(least, NULL, 10)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (strcmp(path, slow) != 0) return;
    int pipe = open(gate, O_RDONLY);
    if (pipe >= 0) close(pipe);
}

ssize_t pread64(int fd, void* to, size_t count, off64_t offset) {
    static reader next;
    if (!next) next = (reader)dlsym(RTLD_NEXT, "pread64");
    wait_for_disk(fd, count, offset);
    return next(fd, to, count, offset);
}

ssize_t pread(int fd, void* to, size_t count, off_t offset) {
    return pread64(fd, to, count, offset);
}

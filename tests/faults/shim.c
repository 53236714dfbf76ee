/* Preloaded into a process under test: makes fsync and fdatasync slow, or fail.
 *
 * FAULTS_FSYNC names a file of two 32-bit numbers, mapped and read at each call: microseconds to wait, and
 * the errno to fail with afterwards (0: really sync).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile uint32_t *told;

__attribute__((constructor)) static void look(void) {
  const char *path = getenv("FAULTS_FSYNC");
  if (!path) return;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void *map = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (map != MAP_FAILED) told = map;
}

static int held(int (*real)(int), int fd) {
  if (told && told[0]) {
    struct timespec wait = {told[0] / 1000000, (long)(told[0] % 1000000) * 1000};
    while (nanosleep(&wait, &wait) && errno == EINTR) {}
  }
  if (told && told[1]) {
    errno = (int)told[1];
    return -1;
  }
  return real(fd);
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  return held(real, fd);
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  return held(real, fd);
}

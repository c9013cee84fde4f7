// A map of 64 GiB with three pages in use, and one of eight pages with room behind it. Says where
// the two are in the file `ready`. Then it does what the names of files tell, each once, and says
// so by `<name>.done`: `cut` (four pages are left of the second, and then eight again), `write` (to
// its second page and its sixth), `again` (to its second), `file` (the first page of a private map
// of a file is given back).
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kPage = 4096 };

static char* map_of(size_t bytes, int flags, int fd) {
  return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, fd, 0);
}

static int told(const char* name) { return access(name, F_OK) == 0; }

static void done(const char* name) {
  char text[64];
  snprintf(text, sizeof text, "%s.done", name);
  close(open(text, O_CREAT | O_WRONLY, 0644));
  unlink(name);
}

int main(void) {
  const size_t desert = (size_t)64 << 30;
  char* sparse = map_of(desert, MAP_ANONYMOUS | MAP_NORESERVE, -1);
  char* room = map_of(64 * kPage, MAP_ANONYMOUS, -1);
  if (sparse == MAP_FAILED || room == MAP_FAILED) return 1;
  for (size_t i = 0; i < 3; ++i) sparse[i * (desert / 3)] = 1;
  char* grows = room + 16 * kPage;
  munmap(room, 16 * kPage);
  munmap(grows + 8 * kPage, 40 * kPage);
  memset(grows, 1, 8 * kPage);

  const int fd = open("mapped", O_RDWR | O_CREAT, 0644);
  if (ftruncate(fd, 4 * kPage) != 0) return 1;
  char* file = map_of(4 * kPage, 0, fd);
  file[0] = 1;
  file[kPage] = 1;

  FILE* ready = fopen("ready.part", "w");
  if (ready == NULL) return 1;
  fprintf(ready, "%lu %lu %lu\n", (unsigned long)sparse, (unsigned long)grows, (unsigned long)file);
  fclose(ready);
  rename("ready.part", "ready");
  while (!told("go")) {
    if (told("cut")) {
      if (mremap(grows, 8 * kPage, 4 * kPage, 0) != grows) return 1;
      if (mremap(grows, 4 * kPage, 16 * kPage, 0) != grows) return 1;
      done("cut");
    }
    if (told("write")) {
      grows[kPage] = 2;
      grows[5 * kPage] = 2;
      done("write");
    }
    if (told("again")) {
      grows[kPage] = 3;
      done("again");
    }
    if (told("file")) {
      madvise(file, kPage, MADV_DONTNEED);
      done("file");
    }
    usleep(1000);
  }
  return 0;
}

// The working directory, a directory descriptor with its read position, and an O_PATH descriptor.
#include <dirent.h>
#include <sys/stat.h>

#include <set>

#include "tests/states/state.h"

int main() {
  const std::string place = state::path("place");
  mkdir(place.c_str(), 0755);
  for (int i = 0; i < 40; i++) {
    const std::string file = place + "/file" + std::to_string(i);
    close(state::must(open(file.c_str(), O_WRONLY | O_CREAT, 0644), "open"));
  }
  state::must(chdir(place.c_str()), "chdir");
  const int fd = state::must(open(".", O_RDONLY | O_DIRECTORY), "open");
  const int pointer = state::must(open("file7", O_PATH), "open");
  std::set<std::string> seen;
  DIR* listing = fdopendir(state::must(dup(fd), "dup"));
  // glibc reads many entries at once: the position in the kernel is then at the end, the rest in
  // our memory.
  for (int i = 0; i < 10; i++) seen.insert(readdir(listing)->d_name);
  state::hold();
  char* const now = get_current_dir_name();
  CHECK(now == std::string(realpath(place.c_str(), nullptr)), "the working directory is %s", now);
  while (const dirent* entry = readdir(listing)) {
    CHECK(seen.insert(entry->d_name).second, "%s was listed twice", entry->d_name);
  }
  CHECK(seen.size() == 42, "%zu entries were listed", seen.size());
  close(state::must(openat(fd, "file39", O_RDONLY), "openat below the directory descriptor"));
  CHECK((fcntl(pointer, F_GETFL) & O_PATH) != 0, "the O_PATH descriptor became another");
  struct stat info {};
  state::must(fstat(pointer, &info), "fstat");
  CHECK(S_ISREG(info.st_mode), "the O_PATH descriptor leads elsewhere");
  CHECK(access("file0", F_OK) == 0, "relative names lead elsewhere");
  state::pass();
}

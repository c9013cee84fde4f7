#include "spank-plugin/unfit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string_view>
#include <vector>

namespace fermata::spank_plugin {
namespace {

/// The path is a user's, and this may be root: nothing is opened before it is known to be a file.
bool contains_just(const std::string& path, const std::string& text) {
  const int file = open(path.c_str(), O_PATH | O_CLOEXEC);
  struct stat status {};
  // Mostly it is a program, and may be a big one.
  const bool fits = file >= 0 && fstat(file, &status) == 0 && S_ISREG(status.st_mode) &&
                    static_cast<size_t>(status.st_size) == text.size();
  std::string found(text.size() + 1, '\0');
  if (fits) {
    std::ifstream reader("/proc/self/fd/" + std::to_string(file));
    reader.read(found.data(), static_cast<std::streamsize>(found.size()));
    found.resize(static_cast<size_t>(reader.gcount()));
  }
  if (file >= 0) close(file);
  return fits && found == text;
}

/// The first line that is no comment begins with tasks: "0-3,7 " or "* ".
bool begins_with_tasks(std::string_view text) {
  constexpr std::string_view kBlank = " \t";
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
    if (line.empty() || line.front() == '#') continue;
    const size_t end = line.find_first_not_of("0123456789,-*");
    return end != std::string_view::npos && end > 0 && kBlank.find(line[end]) != kBlank.npos;
  }
  return false;
}

}  // namespace

bool is_multi_prog(const TaskCommand& command) {
  const std::vector<std::string>& words = command.command;
  if (words.size() < 2 || words[1].empty()) return false;
  if (contains_just(words[0], words[1])) return true;
  // The file need not be on this node.
  return begins_with_tasks(words[1]) && words[1].find('\n') != std::string::npos &&
         access(command.program.c_str(), X_OK) != 0;
}

}  // namespace fermata::spank_plugin

#include "spank-plugin/unfit.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

namespace fermata::spank_plugin {
namespace {

bool contains_just(const std::string& path, const std::string& text) {
  struct stat status {};
  // Mostly it is a program, and may be a big one.
  if (stat(path.c_str(), &status) != 0 || static_cast<size_t>(status.st_size) != text.size()) {
    return false;
  }
  std::ostringstream found;
  found << std::ifstream(path).rdbuf();
  return found.str() == text;
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

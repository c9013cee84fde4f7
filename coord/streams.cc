#include "coord/streams.h"

#include <algorithm>
#include <filesystem>

namespace fermata::coord {
namespace {

std::string expanded(std::string_view pattern, const stored::Job& job, int pod) {
  std::string name;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '%' || i + 1 == pattern.size()) {
      name += pattern[i];
      continue;
    }
    switch (const char which = pattern[++i]; which) {
      case 'j':
        name += std::to_string(job.job());
        break;
      case 's':
        name += std::to_string(job.step());
        break;
      case 'n':
        name += std::to_string(pod);
        break;
      case 'N':
        name += job.pods(pod).known_as();
        break;
      case '%':
        name += '%';
        break;
      default:
        name += '%';
        name += which;
    }
  }
  return name;
}

}  // namespace

std::string stream_path(std::string_view name, std::string_view folder, std::string_view fallback) {
  return (std::filesystem::path(folder) / (name.empty() ? fallback : name)).lexically_normal();
}

std::vector<std::string> output_files(const stored::Job& job) {
  std::vector<std::string> files;
  for (int pod = 0; pod < job.pods_size(); ++pod) {
    std::string file = expanded(job.output(), job, pod);
    // Those of a job are either one or as many as its pods.
    if (files.empty() || files.back() != file) files.push_back(std::move(file));
  }
  return files;
}

}  // namespace fermata::coord

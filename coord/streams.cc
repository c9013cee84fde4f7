#include "coord/streams.h"

#include <filesystem>

#include "common/stream_name.h"

namespace fermata::coord {

std::string stream_path(std::string_view name, std::string_view folder, std::string_view fallback) {
  return (std::filesystem::path(folder) / (name.empty() ? fallback : name)).lexically_normal();
}

std::vector<std::string> output_files(const stored::Job& job) {
  std::vector<std::string> files;
  for (int pod = 0; pod < job.pods_size(); ++pod) {
    const PodId id{{job.job(), job.step()}, static_cast<uint32_t>(pod), job.start()};
    // Its agent takes the name of the node that the pod is on now.
    std::string file = expand_stream_name(job.output(), id, job.pods(pod).node());
    // Those of a job are either one or as many as its pods.
    if (files.empty() || files.back() != file) files.push_back(std::move(file));
  }
  return files;
}

}  // namespace fermata::coord

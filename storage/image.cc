#include "storage/image.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

namespace fermata::storage {

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

std::string image_file_name(uint32_t pod) { return fmt::format("pod-{}.h5", pod); }

std::string flat_image_file_name(uint32_t pod) { return fmt::format("pod-{}.full.h5", pod); }

}  // namespace fermata::storage

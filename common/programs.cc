#include "common/programs.h"

#include <fmt/format.h>
#include <unistd.h>

namespace fermata {

Result<std::filesystem::path> find_own_program(std::string_view name) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  const fs::path beside = here / name;
  const fs::path installed = here.parent_path() / "libexec" / "fermata" / name;
  for (const fs::path& path : {beside, installed}) {
    if (!error && access(path.c_str(), X_OK) == 0) return path;
  }
  return failure(Code::kNotFound,
                 fmt::format("{} is missing; it belongs beside this program, or at {}",
                             beside.native(), installed.native()));
}

}  // namespace fermata

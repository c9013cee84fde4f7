#include "cli/compress_option.h"

#include <CLI/CLI.hpp>

namespace fermata::cli {

void add_compress_option(CLI::App& command, std::string& value, const std::string& whose) {
  command
      .add_option("--compress", value,
                  "Memory in " + whose +
                      ": none, lz4, zstd, or auto, where it gets shorter [the config file, none]")
      ->check(CLI::IsMember({"none", "lz4", "zstd", "auto"}))
      ->type_name("HOW");
}

}  // namespace fermata::cli

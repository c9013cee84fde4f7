// fermata inspect: prints an image.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/command.h"
#include "storage/describe.h"
#include "storage/image_reader.h"

namespace fermata::cli {

void add_inspect(CLI::App& app, Invocation& invocation) {
  struct Options {
    std::string image;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("inspect", "Print what an image holds");
  sub->add_option("IMAGE", options->image, "The file: .../pod-0.h5")->required();
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options] {
      const Result<storage::PodImage> image = storage::read_image(options->image);
      if (!image) return fail(image.error());
      const std::string text =
          options->json ? storage::describe_json(*image) : storage::describe_text(*image);
      std::fputs(text.c_str(), stdout);
      if (!text.ends_with('\n')) std::fputc('\n', stdout);
      return 0;
    };
  });
}

}  // namespace fermata::cli

// fermata verify: reads every byte of a set and compares it with its checksums.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "common/progress.h"
#include "common/size_parse.h"
#include "coord/coordinator.h"
#include "storage/image_reader.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

struct Options {
  uint64_t crid = 0;
  std::string dir;
  bool json = false;
};

Result<uint64_t> verify_images(const coord::ChosenSet& set, bool show_progress) {
  uint64_t bytes = 0;
  for (const storage::ManifestImage& image : set.manifest.images) {
    std::optional<Progress> progress;
    if (show_progress)
      progress.emplace("reading " + storage::printable(image.file), image.bytes, STDERR_FILENO);
    uint64_t seen = 0;
    FERMATA_ASSIGN(const storage::VerifiedImage verified,
                   storage::verify_image(set.folder / image.file, image.digest,
                                         [&](uint64_t done, uint64_t /*total*/) {
                                           if (progress && done > seen) {
                                             progress->advance(done - seen);
                                           }
                                           seen = done;
                                         }));
    bytes += verified.bytes;
  }
  return bytes;
}

Result<int> verify(const Invocation& invocation, const Options& options) {
  const std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  const coord::Coordinator coordinator(dir, owner);
  FERMATA_ASSIGN(const coord::ChosenSet set, coordinator.choose(std::nullopt, Crid{options.crid}));
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  const Result<uint64_t> bytes = verify_images(set, !options.json);
  if (options.json) {
    nlohmann::json out = {
        {"crid", options.crid}, {"job", to_string(set.manifest.job)}, {"whole", bytes.has_value()}};
    if (bytes)
      out["bytes"] = *bytes;
    else
      out["reason"] = bytes.error().message();
    std::puts(out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return bytes ? 0 : exit_code_of(bytes.error().code());
  }
  if (!bytes) return Failure(bytes.error());
  std::puts(fmt::format("checkpoint {} of job {} is whole: {} read", options.crid,
                        to_string(set.manifest.job), format_size(*bytes))
                .c_str());
  return 0;
}

}  // namespace

void add_verify(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("verify", "Read a checkpoint and compare it with its checksums");
  sub->add_option("CRID", options->crid, "The checkpoint")->required()->check(CLI::PositiveNumber);
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = verify(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli

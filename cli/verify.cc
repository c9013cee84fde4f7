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
#include "storage/chain.h"
#include "storage/image_reader.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

struct Options {
  uint64_t crid = 0;
  std::string dir;
  bool json = false;
};

/// The images of one set, every byte.
Result<uint64_t> verify_images(const std::filesystem::path& folder,
                               const storage::Manifest& manifest, bool show_progress) {
  uint64_t bytes = 0;
  for (const storage::ManifestImage& image : manifest.images) {
    std::optional<Progress> progress;
    if (show_progress)
      progress.emplace("reading " + storage::printable(image.file), image.bytes, STDERR_FILENO);
    uint64_t seen = 0;
    FERMATA_ASSIGN(const storage::VerifiedImage verified,
                   storage::verify_image(folder / image.file, image.digest,
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

/// The set and all that it builds on; then that the images of the chain go together.
Result<uint64_t> verify_chain(const std::filesystem::path& dir, const coord::ChosenSet& set,
                              const std::vector<storage::Manifest>& ancestors, bool show_progress) {
  FERMATA_ASSIGN(uint64_t bytes, verify_images(set.folder, set.manifest, show_progress));
  for (const storage::Manifest& one : ancestors) {
    const std::filesystem::path folder = storage::set_folder(dir, one.job, one.crid);
    const Result<uint64_t> more = verify_images(folder, one, show_progress);
    if (!more) {
      return Failure(more.error().within(fmt::format(
          "set {} builds on set {}", to_string(set.manifest.crid), to_string(one.crid))));
    }
    bytes += *more;
  }
  for (const storage::ManifestImage& image : set.manifest.images) {
    FERMATA_ASSIGN([[maybe_unused]] const storage::PodImage whole,
                   storage::read_chain(set.folder / image.file, image.digest));
  }
  return bytes;
}

Result<int> verify(const Invocation& invocation, const Options& options) {
  const std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  const coord::Coordinator coordinator(dir, owner);
  FERMATA_ASSIGN(const coord::ChosenSet set, coordinator.choose(std::nullopt, Crid{options.crid}));
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  std::vector<storage::Manifest> ancestors;
  const Result<uint64_t> bytes = [&]() -> Result<uint64_t> {
    FERMATA_ASSIGN(ancestors, storage::ancestors_of(set.folder, set.manifest));
    return verify_chain(dir, set, ancestors, !options.json);
  }();
  if (options.json) {
    nlohmann::json out = {
        {"crid", options.crid}, {"job", to_string(set.manifest.job)}, {"whole", bytes.has_value()}};
    out["builds_on"] = nlohmann::json::array();
    for (const storage::Manifest& one : ancestors) out["builds_on"].push_back(one.crid.value);
    if (bytes)
      out["bytes"] = *bytes;
    else
      out["reason"] = bytes.error().message();
    std::puts(out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return bytes ? 0 : exit_code_of(bytes.error().code());
  }
  if (!bytes) return Failure(bytes.error());
  std::string chain;
  for (const storage::Manifest& one : ancestors) {
    chain += (chain.empty() ? ", with those it builds on (" : ", ") + to_string(one.crid);
  }
  if (!chain.empty()) chain += ")";
  std::puts(fmt::format("checkpoint {} of job {} is whole{}: {} read", options.crid,
                        to_string(set.manifest.job), chain, format_size(*bytes))
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

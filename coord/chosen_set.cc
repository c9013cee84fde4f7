// The coordinator's choice of the set that a job goes on from.
#include <fmt/format.h>

#include "coord/coordinator.h"

namespace fermata::coord {

using storage::Ledger;
using storage::LedgerSet;
using storage::Manifest;
using storage::SetState;

Result<Manifest> Coordinator::manifest_of(const LedgerSet& set) const {
  Result<Manifest> manifest = storage::read_manifest(storage::set_folder(dir_, set.job, set.crid));
  if (manifest || set.state == SetState::kCommitted) return manifest;
  switch (set.state) {
    case SetState::kAborted:
      return failure(Code::kNotFound, fmt::format("set {} was never committed: {}",
                                                  to_string(set.crid), set.reason));
    case SetState::kDeleted:
      return failure(Code::kNotFound, fmt::format("set {} was deleted", to_string(set.crid)));
    default:
      return failure(Code::kNotFound, fmt::format("set {} is not committed: its attempt runs, or "
                                                  "its agent died",
                                                  to_string(set.crid)));
  }
}

Result<ChosenSet> Coordinator::newest(Ledger& ledger, std::optional<JobStep> job) const {
  FERMATA_ASSIGN(const std::vector<LedgerSet> sets, ledger.sets(job));
  for (auto set = sets.rbegin(); set != sets.rend(); ++set) {
    const bool committed = set->state == SetState::kCommitted;
    if (!committed && set->state != SetState::kAttempt) continue;
    Result<Manifest> manifest = manifest_of(*set);
    if (manifest) {
      return ChosenSet{*std::move(manifest), storage::set_folder(dir_, set->job, set->crid)};
    }
    if (committed) return Failure(std::move(manifest).error());
  }
  FERMATA_ASSIGN(const LedgerSet set, ledger.latest_committed(job));  // says that there is none
  return failure(Code::kBusy,
                 fmt::format("set {} was committed just now; try again", to_string(set.crid)));
}

Result<ChosenSet> Coordinator::choose(std::optional<JobStep> job, std::optional<Crid> crid) const {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
  Result<Ledger> opened = Ledger::open(dir_);
  if (!opened) {
    return Failure(crid ? opened.error().within("checkpoint " + to_string(*crid)) : opened.error());
  }
  Ledger& ledger = *opened;
  if (!crid) return newest(ledger, job);
  FERMATA_ASSIGN(const LedgerSet set, ledger.find(*crid));
  if (job && set.job != *job) {
    return failure(Code::kUsage, fmt::format("set {} is of job {}, not of job {}", to_string(*crid),
                                             to_string(set.job), to_string(*job)));
  }
  Result<Manifest> manifest = manifest_of(set);
  if (!manifest) return Failure(std::move(manifest).error());
  return ChosenSet{*std::move(manifest), storage::set_folder(dir_, set.job, set.crid)};
}

std::string display_command(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) {
    if (!line.empty()) line += ' ';
    const bool plain =
        !word.empty() && word.find_first_of(" \t\n\"'\\$`|&;<>()*?[]#~!{}") == std::string::npos;
    if (plain) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) {
      if (c == '\'')
        line += "'\\''";
      else
        line += c;
    }
    line += '\'';
  }
  return line;
}

}  // namespace fermata::coord

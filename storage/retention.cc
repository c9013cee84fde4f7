#include "storage/retention.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <system_error>

#include "common/fault_point.h"
#include "common/file_util.h"
#include "storage/manifest.h"
#include "storage/removal.h"
#include "storage/set_lock.h"

namespace fermata::storage {
namespace {

namespace fs = std::filesystem;

using ByCrid = std::map<Crid, SetStanding>;

/// Adds the set and all it is built on. False: one of them is missing or not whole.
bool follow(const ByCrid& sets, Crid crid, std::set<Crid>& chain) {
  bool good = true;
  // A parent is older than its child; a manifest that says otherwise ends the chain.
  for (Crid at = crid; at.value != 0;) {
    const auto found = sets.find(at);
    if (found == sets.end()) return false;
    good = good && found->second.whole;
    chain.insert(at);
    if (found->second.parent >= at) return false;
    at = found->second.parent;
  }
  return good;
}

/// Fails where it cannot be told: what may not be looked at is not to be judged.
Result<SetStanding> standing_of(const fs::path& dir, const LedgerSet& set) {
  SetStanding standing{set.crid, set.parent, false};
  const fs::path folder = set_folder(dir, set.job, set.crid);
  const Result<Manifest> manifest = read_manifest(folder);
  if (!manifest) {
    const Code code = manifest.error().code();
    if (code == Code::kNotFound || code == Code::kDamaged || code == Code::kUnsupported) {
      return standing;
    }
    return Failure(manifest.error());
  }
  standing.parent = manifest->parent;
  standing.whole = true;
  for (const ManifestImage& image : manifest->images) {
    std::error_code error;
    const uintmax_t size = fs::file_size(folder / image.file, error);
    if (error && error != std::errc::no_such_file_or_directory) {
      return errno_failure(error.value(), (folder / image.file).native());
    }
    if (error || size < image.bytes) standing.whole = false;
  }
  return standing;
}

Status remove_files(const fs::path& folder) {
  std::error_code error;
  // Without a manifest it is no set any more, whatever else of it is left.
  if (fs::remove(folder / kManifestFile, error)) FERMATA_TRY(fsync_dir(folder));
  FAULT_POINT("retention.images");
  if (!error) remove_tree(folder, error);
  if (!error) return Status::ok();
  return errno_status(Code::kStorage, error.value(), "cannot remove set " + folder.native());
}

bool is_worked_on(const fs::path& folder) {
  const Result<UniqueFd> lock = lock_set(folder);
  return !lock && lock.error().code() == Code::kBusy;
}

}  // namespace

std::vector<Crid> sets_to_remove(std::span<const SetStanding> committed, uint32_t keep,
                                 std::span<const Crid> in_use) {
  if (keep == 0) return {};
  ByCrid sets;
  for (const SetStanding& set : committed) sets[set.crid] = set;
  std::set<Crid> kept;
  for (const Crid crid : in_use) follow(sets, crid, kept);
  uint32_t good = 0;
  for (auto set = sets.rbegin(); set != sets.rend() && good < keep; ++set) {
    std::set<Crid> chain;
    if (follow(sets, set->first, chain)) {
      ++good;
      kept.merge(chain);
    }
    kept.insert(set->first);
  }
  std::vector<Crid> removed;
  for (auto set = sets.rbegin(); good > 0 && set != sets.rend(); ++set) {
    if (kept.count(set->first) == 0) removed.push_back(set->first);
  }
  return removed;
}

Result<Pruned> prune(const fs::path& dir, JobStep job, uint32_t keep, bool dry_run) {
  FERMATA_ASSIGN(Ledger ledger, Ledger::open(dir));
  FERMATA_ASSIGN(const std::vector<LedgerSet> sets, ledger.sets(job));
  std::vector<SetStanding> standings;
  std::vector<Crid> in_use;
  std::map<Crid, LedgerSet> committed;
  for (const LedgerSet& set : sets) {
    if (set.state == SetState::kAttempt && set.parent.value != 0) in_use.push_back(set.parent);
    if (set.state == SetState::kCommitted) {
      committed[set.crid] = set;
      if (keep != 0) {
        FERMATA_ASSIGN(const SetStanding standing, standing_of(dir, set));
        standings.push_back(standing);
      }
    }
    // Of a removal that was cut short.
    const fs::path folder = set_folder(dir, set.job, set.crid);
    std::error_code error;
    if (set.state == SetState::kDeleted && !dry_run && fs::exists(folder, error)) {
      FERMATA_TRY_RESULT(remove_files(folder));
    }
  }
  const auto folder_of = [&](Crid crid) { return set_folder(dir, committed[crid].job, crid); };
  // One that compact is at stays for this time, with what it reads for that.
  for (const Crid crid : sets_to_remove(standings, keep, in_use)) {
    if (is_worked_on(folder_of(crid))) in_use.push_back(crid);
  }
  Pruned pruned;
  for (const Crid crid : sets_to_remove(standings, keep, in_use)) {
    const LedgerSet& set = committed[crid];
    if (!dry_run) {
      const Result<UniqueFd> lock = lock_set(folder_of(crid));
      // Begun since: older ones may be what it is built on.
      if (!lock && lock.error().code() == Code::kBusy) break;
      FERMATA_TRY_RESULT(ledger.mark_deleted(crid));
      FAULT_POINT("retention.manifest");
      FERMATA_TRY_RESULT(remove_files(folder_of(crid)));
    }
    pruned.bytes += set.bytes;
    pruned.removed.push_back(set);
    committed.erase(crid);
  }
  for (const auto& [crid, set] : committed) pruned.kept.push_back(set);
  return pruned;
}

}  // namespace fermata::storage

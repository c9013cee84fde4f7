// Which sets of a job are kept, and the removal of the others: the newest so many good ones, and
// every set that a kept one is built on. Acts as the calling thread: hold the FsCredentialScope of
// the folder's owner. Any thread; several may prune one folder at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "storage/ledger.h"

namespace fermata::storage {

/// Sets of each job that are kept unless told otherwise.
inline constexpr uint32_t kKeptSets = 2;

/// A committed set, as far as retention looks at it.
struct SetStanding {
  Crid crid;
  Crid parent;
  /// Its manifest can be read, and its images are there and not shorter than written. What is in
  /// them is not read.
  bool whole = true;
};

/// What may be removed of the committed sets of one job, newest first, so that at no moment a set
/// is without one it is built on. `keep` of the newest good sets stay (0: all sets stay); good is a
/// set that is whole, and all it is built on. Of sets that are not good, those newer than the
/// oldest that is kept stay. Where there is no good set, all stay. `in_use` stay, with all they are
/// built on.
std::vector<Crid> sets_to_remove(std::span<const SetStanding> committed, uint32_t keep,
                                 std::span<const Crid> in_use);

struct Pruned {
  std::vector<LedgerSet> removed;  ///< newest first; of a dry run: what would be
  std::vector<LedgerSet> kept;     ///< committed ones, oldest first
  uint64_t bytes = 0;              ///< of the removed
};

/// Removes the sets of a job that need not be kept, and what a removal that was cut short has left.
/// What attempts under way are built on stays, and for this time a set that somebody works on
/// (lock_set), with what that is built on. A set is marked as deleted in the ledger first, then
/// its manifest goes, then its images: a crash in between leaves nothing that could be restored by
/// half. kNotFound: there is no ledger; kPermission, kStorage: a set cannot be looked at, and
/// nothing was removed.
Result<Pruned> prune(const std::filesystem::path& dir, JobStep job, uint32_t keep, bool dry_run);

}  // namespace fermata::storage

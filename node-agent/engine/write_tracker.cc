#include "node-agent/engine/write_tracker.h"

#include <fmt/format.h>

#include "node-agent/engine/soft_dirty_tracker.h"
#include "node-agent/engine/uffd_tracker.h"

namespace fermata::engine {

std::string_view track_name(TrackKind kind) {
  switch (kind) {
    case TrackKind::kNone:
      return "none";
    case TrackKind::kUffd:
      return "uffd";
    case TrackKind::kSoftDirty:
      return "soft-dirty";
    case TrackKind::kHash:
      return "hash";
  }
  return "?";
}

Result<TrackKind> parse_track(std::string_view text) {
  if (text == "none") return TrackKind::kNone;
  if (text == "hash") return TrackKind::kHash;
  const bool any = text.empty() || text == "auto";
  if (any || text == "uffd") {
    const Status usable = uffd_is_usable();
    if (usable) return TrackKind::kUffd;
    if (!any) return Failure(usable);
  }
  if (any || text == "soft-dirty") {
    const Status usable = soft_dirty_is_usable();
    if (usable) return TrackKind::kSoftDirty;
    if (!any) return Failure(usable);
    return TrackKind::kHash;
  }
  return failure(Code::kUsage, fmt::format("\"{}\" is no way to track writes: auto, uffd, "
                                           "soft-dirty, hash or none is expected",
                                           text));
}

Result<std::unique_ptr<WriteTracker>> WriteTracker::start(TrackKind kind, bool spare_huge_pages,
                                                          Remote& remote) {
  if (kind == TrackKind::kUffd) return start_uffd(spare_huge_pages, remote);
  if (kind == TrackKind::kSoftDirty) return start_soft_dirty(remote.pid());
  return failure(Code::kInternal, fmt::format("{} has no tracker", track_name(kind)));
}

Result<WriteTracker::Written> WriteTracker::take(const OwnMap& /*map*/) {
  return failure(Code::kUnsupported, "writes since the last look cannot be told while a job runs");
}

}  // namespace fermata::engine

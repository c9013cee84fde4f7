#include "coord/restart.h"

#include <fmt/format.h>
#include <netinet/in.h>

#include <map>

#include "common/socket_address.h"
#include "coord/connections.h"
#include "coord/job.h"
#include "coord/launch.h"
#include "coord/orders.h"
#include "coord/placement.h"
#include "coord/wire.h"

namespace fermata::coord {
namespace {

constexpr size_t kLongestHostName = 64;

/// An order to every pod; `fill` makes it what it is.
template <typename Fill>
Errands to_all(Fleet& fleet, const stored::Job& record, Duration timeout,
               const std::stop_token& give_up, Fill fill) {
  std::vector<Errand> errands;
  for (int i = 0; i < record.pods_size(); ++i) {
    Errand errand{record.pods(i).node(), {}};
    *errand.order.mutable_pod() = to_wire(pod_of(record, static_cast<uint32_t>(i)));
    fill(errand.order, static_cast<size_t>(i));
    errands.push_back(std::move(errand));
  }
  return run_errands(fleet, std::move(errands), timeout, Until::kFirstFailure, give_up);
}

Failure no_step(const storage::Manifest& manifest, std::string_view what) {
  return failure(Code::kDamaged, fmt::format("the manifest of set {}: {}; it cannot be restarted",
                                             to_string(manifest.crid), what));
}

}  // namespace

Result<stored::Job> record_of(const storage::Manifest& manifest, const stored::Job* known) {
  stored::Job record;
  if (known != nullptr) record = *known;
  record.set_job(manifest.job.job);
  record.set_step(manifest.job.step);
  record.set_state(stored::Job::STARTING);
  record.clear_pods();
  record.clear_pod_of_rank();
  record.clear_command();
  record.clear_exit_status();
  record.clear_sentence();
  record.clear_ended();
  record.clear_ending();
  record.clear_killed();
  std::vector<const storage::ManifestImage*> images(manifest.images.size(), nullptr);
  for (const storage::ManifestImage& image : manifest.images) {
    if (image.pod >= images.size()) return no_step(manifest, "a pod is missing");
    images[image.pod] = &image;
  }
  for (const storage::ManifestImage* image : images) {
    stored::Pod& pod = *record.add_pods();
    pod.set_known_as(image->known_as.empty() ? image->host : image->known_as);
    if (pod.known_as().empty() || pod.known_as().size() > kLongestHostName) {
      return no_step(manifest, "the name of a host is too long, or missing");
    }
  }
  if (manifest.ranks > kMostRanks) return no_step(manifest, "it has more ranks than can be run");
  if (manifest.pod_of_rank.empty()) {
    if (images.size() != 1) return no_step(manifest, "it does not say which rank is in which pod");
    for (uint32_t rank = 0; rank < manifest.ranks; ++rank) record.add_pod_of_rank(0);
  }
  for (const uint32_t pod : manifest.pod_of_rank) record.add_pod_of_rank(pod);
  for (const std::string& word : manifest.command) record.add_command(word);
  FERMATA_ASSIGN(const ExternalTcp policy, parse_external_tcp(manifest.external_tcp));
  record.set_external_tcp(std::string(external_tcp_name(policy)));
  record.set_last_crid(manifest.crid.value);
  return record;
}

Result<image::AddressMap> join_addresses(const std::vector<image::AddressMap>& maps) {
  std::map<std::pair<uint32_t, std::string>, std::string> known;
  image::AddressMap joined;
  for (const image::AddressMap& map : maps) {
    for (const image::AddressEntry& entry : map.entries()) {
      const std::optional<Endpoint> from = endpoint_of(entry.from());
      // The pod whose it is knows it, and it is no other's.
      if (!from || from->is_of_its_node_only()) continue;
      const auto [at, added] = known.try_emplace({entry.protocol(), entry.from()}, entry.to());
      if (added) {
        *joined.add_entries() = entry;
      } else if (at->second != entry.to() && entry.protocol() == IPPROTO_TCP && from->port != 0) {
        return failure(Code::kConflict,
                       fmt::format("address {} would be {} and {}: the set cannot be connected",
                                   display_address(entry.from()), display_address(at->second),
                                   display_address(entry.to())));
      }
    }
  }
  return joined;
}

Result<std::vector<std::string>> restart(Fleet& fleet, const stored::Job& record,
                                         const ChosenSet& set, const RestartHow& how,
                                         const RestartDeadlines& deadlines,
                                         const std::stop_token& give_up) {
  std::vector<const storage::ManifestImage*> images(set.manifest.images.size());
  for (const storage::ManifestImage& image : set.manifest.images) images[image.pod] = &image;

  const Errands restored =
      to_all(fleet, record, deadlines.restore, give_up, [&](wire::Order& order, size_t pod) {
        wire::RestoreOrder& what = *order.mutable_restore();
        what.set_owner_uid(record.owner_uid());
        what.set_crid(set.manifest.crid.value);
        *what.mutable_saved() = to_wire(PodId{set.manifest.job, static_cast<uint32_t>(pod), 0});
        what.set_image((set.folder / images[pod]->file).string());
        what.set_digest(images[pod]->digest);
        *what.mutable_shape() = shape_of(record);
        *what.mutable_streams() = streams_of(record);
        what.set_reset_outside(record.external_tcp() == "reset");
        what.set_checkpoint_dir(record.checkpoint_dir());
        what.set_numa(how.numa);
        what.set_lazy(how.lazy);
        what.set_stubs(record.slurm());
      });
  if (!restored.all_done()) return Failure(restored.first_failure);

  std::vector<image::AddressMap> maps;
  std::vector<std::string> notes;
  for (size_t i = 0; i < restored.done.size(); ++i) {
    maps.push_back(restored.done[i]->addresses());
    for (const std::string& note : restored.done[i]->notes()) {
      notes.push_back(fmt::format("{}: {}", record.pods(static_cast<int>(i)).node(), note));
    }
  }
  FERMATA_ASSIGN(const image::AddressMap addresses, join_addresses(maps));
  const Errands connected =
      to_all(fleet, record, deadlines.connect, give_up, [&](wire::Order& order, size_t) {
        *order.mutable_connect()->mutable_addresses() = addresses;
      });
  if (!connected.all_done()) return Failure(connected.first_failure.within("connect"));
  const Errands gone = to_all(fleet, record, deadlines.go, give_up,
                              [](wire::Order& order, size_t) { order.mutable_go(); });
  if (!gone.all_done()) return Failure(gone.first_failure.within("go"));
  return notes;
}

}  // namespace fermata::coord

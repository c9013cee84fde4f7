#include "node-agent/isolation/isolation.h"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "common/file_util.h"
#include "node-agent/isolation/address_table.h"
#include "node-agent/isolation/programs.h"

namespace fermata::isolation {
namespace {

namespace fs = std::filesystem;

// Of /proc/<pid>/ns/time: include/linux/proc_ns.h, since 5.6.
constexpr ino_t kFirstTimeNamespace = 0xEFFFFFFA;

/// What bpf_ktime_get_ns() says.
uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

/// The control map in our memory.
class ControlPage {
 public:
  static Result<ControlPage> map(int fd) {
    void* page = mmap(nullptr, length(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) return errno_failure(errno, "mapping the control map of an isolation");
    return ControlPage(static_cast<IsolationControl*>(page));
  }
  ControlPage(ControlPage&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
  ControlPage(const ControlPage&) = delete;
  ControlPage& operator=(const ControlPage&) = delete;
  ControlPage& operator=(ControlPage&&) = delete;
  ~ControlPage() {
    if (page_ != nullptr) munmap(page_, length());
  }

  auto until() const { return std::atomic_ref(page_->until); }
  auto since() const { return std::atomic_ref(page_->since); }
  auto generation() const { return std::atomic_ref(page_->generation); }
  auto shared() const { return std::atomic_ref(page_->shared); }
  auto hears() const { return std::atomic_ref(page_->hears); }

 private:
  explicit ControlPage(IsolationControl* page) : page_(page) {}
  static size_t length() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

  IsolationControl* page_;
};

/// Each entry once, also while programs put some in or take some out.
Result<std::vector<TableEntry>> read_table(int map) {
  constexpr uint32_t kAtOnce = 4096;
  std::vector<AddressKey> keys(kAtOnce);
  std::vector<AddressValue> values(kAtOnce);
  std::vector<TableEntry> entries;
  uint32_t place = 0;
  for (uint32_t* from = nullptr;; from = &place) {
    uint32_t count = kAtOnce;
    const int result =
        bpf_map_lookup_batch(map, from, &place, keys.data(), values.data(), &count, nullptr);
    const bool last = result != 0 && errno == ENOENT;
    if (result != 0 && !last) return errno_failure(errno, "reading the address table of a pod");
    for (uint32_t i = 0; i < count; ++i) entries.push_back({keys[i], values[i]});
    if (last) return entries;
  }
}

/// Empties the table but for one generation.
Status keep_generation(int map, uint32_t generation) {
  FERMATA_ASSIGN_STATUS(const std::vector<TableEntry> entries, read_table(map));
  for (const TableEntry& entry : entries) {
    if (entry.key.generation == generation) continue;
    if (bpf_map_delete_elem(map, &entry.key) != 0 && errno != ENOENT) {
      return errno_status(errno, "emptying the address table of a pod");
    }
  }
  return Status::ok();
}

Status put_entries(int map, const std::vector<TableEntry>& entries) {
  std::vector<AddressKey> keys;
  std::vector<AddressValue> values;
  keys.reserve(entries.size());
  values.reserve(entries.size());
  for (const TableEntry& entry : entries) {
    keys.push_back(entry.key);
    values.push_back(entry.value);
  }
  auto count = static_cast<uint32_t>(entries.size());
  if (count == 0 || bpf_map_update_batch(map, keys.data(), values.data(), &count, nullptr) == 0) {
    return Status::ok();
  }
  if (errno != E2BIG) return errno_status(errno, "filling the address table of a pod");
  return errno_status(
      Code::kUnsupported, E2BIG,
      fmt::format("the address table of a pod: {} entries do not fit", entries.size()));
}

Status must_be_empty(const fs::path& group) {
  FERMATA_ASSIGN_STATUS(const std::string processes, read_file(group / "cgroup.procs"));
  if (processes.empty()) return Status::ok();
  return {Code::kConflict,
          fmt::format("{}: process {} is in the group already; its sockets would not be isolated",
                      group.native(), processes.substr(0, processes.find('\n')))};
}

Status must_see_kernel_clock() {
  struct stat ours {};
  if (stat("/proc/self/ns/time", &ours) != 0) {
    if (errno == ENOENT) return Status::ok();  // a kernel without time namespaces
    return errno_status(errno, "/proc/self/ns/time");
  }
  if (ours.st_ino == kFirstTimeNamespace) return Status::ok();
  return {Code::kUnsupported,
          "isolating pods: this process is in a time namespace, where its clock is not the "
          "kernel's; run the agent outside of it"};
}

}  // namespace

struct Isolation::State {
  State(Maps m, ControlPage c) : maps(std::move(m)), control(std::move(c)) {}

  Maps maps;
  ControlPage control;
  uint64_t cut_since = 0;  ///< of the cut that cut() began or took over; 0: none
};

Isolation::Isolation(std::unique_ptr<State> state) : state_(std::move(state)) {}
Isolation::Isolation(Isolation&&) noexcept = default;
Isolation& Isolation::operator=(Isolation&&) noexcept = default;
Isolation::~Isolation() = default;

Result<Isolation> Isolation::install(const fs::path& group) {
  FERMATA_TRY_RESULT(must_see_kernel_clock());
  FERMATA_TRY_RESULT(must_be_empty(group));
  FERMATA_ASSIGN(Maps maps, attach_programs(group));
  FERMATA_ASSIGN(ControlPage control, ControlPage::map(maps.control.get()));
  return Isolation(std::make_unique<State>(std::move(maps), std::move(control)));
}

Result<Isolation> Isolation::find(const fs::path& group) {
  FERMATA_TRY_RESULT(must_see_kernel_clock());
  FERMATA_ASSIGN(Maps maps, find_programs(group));
  FERMATA_ASSIGN(ControlPage control, ControlPage::map(maps.control.get()));
  auto state = std::make_unique<State>(std::move(maps), std::move(control));
  if (now_ns() < state->control.until().load()) state->cut_since = state->control.since().load();
  return Isolation(std::move(state));
}

void Isolation::cut(std::chrono::nanoseconds at_most) {
  const ControlPage& control = state_->control;
  const uint64_t before = control.until().load();
  const uint64_t now = now_ns();
  const uint64_t end = now + static_cast<uint64_t>(std::max<int64_t>(at_most.count(), 0));
  control.until().store(end);
  // Prolonged without a gap when the old end had not come by the time the new one stood.
  if (before != 0 && now_ns() < before) {
    if (state_->cut_since == 0) state_->cut_since = control.since().load();
    return;
  }
  control.since().store(now);
  if (state_->cut_since == 0) state_->cut_since = now;
}

void Isolation::hear(bool others) { state_->control.hears().store(others ? 1 : 0); }

bool Isolation::still_cut() const {
  const ControlPage& control = state_->control;
  return state_->cut_since != 0 && control.since().load() == state_->cut_since &&
         now_ns() < control.until().load();
}

void Isolation::join() {
  state_->control.until().store(0);
  state_->control.hears().store(0);
  state_->cut_since = 0;
}

Status Isolation::set_addresses(const image::AddressMap& addresses) {
  const int map = state_->maps.table.get();
  const ControlPage& control = state_->control;
  const uint32_t current = control.generation().load();
  const uint32_t next = current + 1 == 0 ? 1 : current + 1;
  FERMATA_ASSIGN_STATUS(const AddressTable table, build_table(addresses, next));
  // What an agent that died in here left.
  FERMATA_TRY(keep_generation(map, current));
  if (Status put = put_entries(map, table.entries); !put) {
    FERMATA_TRY(keep_generation(map, current));
    return put;
  }
  control.shared().store(table.shared ? 1 : 0);
  control.generation().store(next);
  return keep_generation(map, next);
}

Result<image::AddressMap> Isolation::addresses() const {
  FERMATA_ASSIGN(std::vector<TableEntry> entries, read_table(state_->maps.table.get()));
  const uint32_t current = state_->control.generation().load();
  std::erase_if(entries, [&](const TableEntry& entry) { return entry.key.generation != current; });
  return given_addresses(std::move(entries));
}

Status supported() {
  FERMATA_TRY(must_see_kernel_clock());
  return try_programs();
}

}  // namespace fermata::isolation

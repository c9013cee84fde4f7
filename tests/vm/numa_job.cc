// A job whose ranks bind themselves and fill memory in every way that placement knows, and that
// tells by move_pages(2) where its pages are:
//
//   numa_job FOLDER
//
// One process a NUMA node. Each writes FOLDER/before.<rank>, makes FOLDER/ready.<rank>, waits for
// FOLDER/go, and writes FOLDER/after.<rank>. A report is JSON: CPUs of its two threads, and for
// each area policy and nodes of its pages.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "numa/affinity.h"
#include "numa/topology.h"

namespace {

using fermata::numa::Numbers;

constexpr size_t kPage = 4096;
constexpr size_t kArea = size_t{4} << 20;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::_Exit(1);
}

struct Area {
  const char* name;
  char* start;
  size_t length;
};

char* map(size_t length, int flags) {
  void* start = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) fail("mmap");
  return static_cast<char*>(start);
}

void set_policy(const Area& area, int mode, const Numbers& nodes) {
  std::array<unsigned long, 16> mask{};
  for (const int node : nodes) mask[static_cast<size_t>(node) / 64] |= 1UL << (node % 64);
  if (::syscall(SYS_mbind, area.start, area.length, mode, nodes.empty() ? nullptr : mask.data(),
                nodes.empty() ? 0 : mask.size() * 64, 0) != 0) {
    fail("mbind");
  }
}

void fill(const Area& area, int value) { std::memset(area.start, value, area.length); }

std::string report_of(const Area& area) {
  std::vector<void*> pages;
  for (size_t at = 0; at < area.length; at += kPage) pages.push_back(area.start + at);
  std::vector<int> nodes(pages.size(), -1);
  if (::syscall(SYS_move_pages, 0, pages.size(), pages.data(), nullptr, nodes.data(), 0) != 0) {
    fail("move_pages");
  }
  int mode = -1;
  std::array<unsigned long, 16> mask{};
  if (::syscall(SYS_get_mempolicy, &mode, mask.data(), mask.size() * 64, area.start, MPOL_F_ADDR) !=
      0) {
    fail("get_mempolicy");
  }
  return fmt::format(R"("{}": {{"policy": {}, "policy_nodes": {}, "pages": [{}]}})", area.name,
                     mode, mask[0], fmt::join(nodes, ","));
}

class Rank {
 public:
  Rank(std::string folder, size_t rank, const fermata::numa::Machine& machine)
      : folder_(std::move(folder)), rank_(rank), nodes_(machine.node_numbers()) {
    cpus_ = machine.nodes.at(rank).cpus;
  }

  int run(char* shared) {
    const int own = nodes_.at(rank_);
    const int next = nodes_.at((rank_ + 1) % nodes_.size());
    if (!fermata::numa::apply_affinity(0, {cpus_.front()})) fail("sched_setaffinity");
    std::thread second([this] { wait_as_second(); });
    while (second_tid_.load() == 0) ::usleep(1000);

    // Touched first by who is bound here; bound; spread; on another node than its reader's.
    areas_.push_back({"first_touch", map(kArea, MAP_PRIVATE), kArea});
    areas_.push_back({"bound", map(kArea, MAP_PRIVATE), kArea});
    set_policy(areas_.back(), MPOL_BIND, {own});
    areas_.push_back({"interleaved", map(kArea, MAP_PRIVATE), kArea});
    set_policy(areas_.back(), MPOL_INTERLEAVE, nodes_);
    // Page by page: two huge pages would be on two nodes.
    if (::madvise(areas_.back().start, kArea, MADV_NOHUGEPAGE) != 0) fail("madvise");
    areas_.push_back({"far", map(kArea, MAP_PRIVATE), kArea});
    set_policy(areas_.back(), MPOL_BIND, {next});
    const size_t part = kArea / nodes_.size() / kPage * kPage;
    areas_.push_back({"shared", shared + rank_ * part, part});
    for (const Area& area : areas_) fill(area, static_cast<int>(rank_) + 1);
    set_policy(areas_[3], MPOL_DEFAULT, {});

    report("before");
    touch(fmt::format("ready.{}", rank_));
    while (::access((folder_ + "/go").c_str(), F_OK) != 0) ::usleep(20'000);
    for (const Area& area : areas_) {
      for (size_t at = 0; at < area.length; ++at) {
        if (area.start[at] != static_cast<char>(rank_ + 1)) fail("memory is not what it was");
      }
    }
    report("after");
    stop_ = true;
    second.join();
    return 0;
  }

 private:
  void wait_as_second() {
    if (!fermata::numa::apply_affinity(0, {cpus_.back()})) fail("sched_setaffinity");
    second_tid_ = ::gettid();
    while (!stop_) ::usleep(20'000);
  }

  void touch(const std::string& name) const { std::ofstream(folder_ + "/" + name) << "x\n"; }

  void report(const std::string& when) const {
    const auto leader = fermata::numa::affinity_of(0);
    const auto second = fermata::numa::affinity_of(second_tid_);
    if (!leader || !second) fail("sched_getaffinity");
    std::string text = fmt::format(R"({{"cpus": [{}, {}])", *leader, *second);
    for (const Area& area : areas_) text += ",\n" + report_of(area);
    const std::string file = fmt::format("{}/{}.{}", folder_, when, rank_);
    std::ofstream(file + ".part") << text << "}\n";
    if (::rename((file + ".part").c_str(), file.c_str()) != 0) fail(file.c_str());
  }

  std::string folder_;
  size_t rank_;
  Numbers nodes_;
  Numbers cpus_;
  std::vector<Area> areas_;
  std::atomic<pid_t> second_tid_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("numa_job FOLDER\n", stderr);
    return 2;
  }
  const auto topology = fermata::numa::current_topology();
  if (!topology) {
    std::fprintf(stderr, "%s\n", topology.error().message().c_str());
    return 1;
  }
  char* shared = map(kArea, MAP_SHARED);
  const size_t ranks = topology->machine.nodes.size();
  for (size_t rank = 1; rank < ranks; ++rank) {
    const pid_t child = ::fork();
    if (child < 0) fail("fork");
    if (child == 0) return Rank(argv[1], rank, topology->machine).run(shared);
  }
  int result = Rank(argv[1], 0, topology->machine).run(shared);
  for (size_t rank = 1; rank < ranks; ++rank) {
    int status = 0;
    if (::wait(&status) < 0 || status != 0) result = 1;
  }
  return result;
}

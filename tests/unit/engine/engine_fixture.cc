#include "tests/unit/engine/engine_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

namespace fermata::engine {
namespace {

/// A copy of a region's bytes.
class CopiedSource : public MemorySource {
 public:
  static Result<std::shared_ptr<const MemorySource>> copy(const MemoryRegion& region) {
    auto copied = std::make_shared<CopiedSource>();
    copied->extents_ = region.extents;
    for (const Extent& extent : region.extents) {
      std::vector<std::byte> bytes(extent.length);
      FERMATA_TRY_RESULT(region.source->read(extent.address, bytes));
      copied->bytes_.push_back(std::move(bytes));
    }
    return std::shared_ptr<const MemorySource>(copied);
  }

  Status read(uint64_t address, std::span<std::byte> out) const override {
    for (size_t i = 0; i < extents_.size(); ++i) {
      const Extent& extent = extents_[i];
      if (address < extent.address || address >= extent.address + extent.length) continue;
      std::memcpy(out.data(), bytes_[i].data() + (address - extent.address), out.size());
      return Status::ok();
    }
    return {Code::kInternal, "read outside of what was kept"};
  }

 private:
  std::vector<Extent> extents_;
  std::vector<std::vector<std::byte>> bytes_;
};

int next_job() {
  static int job = 0;
  return ++job;
}

}  // namespace

void EngineTest::SetUp() {
  std::string pattern = (std::filesystem::temp_directory_path() / "fermata-engine-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  folder_ = pattern;
}

void EngineTest::TearDown() {
  if (pod_) {
    EXPECT_TRUE(pod_->destroy());
  }
  std::filesystem::remove_all(folder_);
}

void EngineTest::start(const std::string& script) {
  pod::PodSpec spec;
  spec.job = {static_cast<uint64_t>(900'000'000 + ::getpid()), static_cast<uint32_t>(next_job())};
  const Result<Credentials> caller = credentials_of_caller();
  ASSERT_TRUE(caller);
  spec.user = *caller;
  spec.command = {"sh", "-c", script};
  spec.environment = {"PATH=/usr/bin:/bin", "DIR=" + folder_.string()};
  spec.working_directory = folder_.string();
  Result<pod::Pod> pod = pod::Pod::launch(spec);
  ASSERT_TRUE(pod) << pod.error().message();
  pod_.emplace(*std::move(pod));
}

Result<KeptPod> EngineTest::hold(bool kill) {
  FERMATA_ASSIGN(std::unique_ptr<FrozenPod> frozen,
                 FrozenPod::freeze(pod_->group(), pod_->init_pid(), 5000));
  KeptPod kept;
  FERMATA_ASSIGN(kept.objects, frozen->capture());
  for (const MemoryRegion& region : frozen->memory()) {
    MemoryRegion copy{region.id, region.extents, nullptr};
    FERMATA_ASSIGN(copy.source, CopiedSource::copy(region));
    kept.memory.push_back(std::move(copy));
  }
  if (kill) {
    FERMATA_TRY_RESULT(frozen->kill());
    frozen.reset();
    FERMATA_TRY_RESULT(pod_->destroy());
    pod_.reset();
  } else {
    FERMATA_TRY_RESULT(frozen->resume());
  }
  return kept;
}

Status EngineTest::restart(const KeptPod& kept) {
  pod::PodClocks clocks;
  clocks.monotonic = {kept.objects.pod().monotonic().sec(), kept.objects.pod().monotonic().nsec()};
  clocks.boottime = {kept.objects.pod().boottime().sec(), kept.objects.pod().boottime().nsec()};
  const JobStep job{static_cast<uint64_t>(900'000'000 + ::getpid()),
                    static_cast<uint32_t>(next_job())};
  Result<pod::Pod> shell = pod::Pod::make_shell(job, kept.objects.pod().host_name(), "", clocks);
  if (!shell) return shell.error();
  pod_.emplace(*std::move(shell));
  RebuildRequest request;
  request.objects = &kept.objects;
  request.memory = &kept.memory;
  request.init = pod_->init_pid();
  FERMATA_ASSIGN_STATUS(request.owner, credentials_of_caller());
  request.stdio = {0, 1, 2};
  FERMATA_ASSIGN_STATUS(std::unique_ptr<RebuiltPod> rebuilt, rebuild(request));
  return rebuilt->run();
}

int EngineTest::wait_end() {
  pollfd waited{pod_->init_pidfd(), POLLIN, 0};
  if (::poll(&waited, 1, 20'000) != 1) return -1;
  const std::optional<int> status = pod_->reap();
  if (!status) return -2;
  return WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
}

void EngineTest::wait_for_file(const std::string& name) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(15);
  while (!std::filesystem::exists(folder_ / name)) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << name << " did not come";
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

std::string EngineTest::contents(const std::string& name) const {
  std::ifstream file(folder_ / name);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void EngineTest::write(const std::string& name, const std::string& text) const {
  std::ofstream(folder_ / name) << text;
}

}  // namespace fermata::engine

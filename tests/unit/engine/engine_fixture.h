// A pod that a test starts, holds, ends and rebuilds in memory, with nothing but engine and pod.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/engine/capture.h"
#include "node-agent/engine/rebuild.h"
#include "node-agent/pod/pod.h"

namespace fermata::engine {

/// What a set would hold, copied into our own memory.
struct KeptPod {
  image::PodObjects objects;
  std::vector<MemoryRegion> memory;
};

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// Starts `script` with sh as the pod's only rank; its folder is folder().
  void start(const std::string& script);
  /// Freezes, captures, copies; then resumes or kills.
  Result<KeptPod> hold(bool kill);
  /// Rebuilds in fresh namespaces and lets it run.
  Status restart(const KeptPod& kept);
  /// Waits for the pod's end; its exit status.
  int wait_end();
  void wait_for_file(const std::string& name);
  std::string contents(const std::string& name) const;
  void write(const std::string& name, const std::string& text) const;
  const std::filesystem::path& folder() const { return folder_; }
  pod::Pod& the_pod() { return *pod_; }

 private:
  std::filesystem::path folder_;
  std::optional<pod::Pod> pod_;
};

}  // namespace fermata::engine

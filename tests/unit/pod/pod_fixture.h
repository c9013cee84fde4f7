// Starts real pods and brings back what they printed. Needs root. Each pod has a job number of its
// own, and is destroyed when a test ends, however it ends.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "node-agent/pod/pod.h"

namespace fermata::pod {

/// A running pod and the read ends of its streams.
struct RunningPod {
  Pod pod;
  UniqueFd out;
  UniqueFd err;
};

struct Finished {
  int status = -1;  ///< as a shell has it
  std::string out;
  std::string err;
};

class PodFixture : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// `command` on one rank as root, in the current folder, with this process's environment.
  PodSpec spec_of(std::vector<std::string> command);
  /// `script` by sh.
  PodSpec script(const std::string& text) { return spec_of({"/bin/sh", "-c", text}); }
  /// The same as an ordinary user: nobody. Programs and podinit are copied to where nobody can read
  /// them.
  PodSpec as_nobody(PodSpec spec);
  /// Path of a program of the build, readable by everybody.
  std::string program(const std::string& name);

  RunningPod start(PodSpec spec, const std::string& input = {});
  /// Reads the streams to their end, waits for the pod and destroys it.
  Finished finish(RunningPod running);
  Finished run(PodSpec spec, const std::string& input = {});

  static JobStep next_job();
  static std::filesystem::path bin_folder();

 private:
  std::vector<std::filesystem::path> groups_;
  std::filesystem::path shared_;  ///< copies for as_nobody()
};

/// Reads until `text` has been seen, or the stream ends.
std::string read_until(int fd, const std::string& text);
/// Waits until `condition` holds, at most 10 s.
bool eventually(const std::function<bool()>& condition);
std::string read_file(const std::filesystem::path& path);

}  // namespace fermata::pod

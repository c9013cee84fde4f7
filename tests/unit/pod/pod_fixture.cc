#include "pod_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "node-agent/pod/cgroup.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Pipe make_pipe() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Both streams at once, so that neither fills up while the other is read.
void drain(int out, int err, Finished& finished) {
  std::array<pollfd, 2> sources{{{out, POLLIN, 0}, {err, POLLIN, 0}}};
  std::array<std::string*, 2> texts{&finished.out, &finished.err};
  while (sources[0].fd >= 0 || sources[1].fd >= 0) {
    poll(sources.data(), sources.size(), -1);
    for (size_t i = 0; i < sources.size(); ++i) {
      if (sources[i].revents == 0) continue;
      std::array<char, 4096> buffer;
      const ssize_t got = read(sources[i].fd, buffer.data(), buffer.size());
      if (got > 0) {
        texts[i]->append(buffer.data(), static_cast<size_t>(got));
      } else {
        sources[i].fd = -1;
      }
    }
  }
}

}  // namespace

void PodFixture::SetUp() {
  ASSERT_EQ(geteuid(), 0U) << "these tests make namespaces and need root";
  ASSERT_EQ(missing_capabilities(), "");
}

void PodFixture::TearDown() {
  unsetenv("FERMATA_PODINIT");
  // What a failed test left running.
  for (const fs::path& group : groups_) {
    if (!fs::exists(group)) continue;
    EXPECT_TRUE(kill_group(group));
    while (waitpid(-1, nullptr, WNOHANG) > 0 || !remove_group(group, 100)) {
    }
  }
  if (!shared_.empty()) fs::remove_all(shared_);
}

JobStep PodFixture::next_job() {
  static uint32_t step = 0;
  return {4'000'000'000 + static_cast<uint64_t>(getpid()), step++};
}

fs::path PodFixture::bin_folder() { return fs::read_symlink("/proc/self/exe").parent_path(); }

PodSpec PodFixture::spec_of(std::vector<std::string> command) {
  PodSpec spec;
  spec.job = next_job();
  spec.user = *credentials_of("root");
  spec.command = std::move(command);
  for (char** entry = environ; *entry != nullptr; ++entry) spec.environment.emplace_back(*entry);
  spec.working_directory = "/";
  spec.stdio = {-1, -1, -1};
  return spec;
}

std::string PodFixture::program(const std::string& name) {
  if (shared_.empty()) {
    std::string text = "/tmp/fermata-pod-test.XXXXXX";
    EXPECT_NE(mkdtemp(text.data()), nullptr);
    shared_ = text;
    EXPECT_EQ(chmod(text.c_str(), 0755), 0);
  }
  const fs::path copy = shared_ / fs::path(name).filename();
  if (!fs::exists(copy)) fs::copy_file(bin_folder() / name, copy);
  return copy.native();
}

PodSpec PodFixture::as_nobody(PodSpec spec) {
  spec.user = *credentials_of("nobody");
  setenv("FERMATA_PODINIT", program("fermata-podinit").c_str(), 1);
  return spec;
}

RunningPod PodFixture::start(PodSpec spec, const std::string& input) {
  Pipe in = make_pipe();
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  spec.stdio = {in.read.get(), out.write.get(), err.write.get()};
  EXPECT_EQ(write(in.write.get(), input.data(), input.size()), static_cast<ssize_t>(input.size()));
  in.write.reset();
  Result<Pod> pod = Pod::launch(spec);
  if (!pod) throw std::runtime_error(pod.error().message());
  groups_.push_back(pod->group());
  return {*std::move(pod), std::move(out.read), std::move(err.read)};
}

Finished PodFixture::finish(RunningPod running) {
  Finished finished;
  drain(running.out.get(), running.err.get(), finished);
  pollfd ended{running.pod.init_pidfd(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 30'000), 1) << "the pod does not end";
  const std::optional<int> status = running.pod.reap();
  EXPECT_TRUE(status.has_value());
  if (status) {
    finished.status = WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
  }
  const fs::path group = running.pod.group();
  const Status destroyed = running.pod.destroy();
  EXPECT_TRUE(destroyed) << destroyed.message();
  EXPECT_FALSE(fs::exists(group));
  return finished;
}

Finished PodFixture::run(PodSpec spec, const std::string& input) {
  return finish(start(std::move(spec), input));
}

std::string read_until(int fd, const std::string& text) {
  std::string seen;
  while (seen.find(text) == std::string::npos) {
    char byte = 0;
    if (read(fd, &byte, 1) != 1) break;
    seen.push_back(byte);
  }
  return seen;
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace fermata::pod

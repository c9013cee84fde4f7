// What the command says to bad input: one sentence on stderr, and the exit status of its kind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "storage/ledger.h"
#include "storage/manifest.h"
#include "tests/support/scratch_folder.h"
#include "tests/unit/cli/run_command.h"

namespace fermata::cli {
namespace {

using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr uid_t kNobody = 65534;

class CommandLine : public testing::Test {
 protected:
  void SetUp() override { chmod(scratch_.path().c_str(), 0755); }

  Said fermata(const std::vector<std::string>& arguments, uid_t uid = getuid(),
               std::vector<std::string> environment = {}) const {
    environment.push_back("FERMATA_RUN_DIR=" + at("run"));
    return run_fermata(arguments, scratch_.path(), environment, uid);
  }
  std::string at(const std::string& name) const { return (scratch_.path() / name).string(); }

  /// One line, "fermata: ...", nothing on stdout, this exit status.
  void expect_refusal(const Said& said, int exit_status, const std::string& words) const {
    EXPECT_EQ(said.exit_status, exit_status);
    EXPECT_THAT(said.out, IsEmpty());
    EXPECT_THAT(said.err, StartsWith("fermata: "));
    EXPECT_THAT(said.err, EndsWith("\n"));
    EXPECT_EQ(std::count(said.err.begin(), said.err.end(), '\n'), 1) << said.err;
    EXPECT_THAT(said.err, HasSubstr(words));
  }

  ScratchFolder scratch_;
};

TEST_F(CommandLine, WhatNeedsACoordinatorSaysSo) {
  expect_refusal(fermata({"nodes"}), 2, "fermata nodes needs a coordinator");
  expect_refusal(fermata({"run", "-N", "3", "--", "true"}), 2, "--nodes needs a coordinator");
  expect_refusal(fermata({"restart", "3", "--detach"}), 2, "--detach needs a coordinator");
  expect_refusal(fermata({"--coordinator", "", "nodes"}, getuid(), {"FERMATA_COORDINATOR=h:1"}), 2,
                 "fermata nodes needs a coordinator");
  EXPECT_EQ(fermata({"jobs"}).out, "No job runs.\n");
  expect_refusal(fermata({"--coordinator", "127.0.0.1:1", "run", "--user", "nobody", "--", "true"}),
                 2, "--user is for jobs of this machine alone");
  expect_refusal(fermata({"--coordinator", "127.0.0.1:1", "run", "--precopy", "2", "--", "true"}),
                 2, "--precopy is for jobs of this machine alone");
}

TEST_F(CommandLine, HelpAndVersionAreNoErrors) {
  const Said help = fermata({"--help"});
  EXPECT_EQ(help.exit_status, 0);
  for (const char* command : {"run", "checkpoint", "restart", "ls", "show", "inspect", "verify",
                              "able", "exec", "jobs", "nodes"}) {
    EXPECT_THAT(help.out, HasSubstr(command));
    const Said of_command = fermata({command, "--help"});
    EXPECT_EQ(of_command.exit_status, 0) << command;
    EXPECT_THAT(of_command.out, HasSubstr(command));
  }
  const Said version = fermata({"--version"});
  EXPECT_EQ(version.exit_status, 0);
  EXPECT_THAT(version.out, StartsWith("fermata 0."));
}

TEST_F(CommandLine, WrongUsageIsRefused_WithExitStatus2) {
  expect_refusal(fermata({}), 2, "subcommand");
  expect_refusal(fermata({"dance"}), 2, "dance");
  expect_refusal(fermata({"ls", "--wrong"}), 2, "--wrong");
  expect_refusal(fermata({"checkpoint"}), 2, "JOB");
  expect_refusal(fermata({"checkpoint", "twelve"}), 2, "twelve");
  expect_refusal(fermata({"checkpoint", "1", "--compress", "rar"}), 2, "rar");
  expect_refusal(fermata({"run"}), 2, "no command");
  expect_refusal(fermata({"run", "-n", "0", "--", "true"}), 2, "--ranks");
  expect_refusal(fermata({"run", "-n", "four", "--", "true"}), 2, "four");
  expect_refusal(fermata({"run", "--wrong", "--", "true"}), 2, "--wrong");
  expect_refusal(fermata({"verify", "-1"}), 2, "-1");
  expect_refusal(fermata({"restart", "--crid", "0"}), 2, "crid");
  expect_refusal(fermata({"restart", "1.x"}), getuid() == 0 ? 2 : 3, "");
}

TEST_F(CommandLine, OrdinaryUserIsToldWhichCapabilitiesAreMissing) {
  const uid_t uid = getuid() == 0 ? kNobody : getuid();
  expect_refusal(fermata({"run", "--", "true"}, uid), 3, "CAP_SYS_ADMIN");
  expect_refusal(fermata({"restart", "1"}, uid), 3, "root");
}

TEST_F(CommandLine, OrdinaryUserMayReadLists) {
  const uid_t uid = getuid() == 0 ? kNobody : getuid();
  EXPECT_EQ(fermata({"ls"}, uid).exit_status, 0);
}

TEST_F(CommandLine, UnknownJobIsNotFound) {
  expect_refusal(fermata({"checkpoint", "77"}), 4, "77.0");
  expect_refusal(fermata({"able", "77.3"}), 4, "77.3");
  expect_refusal(fermata({"exec", "77", "--", "true"}), 4, "77.0");
}

TEST_F(CommandLine, EmptyFolderHasNoSets) {
  EXPECT_EQ(fermata({"show", "5"}).exit_status, 4);
  EXPECT_EQ(fermata({"verify", "5"}).exit_status, 4);
  const Said ls = fermata({"ls", "--json"});
  EXPECT_EQ(ls.exit_status, 0) << ls.err;
  const json listed = json::parse(ls.out, nullptr, false);
  ASSERT_TRUE(listed.is_object()) << ls.out;
  EXPECT_TRUE(listed["jobs"].empty());
  EXPECT_TRUE(listed["sets"].empty());
  EXPECT_EQ(listed["folder"], at("fermata-checkpoints"));
  EXPECT_FALSE(std::filesystem::exists(at("fermata-checkpoints"))) << "reading must not make it";
}

TEST_F(CommandLine, FolderComesFromOption_ThenEnvironment_ThenConfig) {
  std::ofstream(at("fermata.toml")) << "checkpoint_dir = \"/from/config\"\n";
  const std::string config = "FERMATA_CONFIG=" + at("fermata.toml");
  const std::string environment = "FERMATA_CHECKPOINT_DIR=/from/environment";
  const auto folder = [](const Said& said) {
    return json::parse(said.out, nullptr, false).value("folder", said.err);
  };
  EXPECT_EQ(folder(fermata({"ls", "--json"}, getuid(), {config})), "/from/config");
  EXPECT_EQ(folder(fermata({"ls", "--json"}, getuid(), {config, environment})),
            "/from/environment");
  EXPECT_EQ(folder(fermata({"ls", "--json", "--checkpoint-dir", "here/"}, getuid(),
                           {config, environment})),
            at("here"));
}

TEST_F(CommandLine, DamagedConfigIsRefused_WithItsPlace) {
  std::ofstream(at("fermata.toml")) << "checkpoint_dir = \n";
  expect_refusal(fermata({"ls"}, getuid(), {"FERMATA_CONFIG=" + at("fermata.toml")}), 2,
                 "fermata.toml");
}

TEST_F(CommandLine, DamagedLedgerIsRefused_AndRebuildIsNamed) {
  std::filesystem::create_directory(at("sets"));
  std::ofstream(at("sets/ledger.sqlite")) << std::string(8192, 'x');
  expect_refusal(fermata({"ls", "--checkpoint-dir", "sets"}), 7, "--rebuild");
  const Said rebuilt = fermata({"ls", "--rebuild", "--checkpoint-dir", "sets"});
  EXPECT_EQ(rebuilt.exit_status, 0) << rebuilt.err;
  EXPECT_EQ(fermata({"ls", "--checkpoint-dir", "sets"}).exit_status, 0);
}

TEST_F(CommandLine, InspectRefusesWhatIsNoImage) {
  expect_refusal(fermata({"inspect", "absent.h5"}), 4, "absent.h5");
  std::ofstream(at("junk.h5")) << "not an image";
  expect_refusal(fermata({"inspect", "junk.h5"}), 7, "junk.h5");
}

TEST_F(CommandLine, FailureIsToldAsJson_WhereJsonIsAskedFor) {
  const auto told = [&](const std::vector<std::string>& arguments) {
    const Said said = fermata(arguments);
    EXPECT_NE(said.exit_status, 0);
    EXPECT_THAT(said.err, StartsWith("fermata: "));
    const json answer = json::parse(said.out, nullptr, false);
    EXPECT_TRUE(answer.is_object()) << said.out;
    EXPECT_FALSE(answer.value("error", "").empty());
    return answer.value("code", "");
  };
  EXPECT_EQ(told({"checkpoint", "77", "--json"}), "not found");
  EXPECT_EQ(told({"able", "twelve", "--json"}), "usage");
  EXPECT_EQ(told({"verify", "5", "--json"}), "not found");
  EXPECT_EQ(told({"inspect", "absent.h5", "--json"}), "not found");
  EXPECT_EQ(told({"ls", "--json", "--wrong"}), "usage");
}

/// A committed set of a user who would like to write on root's terminal.
class CommandLineOnASet : public CommandLine {
 protected:
  static constexpr const char* kEscape = "\x1b[2Jgone\xc2\x9b";

  void SetUp() override {
    CommandLine::SetUp();
    const std::filesystem::path dir = at("fermata-checkpoints");
    Result<storage::Ledger> ledger = storage::Ledger::open_or_create(dir);
    ASSERT_TRUE(ledger) << ledger.error().message();
    storage::Manifest manifest;
    manifest.job = JobStep{3, 0};
    manifest.crid = *ledger->allot_crid(manifest.job, kEscape, kEscape);
    manifest.ranks = 1;
    manifest.command = {kEscape};
    manifest.user = kEscape;
    manifest.time = "2026-11-20T21:00:00Z";
    manifest.tool_version = "0.1.0";
    manifest.result = "resumed";
    manifest.images.push_back({0, "n0", "pod-0.h5", 5, 3, std::string(32, 'a')});
    folder_ = *storage::make_set_folder(dir, manifest.job, manifest.crid);
    const Status written = storage::write_manifest(folder_, manifest);
    ASSERT_TRUE(written) << written.message();
    ASSERT_TRUE(ledger->commit(manifest));
  }

  std::filesystem::path folder_;
};

TEST_F(CommandLineOnASet, NoNameReachesTheTerminalAsACommand) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"ls"}, {"show", "3"}, {"show", "--crid", "1"}, {"verify", "1"}}) {
    const Said said = fermata(arguments);
    EXPECT_EQ(said.out.find_first_of("\x1b\xc2"), std::string::npos) << said.out;
    EXPECT_EQ(said.err.find_first_of("\x1b\xc2"), std::string::npos) << said.err;
  }
  EXPECT_THAT(fermata({"show", "--crid", "1"}).out, HasSubstr("\\x1b[2Jgone"));
}

TEST_F(CommandLineOnASet, DamagedManifestIsAFailureInBothForms) {
  EXPECT_EQ(fermata({"show", "--crid", "1", "--json"}).exit_status, 0);
  std::ofstream(folder_ / "set.json") << "{";
  EXPECT_EQ(fermata({"show", "--crid", "1"}).exit_status, 7);
  const Said said = fermata({"show", "--crid", "1", "--json"});
  EXPECT_EQ(said.exit_status, 7);
  EXPECT_THAT(said.err, HasSubstr("set.json"));
  const json answer = json::parse(said.out, nullptr, false);
  ASSERT_TRUE(answer.is_object()) << said.out;
  EXPECT_EQ(answer.value("code", ""), "damaged");
  EXPECT_EQ(answer.value("state", ""), "committed");
}

/// What only root gets as far as.
class CommandLineOfRoot : public CommandLine {
 protected:
  /// The registry is the test's own, the tree of groups is the machine's: jobs have numbers that
  /// no other run of these tests gives.
  void SetUp() override {
    CommandLine::SetUp();
    std::filesystem::create_directory(at("run"));
    std::ofstream(at("run/next-job")) << 2'000'000 + getpid() << '\n';
  }
  std::string job_folder() const {
    return at("run/jobs/" + std::to_string(2'000'000 + getpid()) + ".0");
  }
};

TEST_F(CommandLineOfRoot, ProgramThatIsNotThereGets127) {
  if (getuid() != 0) {
    expect_refusal(fermata({"run", "--", "no-such-program"}), 3, "CAP_");
    return;
  }
  expect_refusal(fermata({"run", "--", "no-such-program"}), 127,
                 "no-such-program: command not found");
  EXPECT_FALSE(std::filesystem::exists(job_folder())) << "nothing may be left of it";
}

TEST_F(CommandLineOfRoot, UnusableFolderEndsTheRunBeforeTheJobStarts) {
  if (getuid() != 0) {
    expect_refusal(fermata({"run", "--", "true"}), 3, "CAP_");
    return;
  }
  std::ofstream(at("file")) << "in the way";
  const Said said = fermata({"run", "--checkpoint-interval", "5s", "--checkpoint-dir", "file", "--",
                             "touch", at("started")});
  expect_refusal(said, 6, "file");
  EXPECT_FALSE(std::filesystem::exists(at("started")));
}

TEST_F(CommandLineOfRoot, ExitStatusAndStreamsAreTheJobs) {
  if (getuid() != 0) {
    expect_refusal(fermata({"run", "--", "true"}), 3, "CAP_");
    return;
  }
  const Said said = fermata({"run", "--quiet", "--", "sh", "-c", "echo out; echo err >&2; exit 7"});
  EXPECT_EQ(said.exit_status, 7);
  EXPECT_EQ(said.out, "out\n");
  EXPECT_EQ(said.err, "err\n");
}

TEST_F(CommandLineOfRoot, IgnoredChildSignalDoesNotHideHowTheJobEnded) {
  const Said said = run_fermata({"run", "-q", "--", "sh", "-c", "exit 3"}, scratch_.path(),
                                {"FERMATA_RUN_DIR=" + at("run")}, getuid(), {SIGCHLD});
  if (getuid() != 0) {
    expect_refusal(said, 3, "CAP_");
    return;
  }
  EXPECT_EQ(said.exit_status, 3) << said.err;
}

TEST_F(CommandLineOfRoot, HangUpThatIsIgnoredReachesNeitherTheRunNorTheJob) {
  if (getuid() != 0) {
    expect_refusal(fermata({"run", "--", "true"}), 3, "CAP_");
    return;
  }
  // The first shell inherits; the second has the default again, and would die of one handed on.
  const std::string wait =
      "kill -HUP $$; touch started; "
      "env --default-signal=HUP sh -c 'until [ -e go ]; do sleep .05; done'; "
      "exit $(($? + 5))";
  std::future<Said> running = std::async(std::launch::async, [&] {
    return run_fermata({"run", "-q", "--", "sh", "-c", wait}, scratch_.path(),
                       {"FERMATA_RUN_DIR=" + at("run")}, getuid(), {SIGHUP});
  });
  for (int tries = 0; tries < 200 && !std::filesystem::exists(at("started")); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ASSERT_TRUE(std::filesystem::exists(at("started")));
  std::ifstream record(job_folder() + "/job.json");
  const json job = json::parse(record, nullptr, false);
  ASSERT_TRUE(job.is_object());
  kill(job.value("agent", 0), SIGHUP);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  std::ofstream(at("go")) << "";
  EXPECT_EQ(running.get().exit_status, 5);
}

}  // namespace
}  // namespace fermata::cli

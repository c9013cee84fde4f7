#include "common/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "common/file_util.h"
#include "tests/support/scratch_folder.h"

namespace fermata {
namespace {

class ConfigFile : public testing::Test {
 protected:
  void TearDown() override { unsetenv("FERMATA_CONFIG"); }

  Result<Config> read(const std::string& text) {
    EXPECT_TRUE(write_file_durable(file_, text).is_ok());
    return load_config(file_);
  }
  std::string error_of(const std::string& text) {
    const auto config = read(text);
    if (config) return "no error";
    EXPECT_EQ(config.error().code(), Code::kUsage);
    return config.error().message();
  }
  std::string at(const std::string& place) const { return file_.string() + ":" + place + ": "; }

  ScratchFolder folder_;
  std::filesystem::path file_ = folder_ / "fermata.toml";
};

TEST_F(ConfigFile, EveryKey_IsRead) {
  const auto config = read(
      "checkpoint_dir = \"/scratch/ckpt\"\nlog_level = \"debug\"\nlog_format = \"json\"\n"
      "munge_socket = \"/run/m\"\nslurm_user = \"sl\"\n"
      "coordinator = \"head:1\"\nlisten = \"127.0.0.1:2\"\nstate_dir = \"/state\"\n"
      "compress = \"zstd\"\nmax_writers = 3\nkeep_sets = 5\nwrite_bandwidth = \"500M\"\nprecopy = "
      "4\nnode_grace "
      "= \"5s\"\n"
      "run_dir = \"/run/f\"\nnode_name = \"n7\"\nslots = 4\n"
      "relay_listen = \"127.0.0.1:3\"\ntree_arity = 2\npreempt_sets = false\n");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->checkpoint_dir, "/scratch/ckpt");
  EXPECT_EQ(config->log_level, LogLevel::kDebug);
  EXPECT_EQ(config->log_format, LogFormat::kJson);
  EXPECT_EQ(config->munge_socket, "/run/m");
  EXPECT_EQ(config->slurm_user, "sl");
  EXPECT_EQ(config->coordinator, "head:1");
  EXPECT_EQ(config->listen, "127.0.0.1:2");
  EXPECT_EQ(config->state_dir, "/state");
  EXPECT_EQ(config->max_writers, 3U);
  EXPECT_EQ(config->compress, "zstd");
  EXPECT_EQ(config->write_bandwidth, 500U << 20);
  EXPECT_EQ(config->precopy, 4U);
  EXPECT_EQ(config->keep_sets, 5U);
  EXPECT_EQ(config->node_grace, std::chrono::seconds(5));
  EXPECT_EQ(config->run_dir, "/run/f");
  EXPECT_EQ(config->node_name, "n7");
  EXPECT_EQ(config->slots, 4U);
  EXPECT_EQ(config->relay_listen, "127.0.0.1:3");
  EXPECT_EQ(config->tree_arity, 2U);
  EXPECT_FALSE(config->preempt_sets);
}

TEST_F(ConfigFile, EmptyFile_GivesTheDefaults) {
  const auto config = read("# nothing\n");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_FALSE(config->checkpoint_dir.has_value());
  EXPECT_EQ(config->log_level, LogLevel::kWarning);
  EXPECT_EQ(config->log_format, LogFormat::kText);
}

TEST_F(ConfigFile, DocumentedFile_IsReadAndGivesTheDefaults) {
  const auto config = load_config(FERMATA_SOURCE_DIR "/docs/fermata.toml");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_FALSE(config->checkpoint_dir.has_value());
  EXPECT_EQ(config->log_level, Config{}.log_level);
  EXPECT_EQ(config->log_format, Config{}.log_format);
  EXPECT_EQ(config->listen, Config{}.listen);
  EXPECT_EQ(config->state_dir, Config{}.state_dir);
  EXPECT_EQ(config->max_writers, Config{}.max_writers);
  EXPECT_EQ(config->compress, Config{}.compress);
  EXPECT_EQ(config->write_bandwidth, Config{}.write_bandwidth);
  EXPECT_EQ(config->keep_sets, Config{}.keep_sets);
  EXPECT_EQ(config->node_grace, Config{}.node_grace);
  EXPECT_EQ(config->run_dir, Config{}.run_dir);
  EXPECT_EQ(config->node_name, Config{}.node_name);
  EXPECT_EQ(config->slots, Config{}.slots);
}

TEST_F(ConfigFile, UnknownKey_IsRefusedWithItsLine) {
  const std::string sentence = error_of("log_level = \"info\"\n\n  checkpoint_dri = \"/x\"\n");
  EXPECT_TRUE(sentence.starts_with(at("3:3"))) << sentence;
  EXPECT_NE(sentence.find("'checkpoint_dri'"), std::string::npos) << sentence;
}

TEST_F(ConfigFile, WrongValue_IsRefusedWithItsLine) {
  EXPECT_TRUE(error_of("\nlog_level = \"loud\"").starts_with(at("2:1") + "'loud'"));
  EXPECT_TRUE(error_of("log_level = 3").starts_with(at("1:1")));
  EXPECT_TRUE(error_of("checkpoint_dir = \"relative\"").starts_with(at("1:1")));
  EXPECT_TRUE(error_of("checkpoint_dir = 5").starts_with(at("1:1")));
  EXPECT_TRUE(error_of("coordinator = \"head\"").starts_with(at("1:1") + "coordinator: "));
  EXPECT_TRUE(error_of("max_writers = -1").starts_with(at("1:1") + "max_writers: "));
  EXPECT_TRUE(error_of("slots = \"4\"").starts_with(at("1:1") + "slots: "));
  EXPECT_TRUE(error_of("node_name = 7").starts_with(at("1:1") + "node_name: "));
  EXPECT_TRUE(error_of("run_dir = \"run\"").starts_with(at("1:1") + "run_dir: "));
  EXPECT_TRUE(error_of("node_grace = 5").starts_with(at("1:1") + "node_grace: "));
  EXPECT_TRUE(error_of("[checkpoint_dir]\nx = 1\n").starts_with(at("1:2")));
}

TEST_F(ConfigFile, FileThatIsNoToml_IsRefusedWithItsLine) {
  const std::string sentence = error_of("log_level = \"info\"\nlog_format = json\n");
  EXPECT_TRUE(sentence.starts_with(file_.string() + ":2:")) << sentence;
  EXPECT_NE(error_of(std::string("\0\xff\xfe", 3)), "no error");
  EXPECT_NE(error_of("log_level = \"info\"\nlog_level = \"info\"\n"), "no error");
}

TEST_F(ConfigFile, Variable_NamesTheFile_WhichHasToExist) {
  setenv("FERMATA_CONFIG", file_.c_str(), 1);
  const auto missing = load_config();
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
  EXPECT_TRUE(missing.error().message().starts_with("FERMATA_CONFIG: "));
  ASSERT_TRUE(read("log_level = \"error\""));
  EXPECT_EQ(load_config().value().log_level, LogLevel::kError);
}

}  // namespace
}  // namespace fermata

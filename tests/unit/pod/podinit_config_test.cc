#include "node-agent/pod/podinit_config.h"

#include <gtest/gtest.h>

#include <functional>

namespace fermata::pod {
namespace {

PodinitConfig sample() {
  PodinitConfig config;
  config.job = {1234, 5};
  config.ranks = 4;
  config.pod = 1;
  config.pod_of_rank = {0, 1, 1, 0};
  config.hosts = {"node-a", "node-b"};
  config.program = "/usr/bin/lmp";
  config.command = {"lmp", "", "-in", "a b\nc"};
  config.environment = {"A=1", "B=", "C=x=y"};
  return config;
}

TEST(PodinitConfigTest, Config_ComesBack_AsItWas) {
  const Result<PodinitConfig> back = decode_podinit_config(encode(sample()));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->job, sample().job);
  EXPECT_EQ(back->ranks, 4U);
  EXPECT_EQ(back->pod, 1U);
  EXPECT_EQ(back->pod_of_rank, sample().pod_of_rank);
  EXPECT_EQ(back->hosts, sample().hosts);
  EXPECT_EQ(back->program, "/usr/bin/lmp");
  EXPECT_EQ(back->command, sample().command);
  EXPECT_EQ(back->environment, sample().environment);
}

TEST(PodinitConfigTest, Config_IsRefused_WhenCutAnywhere) {
  const std::string text = encode(sample());
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_FALSE(decode_podinit_config(text.substr(0, length))) << length;
  }
  EXPECT_FALSE(decode_podinit_config(text + "x"));
}

TEST(PodinitConfigTest, Config_IsRefused_WithoutRanksOrCommand) {
  PodinitConfig config = sample();
  config.ranks = 0;
  EXPECT_FALSE(decode_podinit_config(encode(config)));
  config = sample();
  config.command.clear();
  EXPECT_FALSE(decode_podinit_config(encode(config)));
}

TEST(PodinitConfigTest, Config_IsRefused_WhenItDescribesNoStep) {
  const auto refused = [](const std::function<void(PodinitConfig&)>& change) {
    PodinitConfig config = sample();
    change(config);
    return !decode_podinit_config(encode(config));
  };
  EXPECT_TRUE(refused([](PodinitConfig& config) { config.pod = 2; }));
  EXPECT_TRUE(refused([](PodinitConfig& config) { config.pod_of_rank = {0, 1, 1}; }));
  EXPECT_TRUE(refused([](PodinitConfig& config) { config.pod_of_rank = {0, 1, 2, 0}; }));
  EXPECT_TRUE(refused([](PodinitConfig& config) { config.hosts = {"same", "same"}; }));
  EXPECT_TRUE(refused([](PodinitConfig& config) { config.hosts = {"node-a", ""}; }));
}

}  // namespace
}  // namespace fermata::pod

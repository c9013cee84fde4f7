#include "common/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

namespace fermata {
namespace {

class Log : public testing::Test {
 protected:
  void TearDown() override { init_log(LogLevel::kWarning, LogFormat::kText); }

  template <typename Body>
  static std::string stderr_of(Body body) {
    testing::internal::CaptureStderr();
    body();
    return testing::internal::GetCapturedStderr();
  }
};

void say_everything() {
  log_debug("d");
  log_info("i");
  log_warning("w {}");
  log_error("e");
}

TEST_F(Log, Text_HasThePrefixOfTheTool) {
  init_log(LogLevel::kDebug, LogFormat::kText);
  EXPECT_EQ(stderr_of(say_everything),
            "fermata: debug: d\nfermata: i\nfermata: warning: w {}\nfermata: error: e\n");
}

TEST_F(Log, Level_HidesWhatIsBelow) {
  EXPECT_EQ(stderr_of(say_everything), "fermata: warning: w {}\nfermata: error: e\n");
  init_log(LogLevel::kOff, LogFormat::kText);
  EXPECT_EQ(stderr_of(say_everything), "");
}

TEST_F(Log, Json_IsOneObjectALine_WhateverTheBytes) {
  init_log(LogLevel::kInfo, LogFormat::kJson);
  const std::string out = stderr_of([] { log_info("a \"quoted\"\npath \xff"); });
  ASSERT_EQ(out.find('\n'), out.size() - 1);
  const auto line = nlohmann::json::parse(out);
  EXPECT_EQ(line["level"], "info");
  EXPECT_EQ(line["pid"], getpid());
  EXPECT_EQ(line["message"], "a \"quoted\"\npath \xef\xbf\xbd");
  const std::string time = line["time"];
  EXPECT_EQ(time.size(), std::string_view("2026-01-31T10:11:12.123Z").size()) << time;
  EXPECT_EQ(time.back(), 'Z');
}

TEST_F(Log, Names_AreReadOrRefused) {
  EXPECT_EQ(parse_log_level("error").value(), LogLevel::kError);
  EXPECT_EQ(parse_log_format("json").value(), LogFormat::kJson);
  EXPECT_EQ(parse_log_level("ERROR").error().code(), Code::kUsage);
  EXPECT_EQ(parse_log_format("").error().code(), Code::kUsage);
}

}  // namespace
}  // namespace fermata

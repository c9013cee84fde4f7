#include "common/time_parse.h"

#include <gtest/gtest.h>

namespace fermata {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

struct Case {
  const char* text;
  milliseconds value;
};

class TimeRead : public testing::TestWithParam<Case> {};

TEST_P(TimeRead, Duration_IsReadAsWritten) {
  const auto value = parse_duration(GetParam().text);
  ASSERT_TRUE(value) << value.error().message();
  EXPECT_EQ(*value, GetParam().value);
}

constexpr milliseconds kDay = 24h;

INSTANTIATE_TEST_SUITE_P(Slurm, TimeRead,
                         testing::Values(Case{"30", 30min}, Case{"0", 0ms}, Case{"1:30", 90s},
                                         Case{"90:90", 5490s}, Case{"2:03:04", 2h + 3min + 4s},
                                         Case{"1-0", kDay}, Case{"1-6", kDay + 6h},
                                         Case{"2-6:30", 2 * kDay + 6h + 30min},
                                         Case{"1-02:03:04", kDay + 2h + 3min + 4s}));
INSTANTIATE_TEST_SUITE_P(Units, TimeRead,
                         testing::Values(Case{"30m", 30min}, Case{"2h", 2h}, Case{"5s", 5s},
                                         Case{"1d", kDay}, Case{"250ms", 250ms},
                                         Case{"1h30m", 90min},
                                         Case{"1d2h3m4s5ms", kDay + 2h + 3min + 4s + 5ms},
                                         Case{"0.5s", 500ms}, Case{"1.5h", 90min},
                                         Case{"0.0005s", 0ms}));

TEST(TimeParse, Text_IsRefused_WhenItIsNoTime) {
  for (const char* text : {"",
                           " ",
                           "-",
                           "-5",
                           "5 s",
                           "s",
                           "5x",
                           "1:",
                           ":1",
                           "1:2:3:4",
                           "1-",
                           "1-2-3",
                           "1-2:3:4:5",
                           "30m2h",
                           "5s5s",
                           "1.s",
                           ".5s",
                           "1.5",
                           "+5s",
                           "5S",
                           "99999999999999999999",
                           "36501d",
                           "9223372036854775807",
                           "1h30"}) {
    const auto value = parse_duration(text);
    ASSERT_FALSE(value) << text << " read as " << value->count() << " ms";
    EXPECT_EQ(value.error().code(), Code::kUsage);
  }
}

TEST(TimeParse, Longest_IsAHundredYears) {
  EXPECT_TRUE(parse_duration("36500d"));
  EXPECT_FALSE(parse_duration("36500d1ms"));
}

TEST(TimeFormat, Duration_ReadsBack) {
  for (const milliseconds value : {0ms, 1ms, 999ms, 1000ms, 1001ms, 1500ms, 60'000ms, 60'500ms,
                                   3'600'000ms, 5'400'000ms, kDay, kDay + 1ms, 36500 * kDay}) {
    const std::string text = format_duration(value);
    EXPECT_EQ(parse_duration(text).value(), value) << text;
  }
}

TEST(TimeFormat, Duration_IsShort) {
  EXPECT_EQ(format_duration(0ms), "0s");
  EXPECT_EQ(format_duration(250ms), "250ms");
  EXPECT_EQ(format_duration(1250ms), "1.25s");
  EXPECT_EQ(format_duration(90min), "1h30m");
  EXPECT_EQ(format_duration(kDay + 5s), "1d5s");
  EXPECT_EQ(format_duration(-5s), "-5s");
  EXPECT_EQ(format_duration(milliseconds::min()).front(), '-');
}

}  // namespace
}  // namespace fermata

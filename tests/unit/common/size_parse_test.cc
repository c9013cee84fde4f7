#include "common/size_parse.h"

#include <gtest/gtest.h>

namespace fermata {
namespace {

TEST(SizeParse, Size_IsReadWithItsUnit) {
  EXPECT_EQ(parse_size("0").value(), 0U);
  EXPECT_EQ(parse_size("512").value(), 512U);
  EXPECT_EQ(parse_size("512B").value(), 512U);
  EXPECT_EQ(parse_size("64K").value(), 65536U);
  EXPECT_EQ(parse_size("64k").value(), 65536U);
  EXPECT_EQ(parse_size("1.5G").value(), 1610612736U);
  EXPECT_EQ(parse_size("10MiB").value(), 10485760U);
  EXPECT_EQ(parse_size("10 MiB").value(), 10485760U);
  EXPECT_EQ(parse_size("3MB").value(), 3000000U);
  EXPECT_EQ(parse_size("0.1K").value(), 102U);
  EXPECT_EQ(parse_size("18446744073709551615").value(), UINT64_MAX);
  EXPECT_EQ(parse_size("15E").value(), 15ULL << 60);
}

TEST(SizeParse, Text_IsRefused_WhenItIsNoSize) {
  for (const char* text :
       {"", " ", "K", "-1", "+1", "1.", ".5K", "1 ", "1  K", "1X", "1KK", "1Ki", "1iB", "0x10",
        "18446744073709551616", "16E", "15.9999999999999999E1", "1.5.5K"}) {
    const auto size = parse_size(text);
    ASSERT_FALSE(size) << text << " read as " << *size;
    EXPECT_EQ(size.error().code(), Code::kUsage);
  }
}

TEST(SizeFormat, Size_HasAtMostOneDecimal) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1 KiB");
  EXPECT_EQ(format_size(1536), "1.5 KiB");
  EXPECT_EQ(format_size((1 << 20) - 1), "1 MiB");
  EXPECT_EQ(format_size(1610612736), "1.5 GiB");
  EXPECT_EQ(format_size(UINT64_MAX), "16 EiB");
}

}  // namespace
}  // namespace fermata

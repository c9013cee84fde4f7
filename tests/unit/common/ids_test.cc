#include "common/ids.h"

#include <gtest/gtest.h>

namespace fermata {
namespace {

TEST(Ids, Crid_ReadsBack_WhatItPrints) {
  const Crid largest{UINT64_MAX};
  EXPECT_EQ(to_string(largest), "18446744073709551615");
  EXPECT_EQ(parse_crid(to_string(largest)).value(), largest);
  EXPECT_EQ(parse_crid("1").value(), Crid{1});
}

TEST(Ids, Crid_IsRefused_WhenNotAPositiveNumber) {
  for (const char* text :
       {"", "0", "-1", "+1", " 1", "1 ", "0x10", "18446744073709551616", "1.0"}) {
    const auto crid = parse_crid(text);
    ASSERT_FALSE(crid) << text;
    EXPECT_EQ(crid.error().code(), Code::kUsage) << text;
    EXPECT_NE(crid.error().message().find(std::string("'") + text + "'"), std::string::npos);
  }
}

TEST(Ids, JobStep_IsStepZero_WithoutADot) {
  EXPECT_EQ(parse_job_step("1234").value(), (JobStep{1234, 0}));
  EXPECT_EQ(parse_job_step("1234.2").value(), (JobStep{1234, 2}));
  EXPECT_EQ(to_string(JobStep{1234, 0}), "1234.0");
}

TEST(Ids, JobStep_IsRefused_WhenNotTwoNumbers) {
  for (const char* text : {"", ".", "1.", ".1", "1.2.3", "a", "1.-2", "1.4294967296", "1/2"}) {
    EXPECT_FALSE(parse_job_step(text)) << text;
  }
}

}  // namespace
}  // namespace fermata

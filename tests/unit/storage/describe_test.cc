#include "storage/describe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "storage/printable.h"
#include "tests/unit/storage/sample_image.h"

namespace fermata::storage {
namespace {

using ::testing::HasSubstr;

TEST(Describe, JsonHoldsTheNumbers) {
  const auto json = nlohmann::json::parse(describe_json(test::sample_image()));
  EXPECT_EQ(json["crid"], 42);
  EXPECT_EQ(json["job"], 1234);
  EXPECT_EQ(json["processes"].size(), 2U);
  EXPECT_EQ(json["processes"][1]["name"], "lmp");
  EXPECT_EQ(json["processes"][1]["threads"][0]["cpus"], "0-1");
  EXPECT_EQ(json["processes"][1]["memory"]["zero"], 0x1000);
  EXPECT_EQ(json["processes"][1]["memory"]["file"], 0x3000);
  EXPECT_EQ(json["processes"][1]["files"]["stdio"], 1);
  EXPECT_EQ(json["files"]["regular"], 1);
  EXPECT_EQ(json["shared_memory"]["here"], 0x2000);
  EXPECT_EQ(json["memory"]["here"], (3 << 20) + 0x2000 + 100 * 0x1000 + 0x1000 + 0x2000);
}

TEST(Describe, TextShowsTheTree) {
  const std::string text = describe_text(test::sample_image());
  EXPECT_THAT(text, HasSubstr("CRID 42, full"));
  EXPECT_THAT(text, HasSubstr("job        1234.1, pod 3"));
  EXPECT_THAT(text, HasSubstr("\n  1 podinit, 2 threads"));
  EXPECT_THAT(text, HasSubstr("\n    7 lmp, 2 threads"));
  EXPECT_THAT(text, HasSubstr("1 thread on CPUs 0-1"));
  EXPECT_THAT(text, HasSubstr("files      1 regular, 1 stdio"));
}

TEST(Describe, EndsAndShowsEveryone_WhenParentsGoInACircle) {
  PodImage image = test::sample_image();
  image.objects.mutable_processes(0)->set_parent(7);
  const std::string text = describe_text(image);
  EXPECT_THAT(text, HasSubstr("1 podinit"));
  EXPECT_THAT(text, HasSubstr("7 lmp"));
}

TEST(Describe, LetsNoNameMoveTheCursor) {
  PodImage image = test::sample_image();
  image.objects.mutable_processes(0)->set_name("\x1b[2Jevil\xff");
  image.header.host = "a\nb";
  const std::string text = describe_text(image);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_THAT(text, HasSubstr("\\x1b[2Jevil\\xff"));
  EXPECT_THAT(text, HasSubstr("a\\x0ab"));
  EXPECT_EQ(printable("plain - \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"),
            "plain - \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(printable("\xc0\xaf\xed\xa0\x80\xc2\x9b\xe2\x80\xae"),
            "\\xc0\\xaf\\xed\\xa0\\x80\\xc2\\x9b\\xe2\\x80\\xae");
}

}  // namespace
}  // namespace fermata::storage

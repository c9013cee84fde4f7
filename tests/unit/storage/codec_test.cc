#include "storage/codec.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace fermata::storage {
namespace {

using Bytes = std::vector<std::byte>;

Bytes sample(size_t size, unsigned kinds) {
  std::mt19937 random(static_cast<unsigned>(size) + kinds);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % kinds);
  return bytes;
}

class CodecTest : public ::testing::TestWithParam<Codec> {};

TEST_P(CodecTest, GivesBackWhatItCompressed) {
  for (const size_t size : {4096U, 65536U, 1U << 20}) {
    const Bytes in = sample(size, 5);
    Bytes packed(size);
    const size_t length = compress(GetParam(), in, packed);
    ASSERT_GT(length, 0U);
    EXPECT_LT(length, size);
    Bytes out(size);
    const Status status = decompress(GetParam(), std::span(packed).first(length), out);
    ASSERT_TRUE(status) << status.message();
    EXPECT_TRUE(in == out);
  }
}

TEST_P(CodecTest, SaysZero_WhenItDoesNotFit) {
  const Bytes in = sample(65536, 256);
  Bytes out(60000);
  EXPECT_EQ(compress(GetParam(), in, out), 0U);
  EXPECT_EQ(compress(GetParam(), in, std::span(out).first(3)), 0U);
}

TEST_P(CodecTest, StaysInItsBounds_WhateverItIsGiven) {
  std::mt19937 random(7);
  const Bytes in = sample(65536, 9);
  Bytes packed(in.size());
  packed.resize(compress(GetParam(), in, packed));
  ASSERT_FALSE(packed.empty());
  constexpr std::byte kGuard{0xa5};
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    Bytes bad = packed;
    if (round % 3 == 0) bad.resize(random() % bad.size());
    for (unsigned flips = 1 + random() % 4; flips > 0 && !bad.empty(); --flips) {
      // The heads are where lengths are.
      const size_t at =
          random() % 2 == 0 ? random() % std::min<size_t>(bad.size(), 24) : random() % bad.size();
      bad[at] ^= static_cast<std::byte>(1U << random() % 8);
    }
    Bytes out(in.size() + 64, kGuard);
    const Status status =
        decompress(GetParam(), bad, std::span(out).first(in.size() - (round % 5 == 0 ? 1 : 0)));
    if (!status) {
      ++refused;
      EXPECT_EQ(status.code(), Code::kDamaged);
    }
    for (size_t i = in.size(); i < out.size(); ++i) ASSERT_EQ(out[i], kGuard);
  }
  EXPECT_GT(refused, 1000);
}

INSTANTIATE_TEST_SUITE_P(Each, CodecTest, ::testing::Values(Codec::kLz4, Codec::kZstd),
                         [](const auto& one) { return one.param == Codec::kLz4 ? "Lz4" : "Zstd"; });

TEST(CompressionName, IsKnown) {
  EXPECT_EQ(*parse_compression("none"), Compression::kNone);
  EXPECT_EQ(*parse_compression("lz4"), Compression::kLz4);
  EXPECT_EQ(*parse_compression("zstd"), Compression::kZstd);
  EXPECT_EQ(*parse_compression("auto"), Compression::kAuto);
  const auto wrong = parse_compression("gzip");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), Code::kUsage);
  EXPECT_NE(wrong.error().message().find("gzip"), std::string::npos);
}

}  // namespace
}  // namespace fermata::storage

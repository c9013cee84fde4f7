#include "node-agent/engine/missing_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

namespace fermata::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kPage = 4096;

TEST(MissingPages, AreFoundByTheirAddress_AndByThatInTheImage) {
  MissingPages missing;
  missing.add(16 * kPage, 16 * kPage, 4 * kPage);
  missing.add(32 * kPage, 32 * kPage, 1 * kPage);
  EXPECT_EQ(missing.then_of(15 * kPage), std::nullopt);
  EXPECT_EQ(missing.then_of(19 * kPage), 19 * kPage);
  EXPECT_EQ(missing.then_of(20 * kPage), std::nullopt);
  EXPECT_THAT(missing.parts_then(18 * kPage, 40 * kPage),
              ElementsAre(MissingPages::Part{18 * kPage, 18 * kPage, 2 * kPage},
                          MissingPages::Part{32 * kPage, 32 * kPage, kPage}));
  EXPECT_EQ(missing.bytes(), 5 * kPage);
}

TEST(MissingPages, GoWhereTheProgramMovesThem) {
  MissingPages missing;
  missing.add(16 * kPage, 16 * kPage, 4 * kPage);
  missing.add(64 * kPage, 64 * kPage, 2 * kPage);
  missing.move(17 * kPage, 64 * kPage, 2 * kPage);
  EXPECT_EQ(missing.then_of(17 * kPage), std::nullopt);
  EXPECT_EQ(missing.then_of(65 * kPage), 18 * kPage);
  EXPECT_THAT(missing.parts_then(64 * kPage, 66 * kPage), IsEmpty()) << "what was there is gone";
  EXPECT_THAT(missing.parts_then(16 * kPage, 20 * kPage),
              ElementsAre(MissingPages::Part{16 * kPage, 16 * kPage, kPage},
                          MissingPages::Part{64 * kPage, 17 * kPage, 2 * kPage},
                          MissingPages::Part{19 * kPage, 19 * kPage, kPage}));
}

// Against a plain list of pages.
TEST(MissingPages, AreWhatAPlainListSays_WhateverIsDone) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    MissingPages missing;
    std::map<uint64_t, uint64_t> plain;  // now to then
    missing.add(100 * kPage, 100 * kPage, 100 * kPage);
    for (uint64_t page = 100; page < 200; ++page) plain[page] = page;
    for (int step = 0; step < 40; ++step) {
      const uint64_t from = 90 + random() % 120;
      const uint64_t length = 1 + random() % 12;
      if (random() % 2 == 0) {
        missing.remove(from * kPage, length * kPage);
        for (uint64_t i = 0; i < length; ++i) plain.erase(from + i);
      } else {
        const uint64_t to = 300 + random() % 50 * 13;
        missing.move(from * kPage, to * kPage, length * kPage);
        std::map<uint64_t, uint64_t> moved;
        for (uint64_t i = 0; i < length; ++i) {
          plain.erase(to + i);
          const auto found = plain.find(from + i);
          if (found == plain.end()) continue;
          moved[to + i] = found->second;
          plain.erase(found);
        }
        plain.merge(moved);
      }
    }
    for (uint64_t page = 0; page < 1000; ++page) {
      const auto found = plain.find(page);
      const auto then = missing.then_of(page * kPage);
      ASSERT_EQ(then.has_value(), found != plain.end()) << page;
      if (then) {
        ASSERT_EQ(*then, found->second * kPage);
      }
    }
    uint64_t listed = 0;
    for (const MissingPages::Part& part : missing.parts_then(0, 1000 * kPage)) {
      for (uint64_t at = 0; at < part.length; at += kPage, ++listed) {
        ASSERT_EQ(plain.at((part.now + at) / kPage), (part.then + at) / kPage);
      }
    }
    EXPECT_EQ(listed, plain.size());
    EXPECT_EQ(missing.bytes(), plain.size() * kPage);
  }
}

}  // namespace
}  // namespace fermata::engine

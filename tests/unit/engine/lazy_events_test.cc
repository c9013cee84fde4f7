#include "node-agent/engine/lazy_events.h"

#include <gtest/gtest.h>

#include <string>

#include "common/extents.h"

namespace fermata::engine {
namespace {

using Event = LazyEvents::Event;

class LazyEventsTest : public ::testing::Test {
 protected:
  // In pages.
  static void move(LazyEvents& events, uint64_t from, uint64_t to, uint64_t length) {
    events.add({Event::Kind::kMove, from * kPageSize, length * kPageSize, to * kPageSize});
  }
  static void unmap(LazyEvents& events, uint64_t from, uint64_t length) {
    events.add({Event::Kind::kUnmap, from * kPageSize, length * kPageSize});
  }
  static void remove(LazyEvents& events, uint64_t from, uint64_t length) {
    events.add({Event::Kind::kRemove, from * kPageSize, length * kPageSize});
  }

  /// All that is known by now: "16+4>32 -32+4" is a move and what is unmapped; "~" before what
  /// waits.
  static std::string known(LazyEvents& events) {
    std::string text;
    while (const std::optional<Event> event = events.next()) {
      const bool moved = event->kind == Event::Kind::kMove;
      text += text.empty() ? "" : " ";
      text += event->kind == Event::Kind::kUnmap ? "-" : "";
      text += event->kind == Event::Kind::kRemove ? "0" : "";
      text += std::to_string(event->start / kPageSize) + "+" +
              std::to_string(event->length / kPageSize);
      if (moved) text += ">" + std::to_string(event->to / kPageSize);
    }
    return events.waits() ? text + "~" : text;
  }

  LazyEvents new_kernel_{true};
  LazyEvents old_kernel_{false};
};

TEST_F(LazyEventsTest, WhatWasUnmappedOrGivenBack_IsKnownAtOnce) {
  unmap(new_kernel_, 16, 4);
  remove(new_kernel_, 32, 1);
  EXPECT_EQ(known(new_kernel_), "-16+4 032+1");
}

TEST_F(LazyEventsTest, AMove_IsKnownWhenThePlaceItLeftWasTold_AndThatIsNotToldAgain) {
  for (LazyEvents* events : {&new_kernel_, &old_kernel_}) {
    move(*events, 16, 32, 4);
    EXPECT_EQ(known(*events), "~");
    unmap(*events, 16, 4);
    EXPECT_EQ(known(*events), "16+4>32");
    unmap(*events, 16, 4);  // munmap(2)
    EXPECT_EQ(known(*events), "-16+4");
  }
}

// One thread moves, another moves to the place that was left before that is told.
TEST_F(LazyEventsTest, WhatAnotherThreadMovedToAPlace_IsNotUnmappedByTheEventOfTheFirst) {
  move(new_kernel_, 16, 32, 4);
  move(new_kernel_, 64, 16, 4);
  unmap(new_kernel_, 16, 4);  // of the first
  EXPECT_EQ(known(new_kernel_), "16+4>32~");
  unmap(new_kernel_, 64, 4);  // of the second
  EXPECT_EQ(known(new_kernel_), "64+4>16");
}

TEST_F(LazyEventsTest, WhatAMoveCutOff_IsUnmappedBeforeAnotherThreadMovesSomethingThere) {
  move(new_kernel_, 16, 32, 4);
  move(new_kernel_, 64, 20, 4);
  unmap(new_kernel_, 20, 4);
  unmap(new_kernel_, 16, 4);
  unmap(new_kernel_, 64, 4);
  EXPECT_EQ(known(new_kernel_), "16+4>32 -20+4 64+4>20");
}

TEST_F(LazyEventsTest, OldKernel_AMoveThatShrank_IsOfTheLengthOfThePlaceItLeft) {
  move(old_kernel_, 16, 32, 8);
  unmap(old_kernel_, 20, 4);
  EXPECT_EQ(known(old_kernel_), "~");
  unmap(old_kernel_, 16, 4);
  EXPECT_EQ(known(old_kernel_), "16+4>32 -20+4");
}

TEST_F(LazyEventsTest, AMoveThatLeftItsMap_IsKnownWhenNothingIsUnderWay) {
  for (LazyEvents* events : {&new_kernel_, &old_kernel_}) {
    move(*events, 16, 32, 8);
    EXPECT_EQ(known(*events), "~");
    events->all_told();
    EXPECT_EQ(known(*events), "16+8>32");
    // What comes later is another matter.
    move(*events, 32, 64, 8);
    EXPECT_EQ(known(*events), "~");
    unmap(*events, 32, 8);
    EXPECT_EQ(known(*events), "32+8>64");
  }
}

TEST_F(LazyEventsTest, AllTold_IsOfWhatWasThereThen) {
  move(new_kernel_, 16, 32, 4);
  move(new_kernel_, 64, 80, 4);
  unmap(new_kernel_, 64, 4);
  new_kernel_.all_told();
  move(new_kernel_, 96, 112, 4);
  EXPECT_EQ(known(new_kernel_), "16+4>32 64+4>80~");
}

TEST_F(LazyEventsTest, APartOfAMapThatStayed_IsUnmappedAfterTheMove) {
  for (LazyEvents* events : {&new_kernel_, &old_kernel_}) {
    move(*events, 16, 32, 8);
    unmap(*events, 16, 2);
    EXPECT_EQ(known(*events), "16+8>32 -16+2");
  }
  // Only an old kernel tells a length that was not moved.
  move(new_kernel_, 16, 32, 8);
  unmap(new_kernel_, 20, 4);
  unmap(new_kernel_, 16, 4);
  EXPECT_EQ(known(new_kernel_), "16+8>32 -20+4 -16+4");
}

TEST_F(LazyEventsTest, AFork_IsOfWhatWasToldBeforeIt) {
  move(new_kernel_, 16, 32, 4);
  new_kernel_.add({Event::Kind::kFork});
  EXPECT_EQ(known(new_kernel_), "~");
  unmap(new_kernel_, 16, 4);
  const std::optional<Event> first = new_kernel_.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->kind, Event::Kind::kMove);
  const std::optional<Event> second = new_kernel_.next();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->kind, Event::Kind::kFork);
}

}  // namespace
}  // namespace fermata::engine

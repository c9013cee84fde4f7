#include "common/status.h"

#include <gtest/gtest.h>

#include <set>

#include "common/file_util.h"

namespace fermata {
namespace {

Status store() { return {Code::kStorage, "disk is full", ENOSPC}; }

Result<int> call_that_fails() {
  FERMATA_TRY_RESULT(store());
  return 1;
}

Status pass_on() {
  FERMATA_ASSIGN_STATUS(const int value, call_that_fails());
  return {Code::kInternal, std::to_string(value)};
}

TEST(Status, Failure_KeepsCodeSentenceAndErrno_ThroughTheMacros) {
  const Status status = pass_on();
  EXPECT_EQ(status.code(), Code::kStorage);
  EXPECT_EQ(status.message(), "disk is full");
  EXPECT_EQ(status.error_number(), ENOSPC);
}

TEST(Status, Within_PutsThePlaceBeforeTheSentence) {
  EXPECT_EQ(store().within("pod-0.h5").message(), "pod-0.h5: disk is full");
  EXPECT_TRUE(Status::ok().within("pod-0.h5").is_ok());
}

TEST(Status, ErrnoStatus_SaysWhatTheKernelSaid) {
  const Status status = errno_status(EROFS, "cannot write /x");
  EXPECT_EQ(status.message(), "cannot write /x: Read-only file system");
  EXPECT_EQ(status.code(), Code::kStorage);
  EXPECT_EQ(errno_status(Code::kDamaged, EIO, "x").code(), Code::kDamaged);
}

TEST(Status, EveryCode_HasAnExitCodeAndANameOfItsOwn) {
  std::set<int> exits;
  std::set<std::string_view> names;
  constexpr int kCount = static_cast<int>(Code::kConflict) + 1;
  for (int code = 0; code < kCount; ++code) {
    exits.insert(exit_code_of(static_cast<Code>(code)));
    names.insert(code_name(static_cast<Code>(code)));
  }
  EXPECT_EQ(exits.size(), static_cast<size_t>(kCount));
  EXPECT_EQ(names.size(), static_cast<size_t>(kCount));
  EXPECT_EQ(exit_code_of(Code::kOk), 0);
  EXPECT_LT(*exits.rbegin(), 64);
}

TEST(Status, EveryCode_ComesBackFromItsGrpcCode) {
  for (int code = 0; code <= static_cast<int>(Code::kConflict); ++code) {
    EXPECT_EQ(code_of_grpc(grpc_code_of(static_cast<Code>(code))), static_cast<Code>(code));
  }
  EXPECT_EQ(code_of_grpc(1), Code::kInternal);
}

TEST(Status, ManPage_ListsEveryExitCode) {
  const std::string page = read_file(FERMATA_SOURCE_DIR "/docs/man/fermata.1").value();
  for (int code = 0; code <= static_cast<int>(Code::kConflict); ++code) {
    const auto value = static_cast<Code>(code);
    const std::string row =
        "\n" + std::to_string(exit_code_of(value)) + "|" + std::string(code_name(value)) + "|";
    EXPECT_NE(page.find(row), std::string::npos) << row;
  }
}

}  // namespace
}  // namespace fermata

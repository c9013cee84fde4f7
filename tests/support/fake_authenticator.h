// Credentials without munged, for tests of who uses them: each says whose it is and what it was
// made for, and is good once. Thread-safe.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "common/authenticator.h"

namespace fermata {

class FakeAuthenticator final : public Authenticator {
 public:
  explicit FakeAuthenticator(uid_t uid = 0) : uid_(uid) {}

  Result<std::string> make(std::string_view method, std::string_view request) override {
    static std::atomic<uint64_t> count{0};
    return fmt::format("{} {} {}", uid_, ++count, bound(method, request));
  }

  Result<Identity> check(std::string_view credential, std::string_view method,
                         std::string_view request) override {
    unsigned uid = 0;
    unsigned long long count = 0;
    int size = 0;
    const std::string text(credential);
    if (std::sscanf(text.c_str(), "%u %llu %n", &uid, &count, &size) != 2) {
      return failure(Code::kPermission, "this is no credential");
    }
    const std::lock_guard lock(mutex_);
    if (!used_.insert(text).second) return failure(Code::kPermission, "it was used before");
    if (text.substr(static_cast<size_t>(size)) != bound(method, request)) {
      return failure(Code::kPermission, "it was made for another request");
    }
    return Identity{.uid = uid, .gid = uid};
  }

 private:
  static std::string bound(std::string_view method, std::string_view request) {
    return fmt::format("{} {:x}", method, std::hash<std::string_view>{}(request));
  }

  const uid_t uid_;
  std::mutex mutex_;
  std::set<std::string> used_;
};

}  // namespace fermata

// Credentials by munge (munge(7)): the user as munged sees it, and a payload that binds the method
// and the request. munged lets each be decoded once and for five minutes only. Thread-safe; a call
// waits for munged.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "common/authenticator.h"
#include "common/config.h"
#include "common/status.h"

namespace fermata {

/// munged's socket: $FERMATA_MUNGE_SOCKET (not in a set-user-ID program), else the config's
/// munge_socket, else the one that libmunge was built for.
std::filesystem::path munge_socket(const Config& config);

/// What a credential holds: method, NUL, SHA-256 of the request.
std::string credential_payload(std::string_view method, std::string_view request);

/// kPermission where munged cannot be reached or will not; the sentence has its socket and what to
/// do.
Result<std::string> make_credential(const std::filesystem::path& socket, std::string_view method,
                                    std::string_view request);

/// kPermission where the credential is missing, replayed, expired, foreign (another cluster's key)
/// or for another request, and where munged cannot be reached. No sentence has the credential in
/// it; where munge tells whose it was, it has the uid.
Result<Identity> check_credential(const std::filesystem::path& socket, std::string_view credential,
                                  std::string_view method, std::string_view request);

class MungeAuthenticator final : public Authenticator {
 public:
  explicit MungeAuthenticator(std::filesystem::path socket) : socket_(std::move(socket)) {}

  Result<std::string> make(std::string_view method, std::string_view request) override {
    return make_credential(socket_, method, request);
  }
  Result<Identity> check(std::string_view credential, std::string_view method,
                         std::string_view request) override {
    return check_credential(socket_, credential, method, request);
  }

 private:
  std::filesystem::path socket_;
};

}  // namespace fermata

#include "common/munge.h"

#include <fmt/format.h>
#include <munge.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdlib.h>

#include <array>
#include <memory>

namespace fermata {
namespace {

/// munge's own are 200 to 400 bytes long; nothing longer is shown to munged.
constexpr size_t kLongestCredential = 4096;

struct FreeContext {
  void operator()(munge_ctx_t context) const { ::munge_ctx_destroy(context); }
};
using Context = std::unique_ptr<std::remove_pointer_t<munge_ctx_t>, FreeContext>;

struct FreeMemory {
  void operator()(void* memory) const { ::free(memory); }
};

Result<Context> context_for(const std::filesystem::path& socket) {
  Context context(::munge_ctx_create());
  if (!context ||
      ::munge_ctx_set(context.get(), MUNGE_OPT_SOCKET, socket.c_str()) != EMUNGE_SUCCESS) {
    return failure(Code::kInternal, "munge: no memory for a context");
  }
  return context;
}

/// libmunge writes to munged's socket by write(2): a munged that ends meanwhile must cost the call,
/// not the process. SIGPIPE goes to the thread that writes (pipe(7), signal(7)).
class NoSigpipe {
 public:
  NoSigpipe() {
    ::sigemptyset(&sigpipe_);
    ::sigaddset(&sigpipe_, SIGPIPE);
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;
  ~NoSigpipe() {
    const timespec now{};
    if (!was_pending_) ::sigtimedwait(&sigpipe_, nullptr, &now);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t sigpipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
};

Failure refused(munge_err_t error, const std::filesystem::path& socket, std::string_view whose) {
  const auto because = [](std::string sentence) {
    return failure(Code::kPermission, std::move(sentence));
  };
  switch (error) {
    case EMUNGE_SOCKET:
    case EMUNGE_TIMEOUT:
      return because(
          fmt::format("munged does not answer at {}: start it (systemctl start munge), or name its "
                      "socket by munge_socket in the "
                      "config file or $FERMATA_MUNGE_SOCKET",
                      socket.string()));
    case EMUNGE_CRED_EXPIRED:
      return because(fmt::format(
          "the credential{} has expired: are the clocks of both machines right?", whose));
    case EMUNGE_CRED_REWOUND:
      return because(fmt::format(
          "the credential{} is from the future: are the clocks of both machines right?", whose));
    case EMUNGE_CRED_REPLAYED:
      return because(fmt::format("the credential{} was used before: each is good once", whose));
    case EMUNGE_CRED_UNAUTHORIZED:
      return because("the credential is for another reader");
    case EMUNGE_BAD_CRED:
    case EMUNGE_BAD_VERSION:
    case EMUNGE_BAD_CIPHER:
    case EMUNGE_BAD_MAC:
    case EMUNGE_BAD_ZIP:
    case EMUNGE_BAD_REALM:
    case EMUNGE_CRED_INVALID:
      return because(
          "the credential is not of this cluster: both machines need the same munge key");
    default:
      return because(fmt::format("munge at {}: {}", socket.string(), ::munge_strerror(error)));
  }
}

}  // namespace

std::filesystem::path munge_socket(const Config& config) {
  if (const char* named = ::secure_getenv("FERMATA_MUNGE_SOCKET");
      named != nullptr && *named != '\0') {
    return named;
  }
  if (config.munge_socket) return *config.munge_socket;
  const Context context(::munge_ctx_create());
  const char* built_in = nullptr;
  if (context && ::munge_ctx_get(context.get(), MUNGE_OPT_SOCKET, &built_in) == EMUNGE_SUCCESS &&
      built_in != nullptr) {
    return built_in;
  }
  return "/run/munge/munge.socket.2";
}

std::string credential_payload(std::string_view method, std::string_view request) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  ::EVP_Digest(request.data(), request.size(), digest.data(), nullptr, ::EVP_sha256(), nullptr);
  std::string payload(method);
  payload.push_back('\0');
  payload.append(digest.begin(), digest.end());
  return payload;
}

Result<std::string> make_credential(const std::filesystem::path& socket, std::string_view method,
                                    std::string_view request) {
  FERMATA_ASSIGN(const Context context, context_for(socket));
  const std::string payload = credential_payload(method, request);
  const NoSigpipe guard;
  char* encoded = nullptr;
  const munge_err_t error =
      ::munge_encode(&encoded, context.get(), payload.data(), static_cast<int>(payload.size()));
  const std::unique_ptr<char, FreeMemory> owner(encoded);
  if (error != EMUNGE_SUCCESS) return refused(error, socket, "");
  return std::string(encoded);
}

Result<Identity> check_credential(const std::filesystem::path& socket, std::string_view credential,
                                  std::string_view method, std::string_view request) {
  if (credential.empty()) return failure(Code::kPermission, "the request has no credential");
  if (credential.size() > kLongestCredential) {
    return failure(Code::kPermission,
                   fmt::format("{} bytes are no credential of munge's", credential.size()));
  }
  FERMATA_ASSIGN(const Context context, context_for(socket));
  constexpr uid_t kNobody = static_cast<uid_t>(-1);
  Identity identity{.uid = kNobody, .gid = static_cast<gid_t>(-1)};
  const NoSigpipe guard;
  void* payload = nullptr;
  int size = 0;
  const munge_err_t error = ::munge_decode(std::string(credential).c_str(), context.get(), &payload,
                                           &size, &identity.uid, &identity.gid);
  const std::unique_ptr<void, FreeMemory> owner(payload);
  const std::string whose = identity.uid == kNobody ? "" : fmt::format(" of uid {}", identity.uid);
  if (error != EMUNGE_SUCCESS) return refused(error, socket, whose);

  const std::string_view bound(static_cast<const char*>(payload), static_cast<size_t>(size));
  if (bound != credential_payload(method, request)) {
    return failure(Code::kPermission,
                   fmt::format("the credential{} was made for another request", whose));
  }
  return identity;
}

}  // namespace fermata

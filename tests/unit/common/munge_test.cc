#include "common/munge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <munge.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "tests/support/munged.h"

namespace fermata {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kMethod = "/service/Method";

class MungeTest : public testing::Test {
 protected:
  Munged munged_;

  std::string good(std::string_view request) const {
    auto credential = make_credential(munged_.socket(), kMethod, request);
    EXPECT_TRUE(credential) << credential.error().message();
    return *credential;
  }
  Result<Identity> check(std::string_view credential, std::string_view request) const {
    return check_credential(munged_.socket(), credential, kMethod, request);
  }
};

void expect_refused(const Result<Identity>& checked, const std::string& sentence,
                    const std::string& credential) {
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code(), Code::kPermission);
  EXPECT_THAT(checked.error().message(), HasSubstr(sentence));
  if (!credential.empty()) {
    EXPECT_THAT(checked.error().message(), Not(HasSubstr(credential.substr(0, 20))));
  }
}

TEST_F(MungeTest, Check_TellsUserAndGroup_OfAGoodCredential) {
  const std::string request("a request with \0 in it", 22);
  const auto identity = check(good(request), request);
  ASSERT_TRUE(identity) << identity.error().message();
  EXPECT_EQ(identity->uid, ::getuid());
  EXPECT_EQ(identity->gid, ::getgid());
}

TEST_F(MungeTest, Check_TellsTheUser_WhoMadeIt) {
  ASSERT_EQ(::getuid(), 0U) << "needs root, as all tests here do";
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(4711) != 0 || ::setuid(4712) != 0) ::_exit(1);
    const auto credential = make_credential(munged_.socket(), kMethod, "r");
    if (!credential) ::_exit(2);
    const auto written = ::write(ends[1], credential->data(), credential->size());
    ::_exit(written == static_cast<ssize_t>(credential->size()) ? 0 : 3);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  std::array<char, 4096> buffer{};
  const ssize_t size = ::read(ends[0], buffer.data(), buffer.size());
  ASSERT_GT(size, 0);
  const auto identity = check({buffer.data(), static_cast<size_t>(size)}, "r");
  ASSERT_TRUE(identity) << identity.error().message();
  EXPECT_EQ(identity->uid, 4712U);
  EXPECT_EQ(identity->gid, 4711U);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(MungeTest, Check_RefusesACredential_UsedBefore) {
  const std::string credential = good("r");
  ASSERT_TRUE(check(credential, "r"));
  expect_refused(check(credential, "r"), "used before", credential);
}

TEST_F(MungeTest, Check_RefusesACredential_OfAnotherRequest) {
  const std::string credential = good("end job 1");
  expect_refused(check(credential, "end job 2"), "another request", credential);
}

TEST_F(MungeTest, Check_RefusesACredential_OfAnotherMethod) {
  const std::string credential = good("r");
  expect_refused(check_credential(munged_.socket(), credential, "/service/Methods", "r"),
                 "another request", credential);
}

TEST_F(MungeTest, Check_RefusesACredential_WithNoPayload) {
  std::unique_ptr<munge_ctx, void (*)(munge_ctx_t)> context(::munge_ctx_create(),
                                                            ::munge_ctx_destroy);
  ::munge_ctx_set(context.get(), MUNGE_OPT_SOCKET, munged_.socket().c_str());
  char* encoded = nullptr;
  ASSERT_EQ(::munge_encode(&encoded, context.get(), nullptr, 0), EMUNGE_SUCCESS);
  const std::string credential(encoded);
  ::free(encoded);
  expect_refused(check(credential, "r"), "another request", credential);
}

TEST_F(MungeTest, Check_RefusesACredential_ThatExpired) {
  std::unique_ptr<munge_ctx, void (*)(munge_ctx_t)> context(::munge_ctx_create(),
                                                            ::munge_ctx_destroy);
  ::munge_ctx_set(context.get(), MUNGE_OPT_SOCKET, munged_.socket().c_str());
  ::munge_ctx_set(context.get(), MUNGE_OPT_TTL, 1);
  const std::string payload = credential_payload(kMethod, "r");
  char* encoded = nullptr;
  ASSERT_EQ(
      ::munge_encode(&encoded, context.get(), payload.data(), static_cast<int>(payload.size())),
      EMUNGE_SUCCESS);
  const std::string credential(encoded);
  ::free(encoded);
  // munge counts whole seconds; the time to live has to pass.
  std::this_thread::sleep_for(std::chrono::milliseconds(2100));
  expect_refused(check(credential, "r"), "expired", credential);
}

TEST_F(MungeTest, Check_RefusesACredential_OfAnotherCluster) {
  const Munged other;
  const auto credential = make_credential(other.socket(), kMethod, "r");
  ASSERT_TRUE(credential);
  expect_refused(check(*credential, "r"), "same munge key", *credential);
}

TEST_F(MungeTest, Check_RefusesWhatIsNoCredential) {
  expect_refused(check("", "r"), "no credential", "");
  expect_refused(check("MUNGE:nonsense:", "r"), "not of this cluster", "");
  expect_refused(check(std::string(100'000, 'A'), "r"), "100000 bytes", "");
  std::string altered = good("r");
  altered[altered.size() / 2] = altered[altered.size() / 2] == 'A' ? 'B' : 'A';
  expect_refused(check(altered, "r"), "not of this cluster", altered);
}

TEST_F(MungeTest, BothWays_NameTheSocket_WhereMungedIsNotThere) {
  const std::string credential = good("r");
  munged_.stop();
  const auto made = make_credential(munged_.socket(), kMethod, "r");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::kPermission);
  EXPECT_THAT(made.error().message(), HasSubstr(munged_.socket().string()));
  EXPECT_THAT(made.error().message(), HasSubstr("munge_socket"));
  expect_refused(check(credential, "r"), munged_.socket().string(), credential);
}

TEST(MungeSocket, ComesFromTheEnvironment_ThenTheConfig_ThenLibmunge) {
  ASSERT_EQ(::unsetenv("FERMATA_MUNGE_SOCKET"), 0);
  Config config;
  EXPECT_EQ(munge_socket(config), "/run/munge/munge.socket.2");
  config.munge_socket = "/from/config";
  EXPECT_EQ(munge_socket(config), "/from/config");
  ASSERT_EQ(::setenv("FERMATA_MUNGE_SOCKET", "/from/environment", 1), 0);
  EXPECT_EQ(munge_socket(config), "/from/environment");
  ::unsetenv("FERMATA_MUNGE_SOCKET");
}

TEST(Admins, AreRootAndTheNamedUser) {
  const auto slurm = admins_of("daemon");
  ASSERT_TRUE(slurm);
  EXPECT_TRUE(slurm->contains(0));
  EXPECT_TRUE(slurm->contains(1));
  EXPECT_FALSE(slurm->contains(2));
  const auto nobody = admins_of("no-such-user-here");
  ASSERT_TRUE(nobody);
  EXPECT_TRUE(nobody->contains(0));
  EXPECT_FALSE(nobody->contains(1));
}

}  // namespace
}  // namespace fermata

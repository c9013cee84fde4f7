// Which connections leave the job.
#include "coord/connections.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

namespace fermata::coord {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::string v4(const char* host, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, host, &address.sin_addr);
  return {reinterpret_cast<const char*>(&address), sizeof address};
}

std::string v6(const char* host, uint16_t port) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  inet_pton(AF_INET6, host, &address.sin6_addr);
  return {reinterpret_cast<const char*>(&address), sizeof address};
}

image::OutsideConnection connection(std::string local, std::string remote,
                                    const std::string& state = "established") {
  image::OutsideConnection made;
  made.set_local(std::move(local));
  made.set_remote(std::move(remote));
  made.set_holder("process 12 (lmp), fd 7");
  made.set_state(state);
  return made;
}

class Connections : public testing::Test {
 protected:
  std::vector<LeavingConnection> leaving() {
    pods_ = {{"n1", first_}, {"n2", second_}};
    return leaving_connections(pods_, {ip_of(v4("10.0.0.1", 0)), ip_of(v4("10.0.0.2", 0))});
  }

  std::vector<image::OutsideConnection> first_;
  std::vector<image::OutsideConnection> second_;
  std::vector<PodConnections> pods_;
};

TEST_F(Connections, BothEndsInPodsOfTheJobStay) {
  first_ = {connection(v4("10.0.0.1", 40000), v4("10.0.0.2", 5000)),
            connection(v6("fd00::1", 40001), v6("fd00::2", 5000))};
  second_ = {connection(v4("10.0.0.2", 5000), v4("10.0.0.1", 40000)),
             connection(v6("fd00::2", 5000), v6("fd00::1", 40001))};
  EXPECT_THAT(leaving(), IsEmpty());
}

TEST_F(Connections, AnIpv6SocketMayHoldAnIpv4Connection) {
  first_ = {connection(v4("10.0.0.1", 40000), v4("10.0.0.2", 5000))};
  second_ = {connection(v6("::ffff:10.0.0.2", 5000), v6("::ffff:10.0.0.1", 40000))};
  EXPECT_THAT(leaving(), IsEmpty());
}

TEST_F(Connections, OneWithoutItsOtherEndLeaves_AndTheSentenceNamesIt) {
  first_ = {connection(v4("10.0.0.1", 40000), v4("10.0.0.2", 5000))};
  second_ = {connection(v4("10.0.0.2", 5000), v4("10.0.0.1", 40000)),
             connection(v4("10.0.0.2", 40002), v4("10.9.9.9", 27000)),
             // The same ports, of another connection.
             connection(v4("10.0.0.2", 5000), v4("10.0.0.1", 40001))};
  const std::vector<LeavingConnection> found = leaving();
  ASSERT_THAT(found, SizeIs(2));
  EXPECT_EQ(found[0].pod, 1U);
  const Status refused = refuse_leaving(pods_, found);
  EXPECT_EQ(refused.code(), Code::kCannotHold);
  for (const char* word : {"process 12 (lmp), fd 7", "n2", "10.9.9.9:27000", "10.0.0.1:40001"}) {
    EXPECT_THAT(refused.message(), HasSubstr(word));
  }
  EXPECT_TRUE(refuse_leaving(pods_, {}));
}

TEST_F(Connections, APeerOnAHostOfTheJobMayBeClosedAlready) {
  first_ = {connection(v4("10.0.0.1", 40000), v4("10.0.0.2", 5000), "close-wait"),
            connection(v4("10.0.0.1", 40001), v4("10.0.0.2", 5001), "syn-sent")};
  EXPECT_THAT(leaving(), IsEmpty());
  first_ = {connection(v4("10.0.0.1", 40000), v4("10.9.9.9", 5000), "close-wait")};
  EXPECT_THAT(leaving(), SizeIs(1));
}

TEST_F(Connections, BytesThatAreNoAddressLeave) {
  first_ = {connection("", "x"), connection(v4("10.0.0.1", 1).substr(0, 6), "")};
  const std::vector<LeavingConnection> found = leaving();
  EXPECT_THAT(found, SizeIs(2));
  EXPECT_THAT(refuse_leaving(pods_, found).message(), HasSubstr("unknown family"));
}

TEST_F(Connections, OneToAHostOfTheJobMayBeInTheMaking_TheFirstTimeItIsAlone) {
  const Addresses hosts{ip_of(v4("10.0.0.1", 0)), ip_of(v4("10.0.0.2", 0))};
  first_ = {connection(v4("10.0.0.1", 40000), v4("10.0.0.2", 5000))};
  LeavingJudge judge(/*cut=*/true);
  EXPECT_EQ(judge.judge(pods_, leaving(), hosts).code(), Code::kBusy);
  // Another one: the port has changed.
  first_ = {connection(v4("10.0.0.1", 40001), v4("10.0.0.2", 5000))};
  const Status again = judge.judge(pods_, leaving(), hosts);
  EXPECT_EQ(again.code(), Code::kBusy);
  EXPECT_THAT(again.message(), HasSubstr("10.0.0.2:5000"));
  EXPECT_EQ(judge.judge(pods_, leaving(), hosts).code(), Code::kCannotHold);
  // One that leads elsewhere is final at once.
  first_ = {connection(v4("10.0.0.1", 40002), v4("10.0.0.2", 5000)),
            connection(v4("10.0.0.1", 40003), v4("10.9.9.9", 27000))};
  EXPECT_EQ(judge.judge(pods_, leaving(), hosts).code(), Code::kCannotHold);
  first_.clear();
  EXPECT_TRUE(judge.judge(pods_, leaving(), hosts));
}

TEST_F(Connections, WithoutACutAnyEndMayBeAlone_Once) {
  first_ = {connection(v4("10.0.0.1", 40003), v4("10.9.9.9", 27000))};
  LeavingJudge judge(/*cut=*/false);
  EXPECT_EQ(judge.judge(pods_, leaving(), {}).code(), Code::kBusy);
  EXPECT_EQ(judge.judge(pods_, leaving(), {}).code(), Code::kCannotHold);
}

TEST(ExternalTcp, IsRefuseUnlessSaidOtherwise) {
  EXPECT_EQ(*parse_external_tcp(""), ExternalTcp::kRefuse);
  EXPECT_EQ(*parse_external_tcp("reset"), ExternalTcp::kReset);
  EXPECT_EQ(parse_external_tcp("keep").error().code(), Code::kUsage);
}

}  // namespace
}  // namespace fermata::coord

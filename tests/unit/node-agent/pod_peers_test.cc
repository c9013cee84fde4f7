// Two pods of one step that talk with each other by TCP, held and brought back on this machine: in
// a network namespace whose loopback interface has the addresses of two nodes.
#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "common/file_util.h"
#include "common/unique_fd.h"
#include "host_fixture.h"
#include "proto/pod_id.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;

/// Reads numbers, one a line, and stops at the first that is not the next.
constexpr const char* kServer = R"(
import os, socket, sys, threading
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", 7411)); listener.listen()
open("listens", "w").close()
peer, _ = listener.accept()
def accept_more():
    while True: listener.accept()[0].close()
threading.Thread(target=accept_more, daemon=True).start()
lines = peer.makefile("r")
want = 0
for line in lines:
    if int(line) != want: sys.exit(f"{line} came for {want}")
    want += 1
    if want % 100 == 0:
        with open("server.new", "w") as out: out.write(f"{want} {peer.getsockname()[0]}:{peer.getsockname()[1]}")
        os.rename("server.new", "server")
sys.exit("the stream ended")
)";

constexpr const char* kClient = R"(
import os, socket, time
peer = socket.create_connection((os.environ["SERVER"], 7411))
number = 0
while True:
    peer.sendall(f"{number}\n".encode())
    number += 1
    if number % 100 == 0:
        with open("client.new", "w") as out: out.write(f"{number} {peer.getpeername()[0]}:{peer.getpeername()[1]}")
        os.rename("client.new", "client")
        try: # a later connection to the address that the server was started on
            if os.path.exists("again"):
                os.remove("again")
                socket.create_connection((os.environ["SERVER"], 7411), 5).close()
                open("again.done", "w").close()
        except OSError as error: open("again.failed", "w").write(str(error))
        time.sleep(0.001)
)";

bool run(const std::string& command) {
  return std::system(command.c_str()) == 0;  // NOLINT(cert-env33-c): a test's own words
}

class PodPeersTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    // The threads of later hosts begin in it.
    before_.reset(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    ASSERT_TRUE(run("ip link set lo up && ip addr add 10.99.0.1/24 dev lo"));
  }
  void TearDown() override {
    HostTest::TearDown();
    ASSERT_EQ(setns(before_.get(), CLONE_NEWNET), 0);
  }

  void start() {
    hosts_.clear();
    for (uint32_t number = 0; number < 2; ++number) hosts_.push_back(make_host(pod(number)));
    launch_python(0, kServer);
    ASSERT_TRUE(eventually([&] { return fs::exists(file("listens")); }));
    launch_python(1, kClient);
    ASSERT_TRUE(eventually([&] { return seen("server") > 0; }));
  }

  void launch_python(uint32_t number, const char* script) {
    wire::Order order = launch("", 2);
    wire::LaunchOrder& launch = *order.mutable_launch();
    launch.set_command(0, "/usr/bin/python3");
    launch.set_command(2, script);
    launch.add_environment("SERVER=10.99.0.1");
    const wire::Done done = hosts_[number]->ask(order);
    ASSERT_EQ(done.outcome().code(), 0) << done.outcome().message();
  }

  /// The number a program has come to, and how it calls its end of the connection's server.
  long seen(const std::string& who) const {
    long number = -1;
    std::ifstream(file(who)) >> number;
    return number;
  }
  std::string server_as_seen_by(const std::string& who) const {
    std::string number;
    std::string name;
    std::ifstream(file(who)) >> number >> name;
    return name;
  }
  void expect_flow() {
    const long server = seen("server");
    const long client = seen("client");
    EXPECT_TRUE(eventually([&] { return seen("server") > server; })) << *read_file(file("out.0"));
    EXPECT_TRUE(eventually([&] { return seen("client") > client; })) << *read_file(file("out.1"));
  }

  /// A set of both, phase by phase.
  std::vector<wire::PodReport> take(uint64_t crid, bool end_job) {
    std::vector<wire::PodReport> reports(2);
    for (uint32_t number = 0; number < 6; ++number) {
      std::vector<uint64_t> orders;
      for (const std::unique_ptr<TestHost>& host : hosts_) {
        orders.push_back(
            host->send(phase(static_cast<SetPhase>(number), crid, set_folder(crid), end_job)));
      }
      for (size_t i = 0; i < hosts_.size(); ++i) {
        const wire::Done done = hosts_[i]->answer_to(orders[i]);
        EXPECT_EQ(done.outcome().code(), 0)
            << "phase " << number << " of pod " << i << ": " << done.outcome().message();
        reports[i] = done.report();
        if (number == 2) {
          EXPECT_EQ(done.connections_size(), 1) << "of pod " << i;
        }
      }
    }
    return reports;
  }

  void destroy_all() {
    for (const std::unique_ptr<TestHost>& host : hosts_) {
      EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
      EXPECT_TRUE(host->wait_over());
      // The one may have ended because the other was gone: that is for an agent to tell.
      if (host->report()) PodRegistry(run_dir()).remove(wire::from_wire(host->report()->id()));
    }
    hosts_.clear();
    expect_nothing_left(2);
  }

  void bring_back(uint64_t crid, const std::vector<wire::PodReport>& images) {
    ++start_;
    std::vector<uint64_t> orders;
    for (uint32_t number = 0; number < 2; ++number) {
      hosts_.push_back(make_host(pod(number, start_)));
      orders.push_back(hosts_[number]->send(restore(crid, images[number], number, 2)));
    }
    image::AddressMap all;
    const auto answers = [&](const char* step) {
      for (size_t i = 0; i < hosts_.size(); ++i) {
        const wire::Done done = hosts_[i]->answer_to(orders[i]);
        ASSERT_EQ(done.outcome().code(), 0) << step << ": " << done.outcome().message();
        all.MergeFrom(done.addresses());
      }
    };
    answers("restore");
    for (size_t i = 0; i < hosts_.size(); ++i) orders[i] = hosts_[i]->send(connect(all));
    answers("connect");
    for (size_t i = 0; i < hosts_.size(); ++i) orders[i] = hosts_[i]->send(go());
    answers("go");
  }

  std::vector<std::unique_ptr<TestHost>> hosts_;

 private:
  UniqueFd before_;
  uint32_t start_ = 0;
};

TEST_F(PodPeersTest, AStreamBetweenPods_OutlivesSetsAndRestarts) {
  ASSERT_NO_FATAL_FAILURE(start());
  for (uint64_t crid = 1; crid <= 3; ++crid) {
    take(crid, false);
    expect_flow();
  }
  for (uint64_t crid = 4; crid <= 5; ++crid) {
    const std::vector<wire::PodReport> images = take(crid, true);
    destroy_all();
    ASSERT_NO_FATAL_FAILURE(bring_back(crid, images));
    expect_flow();
  }
  destroy_all();
}

TEST_F(PodPeersTest, BroughtBackUnderOtherAddresses_TheProgramsSeeTheOldOnes) {
  ASSERT_NO_FATAL_FAILURE(start());
  for (uint64_t crid = 1; crid <= 3; ++crid) {
    SCOPED_TRACE(crid);
    const std::vector<wire::PodReport> images = take(crid, true);
    destroy_all();
    const std::string now = std::to_string(crid);
    ASSERT_TRUE(
        run("ip addr flush dev lo scope global && ip addr add 10.99." + now + ".1/24 dev lo"));
    ASSERT_NO_FATAL_FAILURE(bring_back(crid, images));
    expect_flow();
    EXPECT_EQ(server_as_seen_by("client"), "10.99.0.1:7411");
    EXPECT_EQ(server_as_seen_by("server"), "10.99.0.1:7411");
    std::ofstream(file("again")) << "x";
    EXPECT_TRUE(eventually([&] { return fs::exists(file("again.done")); }))
        << read_file(file("again.failed")).value_or("");
    fs::remove(file("again.done"));
  }
  destroy_all();
}

}  // namespace
}  // namespace fermata::node_agent

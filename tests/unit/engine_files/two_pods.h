// Two pods on two nodes with TCP connections between them, captured each for itself while both are
// cut off, killed, and rebuilt on other nodes: what the coordinator and two agents do.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "node_double.h"
#include "pod_double.h"
#include "stream_text.h"

namespace fermata::engine {

#define ASSERT_OK(expr)                                      \
  do {                                                       \
    const Status assert_status_ = (expr);                    \
    ASSERT_TRUE(assert_status_) << assert_status_.message(); \
  } while (0)

enum class Form { kIpv4, kIpv6, kMapped /* IPv6 sockets, IPv4 on the wire */ };

struct TwoPodsOptions {
  Form form = Form::kIpv4;
  int connections = 1;
  bool accept = true;
  /// In the programs, when they are connected.
  std::function<void()> client_does = [] {};
  std::function<void()> server_does = [] {};
};

class TwoPods {
 public:
  /// The server listens at descriptor 3 and has accepted at 4, 5, ...; the client has connected at
  /// 3, 4, ...
  explicit TwoPods(const TwoPodsOptions& options);
  ~TwoPods();
  TwoPods(const TwoPods&) = delete;
  TwoPods& operator=(const TwoPods&) = delete;

  PodDouble& client() { return *client_->pod; }
  PodDouble& server() { return *server_->pod; }
  /// Ours.
  UniqueFd client_fd(int i = 0) { return client().fd(1, 3 + i); }
  UniqueFd server_fd(int i = 0) { return server().fd(1, 4 + i); }
  GroupDouble& client_group() { return *client_->group; }
  GroupDouble& server_group() { return *server_->group; }

  void cut();
  /// Takes the cut from both and nudges what the last capture found.
  void join();
  Status capture_client();
  Status capture_server();
  /// Cuts and captures both.
  Status take_set();
  /// The same; where it has to be tried again in a moment, it is, for 10 seconds.
  Status take_set_patiently();
  /// After take_set(): lets both run on.
  void run_on();
  void kill();

  /// Where the next restart is: two new nodes of another network, or the same again.
  void move();
  /// Both pods on one of two new nodes.
  void move_together();
  /// A command where the client or the server is to be rebuilt.
  bool run_at_client(const std::string& command) { return client_->node->run(command); }
  bool run_at_server(const std::string& command) { return server_->node->run(command); }
  NodeDouble& server_node() { return *server_->node; }
  NodeDouble& client_node() { return *client_->node; }

  /// Kills what is left, rebuilds both, lets them go on. `isolated`: from the exchange on, as long
  /// as they are built.
  Status restart(bool isolated = true);
  bool reset_outside = false;
  /// In restart(), when the client goes on and the server does not yet.
  std::function<void()> in_between = [] {};

 private:
  struct Place {
    std::shared_ptr<NodeDouble> node;
    int net = 0;
    int host = 0;
    std::unique_ptr<GroupDouble> group;
    std::unique_ptr<PodDouble> pod;
    image::AddressMap own;
  };

  static InetAddress address_at(const Place& place, const InetAddress& then);
  void place(const std::shared_ptr<NodeDouble>& one, const std::shared_ptr<NodeDouble>& other,
             int other_host);
  NetworkRequest network(Place& place, std::function<Result<image::AddressMap>()> meet) const;

  std::unique_ptr<Place> client_ = std::make_unique<Place>();
  std::unique_ptr<Place> server_ = std::make_unique<Place>();
  std::shared_ptr<NodeDouble> spare_;  // the other end of the cable
  std::vector<std::unique_ptr<GroupDouble>> old_groups_;
};

/// All of it goes into the socket, or the test is wrong.
void put(const UniqueFd& fd, const std::string& bytes);
/// Reads until `size` bytes are there, the stream ends, or nothing comes for 10 seconds.
std::string take(const UniqueFd& fd, size_t size);
int int_option(const UniqueFd& fd, int level, int name);
/// Of TCP_INFO.
int state_of(const UniqueFd& fd);
/// Polls a condition for 10 seconds.
bool eventually(const std::function<bool()>& condition);
InetAddress local_of(const UniqueFd& fd);

}  // namespace fermata::engine

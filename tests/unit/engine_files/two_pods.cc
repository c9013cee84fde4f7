#include "two_pods.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace fermata::engine {
namespace {

constexpr uint16_t kPort = 7000;
constexpr std::chrono::seconds kLongCut(60);

InetAddress node_address(Form form, int net, int host, uint16_t port) {
  in6_addr v6{};
  in_addr v4{};
  if (form == Form::kIpv6) {
    ::inet_pton(AF_INET6, fmt::format("fd00:{}::{}", net, host).c_str(), &v6);
    return {&v6, AF_INET6, port};
  }
  ::inet_pton(AF_INET, fmt::format("10.{}.{}.{}", net / 250, net % 250, host).c_str(), &v4);
  return InetAddress(&v4, AF_INET, port).for_family(form == Form::kMapped ? AF_INET6 : AF_INET);
}

int next_net() {
  static int net = 0;
  return ++net;
}

}  // namespace

TwoPods::TwoPods(const TwoPodsOptions& options) {
  move();
  client_->group = std::make_unique<GroupDouble>();
  server_->group = std::make_unique<GroupDouble>();
  const InetAddress at = node_address(options.form, server_->net, server_->host, kPort);
  std::thread other([&] {
    server_->node->enter();
    server_->pod = std::make_unique<PodDouble>(
        [&] {
          const int listener = ::socket(at.family(), SOCK_STREAM, 0);
          const int one = 1;
          ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
          if (::bind(listener, at.get(), at.length()) != 0 || ::listen(listener, 64) != 0) {
            std::abort();
          }
          for (int i = 0; options.accept && i < options.connections; ++i) {
            if (::accept(listener, nullptr, nullptr) != 4 + i) std::abort();
          }
          options.server_does();
        },
        server_->group->path());
  });
  client_->node->enter();
  client_->pod = std::make_unique<PodDouble>(
      [&] {
        for (int i = 0; i < options.connections; ++i) {
          const int fd = ::socket(at.family(), SOCK_STREAM, 0);
          while (::connect(fd, at.get(), at.length()) != 0) {
            if (errno != ECONNREFUSED) std::abort();
            ::usleep(1000);
          }
        }
        options.client_does();
      },
      client_->group->path());
  NodeDouble::leave();
  other.join();
}

TwoPods::~TwoPods() {
  NodeDouble::leave();
  client_->pod.reset();
  server_->pod.reset();
}

void TwoPods::place(const std::shared_ptr<NodeDouble>& one,
                    const std::shared_ptr<NodeDouble>& other, int other_host) {
  const int net = next_net();
  NodeDouble::join(*one, *other, net);
  client_->node = one;
  server_->node = other_host == 1 ? one : other;
  spare_ = other;
  client_->host = 1;
  server_->host = other_host;
  client_->net = server_->net = net;
}

void TwoPods::move() { place(std::make_shared<NodeDouble>(), std::make_shared<NodeDouble>(), 2); }

void TwoPods::move_together() {
  place(std::make_shared<NodeDouble>(), std::make_shared<NodeDouble>(), 1);
}

void TwoPods::cut() {
  client_->group->isolation().cut(kLongCut);
  server_->group->isolation().cut(kLongCut);
}

void TwoPods::join() {
  client_->group->isolation().join();
  server_->group->isolation().join();
  nudge(std::exchange(client().outside().sockets, {}));
  nudge(std::exchange(server().outside().sockets, {}));
}

namespace {

uint64_t id_of(const std::filesystem::path& group) {
  struct stat status {};
  return ::stat(group.c_str(), &status) == 0 ? status.st_ino : 0;
}

Status capture_in(NodeDouble& node, PodDouble& pod, const GroupDouble& group) {
  node.enter();
  pod.outside().allowed = true;
  pod.outside().group = id_of(group.path());
  Status status = pod.capture();
  NodeDouble::leave();
  return status;
}

}  // namespace

Status TwoPods::capture_client() {
  return capture_in(*client_->node, *client_->pod, *client_->group);
}

Status TwoPods::capture_server() {
  return capture_in(*server_->node, *server_->pod, *server_->group);
}

Status TwoPods::take_set() {
  cut();
  FERMATA_TRY(capture_client());
  return capture_server();
}

Status TwoPods::take_set_patiently() {
  Status status;
  (void)eventually([&] {
    status = take_set();
    const bool again = status.code() == Code::kBusy;
    if (again) {
      run_on();
      // An acknowledgement may be delayed by 40 ms, and was dropped if that ended in the cut.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return !again;
  });
  return status;
}

void TwoPods::run_on() {
  client().resume();
  server().resume();
  join();
}

void TwoPods::kill() {
  client().kill();
  server().kill();
}

InetAddress TwoPods::address_at(const Place& place, const InetAddress& then) {
  if (then.is_loopback() || then.is_wildcard()) return then;
  return node_address(then.family() == AF_INET ? Form::kIpv4 : Form::kIpv6, place.net, place.host,
                      0);
}

NetworkRequest TwoPods::network(Place& place,
                                std::function<Result<image::AddressMap>()> meet) const {
  NetworkRequest request;
  request.reset_outside = reset_outside;
  request.address_here = [&place](const InetAddress& then) -> Result<InetAddress> {
    return address_at(place, then);
  };
  request.exchange =
      [&place, meet = std::move(meet)](const image::AddressMap& own) -> Result<image::AddressMap> {
    place.own = own;
    return meet();
  };
  return request;
}

Status TwoPods::restart(bool isolated) {
  kill();
  for (Place* place : {client_.get(), server_.get()}) {
    old_groups_.push_back(std::move(place->group));
    place->group = std::make_unique<GroupDouble>();
    place->pod->move_to(place->group->path());
  }
  // The server is built in the middle of the client, whose addresses it needs.
  image::AddressMap all;
  server_->pod->set_network(network(*server_, [&]() -> Result<image::AddressMap> {
    if (isolated) cut();
    all = client_->own;
    all.MergeFrom(server_->own);
    return all;
  }));
  client_->pod->set_network(network(*client_, [&]() -> Result<image::AddressMap> {
    server_->node->enter();
    const Status built = server_->pod->build();
    client_->node->enter();
    if (!built) return Failure(built);
    return all;
  }));
  client_->node->enter();
  Status status = client_->pod->build();
  if (status && isolated) join();
  if (status) status = client_->pod->begin();
  if (status) in_between();
  server_->node->enter();
  if (status) status = server_->pod->begin();
  NodeDouble::leave();
  return status;
}

void put(const UniqueFd& fd, const std::string& bytes) {
  const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  ASSERT_EQ(n, static_cast<ssize_t>(bytes.size())) << "errno " << errno;
}

std::string take(const UniqueFd& fd, size_t size) {
  std::string all;
  std::string buffer(1 << 16, '\0');
  while (all.size() < size) {
    pollfd ready{fd.get(), POLLIN, 0};
    if (::poll(&ready, 1, 10'000) != 1) break;
    const ssize_t n =
        ::recv(fd.get(), buffer.data(), std::min(buffer.size(), size - all.size()), 0);
    if (n <= 0) break;
    all.append(buffer.data(), static_cast<size_t>(n));
  }
  return all;
}

int int_option(const UniqueFd& fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  ::getsockopt(fd.get(), level, name, &value, &size);
  return value;
}

int state_of(const UniqueFd& fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  ::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &info, &size);
  return info.tcpi_state;
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

InetAddress local_of(const UniqueFd& fd) {
  return InetAddress::local_of(fd.get()).value_or(InetAddress());
}

}  // namespace fermata::engine

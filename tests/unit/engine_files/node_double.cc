#include "node_double.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "node-agent/pod/cgroup.h"

namespace fermata::engine {
namespace {

UniqueFd own_namespace() {
  return UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
}

const UniqueFd& home() {
  static const UniqueFd home_node = own_namespace();
  return home_node;
}

}  // namespace

GroupDouble::GroupDouble() {
  static int count = 0;
  Result<std::filesystem::path> made =
      pod::make_group(fmt::format("engine-files-{}-{}", ::getpid(), ++count));
  if (!made) std::abort();
  path_ = *made;
  Result<isolation::Isolation> isolation = isolation::Isolation::install(path_);
  if (!isolation) {
    fmt::print(stderr, "{}\n", isolation.error().message());
    std::abort();
  }
  isolation_ = std::make_unique<isolation::Isolation>(*std::move(isolation));
}

GroupDouble::~GroupDouble() {
  isolation_.reset();
  (void)pod::kill_group(path_);
  const Status removed = pod::remove_group(path_, 5000);
  if (!removed) fmt::print(stderr, "{}\n", removed.message());
}

NodeDouble::NodeDouble() {
  (void)home();
  if (::unshare(CLONE_NEWNET) != 0) std::abort();
  netns_ = own_namespace();
  leave();
  if (!run("ip link set lo up")) std::abort();
}

void NodeDouble::enter() const {
  if (::setns(netns_.get(), CLONE_NEWNET) != 0) std::abort();
}

void NodeDouble::leave() {
  if (::setns(home().get(), CLONE_NEWNET) != 0) std::abort();
}

bool NodeDouble::run(const std::string& command) const {
  enter();
  const int status = std::system(command.c_str());
  leave();
  return status == 0;
}

void NodeDouble::join(const NodeDouble& one, const NodeDouble& other, int net) {
  const std::string there = fmt::format("/proc/{}/fd/{}", ::getpid(), other.netns_.get());
  const auto address = [&](int host) {
    return fmt::format(
        "ip addr add 10.{2}.{3}.{1}/24 dev v{0} && ip addr add fd00:{0}::{1}/64 dev v{0} nodad && "
        "ip link set v{0} up",
        net, host, net / 250, net % 250);
  };
  // A worker of the kernel's makes the routes of IPv6's, in its own time (addrconf_dad_work).
  const std::string routes = fmt::format(
      "for i in 1 2; do timeout 60 sh -c \"until ip -6 route get fd00:{}::$i >/dev/null 2>&1; "
      "do sleep 0.01; done\" || exit 1; done",
      net);
  if (!one.run(fmt::format("ip link add v{0} type veth peer name v{0} netns {1}", net, there)) ||
      !one.run(address(1)) || !other.run(address(2)) || !one.run(routes) || !other.run(routes)) {
    std::abort();
  }
}

}  // namespace fermata::engine

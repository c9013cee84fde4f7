#include "node-agent/engine/inet_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>

#include <array>
#include <cstring>
#include <memory>

#include "common/socket_address.h"

namespace fermata::engine {
namespace {

std::string host_part(const std::string& key) { return key.substr(0, key.size() - 2); }

}  // namespace

InetAddress::InetAddress(const void* address, int family, uint16_t port) {
  if (family == AF_INET) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage_);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    std::memcpy(&v4->sin_addr, address, sizeof v4->sin_addr);
    length_ = sizeof *v4;
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage_);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    std::memcpy(&v6->sin6_addr, address, sizeof v6->sin6_addr);
    length_ = sizeof *v6;
  }
}

Result<InetAddress> InetAddress::parse(std::string_view bytes) {
  InetAddress address;
  if (bytes.empty()) return address;
  if (!endpoint_of(bytes)) {
    return failure(Code::kDamaged, fmt::format("{} bytes that are no IP address", bytes.size()));
  }
  std::memcpy(&address.storage_, bytes.data(), bytes.size());
  address.length_ = static_cast<socklen_t>(bytes.size());
  return address;
}

Result<InetAddress> InetAddress::local_of(int fd) {
  InetAddress address;
  address.length_ = sizeof address.storage_;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage_), &address.length_) != 0) {
    return errno_failure(errno, "getsockname");
  }
  return address;
}

Result<InetAddress> InetAddress::remote_of(int fd) {
  InetAddress address;
  address.length_ = sizeof address.storage_;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address.storage_), &address.length_) == 0) {
    return address;
  }
  if (errno == ENOTCONN) return InetAddress();
  return errno_failure(errno, "getpeername");
}

uint16_t InetAddress::port() const {
  if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
  return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_port);
}

InetAddress InetAddress::with_port(uint16_t port) const {
  InetAddress other = *this;
  if (family() == AF_INET) {
    reinterpret_cast<sockaddr_in*>(&other.storage_)->sin_port = htons(port);
  } else if (family() == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&other.storage_)->sin6_port = htons(port);
  }
  return other;
}

InetAddress InetAddress::unmapped() const {
  if (family() != AF_INET6) return *this;
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage_);
  if (!IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) return *this;
  return {reinterpret_cast<const char*>(&v6->sin6_addr) + 12, AF_INET, port()};
}

InetAddress InetAddress::for_family(int wanted) const {
  if (wanted != AF_INET6 || family() != AF_INET) return *this;
  std::array<unsigned char, 16> mapped{};
  mapped[10] = mapped[11] = 0xff;
  std::memcpy(&mapped[12], &reinterpret_cast<const sockaddr_in*>(&storage_)->sin_addr, 4);
  return {mapped.data(), AF_INET6, port()};
}

std::string InetAddress::bytes() const {
  return {reinterpret_cast<const char*>(&storage_), length_};
}

std::string InetAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (family() == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage_);
    ::inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
    return fmt::format("{}:{}", text.data(), port());
  }
  if (family() == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage_);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size());
    return fmt::format("[{}]:{}", text.data(), port());
  }
  return "no address";
}

std::string InetAddress::key() const {
  if (empty()) return {};
  const uint16_t number = port();
  std::string key;
  if (family() == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage_);
    key.assign(reinterpret_cast<const char*>(&v4->sin_addr), sizeof v4->sin_addr);
  } else {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage_);
    const auto* raw = reinterpret_cast<const char*>(&v6->sin6_addr);
    if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
      key.assign(raw + 12, 4);
    } else {
      key.assign(raw, sizeof v6->sin6_addr);
    }
  }
  key.append(reinterpret_cast<const char*>(&number), sizeof number);
  return key;
}

bool InetAddress::is_wildcard() const {
  return host_part(key()).find_first_not_of('\0') == std::string::npos;
}

bool InetAddress::is_loopback() const {
  const std::string host = host_part(key());
  return host.size() == 4 ? host[0] == 127 : host == std::string(15, '\0') + '\1';
}

bool InetAddress::is_local() const {
  const std::string host = host_part(key());
  if (host.size() == 4 && host[0] == 127) return true;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return false;
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> guard(all, &::freeifaddrs);
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr) continue;
    const int family = one->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    const auto address = parse({reinterpret_cast<const char*>(one->ifa_addr), size});
    if (address && host_part(address->key()) == host) return true;
  }
  return false;
}

}  // namespace fermata::engine

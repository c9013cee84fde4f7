// A TCP relay on loopback that can fall silent, as a network does: connections stay, bytes do not
// arrive. One thread.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/unique_fd.h"

namespace fermata {

class Relay {
 public:
  explicit Relay(int to_port) : to_port_(to_port), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in here = loopback(0);
    socklen_t size = sizeof(here);
    if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&here), size) != 0 ||
        ::listen(listener_.get(), 16) != 0 ||
        ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&here), &size) != 0) {
      throw std::runtime_error("relay: no port");
    }
    address_ = "127.0.0.1:" + std::to_string(ntohs(here.sin_port));
    thread_ = std::thread([this] { serve(); });
  }
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  ~Relay() {
    ending_ = true;
    thread_.join();
  }

  const std::string& address() const { return address_; }
  void set_silent(bool silent) { silent_ = silent; }

 private:
  struct Pair {
    UniqueFd near;
    UniqueFd far;
  };

  static sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  void serve() {
    while (!ending_) {
      std::vector<pollfd> polled;
      if (!silent_) {
        polled.push_back({listener_.get(), POLLIN, 0});
        for (const Pair& pair : pairs_) {
          polled.push_back({pair.near.get(), POLLIN, 0});
          polled.push_back({pair.far.get(), POLLIN, 0});
        }
      }
      if (::poll(polled.data(), polled.size(), 10) <= 0) continue;
      // From the last to the first, so that a pair can be dropped.
      for (size_t i = pairs_.size(); i-- > 0;) {
        const bool near = polled[1 + 2 * i].revents != 0;
        const bool far = polled[2 + 2 * i].revents != 0;
        if ((near && !pass(pairs_[i].near, pairs_[i].far)) ||
            (far && !pass(pairs_[i].far, pairs_[i].near))) {
          pairs_.erase(pairs_.begin() + static_cast<ptrdiff_t>(i));
        }
      }
      if (polled[0].revents != 0) accept_one();
    }
  }
  void accept_one() {
    Pair pair{UniqueFd(::accept(listener_.get(), nullptr, nullptr)),
              UniqueFd(::socket(AF_INET, SOCK_STREAM, 0))};
    const sockaddr_in there = loopback(to_port_);
    if (::connect(pair.far.get(), reinterpret_cast<const sockaddr*>(&there), sizeof(there)) == 0) {
      pairs_.push_back(std::move(pair));
    }
  }
  static bool pass(const UniqueFd& from, const UniqueFd& to) {
    std::array<char, 65536> buffer{};
    const ssize_t got = ::read(from.get(), buffer.data(), buffer.size());
    return got > 0 &&
           ::send(to.get(), buffer.data(), static_cast<size_t>(got), MSG_NOSIGNAL) == got;
  }

  const int to_port_;
  UniqueFd listener_;
  std::string address_;
  std::atomic<bool> ending_{false};
  std::atomic<bool> silent_{false};
  std::vector<Pair> pairs_;
  std::thread thread_;
};

}  // namespace fermata

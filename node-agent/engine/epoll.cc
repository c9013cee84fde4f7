// epoll(7): what each instance watches. The watches are made again in connect(), by a process that
// has both the instance and the watched file at their numbers, because the number is part of a
// watch.
//
// A watch that had fired with EPOLLONESHOT and waits to be armed again is added armed for errors
// and hang-ups alone (the kernel offers nothing less), and those present already are taken off it
// at once. An edge-triggered watch may report one edge again.
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <map>
#include <sstream>
#include <vector>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

// A watch whose only bits are these has fired (fs/eventpoll.c, EP_PRIVATE_BITS).
constexpr uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;

struct Holder {
  int vpid = 0;
  pid_t pid = 0;
  int epoll_fd = -1;
};

// Whether `fd` of process `watched` is the file that slot `offset` of number `fd` in the instance
// watches.
bool is_watched_file(const Holder& holder, int fd, uint32_t offset) {
  kcmp_epoll_slot slot{static_cast<uint32_t>(holder.epoll_fd), static_cast<uint32_t>(fd), offset};
  return ::syscall(SYS_kcmp, holder.pid, holder.pid, KCMP_EPOLL_TFD, fd, &slot) == 0;
}

class EpollKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return probe.link == "anon_inode:[eventpoll]";
  }

  Status capture(const FileProbe& probe, CaptureContext&, image::File& out) override {
    std::istringstream lines(probe.fdinfo);
    std::string line;
    image::EpollFile& epoll = *out.mutable_epoll();
    while (std::getline(lines, line)) {
      if (!line.starts_with("tfd:")) continue;
      int fd = -1;
      uint32_t events = 0;
      uint64_t data = 0;
      if (std::sscanf(line.c_str(), "tfd: %d events: %x data: %" SCNx64, &fd, &events, &data) !=
          3) {
        return refuse(probe, fmt::format("fdinfo has a line of another form: '{}'", line));
      }
      image::EpollWatch& watch = *epoll.add_watches();
      watch.set_fd(fd);
      watch.set_events(events);
      watch.set_data(data);
    }
    probes_[out.id()] = probe.describe();
    return Status::ok();
  }

  Status finish_capture(CaptureContext& context, image::PodObjects& objects) override {
    std::map<uint32_t, std::vector<Holder>> holders;
    for (const image::Process& process : objects.processes()) {
      for (const image::Fd& fd : process.fds()) {
        if (!probes_.contains(fd.file_id())) continue;
        FERMATA_ASSIGN_STATUS(const Remote* remote, context.remote(process.vpid()));
        holders[fd.file_id()].push_back({process.vpid(), remote->pid(), fd.fd()});
      }
    }
    std::string all;
    for (image::File& file : *objects.mutable_files()) {
      if (!file.has_epoll()) continue;
      find_holders(file, holders[file.id()], all);
    }
    return all.empty() ? Status::ok() : Status(Code::kCannotHold, all);
  }

  bool owns(const image::File& file) const override { return file.has_epoll(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext&) override {
    UniqueFd fd(::epoll_create1(EPOLL_CLOEXEC));
    if (!fd) return errno_failure(errno, fmt::format("{}: epoll_create1", holder_of(file)));
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }

  Status connect(const image::File& file, RebuildContext& context) override {
    FERMATA_TRY(add_watches(file, context, true));
    // Takes what a fired watch reports already off it again: the rest is not added yet.
    std::array<epoll_event, 64> events{};
    while (::epoll_wait(context.created(file.id()), events.data(), events.size(), 0) ==
           static_cast<int>(events.size())) {
    }
    return add_watches(file, context, false);
  }

 private:
  static bool has_fired(const image::EpollWatch& watch) {
    return (watch.events() & ~kPrivateBits) == 0 && (watch.events() & EPOLLONESHOT) != 0;
  }

  void find_holders(image::File& file, const std::vector<Holder>& holders, std::string& all) {
    // The same number can be watched for several files, one after the other: kcmp(2) counts them by
    // an offset in the order in which fdinfo lists them.
    std::map<int, uint32_t> offsets;
    for (image::EpollWatch& watch : *file.mutable_epoll()->mutable_watches()) {
      const uint32_t offset = offsets[watch.fd()]++;
      const auto found = std::find_if(holders.begin(), holders.end(), [&](const Holder& holder) {
        return is_watched_file(holder, watch.fd(), offset);
      });
      if (found == holders.end()) {
        if (!all.empty()) all += '\n';
        all += fmt::format(
            "{}: it watches what was fd {}, which that process has closed while another still has "
            "it "
            "open; remove it from the epoll instance (EPOLL_CTL_DEL) before closing it",
            probes_[file.id()], watch.fd());
        continue;
      }
      watch.set_vpid(found->vpid);
      watch.set_epoll_fd(found->epoll_fd);
    }
  }

  static Status add_watches(const image::File& file, RebuildContext& context, bool fired) {
    std::map<int, std::vector<const image::EpollWatch*>> by_process;
    for (const image::EpollWatch& watch : file.epoll().watches()) {
      if (has_fired(watch) == fired) by_process[watch.vpid()].push_back(&watch);
    }
    for (const auto& [vpid, watches] : by_process) {
      FERMATA_ASSIGN_STATUS(Remote * remote, context.remote(vpid));
      constexpr size_t kAtOnce = 256;
      for (size_t at = 0; at < watches.size(); at += kAtOnce) {
        const size_t count = std::min(kAtOnce, watches.size() - at);
        FERMATA_TRY(add_some(file, *remote, std::span(watches).subspan(at, count)));
      }
    }
    return Status::ok();
  }

  static Status add_some(const image::File& file, Remote& remote,
                         std::span<const image::EpollWatch* const> watches) {
    std::vector<epoll_event> events;
    std::vector<RemoteCall> calls;
    const uint64_t address = remote.argument_address();
    for (const image::EpollWatch* watch : watches) {
      const uint64_t place = address + events.size() * sizeof(epoll_event);
      epoll_event event{};
      event.events = watch->events();
      event.data.u64 = watch->data();
      // Only these may go with EPOLLEXCLUSIVE (epoll_ctl(2)); the two that are always reported are
      // added by the kernel.
      if ((event.events & EPOLLEXCLUSIVE) == 0)
        event.events &= ~static_cast<uint32_t>(EPOLLERR | EPOLLHUP);
      events.push_back(event);
      calls.push_back({SYS_epoll_ctl,
                       {static_cast<uint64_t>(watch->epoll_fd()), EPOLL_CTL_ADD,
                        static_cast<uint64_t>(watch->fd()), place},
                       0});
    }
    FERMATA_TRY(remote.write_memory(address, std::as_bytes(std::span(events))));
    FERMATA_TRY(remote.run(calls));
    for (size_t i = 0; i < calls.size(); ++i) {
      if (calls[i].result == 0) continue;
      return errno_status(static_cast<int>(-calls[i].result),
                          fmt::format("{}: epoll instance watching fd {} again", holder_of(file),
                                      watches[i]->fd()));
    }
    return Status::ok();
  }

  std::map<uint32_t, std::string> probes_;
};

}  // namespace

std::unique_ptr<FileKind> make_epoll_kind() { return std::make_unique<EpollKind>(); }

}  // namespace fermata::engine

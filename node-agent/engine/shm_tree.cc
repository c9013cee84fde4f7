#include "node-agent/engine/shm_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <map>
#include <memory>

namespace fermata::engine {
namespace {

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

class TreeReader {
 public:
  TreeReader(SharedObjectRecorder& recorder, image::PodObjects& objects)
      : recorder_(recorder), objects_(objects) {}

  Status walk(UniqueFd folder, const std::string& path) {
    const std::unique_ptr<DIR, DirectoryCloser> directory(::fdopendir(folder.release()));
    if (!directory) return errno_status(errno, fmt::format("listing /dev/shm/{} of the pod", path));
    const int fd = ::dirfd(directory.get());
    while (const dirent* entry = ::readdir(directory.get())) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      FERMATA_TRY(node(fd, name, path.empty() ? name : path + "/" + name));
    }
    return Status::ok();
  }

 private:
  Status node(int folder, const std::string& name, const std::string& path) {
    struct stat status {};
    if (::fstatat(folder, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno_status(errno, fmt::format("reading /dev/shm/{} of the pod", path));
    }
    image::ShmNode& record = *objects_.add_shm_nodes();
    record.set_path(path);
    record.set_mode(status.st_mode);
    record.set_uid(status.st_uid);
    record.set_gid(status.st_gid);
    if (S_ISLNK(status.st_mode)) {
      std::array<char, PATH_MAX> target{};
      const ssize_t length = ::readlinkat(folder, name.c_str(), target.data(), target.size());
      if (length < 0) return errno_status(errno, fmt::format("reading the link /dev/shm/{}", path));
      record.set_target(target.data(), static_cast<size_t>(length));
    } else if (S_ISDIR(status.st_mode)) {
      UniqueFd child(::openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!child) return errno_status(errno, fmt::format("opening /dev/shm/{} of the pod", path));
      return walk(std::move(child), path);
    } else if (S_ISREG(status.st_mode)) {
      return regular(folder, name, path, status, record);
    } else if (!S_ISFIFO(status.st_mode) && !S_ISSOCK(status.st_mode)) {
      return {
          Code::kCannotHold,
          fmt::format("/dev/shm/{} of the pod is a device file, which cannot be rebuilt", path)};
    }
    return Status::ok();
  }

  Status regular(int folder, const std::string& name, const std::string& path,
                 const struct stat& status, image::ShmNode& record) {
    record.set_size(static_cast<uint64_t>(status.st_size));
    if (status.st_nlink > 1) {
      const auto [first, is_new] = first_paths_.emplace(status.st_ino, path);
      if (!is_new) {
        record.set_hard_link(first->second);
        return Status::ok();
      }
    }
    UniqueFd file(::openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file) return errno_status(errno, fmt::format("opening /dev/shm/{} of the pod", path));
    FERMATA_ASSIGN_STATUS(const uint32_t id, recorder_.record(std::move(file), "/dev/shm/" + path,
                                                              image::SharedObject::SHM_FILE));
    record.set_object_id(id);
    return Status::ok();
  }

  SharedObjectRecorder& recorder_;
  image::PodObjects& objects_;
  std::map<ino_t, std::string> first_paths_;
};

Result<UniqueFd> open_shm(pid_t init) {
  const std::string path = fmt::format("/proc/{}/root/dev/shm", init);
  UniqueFd root(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return errno_failure(errno, fmt::format("opening {}", path));
  return root;
}

class TreeBuilder {
 public:
  TreeBuilder(int root, const Credentials& owner, const std::vector<MemoryRegion>& memory)
      : root_(root), owner_(owner), memory_(memory) {}

  Status make(const image::ShmNode& node) {
    const char* path = node.path().c_str();
    const mode_t bits = node.mode() & 07777U;
    if (!node.hard_link().empty()) {
      return check(::linkat(root_, node.hard_link().c_str(), root_, path, 0), "linking", node);
    }
    if (S_ISDIR(node.mode())) {
      FERMATA_TRY(check(::mkdirat(root_, path, bits), "making the folder", node));
    } else if (S_ISLNK(node.mode())) {
      FERMATA_TRY(check(::symlinkat(node.target().c_str(), root_, path), "making the link", node));
    } else if (S_ISFIFO(node.mode())) {
      FERMATA_TRY(check(::mkfifoat(root_, path, bits), "making the FIFO", node));
    } else if (S_ISREG(node.mode())) {
      FERMATA_TRY(regular(node));
    } else {
      return Status::ok();  // a socket: bound again by its process
    }
    const uid_t uid = owner_.uid == 0 ? node.uid() : owner_.uid;
    const gid_t gid = owner_.uid == 0 ? node.gid() : owner_.gid;
    FERMATA_TRY(check(::fchownat(root_, path, uid, gid, AT_SYMLINK_NOFOLLOW), "giving away", node));
    if (S_ISLNK(node.mode())) return Status::ok();
    return check(::fchmodat(root_, path, bits, 0), "setting the mode of", node);
  }

 private:
  static Status check(int result, const char* what, const image::ShmNode& node) {
    if (result == 0) return Status::ok();
    return errno_status(errno, fmt::format("{} /dev/shm/{} in the pod", what, node.path()));
  }

  Status regular(const image::ShmNode& node) {
    const UniqueFd file(::openat(root_, node.path().c_str(),
                                 O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) return check(-1, "making the file", node);
    FERMATA_TRY(check(::ftruncate(file.get(), static_cast<off_t>(node.size())), "sizing", node));
    const MemoryRegion* region = find_region(memory_, {MemoryId::Kind::kObject, node.object_id()});
    return region != nullptr ? fill_file(file.get(), *region) : Status::ok();
  }

  int root_;
  const Credentials& owner_;
  const std::vector<MemoryRegion>& memory_;
};

}  // namespace

Status capture_shm_tree(pid_t init, SharedObjectRecorder& recorder, image::PodObjects& objects) {
  FERMATA_ASSIGN_STATUS(UniqueFd root, open_shm(init));
  return TreeReader(recorder, objects).walk(std::move(root), "");
}

Status rebuild_shm_tree(pid_t init, const Credentials& owner, const image::PodObjects& objects,
                        const std::vector<MemoryRegion>& memory) {
  FERMATA_ASSIGN_STATUS(const UniqueFd root, open_shm(init));
  TreeBuilder builder(root.get(), owner, memory);
  for (const image::ShmNode& node : objects.shm_nodes()) FERMATA_TRY(builder.make(node));
  return Status::ok();
}

}  // namespace fermata::engine

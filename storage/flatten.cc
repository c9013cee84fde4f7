#include "storage/flatten.h"

#include <fmt/format.h>
#include <unistd.h>

#include <vector>

#include "common/fault_point.h"
#include "common/file_util.h"
#include "storage/chain.h"
#include "storage/image_writer.h"
#include "storage/set_lock.h"

namespace fermata::storage {
namespace {

/// Files that go at the end of the work, unless dismissed.
class Removal {
 public:
  Removal() = default;
  Removal(const Removal&) = delete;
  Removal& operator=(const Removal&) = delete;
  ~Removal() {
    for (const std::filesystem::path& path : paths_) ::unlink(path.c_str());
  }
  void add(std::filesystem::path path) { paths_.push_back(std::move(path)); }
  void dismiss() { paths_.clear(); }

 private:
  std::vector<std::filesystem::path> paths_;
};

Result<WrittenImage> write_full(const std::filesystem::path& path, const PodImage& image,
                                unsigned threads, Compression compression,
                                const FlattenProgress& progress) {
  const std::filesystem::path part = path.native() + ".part";
  FERMATA_ASSIGN(ImageWriter writer, ImageWriter::create(part, image, compression));
  FERMATA_TRY_RESULT(writer.write_pages({.threads = threads, .progress = progress}));
  FERMATA_ASSIGN(WrittenImage written, writer.finish());
  FERMATA_TRY_RESULT(publish(part, path));
  return written;
}

}  // namespace

Result<Manifest> flatten_set(const std::filesystem::path& folder, unsigned threads,
                             Compression compression, const FlattenProgress& progress) {
  FERMATA_ASSIGN(const UniqueFd lock, lock_set(folder));
  FERMATA_ASSIGN(Manifest manifest, read_manifest(folder));
  // Of one that was killed; also where it had committed, but perhaps not yet for good.
  FERMATA_TRY_RESULT(fsync_dir(folder));
  FERMATA_TRY_RESULT(remove_unnamed_files(folder, manifest));
  if (manifest.parent.value == 0) return manifest;
  std::vector<std::filesystem::path> replaced;
  Removal made;
  uint64_t memory = 0;
  for (const ManifestImage& entry : manifest.images) memory += entry.memory_bytes;
  FERMATA_TRY_RESULT(check_free_room(folder, memory));
  for (ManifestImage& entry : manifest.images) {
    FERMATA_ASSIGN(PodImage image, read_chain(folder / entry.file, entry.digest));
    if (image.header.parent.value == 0) continue;
    if (image.header.format_minor > kFormatMinor) {
      return failure(Code::kUnsupported,
                     fmt::format("{} was written by a newer fermata, which has to flatten it",
                                 (folder / entry.file).native()));
    }
    image.header.parent = {};
    const std::string name = flat_image_file_name(entry.pod);
    FERMATA_ASSIGN(const WrittenImage written,
                   write_full(folder / name, image, threads, compression, progress));
    made.add(folder / name);
    replaced.push_back(folder / entry.file);
    entry.file = name;
    entry.bytes = written.bytes;
    entry.digest = written.digest;
    FAULT_POINT("flatten.image");
  }
  manifest.parent = {};
  manifest.chain_sets = 0;
  manifest.chain_bytes = 0;
  // It has taken minutes, and who prunes on another machine may know nothing of the lock.
  if (const Result<Manifest> there = read_manifest(folder); !there) return Failure(there.error());
  const Status committed = write_manifest(folder, manifest);
  if (!committed) {
    // It may stand under its name all the same: then what it names has to stay, and else the old.
    const Result<Manifest> now = read_manifest(folder);
    if (!now || now->parent.value == 0) made.dismiss();
    return Failure(committed);
  }
  made.dismiss();
  for (const std::filesystem::path& path : replaced) ::unlink(path.c_str());
  return manifest;
}

}  // namespace fermata::storage

#include "storage/skeleton.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <hdf5.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "common/size_parse.h"
#include "storage/memory_vfd.h"

namespace fermata::storage {
namespace {

// Pages of this many bytes and more begin at a multiple of it (stripes of parallel file systems);
// fewer at a page, as O_DIRECT needs.
constexpr hsize_t kStripe = 1 << 20;

class H5Id {
 public:
  using Close = herr_t (*)(hid_t);
  H5Id(hid_t id, Close close) : id_(id), close_(close) {}
  H5Id(H5Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  H5Id& operator=(H5Id&&) = delete;
  H5Id(const H5Id&) = delete;
  H5Id& operator=(const H5Id&) = delete;
  ~H5Id() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// Closes now: the only way to see an error of it.
  bool close_now() { return close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_;
  Close close_;
};

// No error stack on stderr while it lives.
class QuietErrors {
 public:
  QuietErrors() {
    H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  QuietErrors(const QuietErrors&) = delete;
  QuietErrors& operator=(const QuietErrors&) = delete;
  ~QuietErrors() { H5Eset_auto2(H5E_DEFAULT, function_, data_); }

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

// The innermost error of HDF5's stack: for a failed write it has errno's text.
std::string innermost_error() {
  std::string text = "unknown error";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
        if (n == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &text);
  return text;
}

/// HDF5 only takes a filter into a dataset that it knows; it is never run.
void add_filter(hid_t creation, Codec codec) {
  const auto id = static_cast<H5Z_filter_t>(codec);
  H5Z_class2_t filter{};
  filter.version = H5Z_CLASS_T_VERS;
  filter.id = id;
  filter.encoder_present = 1;
  filter.decoder_present = 1;
  filter.name = codec == Codec::kLz4 ? "lz4" : "zstd";
  filter.filter = [](unsigned, size_t, const unsigned*, size_t, size_t*, void**) -> size_t {
    return 0;
  };
  H5Zregister(
      &filter);  // in the place of a plugin, which would be asked what it thinks of the data
  H5Pset_filter(creation, id, H5Z_FLAG_OPTIONAL, 0, nullptr);
}

class SkeletonFile {
 public:
  explicit SkeletonFile(H5Id file) : file_(std::move(file)) {}

  static Result<SkeletonFile> create(const std::string& path, uint64_t index_size,
                                     hsize_t alignment = kPageSize) {
    const H5Id access = access_list(alignment);
    const H5Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    H5Pset_userblock(creation.get(), index_size);
    H5Id file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
    if (!file.valid()) return failed("make the HDF5 file");
    return SkeletonFile(std::move(file));
  }

  static Result<SkeletonFile> reopen(const std::string& path, hsize_t alignment) {
    const H5Id access = access_list(alignment);
    H5Id file(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.get()), H5Fclose);
    if (!file.valid()) return failed("open the HDF5 file again");
    return SkeletonFile(std::move(file));
  }

  Status close() {
    if (!file_.close_now()) return failed("close the HDF5 file").value();
    return Status::ok();
  }

  Status add_attributes(const ImageHeader& header) {
    FERMATA_TRY(add_text("format", fmt::format("{}.{}", header.format_major, header.format_minor)));
    FERMATA_TRY(add_number("crid", header.crid.value));
    FERMATA_TRY(add_number("parent", header.parent.value));
    FERMATA_TRY(add_number("job", header.job.job));
    FERMATA_TRY(add_number("step", header.job.step));
    FERMATA_TRY(add_number("pod", header.pod));
    FERMATA_TRY(add_text("host", header.host));
    FERMATA_TRY(add_text("kernel", header.kernel));
    FERMATA_TRY(add_text("time", header.time));
    FERMATA_TRY(add_text("tool_version", header.tool_version));
    return add_text("track", header.track);
  }

  /// Pages whose blocks are in the file already: HDF5 is told where.
  Result<IndexEntry> add_stored(const SkeletonDataset& dataset) {
    Codec codec = Codec::kNone;
    for (const StoredBlock& block : dataset.stored) {
      if (block.codec != Codec::kNone) codec = block.codec;
    }
    const H5Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links.get(), 1);
    const H5Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    constexpr hsize_t kChunk = kBlockSize;
    const hsize_t count = dataset.length;
    if (count > 0) {
      H5Pset_chunk(creation.get(), 1, &kChunk);
      H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
      if (codec != Codec::kNone) add_filter(creation.get(), codec);
    }
    // A chunk may be longer than a dataset only of one that can grow.
    const hsize_t most = H5S_UNLIMITED;
    const H5Id space(H5Screate_simple(1, &count, count > 0 ? &most : nullptr), H5Sclose);
    const H5Id id(H5Dcreate2(file_.get(), dataset.name.c_str(), H5T_STD_U8LE, space.get(),
                             links.get(), creation.get(), H5P_DEFAULT),
                  H5Dclose);
    if (!id.valid()) return failed("make dataset " + dataset.name);
    const std::vector<std::byte> nothing(kBlockSize);  // the driver writes none of it
    for (size_t i = 0; i < dataset.stored.size(); ++i) {
      const StoredBlock& block = dataset.stored[i];
      const hsize_t position = i * kBlockSize;
      PlacedArea::next_is_at(block.offset);
      const uint32_t skipped = codec != Codec::kNone && block.codec == Codec::kNone ? 1 : 0;
      if (H5Dwrite_chunk(id.get(), H5P_DEFAULT, skipped, &position, block.length, nothing.data()) <
          0) {
        return failed(fmt::format("place block {} of {}", i, dataset.name));
      }
    }
    return IndexEntry{dataset.name, 0, dataset.length, 0, Guard::kStored};
  }

  Result<IndexEntry> add_dataset(const SkeletonDataset& dataset) {
    const H5Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links.get(), 1);
    const H5Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_layout(creation.get(), H5D_CONTIGUOUS);
    H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
    const H5Id type = type_of(dataset);
    const hsize_t count = dataset.length / H5Tget_size(type.get());
    const H5Id space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    const H5Id id(H5Dcreate2(file_.get(), dataset.name.c_str(), type.get(), space.get(),
                             links.get(), creation.get(), H5P_DEFAULT),
                  H5Dclose);
    if (!id.valid()) return failed("make dataset " + dataset.name);

    IndexEntry entry{dataset.name, 0, dataset.length, 0, dataset.guard};
    if (dataset.length > 0) {
      const haddr_t offset = H5Dget_offset(id.get());
      if (offset == HADDR_UNDEF || H5Dget_storage_size(id.get()) != dataset.length) {
        return failed("allocate dataset " + dataset.name);
      }
      entry.offset = offset;
    }
    if (dataset.guard == Guard::kBlocks && entry.offset % kPageSize != 0) {
      return failure(Code::kInternal,
                     fmt::format("HDF5 put {} at {}, not at a page", dataset.name, entry.offset));
    }
    if (!dataset.content.empty() &&
        H5Dwrite(id.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, dataset.content.data()) < 0) {
      return failed("write dataset " + dataset.name);
    }
    entry.checksum = checksum64(dataset.content);
    return entry;
  }

 private:
  static H5Id access_list(hsize_t alignment) {
    H5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_alignment(access.get(), alignment, alignment);
    if (alignment == 1) H5Pset_small_data_block_size(access.get(), 0);  // each block by itself
    H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110);
    H5Pset_driver(access.get(), descriptor_driver(), nullptr);
    return access;
  }

  static Failure failed(const std::string& what) {
    return failure(Code::kInternal, fmt::format("HDF5 cannot {}: {}", what, innermost_error()));
  }

  static H5Id type_of(const SkeletonDataset& dataset) {
    switch (dataset.view) {
      case View::kBytes:
        break;
      case View::kText: {
        H5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
        H5Tset_size(type.get(), dataset.length > 0 ? dataset.length : 1);
        H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
        H5Tset_cset(type.get(), H5T_CSET_UTF8);
        return type;
      }
      case View::kExtents: {
        const H5Id where(H5Tenum_create(H5T_STD_U32LE), H5Tclose);
        for (const auto& [name, value] : {std::pair("here", Where::kHere),
                                          {"parent", Where::kParent},
                                          {"zero", Where::kZero},
                                          {"file", Where::kFile}}) {
          const auto number = static_cast<uint32_t>(value);
          H5Tenum_insert(where.get(), name, &number);
        }
        H5Id type(H5Tcreate(H5T_COMPOUND, kExtentRecordSize), H5Tclose);
        H5Tinsert(type.get(), "address", 0, H5T_STD_U64LE);
        H5Tinsert(type.get(), "length", 8, H5T_STD_U64LE);
        H5Tinsert(type.get(), "where", 16, where.get());
        return type;
      }
      case View::kChecksums:
        return {H5Tcopy(H5T_STD_U64LE), H5Tclose};
      case View::kStored: {
        H5Id type(H5Tcreate(H5T_COMPOUND, kStoredBlockSize), H5Tclose);
        H5Tinsert(type.get(), "offset", 0, H5T_STD_U64LE);
        H5Tinsert(type.get(), "length", 8, H5T_STD_U32LE);
        H5Tinsert(type.get(), "filter", 12, H5T_STD_U32LE);
        return type;
      }
    }
    return {H5Tcopy(H5T_STD_U8LE), H5Tclose};
  }

  Status add_attribute(const char* name, const H5Id& type, const void* value) {
    const H5Id space(H5Screate(H5S_SCALAR), H5Sclose);
    const H5Id id(H5Acreate2(file_.get(), name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                  H5Aclose);
    if (!id.valid() || H5Awrite(id.get(), type.get(), value) < 0) {
      return failed(fmt::format("write attribute {}", name)).value();
    }
    return Status::ok();
  }

  Status add_number(const char* name, uint64_t value) {
    return add_attribute(name, H5Id(H5Tcopy(H5T_STD_U64LE), H5Tclose), &value);
  }

  Status add_text(const char* name, const std::string& text) {
    H5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), text.size() + 1);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    return add_attribute(name, type, text.c_str());
  }

  H5Id file_;
};

}  // namespace

namespace {

Status measure(Skeleton& skeleton) {
  struct stat status {};
  if (::fstat(skeleton.memory.get(), &status) != 0) return errno_status(errno, "fstat of a memfd");
  skeleton.size = static_cast<uint64_t>(status.st_size);
  return Status::ok();
}

}  // namespace

Result<Skeleton> make_skeleton(const ImageHeader& header, uint64_t index_size,
                               const std::vector<SkeletonDataset>& datasets,
                               const IndexEntry* stored_area) {
  Skeleton skeleton;
  skeleton.memory = UniqueFd(::memfd_create("fermata-skeleton", MFD_CLOEXEC));
  if (!skeleton.memory.valid()) return errno_failure(errno, "memfd_create");
  const std::string path = descriptor_name(skeleton.memory.get());
  skeleton.entries.resize(datasets.size());

  static std::mutex library;
  const std::lock_guard lock(library);
  const QuietErrors quiet;
  if (stored_area != nullptr) {
    const PlacedArea area(stored_area->offset, stored_area->length);
    FERMATA_ASSIGN(SkeletonFile file, SkeletonFile::create(path, index_size, /*alignment=*/1));
    FERMATA_TRY_RESULT(file.add_attributes(header));
    for (size_t i = 0; i < datasets.size(); ++i) {
      if (datasets[i].guard == Guard::kStored) {
        FERMATA_ASSIGN(skeleton.entries[i], file.add_stored(datasets[i]));
      } else {
        FERMATA_ASSIGN(skeleton.entries[i], file.add_dataset(datasets[i]));
      }
    }
    FERMATA_TRY_RESULT(file.close());
    FERMATA_TRY_RESULT(measure(skeleton));
    return skeleton;
  }
  // HDF5 has one alignment for each opening of a file: first all that is small, then the large
  // pages.
  const auto is_large = [](const SkeletonDataset& dataset) {
    return dataset.guard == Guard::kBlocks && dataset.length >= kStripe;
  };
  FERMATA_ASSIGN(SkeletonFile small, SkeletonFile::create(path, index_size));
  FERMATA_TRY_RESULT(small.add_attributes(header));
  for (size_t i = 0; i < datasets.size(); ++i) {
    if (is_large(datasets[i])) continue;
    FERMATA_ASSIGN(skeleton.entries[i], small.add_dataset(datasets[i]));
  }
  FERMATA_TRY_RESULT(small.close());
  if (std::any_of(datasets.begin(), datasets.end(), is_large)) {
    FERMATA_ASSIGN(SkeletonFile large, SkeletonFile::reopen(path, kStripe));
    for (size_t i = 0; i < datasets.size(); ++i) {
      if (!is_large(datasets[i])) continue;
      FERMATA_ASSIGN(skeleton.entries[i], large.add_dataset(datasets[i]));
    }
    FERMATA_TRY_RESULT(large.close());
  }
  FERMATA_TRY_RESULT(measure(skeleton));
  return skeleton;
}

Status take_room(int fd, uint64_t size, const std::string& path) {
  const auto length = static_cast<off_t>(size);
  if (::ftruncate(fd, length) != 0) {
    return errno_status(Code::kStorage, errno, fmt::format("cannot make {}", path));
  }
  // The room for all, now: a full disk is told before any byte is moved. Not every file system can.
  if (::fallocate(fd, 0, 0, length) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
    return errno_status(Code::kStorage, errno,
                        fmt::format("cannot take {} for {}", format_size(size), path));
  }
  return Status::ok();
}

Status copy_skeleton(const Skeleton& skeleton, int fd, const std::string& path) {
  std::vector<std::byte> buffer(kStripe);
  const int memory = skeleton.memory.get();
  for (off_t at = 0; (at = ::lseek(memory, at, SEEK_DATA)) >= 0;) {  // ENXIO: no more data
    const off_t end = ::lseek(memory, at, SEEK_HOLE);
    while (at < end) {
      const auto piece =
          std::span(buffer).first(std::min<size_t>(buffer.size(), static_cast<size_t>(end - at)));
      FERMATA_TRY(read_exactly(memory, static_cast<uint64_t>(at), piece, "the skeleton"));
      FERMATA_TRY(write_exactly(fd, static_cast<uint64_t>(at), piece, path));
      at += static_cast<off_t>(piece.size());
    }
  }
  return Status::ok();
}

}  // namespace fermata::storage

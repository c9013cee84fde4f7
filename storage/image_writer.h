// Writes one image in three steps, so that the pod stands still only for the first two:
//
//   auto writer = ImageWriter::create(".../pod-0.h5.part", image);   // skeleton, by HDF5
//   writer->write_pages();                                           // bytes, past HDF5
//   ... the pod runs on ...
//   auto written = writer->finish();                                 // checksums, index, fsync
//   publish(".../pod-0.h5.part", ".../pod-0.h5");                    // rename, fsync of the folder
//
// All of it on one thread, under the FsCredentialScope of the job's owner: files are opened by the
// calling thread; the threads of write_pages() only read sources and write. HDF5 is entered in
// create() alone, by one thread at a time (Debian's is not thread-safe). A writer destroyed before
// finish() removes its file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "common/status.h"
#include "storage/codec.h"
#include "storage/image.h"

namespace fermata::storage {

/// What the manifest says of an image.
struct WrittenImage {
  uint64_t bytes = 0;         ///< size of the file
  uint64_t memory_bytes = 0;  ///< of these: pages
  std::string digest;         ///< 32 hexadecimal digits; covers every byte of the file
};

/// How pages are written.
struct WriteOptions {
  unsigned threads = 2;
  /// After the job's own work and I/O: the threads run with a lower priority.
  bool background = false;
  /// At most so many bytes a second; 0: as many as the disk takes.
  uint64_t bytes_per_second = 0;
  /// Asked for each piece, from the writing threads: true, and neither of these two counts, as
  /// somebody waits for what is written next. May be null.
  std::function<bool()> waited_for = nullptr;
  /// The same: memory is short, and what frees most of it (MemorySource::frees()) goes first.
  std::function<bool()> memory_is_short = nullptr;
  /// Called now and then with the bytes written so far and all that will be; from one of the
  /// writing threads, one at a time. May be null.
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;
};

class ImageWriter {
 public:
  /// `compression`: of pages. Compressed, the file is made as long as it would be without, until
  /// finish().
  ///
  /// Makes `part` (it must not exist, mode 0600) with everything but the pages, and room for these.
  /// Keeps the regions' sources until write_pages() is over, nothing else of `image`. kStorage: the
  /// folder is full, read-only or missing. kCannotHold: an object is too large for the format.
  static Result<ImageWriter> create(const std::filesystem::path& part, const PodImage& image,
                                    Compression compression = Compression::kNone);

  ImageWriter(ImageWriter&&) noexcept;
  ImageWriter& operator=(ImageWriter&&) noexcept;
  ImageWriter(const ImageWriter&) = delete;
  ImageWriter& operator=(const ImageWriter&) = delete;
  ~ImageWriter();

  /// Copies every page. Lets go of the sources. Not yet durable. On the thread that made the
  /// sources.
  Status write_pages(const WriteOptions& options = {});

  /// Writes checksums and index and makes the file durable (fsync).
  Result<WrittenImage> finish();

 private:
  struct State;
  explicit ImageWriter(std::unique_ptr<State> state);
  /// Compressed: the HDF5 side, now that all blocks have their places.
  static Status finish_stored(State& state);
  std::unique_ptr<State> state_;
};

/// Renames `part` to `final_name`, in the same folder, and makes that durable.
Status publish(const std::filesystem::path& part, const std::filesystem::path& final_name);

/// Bytes that the file of `image` will have, to within a few percent: for the free-room check.
uint64_t expected_image_bytes(const image::PodObjects& objects,
                              const std::vector<MemoryRegion>& memory);

}  // namespace fermata::storage

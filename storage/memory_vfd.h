// A file driver for HDF5 (H5FD) on a descriptor of ours, such as a memfd: HDF5's own drivers want a
// name that realpath(3) finds. Under the lock of the library.
#pragma once

#include <hdf5.h>

#include <string>

namespace fermata::storage {

/// The driver; the same at each call.
hid_t descriptor_driver();

/// While it lives, files of the driver have an area of raw data that is in the file already: raw
/// data is placed where it is said to be, not written, and all else goes around it.
class PlacedArea {
 public:
  PlacedArea(uint64_t offset, uint64_t length);
  PlacedArea(const PlacedArea&) = delete;
  PlacedArea& operator=(const PlacedArea&) = delete;
  ~PlacedArea();

  /// The next piece of raw data that HDF5 makes room for.
  static void next_is_at(uint64_t offset);
};

/// The "name" under which H5Fcreate and H5Fopen take `fd`, which stays the caller's.
std::string descriptor_name(int fd);

}  // namespace fermata::storage

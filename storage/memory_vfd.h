// A file driver for HDF5 (H5FD) on a descriptor of ours, such as a memfd: HDF5's own drivers want a
// name that realpath(3) finds. Under the lock of the library.
#pragma once

#include <hdf5.h>

#include <string>

namespace fermata::storage {

/// The driver; the same at each call.
hid_t descriptor_driver();

/// The "name" under which H5Fcreate and H5Fopen take `fd`, which stays the caller's.
std::string descriptor_name(int fd);

}  // namespace fermata::storage

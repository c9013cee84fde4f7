#include "storage/memory_vfd.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "storage/format.h"

namespace fermata::storage {
namespace {

// HDF5 takes a pointer to its own part and gives it back: that part comes first.
struct DescriptorFile {
  H5FD_t base{};
  int fd = -1;
  haddr_t end_of_space = 0;  // what HDF5 has allocated
};

DescriptorFile& file_of(H5FD_t* base) { return *reinterpret_cast<DescriptorFile*>(base); }
const DescriptorFile& file_of(const H5FD_t* base) {
  return *reinterpret_cast<const DescriptorFile*>(base);
}

haddr_t length_of(const DescriptorFile& file) {
  struct stat status {};
  return ::fstat(file.fd, &status) == 0 ? static_cast<haddr_t>(status.st_size) : HADDR_UNDEF;
}

// Under the lock of the library.
struct Area {
  haddr_t start = HADDR_UNDEF;
  haddr_t end = 0;
  haddr_t next = HADDR_UNDEF;

  bool exists() const { return start != HADDR_UNDEF; }
  bool holds(haddr_t at) const { return exists() && at >= start && at < end; }
};
Area area;

H5FD_t* open_file(const char* name, unsigned flags, hid_t, haddr_t) {
  const std::string_view text(name);
  auto file = std::make_unique<DescriptorFile>();
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), file->fd);
  if (parsed.ec != std::errc()) return nullptr;
  if ((flags & H5F_ACC_TRUNC) != 0 && ::ftruncate(file->fd, 0) != 0) return nullptr;
  return &file.release()->base;
}

herr_t close_file(H5FD_t* base) {
  delete &file_of(base);
  return 0;
}

int compare(const H5FD_t* left, const H5FD_t* right) {
  return file_of(left).fd - file_of(right).fd;
}

// Not H5FD_FEAT_POSIX_COMPAT_HANDLE: it would have HDF5 look for the name.
herr_t query(const H5FD_t*, unsigned long* flags) {
  if (flags != nullptr) {
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA |
             H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  }
  return 0;
}

haddr_t end_of(const DescriptorFile& file) {
  // HDF5 takes a file with an end for one that is there.
  const bool begun = area.exists() && file.end_of_space > 0;
  return begun ? std::max(file.end_of_space, area.end) : file.end_of_space;
}

haddr_t end_of_space(const H5FD_t* base, H5FD_mem_t) { return end_of(file_of(base)); }

haddr_t make_space(H5FD_t* base, H5FD_mem_t type, hid_t, hsize_t size) {
  DescriptorFile& file = file_of(base);
  if (type == H5FD_MEM_DRAW && area.next != HADDR_UNDEF) {
    return std::exchange(area.next, HADDR_UNDEF);
  }
  haddr_t at = file.end_of_space;
  if (area.exists() && at < area.end && at + size > area.start) at = area.end;
  file.end_of_space = at + size;
  return at;
}

herr_t set_end_of_space(H5FD_t* base, H5FD_mem_t, haddr_t end) {
  file_of(base).end_of_space = end;
  return 0;
}

haddr_t end_of_file(const H5FD_t* base, H5FD_mem_t) { return length_of(file_of(base)); }

// Past the end of the file HDF5 expects zeros.
herr_t read_bytes(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t at, size_t size, void* out) {
  const DescriptorFile& file = file_of(base);
  const haddr_t length = length_of(file);
  std::memset(out, 0, size);
  if (at >= length) return 0;
  const std::span bytes(static_cast<std::byte*>(out), std::min<size_t>(size, length - at));
  return read_exactly(file.fd, at, bytes, "skeleton") ? 0 : -1;
}

herr_t write_bytes(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t at, size_t size, const void* in) {
  if (area.holds(at)) return 0;
  const std::span bytes(static_cast<const std::byte*>(in), size);
  return write_exactly(file_of(base).fd, at, bytes, "skeleton") ? 0 : -1;
}

// What is allocated and not written - pages - becomes a hole.
herr_t truncate_file(H5FD_t* base, hid_t, hbool_t) {
  const DescriptorFile& file = file_of(base);
  return ::ftruncate(file.fd, static_cast<off_t>(end_of(file))) == 0 ? 0 : -1;
}

H5FD_class_t make_class() {
  H5FD_class_t driver{};
  driver.name = "fermata-descriptor";
  driver.maxaddr = (haddr_t{1} << 62) - 1;
  driver.fc_degree = H5F_CLOSE_WEAK;
  driver.open = open_file;
  driver.close = close_file;
  driver.cmp = compare;
  driver.query = query;
  driver.get_eoa = end_of_space;
  driver.alloc = make_space;
  driver.set_eoa = set_end_of_space;
  driver.get_eof = end_of_file;
  driver.read = read_bytes;
  driver.write = write_bytes;
  driver.truncate = truncate_file;
  constexpr H5FD_mem_t kMap[] = H5FD_FLMAP_DICHOTOMY;
  std::copy(std::begin(kMap), std::end(kMap), std::begin(driver.fl_map));
  return driver;
}

}  // namespace

PlacedArea::PlacedArea(uint64_t offset, uint64_t length) {
  area = {offset, offset + length, HADDR_UNDEF};
}
PlacedArea::~PlacedArea() { area = {}; }
void PlacedArea::next_is_at(uint64_t offset) { area.next = offset; }

hid_t descriptor_driver() {
  static const H5FD_class_t description = make_class();
  static const hid_t driver = H5FDregister(&description);
  return driver;
}

std::string descriptor_name(int fd) { return std::to_string(fd); }

}  // namespace fermata::storage

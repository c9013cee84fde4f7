// Images for tests: made from a seed, small, with everything an image can hold.
#pragma once

#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/memory_image.h"
#include "storage/image.h"
#include "storage/image_writer.h"
#include "tests/support/scratch_folder.h"

namespace fermata::storage::test {

/// The byte at an address: a function of seed and address, so that every byte can be checked.
inline std::byte byte_at(uint64_t seed, uint64_t address) {
  uint64_t x = (address / 8 + 1) * 0x9e3779b97f4a7c15ULL ^ seed;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 32;
  return static_cast<std::byte>(x >> (address % 8 * 8));
}

class PatternSource : public MemorySource {
 public:
  explicit PatternSource(uint64_t seed) : seed_(seed) {}
  Status read(uint64_t address, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size(); ++i) out[i] = byte_at(seed_, address + i);
    return Status::ok();
  }

 private:
  uint64_t seed_;
};

/// As above, every other stretch of 256 bytes zero: compresses to about a half.
class HalfZeroSource : public MemorySource {
 public:
  Status read(uint64_t address, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = (address + i) / 256 % 2 == 0 ? std::byte{0} : byte_at(7, address + i);
    }
    return Status::ok();
  }
};

inline MemoryRegion region(MemoryId::Kind kind, uint64_t id, std::vector<Extent> extents) {
  MemoryRegion region;
  region.id = {kind, id};
  region.extents = std::move(extents);
  region.source = std::make_shared<PatternSource>(id);
  return region;
}

/// Two processes, three files, an object; the address space of process 7 has a large run, many
/// single pages, zeros and file pages.
inline PodImage sample_image(uint64_t large_bytes = 3 << 20) {
  PodImage image;
  image.header.crid = {42};
  image.header.job = {1234, 1};
  image.header.pod = 3;
  image.header.host = "node-3";
  image.header.kernel = "6.1.0-test";
  image.header.time = utc_now();
  image.header.tool_version = "0.1.0";
  image.objects.mutable_needs()->set_kernel_release("6.1.0-test");
  image.objects.mutable_needs()->set_xstate_size(2696);
  image.objects.mutable_pod()->set_host_name("node-3");
  for (const int vpid : {1, 7}) {
    image::Process* process = image.objects.add_processes();
    process->set_vpid(vpid);
    process->set_parent(vpid == 1 ? 0 : 1);
    process->set_name(vpid == 1 ? "podinit" : "lmp");
    process->set_cwd("/tmp/\xff not UTF-8");
    for (int i = 0; i < 2; ++i) {
      image::Thread* thread = process->add_threads();
      thread->set_vtid(vpid + i);
      thread->mutable_registers()->set_xstate(std::string(2696, static_cast<char>(i)));
    }
    image::Fd* fd = process->add_fds();
    fd->set_fd(0);
    fd->set_file_id(1);
  }
  image::File* stdio = image.objects.add_files();
  stdio->set_id(1);
  stdio->mutable_stdio()->set_stream(0);
  image::File* regular = image.objects.add_files();
  regular->set_id(2);
  regular->mutable_regular()->set_path("/home/u/log.lammps");
  image::SharedObject* object = image.objects.add_shared_objects();
  object->set_id(5);
  object->set_name("window");
  object->set_size(8192);
  image::ThreadPlacement* placed = image.placement.add_threads();
  placed->set_vpid(7);
  placed->set_vtid(7);
  placed->set_cpuset("0-1");
  image.placement.set_numa_nodes(1);
  image.topology_xml = "<?xml version=\"1.0\"?><topology/>";

  std::vector<Extent> extents{{0x400000, 0x3000, Where::kFile},
                              {0x403000, 0x2000, Where::kHere},
                              {0x405000, 0x1000, Where::kZero}};
  for (uint64_t page = 0; page < 100; ++page) {
    extents.push_back({0x10000000 + page * 0x3000, 0x1000, Where::kHere});
  }
  extents.push_back({0x7f0000000000, large_bytes, Where::kHere});
  image.memory.push_back(region(MemoryId::Kind::kProcess, 1, {{0x1000, 0x1000, Where::kHere}}));
  image.memory.push_back(region(MemoryId::Kind::kProcess, 7, extents));
  image.memory.push_back(region(MemoryId::Kind::kObject, 5, {{0, 0x2000, Where::kHere}}));
  image.memory.push_back(region(MemoryId::Kind::kObject, 6, {{0, 0x2000, Where::kZero}}));
  return image;
}

/// create, write_pages, finish.
inline Result<WrittenImage> write_image(const std::filesystem::path& path, const PodImage& image,
                                        unsigned threads = 2,
                                        Compression compression = Compression::kNone) {
  FERMATA_ASSIGN(ImageWriter writer, ImageWriter::create(path, image, compression));
  FERMATA_TRY_RESULT(writer.write_pages({.threads = threads}));
  return writer.finish();
}

/// Empty when `a` and `b` hold the same, every byte of memory included; else what differs.
inline std::string difference(const PodImage& a, const PodImage& b) {
  if (a.header.crid != b.header.crid || a.header.job != b.header.job ||
      a.header.host != b.header.host || a.header.time != b.header.time ||
      a.header.pod != b.header.pod || a.header.kernel != b.header.kernel ||
      a.header.tool_version != b.header.tool_version || a.header.parent != b.header.parent) {
    return "header";
  }
  if (a.objects.SerializeAsString() != b.objects.SerializeAsString()) return "objects";
  if (a.placement.SerializeAsString() != b.placement.SerializeAsString()) return "placement";
  if (a.topology_xml != b.topology_xml) return "topology";
  if (a.memory.size() != b.memory.size()) return "number of regions";
  for (size_t i = 0; i < a.memory.size(); ++i) {
    if (a.memory[i].id != b.memory[i].id) return "region ids";
    if (a.memory[i].extents != b.memory[i].extents) return "extents";
    for (const Extent& extent : a.memory[i].extents) {
      if (extent.where != Where::kHere) continue;
      std::vector<std::byte> left(extent.length);
      std::vector<std::byte> right(extent.length);
      if (Status status = a.memory[i].source->read(extent.address, left); !status) {
        return status.message();
      }
      if (Status status = b.memory[i].source->read(extent.address, right); !status) {
        return status.message();
      }
      if (left != right) return "bytes";
    }
  }
  return {};
}

}  // namespace fermata::storage::test

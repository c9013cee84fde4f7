#include "node-agent/engine/injection_site.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "node-agent/engine/injection_code.h"
#include "node-agent/engine/maps.h"
#include "node-agent/engine/remote.h"

namespace fermata::engine {
namespace {

/// End of the vDSO's ELF image inside its mapping: the bytes behind it belong to nobody.
Result<uint64_t> vdso_image_end(Remote& reader, const Map& vdso) {
  Elf64_Ehdr header{};
  FERMATA_TRY_RESULT(reader.get(vdso.start, header));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return failure(Code::kUnsupported, "the vDSO is not an ELF image");
  }
  uint64_t end = header.e_shoff + uint64_t{header.e_shnum} * header.e_shentsize;
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  FERMATA_TRY_RESULT(
      reader.read_memory(vdso.start + header.e_phoff, std::as_writable_bytes(std::span(segments))));
  for (const Elf64_Phdr& segment : segments)
    end = std::max(end, segment.p_offset + segment.p_filesz);
  return vdso.start + end;
}

/// Reads memory only; the base class has all that is needed.
class MemoryOnly : public Remote {
 public:
  Status attach(pid_t pid) { return open_process(pid); }
  Status run(std::span<RemoteCall> /*calls*/) override {
    return {Code::kInternal, "this view of a process makes no calls"};
  }
  uint64_t argument_address() const override { return 0; }
};

}  // namespace

Result<std::shared_ptr<InjectionSite>> InjectionSite::find(pid_t pid) {
  FERMATA_ASSIGN(const std::vector<Map> maps, read_maps(pid));
  MemoryOnly memory;
  FERMATA_TRY_RESULT(memory.attach(pid));
  auto site = std::make_shared<InjectionSite>();
  for (const Map& map : maps) {
    site->saw_aio_ = site->saw_aio_ || map.name.starts_with("/[aio]");
    if (map.name == "[vdso]") {
      FERMATA_ASSIGN(const uint64_t end, vdso_image_end(memory, map));
      const uint64_t code = (end + 15) & ~15ULL;
      const size_t size = injection_size();
      if (code + size > map.end) {
        return failure(Code::kUnsupported,
                       fmt::format("the vDSO of process {} leaves {} bytes where {} are needed",
                                   pid, map.end - std::min(code, map.end), size));
      }
      site->code_ = code;
      site->code_size_ = size;
    }
    // Shared, so that the kernel joins it with no neighbour.
    if (map.shared && map.name.starts_with("/dev/zero") &&
        map.length() == InjectionSite::kScratchSize) {
      std::array<uint64_t, 2> magic{};
      if (memory.get(map.start, magic) && magic == InjectionSite::kScratchMagic)
        site->scratch_ = map.start;
    }
  }
  if (site->code_ == 0) {
    return failure(Code::kCannotHold,
                   fmt::format("process {} has no vDSO (vdso=0, or unmapped by the program): "
                               "calls cannot be made in it",
                               pid));
  }
  return site;
}

}  // namespace fermata::engine

#include "node-agent/engine/requirements.h"

#include <cpuid.h>
#include <elf.h>
#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <sstream>
#include <string>

#include "common/file_util.h"
#include "node-agent/engine/maps.h"
#include "node-agent/engine/rebuild.h"

namespace fermata::engine {
namespace {

/// Flags of /proc/cpuinfo that a program can use in user mode; a library chooses its code by them
/// at start and keeps the choice.
constexpr std::array<std::string_view, 22> kUserFlags{
    "sse",     "ssse3", "avx",  "fma",    "bmi",     "aes",    "vaes",   "pclmulqdq",
    "vpclmul", "sha",   "gfni", "popcnt", "movbe",   "rdrand", "rdseed", "adx",
    "f16c",    "abm",   "amx",  "erms",   "clflush", "rdpid"};

uint64_t read_xcr0() {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) return 0;
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return uint64_t{edx} << 32 | eax;
}

uint32_t read_xstate_size() {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  if (__get_cpuid_count(0xd, 0, &eax, &ebx, &ecx, &edx) == 0) return 0;
  return ebx;  // of the components enabled in XCR0
}

Status read_cpu(image::Requirements& out) {
  FERMATA_ASSIGN_STATUS(const std::string text, read_file("/proc/cpuinfo"));
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line) && !line.empty()) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.starts_with("vendor_id")) out.set_cpu_vendor(value);
    if (!line.starts_with("flags")) continue;
    std::istringstream words(value);
    for (std::string flag; words >> flag;) {
      const bool for_programs =
          std::any_of(kUserFlags.begin(), kUserFlags.end(),
                      [&](std::string_view prefix) { return flag.starts_with(prefix); });
      if (for_programs) out.add_cpu_flags(flag);
    }
  }
  return Status::ok();
}

Status read_vdso_sizes(image::Requirements& out) {
  FERMATA_ASSIGN_STATUS(const std::vector<Map> maps, read_maps(::getpid()));
  uint64_t vvar = 0;
  for (const Map& map : maps) {
    if (map.name == "[vdso]") out.set_vdso_size(map.length());
    if (map.name.starts_with("[vvar")) vvar += map.length();
  }
  out.set_vvar_size(vvar);
  return Status::ok();
}

// The dynamic symbols of our own vDSO: every process of one kernel has the same.
void read_vdso_symbols(image::Requirements& out) {
  const auto base = ::getauxval(AT_SYSINFO_EHDR);
  if (base == 0) return;
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(base + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_DYNSYM) continue;
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(base + sections[i].sh_offset);
    const auto* names =
        reinterpret_cast<const char*>(base + sections[sections[i].sh_link].sh_offset);
    for (size_t s = 0; s < sections[i].sh_size / sizeof(Elf64_Sym); ++s) {
      if (symbols[s].st_value == 0) continue;
      image::VdsoSymbol& symbol = *out.add_vdso_symbols();
      symbol.set_name(names + symbols[s].st_name);
      symbol.set_offset(symbols[s].st_value);
    }
  }
}

}  // namespace

Result<image::Requirements> requirements_of_this_machine() {
  image::Requirements out;
  out.set_xcr0(read_xcr0());
  out.set_xstate_size(read_xstate_size());
  utsname names{};
  if (::uname(&names) == 0) out.set_kernel_release(names.release);
  FERMATA_TRY_RESULT(read_cpu(out));
  FERMATA_TRY_RESULT(read_vdso_sizes(out));
  read_vdso_symbols(out);
  return out;
}

Status check_requirements(const image::Requirements& needs) {
  FERMATA_ASSIGN_STATUS(const image::Requirements here, requirements_of_this_machine());
  const std::set<std::string> flags(here.cpu_flags().begin(), here.cpu_flags().end());
  std::string missing;
  for (const std::string& flag : needs.cpu_flags()) {
    if (!flags.contains(flag)) missing += (missing.empty() ? "" : ", ") + flag;
  }
  if (!missing.empty()) {
    return {Code::kUnsupported,
            fmt::format("this machine's CPU lacks features that the job may use: {}. Restart it on "
                        "a node with the CPU it began on ({})",
                        missing, needs.cpu_vendor())};
  }
  if (needs.xcr0() != here.xcr0() || needs.xstate_size() != here.xstate_size()) {
    return {Code::kUnsupported,
            fmt::format("the extended registers of the job (XCR0 {:#x}, {} bytes) differ from this "
                        "machine's (XCR0 {:#x}, {} bytes)",
                        needs.xcr0(), needs.xstate_size(), here.xcr0(), here.xstate_size())};
  }
  bool same_vdso = needs.vdso_size() == here.vdso_size() && needs.vvar_size() == here.vvar_size() &&
                   needs.vdso_symbols_size() == here.vdso_symbols_size();
  for (int i = 0; same_vdso && i < needs.vdso_symbols_size(); ++i) {
    same_vdso = needs.vdso_symbols(i).name() == here.vdso_symbols(i).name() &&
                needs.vdso_symbols(i).offset() == here.vdso_symbols(i).offset();
  }
  if (!same_vdso) {
    return {
        Code::kUnsupported,
        fmt::format("the vDSO of this kernel ({}) differs from that of the kernel the job ran on "
                    "({}), and programs keep addresses in it: restart the job under that kernel",
                    here.kernel_release(), needs.kernel_release())};
  }
  return Status::ok();
}

}  // namespace fermata::engine

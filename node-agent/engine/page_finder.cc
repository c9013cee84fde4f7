#include "node-agent/engine/page_finder.h"

#include "node-agent/engine/pages.h"

namespace fermata::engine {

Result<Extents> EveryPage::find(const StoppedProcess& process, std::span<const OwnMap> maps) {
  FERMATA_ASSIGN(const PageScanner scanner, PageScanner::open(process.pid));
  Extents pages;
  for (const OwnMap& map : maps) {
    FERMATA_TRY_RESULT(scanner.scan(map.start, map.end, backing_of(map), pages));
  }
  return pages;
}

}  // namespace fermata::engine

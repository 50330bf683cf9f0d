#include "parallel.h"

#include <cstdio>

namespace pyaccel {
namespace {

// The C library counts the last caches of a whole socket where it has several.
int64_t last_cache() {
  int64_t kilobytes = 0;
#if defined(__linux__)
  if (FILE* file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    long found = 0;
    char unit = 0;
    if (fscanf(file, "%ld%c", &found, &unit) == 2) kilobytes = unit == 'M' ? found * 1024 : unit == 'K' ? found : 0;
    fclose(file);
  }
#endif
  return kilobytes > 0 ? kilobytes * 1024 : int64_t(32) << 20;
}

}  // namespace

int64_t streaming_threshold() {
  static const int64_t bytes = last_cache();
  return bytes;
}

}  // namespace pyaccel

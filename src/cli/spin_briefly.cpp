// Part of each program, not of the library. libgomp's threads spin while they wait, for ever in effect: two
// busy programs on two cores make each other up to 80 times slower. Without any spinning a step of many small
// products is three times slower instead, because every wait of some microseconds becomes a sleep. So threads
// spin a little and then sleep. The variables that say so are read when libgomp is loaded: the program starts
// itself once more with them set, before LibTorch's constructors run. If the user has set either of them,
// both are left alone.

#include <limits.h>
#include <unistd.h>

#include <cstring>

namespace {

/// About 30 microseconds of spinning: from 1,000 to 20,000 rounds no difference was measured, alone or beside
/// two busy neighbours.
constexpr const char* kSettings[] = {"OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=10000"};
constexpr int kMostVariables = 4096;

bool sets_the_same(const char* variable, const char* setting) {
    return std::strncmp(variable, setting,
                        static_cast<std::size_t>(std::strchr(setting, '=') + 1 - setting)) == 0;
}

void spin_briefly(int /*argc*/, char** argv, char** environment) {
    // Static: no allocator is ready this early.
    static char* extended[kMostVariables + 3];
    int count = 0;
    for (; environment[count] != nullptr; ++count) {
        if (count == kMostVariables) return;
        for (const char* setting : kSettings) {
            if (sets_the_same(environment[count], setting)) return;
        }
        extended[count] = environment[count];
    }
    for (const char* setting : kSettings) extended[count++] = const_cast<char*>(setting);
    static char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length > 0) execve(path, argv, extended);  // on failure the program runs on as it is
}

}  // namespace

__attribute__((section(".preinit_array"), used)) static void (*const start_hook)(int, char**,
                                                                                 char**) = &spin_briefly;

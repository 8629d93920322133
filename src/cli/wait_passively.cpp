// Part of each program, not of the library. libgomp's threads spin while they wait: two busy programs on two
// cores make each other up to 80 times slower. The variable that switches this off is read when libgomp is
// loaded, so the program starts itself once more with it set, before LibTorch's constructors run. A value set
// by the user is left alone.

#include <limits.h>
#include <unistd.h>

#include <cstring>

namespace {

constexpr const char kPolicy[] = "OMP_WAIT_POLICY=passive";
constexpr std::size_t kNameLength = sizeof("OMP_WAIT_POLICY=") - 1;
constexpr int kMostVariables = 4096;

void wait_passively(int /*argc*/, char** argv, char** environment) {
    // Static: no allocator is ready this early.
    static char* extended[kMostVariables + 2];
    int count = 0;
    for (; environment[count] != nullptr; ++count) {
        if (count == kMostVariables || std::strncmp(environment[count], kPolicy, kNameLength) == 0) return;
        extended[count] = environment[count];
    }
    extended[count] = const_cast<char*>(kPolicy);
    static char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length > 0) execve(path, argv, extended);  // on failure the program runs on as it is
}

}  // namespace

__attribute__((section(".preinit_array"), used)) static void (*const start_hook)(int, char**,
                                                                                 char**) = &wait_passively;

#include "code_place.h"

#include <link.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>

namespace qlora::emulation {

namespace {

/// Where the program was loaded: the first object that is listed is the program itself.
uintptr_t load_address() {
    uintptr_t address = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* out) {
            *static_cast<uintptr_t*>(out) = info->dlpi_addr;
            return 1;
        },
        &address);
    return address;
}

std::string own_path() {
    std::array<char, 4096> path{};
    const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
    return length > 0 ? std::string(path.data(), static_cast<std::size_t>(length)) : std::string();
}

}  // namespace

std::string describe_code(const void* return_address) {
    // One byte back lies within the call instruction.
    const uintptr_t offset = reinterpret_cast<uintptr_t>(return_address) - 1 - load_address();
    std::array<char, 32> hex{};
    std::snprintf(hex.data(), hex.size(), "0x%jx", static_cast<uintmax_t>(offset));
    const std::string command = "addr2line -s -e '" + own_path() + "' " + hex.data() + " 2>/dev/null";
    std::string text;
    if (FILE* pipe = popen(command.c_str(), "r"); pipe != nullptr) {
        std::array<char, 512> line{};
        if (std::fgets(line.data(), line.size(), pipe) != nullptr) text = line.data();
        pclose(pipe);
    }
    text = text.substr(0, text.find_first_of(" \n"));
    if (text.empty() || text[0] == '?') return std::string("at code address ") + hex.data();
    return "at " + text;
}

}  // namespace qlora::emulation

// libFuzzer target of the safetensors reader: any bytes are either refused with CheckpointError or described
// fully. clang++-14 -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude -Isrc
// tests/fuzz/safetensors_fuzz.cpp
//     src/io/{safetensors_header,strict_sax,messages,dtype}.cpp -o safetensors_fuzz

#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/safetensors_header.h"
#include "qlora/core/error.h"

namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

/// What a caller of the reader relies on.
void check(const qlora::io::SafetensorsHeader& header, std::span<const std::byte> file) {
    const std::byte* position = nullptr;
    for (const auto& tensor : header.tensors) {
        if (position == nullptr) {
            position = tensor.bytes.data();
            require((position - file.data()) >= 10);
        }
        require(tensor.bytes.data() == position);
        position += tensor.bytes.size();
        require(qlora::io::checked_byte_size(tensor.dtype, tensor.shape) == tensor.bytes.size());
        require(tensor.name != qlora::io::kMetadataKey && qlora::io::fault_of_name(tensor.name).empty());
        unsigned sum = 0;
        for (const std::byte byte : tensor.bytes) sum += std::to_integer<unsigned>(byte);
        volatile unsigned sink = sum;
        (void)sink;
    }
    if (position != nullptr) require(position == file.data() + file.size());
    require(header.by_name.size() == header.tensors.size());
    for (std::size_t i = 1; i < header.by_name.size(); ++i) {
        require(header.tensors[header.by_name[i - 1]].name < header.tensors[header.by_name[i]].name);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
    try {
        check(qlora::io::parse_safetensors(file, "fuzz"), file);
    } catch (const qlora::CheckpointError&) {
    }
    return 0;
}

#include "qlora/io/safetensors.h"

#include <algorithm>

#include "messages.h"
#include "safetensors_header.h"

namespace qlora::io {

namespace {

MappedFile map_checkpoint_file(const std::filesystem::path& path) {
    try {
        return MappedFile(path);
    } catch (const ResourceError&) {
        throw;
    } catch (const Error& error) {
        throw CheckpointError(error.what());
    }
}

}  // namespace

std::int64_t TensorView::elements() const {
    std::int64_t product = 1;
    for (const std::int64_t dimension : shape) product *= dimension;
    return product;
}

struct SafetensorsFile::Impl {
    explicit Impl(const std::filesystem::path& path)
        : file(map_checkpoint_file(path)), header(parse_safetensors(file.bytes(), path.string())) {}

    /// Unsigned: a tensor of another mapping gives an offset outside the file, which MappedFile cuts to
    /// nothing.
    std::size_t offset_of(const TensorView& tensor) const {
        return reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) -
               reinterpret_cast<std::uintptr_t>(file.bytes().data());
    }

    MappedFile file;
    SafetensorsHeader header;
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::filesystem::path& SafetensorsFile::path() const {
    return impl_->file.path();
}

const std::vector<TensorView>& SafetensorsFile::tensors() const {
    return impl_->header.tensors;
}

const TensorView* SafetensorsFile::find(const std::string& name) const {
    const SafetensorsHeader& header = impl_->header;
    const auto place =
        std::lower_bound(header.by_name.begin(), header.by_name.end(), name,
                         [&](std::size_t i, const std::string& n) { return header.tensors[i].name < n; });
    if (place == header.by_name.end() || header.tensors[*place].name != name) return nullptr;
    return &header.tensors[*place];
}

const TensorView& SafetensorsFile::at(const std::string& name) const {
    if (const TensorView* tensor = find(name)) return *tensor;
    throw CheckpointError(path().string() + ": has no tensor " + shown(name));
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
    return impl_->header.metadata;
}

void SafetensorsFile::release(const TensorView& tensor) const {
    if (!tensor.bytes.empty()) impl_->file.release(impl_->offset_of(tensor), tensor.bytes.size());
}

void SafetensorsFile::prefetch(const TensorView& tensor, std::size_t bytes) const {
    if (tensor.bytes.empty()) return;
    impl_->file.prefetch(impl_->offset_of(tensor), std::min(bytes, tensor.bytes.size()));
}

const FileIdentity& SafetensorsFile::identity() const {
    return impl_->file.identity();
}

}  // namespace qlora::io

#include <string>

#include "component_reader.h"
#include "folder_files.h"
#include "folder_tokens.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::tokenizer {

std::map<std::string, std::string> special_token_texts(const std::filesystem::path& folder) {
    const TokenFiles files = read_token_files(folder);
    std::map<std::string, std::string> out;
    for (const char* name :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
        const Json* value = special_token_value(files.config, files.map, name);
        if (value == nullptr) continue;
        if (const auto content = token_content(*value)) out[name] = *content;
    }
    return out;
}

}  // namespace qlora::tokenizer

# Warnings, sanitizers and arithmetic that every target of the project shares.
add_library(qlora_options INTERFACE)
target_compile_features(qlora_options INTERFACE cxx_std_20)
target_include_directories(qlora_options INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_compile_options(qlora_options INTERFACE -Wall -Wextra -Wshadow -Wno-missing-field-initializers
                       -Wno-restrict)  # GCC 12 sees overlaps in std::string that are not there (PR 105651)
# A fused multiply-add changes bits: only an explicit fma may fuse.
target_compile_options(qlora_options INTERFACE -ffp-contract=off)
if(QLORA_WERROR)
  target_compile_options(qlora_options INTERFACE -Werror)
endif()
if(QLORA_SANITIZE)
  target_compile_options(qlora_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all
                                                 -fno-omit-frame-pointer)
  target_link_options(qlora_options INTERFACE -fsanitize=address,undefined)
endif()

find_program(QLORA_CCACHE ccache)
if(QLORA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # ccache takes precompiled headers only with these sloppiness flags.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${QLORA_CCACHE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endif()
find_program(QLORA_MOLD mold)
if(QLORA_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# qlora_unity(target): headers, and templates that several files use, are compiled once for each eight files. Names in
# the unnamed namespaces of one folder must therefore differ; the dev preset compiles file by file, so that each file
# includes what it uses.
function(qlora_unity target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${QLORA_UNITY} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

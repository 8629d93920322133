# `cmake --install DIR` yields a folder that runs elsewhere: programs, the small shared libraries they need, and starters
# that find LibTorch. The component self_contained, which scripts/package.sh asks for, adds LibTorch's CPU libraries and
# the C++ runtime.
set(programs qlora-train qlora-eval qlora-merge qlora-quantize qlora-data)
set_target_properties(${programs} PROPERTIES INSTALL_RPATH "$ORIGIN/../../lib")
install(TARGETS ${programs} RUNTIME_DEPENDENCY_SET qlora_dependencies DESTINATION libexec/qlora)
install(RUNTIME_DEPENDENCY_SET qlora_dependencies DESTINATION lib
        DIRECTORIES ${QLORA_TORCH_ROOT}/lib
        PRE_INCLUDE_REGEXES "^lib(spdlog|fmt|sentencepiece|protobuf|pcre2|utf8proc|xxhash|zstd|z\\.so)"
        PRE_EXCLUDE_REGEXES ".*")
foreach(program IN LISTS programs)
  install(PROGRAMS ${PROJECT_SOURCE_DIR}/scripts/installed_program.sh DESTINATION bin RENAME ${program})
endforeach()
# 60 MB; scripts/bundle.sh leaves the component out.
if(TARGET qlora_parquet)
  set_target_properties(qlora_parquet PROPERTIES INSTALL_RPATH "$ORIGIN")
  install(TARGETS qlora_parquet LIBRARY DESTINATION lib COMPONENT parquet)
  install(IMPORTED_RUNTIME_ARTIFACTS qlora_parquet_library qlora_arrow_library LIBRARY DESTINATION lib COMPONENT parquet)
endif()
if(QLORA_CUDA)
  # LibTorch's CUDA runtime is loaded before it.
  set_target_properties(qlora_kernels_cuda PROPERTIES INSTALL_RPATH "")
  install(TARGETS qlora_kernels_cuda LIBRARY DESTINATION lib)
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md DESTINATION share/doc/qlora)

install(IMPORTED_RUNTIME_ARTIFACTS qlora_torch_cpu qlora_c10 RUNTIME_DEPENDENCY_SET libtorch_dependencies
        LIBRARY DESTINATION lib COMPONENT self_contained EXCLUDE_FROM_ALL)
install(RUNTIME_DEPENDENCY_SET libtorch_dependencies DESTINATION lib COMPONENT self_contained EXCLUDE_FROM_ALL
        PRE_INCLUDE_REGEXES "^lib(gomp|cudart|cupti)"
        PRE_EXCLUDE_REGEXES ".*")
# Apart from the others: the system's own is taken where it is new enough, see scripts/installed_program.sh.
install(RUNTIME_DEPENDENCY_SET libtorch_dependencies DESTINATION lib/gcc COMPONENT self_contained EXCLUDE_FROM_ALL
        PRE_INCLUDE_REGEXES "^lib(stdc|gcc_s)"
        PRE_EXCLUDE_REGEXES ".*")

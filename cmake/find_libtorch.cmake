# LibTorch out of the PyPI wheel, through targets of our own: find_package(Torch) would drag in the CUDA toolkit.
# QLORA_TORCH (environment or cache) names a LibTorch folder or a Python environment; default: the project's .venv.
set(QLORA_TORCH "$ENV{QLORA_TORCH}" CACHE PATH "LibTorch folder, or a Python environment that has torch")
set(candidates)
foreach(root IN ITEMS "${QLORA_TORCH}" "${PROJECT_SOURCE_DIR}/.venv")
  if(root)
    file(GLOB in_environment "${root}/lib/python3*/site-packages/torch")
    list(APPEND candidates "${root}" ${in_environment})
  endif()
endforeach()
find_path(QLORA_TORCH_ROOT NAMES lib/libtorch_cpu.so PATHS ${candidates} NO_DEFAULT_PATH)
if(NOT QLORA_TORCH_ROOT)
  message(FATAL_ERROR "LibTorch was not found. Run scripts/setup.sh, or set QLORA_TORCH to a LibTorch folder or "
                      "to a Python environment with torch 2.11.")
endif()
message(STATUS "LibTorch: ${QLORA_TORCH_ROOT}")

foreach(name IN ITEMS c10 torch_cpu)
  add_library(qlora_${name} SHARED IMPORTED)
  set_target_properties(qlora_${name} PROPERTIES IMPORTED_LOCATION ${QLORA_TORCH_ROOT}/lib/lib${name}.so)
endforeach()
add_library(qlora_libtorch INTERFACE)
# The wheel's headers carry their own fmt and protobuf: last on the search path, so that Debian's win.
target_compile_options(qlora_libtorch INTERFACE "SHELL:-idirafter ${QLORA_TORCH_ROOT}/include"
  "SHELL:-idirafter ${QLORA_TORCH_ROOT}/include/torch/csrc/api/include")
# Without it at::parallel_for, a template, runs on one thread. Of the two libgomp.so.1, LibTorch's is loaded.
target_compile_options(qlora_libtorch INTERFACE -fopenmp)
# ATen's headers then name the operators that they use one by one instead of reading all 2,000: half the time of a file.
target_compile_definitions(qlora_libtorch INTERFACE AT_PER_OPERATOR_HEADERS)
target_link_options(qlora_libtorch INTERFACE -fopenmp)
# Old-style RPATH, so that a later dlopen("libtorch_cuda.so") finds what it needs.
target_link_options(qlora_libtorch INTERFACE
  -Wl,--disable-new-dtags -Wl,--allow-shlib-undefined)
target_link_libraries(qlora_libtorch INTERFACE qlora_torch_cpu qlora_c10)

# BLAS's sgemm is not part of LibTorch's API, but the wheels export it; without it small products go through at::mm.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LIBRARIES qlora_libtorch)
check_cxx_source_compiles("extern \"C\" void sgemm_(); int main() { sgemm_(); }" QLORA_SGEMM_EXPORTED)
unset(CMAKE_REQUIRED_LIBRARIES)
if(QLORA_SGEMM_EXPORTED)
  target_compile_definitions(qlora_libtorch INTERFACE QLORA_HAS_SGEMM)
endif()

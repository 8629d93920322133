# CPack's configuration for the Debian package of the archive's files. scripts/package.sh, which makes both, gives
# version, files and dependencies on the command line.
set(CPACK_PACKAGING_INSTALL_PREFIX "/")
set(CPACK_PACKAGE_NAME qlora)
set(CPACK_PACKAGE_VENDOR "qlora")
set(CPACK_PACKAGE_FILE_NAME qlora)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "fine-tunes language models with QLoRA, without Python")
set(CPACK_PACKAGE_DESCRIPTION
"One JSON file and one command quantize the frozen weights of a Hugging Face causal
language model to NF4, train LoRA adapters on instruction data and write an adapter
that PEFT loads unchanged. The programs bring their LibTorch along.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE amd64)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "The qlora developers <qlora@localhost>")
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
# It is strict about the modes of files, and gives all of them to root.
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION TRUE)

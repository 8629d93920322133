// A plug-in of another build, as the program may find one beside it.
extern "C" __attribute__((visibility("default"))) const char* qlora_kernel_interface() {
    return "0.0.9 (0123456789ab)";
}

extern "C" __attribute__((visibility("default"))) const void* qlora_kernel_table() {
    return nullptr;
}

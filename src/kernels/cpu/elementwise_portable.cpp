#define QLORA_PATH portable
#define QLORA_REGISTER_BYTES 16
#include "elementwise_impl.h"

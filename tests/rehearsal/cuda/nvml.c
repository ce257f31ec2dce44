/* libnvidia-ml: eight devices, counted without touching CUDA. */
#include <stdint.h>

#include "../stub.h"

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = NUM_DEVICES;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(uintptr_t)(index + 1);
    return 0;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    strncpy(uuid, "GPU-0", length);
    return 0;
}

/* libcudart without a device: eight H200 whose memory is this host's and whose kernels do nothing.

   Copies between host and device do copy, so that what the CPU reads back is defined. Copies within
   a device, and of large weights to it, do not: they would touch the pages of a model that has
   none. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

#include "../stub.h"

static _Thread_local int current_device;

static cudaError_t status(void) {
    return is_broken(current_device) ? cudaErrorIllegalAddress : cudaSuccess;
}

/* ---- Devices ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = NUM_DEVICES;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
    memset(prop, 0, sizeof *prop);
    strcpy(prop->name, "NVIDIA H200");
    prop->major = 9;
    prop->totalGlobalMem = device_bytes(140);
    prop->totalConstMem = 65536;
    prop->multiProcessorCount = 132;
    prop->warpSize = 32;
    prop->regsPerBlock = prop->regsPerMultiprocessor = 65536;
    prop->sharedMemPerBlock = 49152;
    prop->sharedMemPerBlockOptin = 232448;
    prop->sharedMemPerMultiprocessor = 233472;
    prop->maxThreadsPerBlock = 1024;
    prop->maxThreadsPerMultiProcessor = 2048;
    prop->maxBlocksPerMultiProcessor = 32;
    prop->l2CacheSize = 60 << 20;
    prop->memPitch = INT32_MAX;
    prop->textureAlignment = 512;
    prop->unifiedAddressing = prop->cooperativeLaunch = 1;
    prop->pciBusID = device;
    int grid[] = {INT32_MAX, 65535, 65535}, threads[] = {1024, 1024, 64};
    memcpy(prop->maxGridSize, grid, sizeof grid);
    memcpy(prop->maxThreadsDim, threads, sizeof threads);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxGridDimX: *value = INT32_MAX; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    default: *value = 1;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, length, "0000:%02x:00.0", device);
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can_access, int device, int peer) {
    *can_access = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function,
                                             unsigned int version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    static void *driver;
    if (!driver)
        driver = dlopen("libcuda.so.1", RTLD_NOW);
    *function = driver ? dlsym(driver, symbol) : NULL;
    if (result)
        *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

/* ---- Errors ---- */

cudaError_t cudaGetLastError(void) { return status(); }
cudaError_t cudaPeekAtLastError(void) { return status(); }

const char *cudaGetErrorName(cudaError_t error) { return "cudaErrorOfTheStub"; }

const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorIllegalAddress ? "an illegal memory access was encountered"
                                            : "an error of the stub";
}

/* ---- Memory ---- */

/* Addresses are given out once and in order, so that a pointer tells that it is the device's and
   its slot of 2 MiB finds its size. */
static const uintptr_t LOWEST = 0x600000000000, HIGHEST = 0x680000000000;
static const size_t SLOT = 2 << 20;
static uintptr_t next_address = LOWEST;
static size_t sizes[1 << 20];

static size_t *size_of(const void *memory) {
    return &sizes[((uintptr_t)memory - LOWEST) / SLOT % (1 << 20)];
}

cudaError_t cudaMalloc(void **memory, size_t size) {
    size = (size + SLOT - 1) / SLOT * SLOT;
    uintptr_t address = __sync_fetch_and_add(&next_address, size + SLOT);
    *memory = reserve((void *)address, size);
    if (!*memory)
        return cudaErrorMemoryAllocation;
    *size_of(*memory) = size;
    return status();
}

cudaError_t cudaFree(void *memory) {
    if (memory)
        munmap(memory, *size_of(memory));
    return status();
}

cudaError_t cudaMallocAsync(void **memory, size_t size, cudaStream_t stream) {
    return cudaMalloc(memory, size);
}

cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream) { return cudaFree(memory); }

cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned int flags) {
    *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory) {
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = *total_bytes = device_bytes(140);
    return status();
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToDevice)
        memcpy(to, from, size);
    return status();
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return cudaMemcpy(to, from, size, kind);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes,
                                     const void *pointer) {
    memset(attributes, 0, sizeof *attributes);
    if ((uintptr_t)pointer < LOWEST || (uintptr_t)pointer >= HIGHEST)
        return cudaSuccess; /* cudaMemoryTypeUnregistered is 0 */
    attributes->type = cudaMemoryTypeDevice;
    attributes->device = current_device;
    attributes->devicePointer = (void *)pointer;
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    return cudaMalloc(address, 4096);
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
    return make_handle(pool);
}

/* ---- Streams and events: all work is done when it is given ---- */

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return make_handle(stream); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority) {
    return make_handle(stream);
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *capturing) {
    *capturing = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *capturing,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *num_dependencies) {
    return cudaStreamIsCapturing(stream, capturing);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return status(); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return status(); }
cudaError_t cudaDeviceSynchronize(void) { return status(); }

cudaError_t cudaEventCreate(cudaEvent_t *event) { return make_handle(event); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
    return make_handle(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return status(); }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return status(); }

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    *ms = 1.0f; /* not 0: callers divide by it */
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument) {
    function(argument);
    return status();
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback,
                                  void *argument, unsigned int flags) {
    callback(stream, status(), argument);
    return status();
}

/* ---- Kernels ---- */

/* `kernel<<<...>>>` pushes its configuration here and pops it in the stub that nvcc wrote. */
static _Thread_local struct {
    dim3 grid, block;
    size_t shared;
    struct CUstream_st *stream;
} configurations[16];
static _Thread_local int num_configurations;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared,
                                     struct CUstream_st *stream) {
    int n = num_configurations++;
    configurations[n].grid = grid;
    configurations[n].block = block;
    configurations[n].shared = shared;
    configurations[n].stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    int n = --num_configurations;
    *grid = configurations[n].grid;
    *block = configurations[n].block;
    *shared = configurations[n].shared;
    *(struct CUstream_st **)stream = configurations[n].stream;
    return cudaSuccess;
}

void **__cudaRegisterFatBinary(void *binary) {
    static void *handle[4];
    return handle;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared, cudaStream_t stream) {
    return status();
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                             size_t shared, cudaStream_t stream) {
    return status();
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function,
                                void **arguments) {
    return status();
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    attributes->maxDynamicSharedSizeBytes = 232448;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *num_blocks, const void *function,
                                                          int block, size_t shared) {
    *num_blocks = 2;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *num_blocks,
                                                                   const void *function, int block,
                                                                   size_t shared,
                                                                   unsigned int flags) {
    *num_blocks = 2;
    return cudaSuccess;
}

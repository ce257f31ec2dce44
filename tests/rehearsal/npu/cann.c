/* CANN without a device: eight 910B whose memory is this host's and whose operators do nothing.

   CANN's headers are not on the package index, so the signatures are written out: every enum and
   error code passes as an int, every handle as a pointer. Copies between host and device do copy.
   Copies within a device, and of large weights to it, do not: they would touch the pages of a model
   that has none. */
#define _GNU_SOURCE
#include "../stub.h"

enum { OUT_OF_MEMORY = 207001, DEVICE_BROKEN = 507018 };
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3 };
enum { NUM_CORES = 24 };

/* Of the process, not of the thread: torch_npu launches from threads of its own. */
static int current_device;

static int status(void) { return is_broken(current_device) ? DEVICE_BROKEN : 0; }

static int answer(int *value, int found) {
    *value = found;
    return 0;
}

/* ---- Devices ---- */

int aclrtGetDeviceCount(unsigned *count) { return answer((int *)count, NUM_DEVICES); }
int drvGetDevNum(unsigned *count) { return answer((int *)count, NUM_DEVICES); }
int aclrtGetDevice(int *device) { return answer(device, current_device); }

int aclrtSetDevice(int device) {
    current_device = device;
    return 0;
}

const char *aclrtGetSocName(void) { return "Ascend910B2"; }
const char *aclGetRecentErrMsg(void) { return is_broken(current_device) ? "device broken" : ""; }

int aclrtGetCurrentContext(void **context) {
    static char current[64];
    *context = current;
    return 0;
}

int aclrtGetPrimaryCtxState(int device, unsigned *flags, int *active) {
    if (flags)
        *flags = 0;
    if (active)
        *active = 1;
    return 0;
}

int aclrtDeviceCanAccessPeer(int *can_access, int device, int peer) {
    return answer(can_access, 1);
}

int aclrtGetDeviceInfo(unsigned device, int attribute, long *value) {
    *value = NUM_CORES;
    return 0;
}

int aclrtGetDeviceResLimit(int device, int type, int *value) { return answer(value, NUM_CORES); }
int aclrtGetStreamResLimit(void *stream, int type, int *value) { return answer(value, NUM_CORES); }
int aclrtGetResInCurrentThread(int type, int *value) { return answer(value, NUM_CORES); }
int aclrtGetLogicDevIdByUserDevId(int user, int *logical) { return answer(logical, user); }

int aclrtGetSysParamOpt(int option, long *value) {
    *value = 0;
    return 0;
}

int aclsysGetCANNVersion(int package, char *version) {
    memset(version, 0, 256);
    strcpy(version, "8.5.0");
    return 0;
}

int aclsysGetVersionStr(const char *package, char *version) {
    strcpy(version, "8.5.0");
    return 0;
}

size_t aclGetCompileoptSize(int option) { return 64; }

int aclGetCompileopt(int option, char *value, size_t length) {
    strcpy(value, "disable");
    return 0;
}

/* ---- Memory ---- */

/* The page before an allocation holds its size. */
enum { PAGE = 4096 };

static int allocate(void **memory, size_t size) {
    size += PAGE;
    char *base = reserve(NULL, size);
    if (!base)
        return OUT_OF_MEMORY;
    *(size_t *)base = size;
    *memory = base + PAGE;
    return 0;
}

static int release(void *memory) {
    if (memory) {
        char *base = (char *)memory - PAGE;
        munmap(base, *(size_t *)base);
    }
    return 0;
}

int aclrtMalloc(void **memory, size_t size, int policy) { return allocate(memory, size); }
int aclrtMallocAlign32(void **memory, size_t size, int policy) { return allocate(memory, size); }
int aclrtMallocHost(void **memory, size_t size) { return allocate(memory, size); }

int aclrtMallocHostWithCfg(void **memory, size_t size, void *config) {
    return allocate(memory, size);
}

int aclrtFree(void *memory) { return release(memory); }
int aclrtFreeHost(void *memory) { return release(memory); }

int aclrtGetMemInfo(int attribute, size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = *total_bytes = device_bytes(64);
    return 0;
}

int aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int kind) {
    if (kind != HOST_TO_DEVICE && kind != DEVICE_TO_DEVICE)
        memcpy(to, from, size);
    return status();
}

int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int kind,
                     void *stream) {
    return aclrtMemcpy(to, room, from, size, kind);
}

/* The calls behind `expandable_segments`. */
int aclrtReserveMemAddress(void **address, size_t size, size_t alignment, void *hint,
                           unsigned long flags) {
    *address = reserve(hint, size);
    return *address ? 0 : OUT_OF_MEMORY;
}

int aclrtMallocPhysical(void **handle, size_t size, const void *properties, unsigned long flags) {
    return make_handle(handle);
}

int aclrtFreePhysical(void *handle) {
    free(handle);
    return 0;
}

/* ---- Streams and events: all work is done when it is given ---- */

int aclrtCreateStream(void **stream) { return make_handle(stream); }

int aclrtCreateStreamWithConfig(void **stream, unsigned priority, unsigned flags) {
    return make_handle(stream);
}

int aclrtStreamGetId(void *stream, int *id) { return answer(id, 1); }
int aclrtSynchronizeStream(void *stream) { return status(); }
int aclrtSynchronizeStreamWithTimeout(void *stream, int timeout_ms) { return status(); }
int aclrtSynchronizeDevice(void) { return status(); }
int aclrtSynchronizeDeviceWithTimeout(int timeout_ms) { return status(); }

enum { STREAM_COMPLETE = 0, EVENT_RECORDED = 1, EVENT_WAIT_COMPLETE = 0 };

int aclrtStreamQuery(void *stream, int *state) { return answer(state, STREAM_COMPLETE); }

int aclrtGetStreamOverflowSwitch(void *stream, unsigned *flag) { return answer((int *)flag, 0); }
int aclrtCreateEvent(void **event) { return make_handle(event); }
int aclrtCreateEventWithFlag(void **event, unsigned flags) { return make_handle(event); }
int aclrtCreateEventExWithFlag(void **event, unsigned flags) { return make_handle(event); }
int aclrtQueryEventStatus(void *event, int *state) { return answer(state, EVENT_RECORDED); }
int aclQueryEventRecordedStatus(void *event, int *state) { return answer(state, EVENT_RECORDED); }

int aclrtQueryEventWaitStatus(void *event, int *state) {
    return answer(state, EVENT_WAIT_COMPLETE);
}

int aclQueryEventWaitStatus(void *event, int *state) { return answer(state, EVENT_WAIT_COMPLETE); }

int aclrtEventElapsedTime(float *ms, void *start, void *end) {
    *ms = 1.0f; /* not 0: callers divide by it */
    return 0;
}

int aclrtEventGetTimestamp(void *event, unsigned long *time) {
    *time = 1;
    return 0;
}

/* ---- Arguments of operators ---- */

static void *new_handle(void) { return calloc(1, 256); }

void *aclCreateTensor(void) { return new_handle(); }
void *aclCreateTensorList(void) { return new_handle(); }
void *aclCreateTensorDesc(void) { return new_handle(); }
void *aclCreateDataBuffer(void) { return new_handle(); }
void *aclCreateIntArray(void) { return new_handle(); }
void *aclCreateFloatArray(void) { return new_handle(); }
void *aclCreateBoolArray(void) { return new_handle(); }
void *aclCreateScalar(void) { return new_handle(); }
void *aclCreateScalarList(void) { return new_handle(); }
void *aclCreateGraphDumpOpt(void) { return new_handle(); }
void *aclopCreateAttr(void) { return new_handle(); }
void *aclprofCreateConfig(void) { return new_handle(); }

static int destroy(void *handle) {
    free(handle);
    return 0;
}

int aclDestroyTensor(void *tensor) { return destroy(tensor); }
int aclDestroyScalar(void *scalar) { return destroy(scalar); }
int aclDestroyIntArray(void *array) { return destroy(array); }
int aclDestroyFloatArray(void *array) { return destroy(array); }
int aclDestroyBoolArray(void *array) { return destroy(array); }
int aclDestroyTensorList(void *list) { return destroy(list); }

/* ---- HCCL: communicators are made, collectives return at once and move nothing ---- */

int HcclGetRootInfo(void *info) {
    const size_t size_of_info = 4108;
    memset(info, 0, size_of_info);
    return 0;
}

static int make_communicator(void **communicator) {
    set_up_communicator();
    return make_handle(communicator);
}

int HcclCommInitRootInfo(unsigned size, void *info, unsigned rank, void **communicator) {
    return make_communicator(communicator);
}

int HcclCommInitRootInfoConfig(unsigned size, void *info, unsigned rank, void *config,
                               void **communicator) {
    return make_communicator(communicator);
}

int HcclCreateSubCommConfig(void **parent, unsigned size, unsigned *ranks, unsigned long id,
                            unsigned rank, void *config, void **communicator) {
    return make_communicator(communicator);
}

int HcclGetCommName(void *communicator, char *name) {
    strcpy(name, "rehearsal");
    return 0;
}

int HcclGetCommAsyncError(void *communicator, int *error) { return answer(error, 0); }
const char *HcclGetErrorString(int error) { return "an error of the stub"; }

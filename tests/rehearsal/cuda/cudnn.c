/* libcudnn: one engine fits every graph, needs no workspace, and computes nothing. */
#include <stdint.h>

#include "../stub.h"

enum { VERSION = 91900, CUDART_OF_CUDNN = 13000 };
enum { /* of attributes, as cudnn_backend.h numbers them */
    TYPE_INT64 = 3,
    TYPE_NUMERICAL_NOTE = 11,
    TYPE_BACKEND_DESCRIPTOR = 15,
    TYPE_BEHAVIOR_NOTE = 19,
};

size_t cudnnGetVersion(void) { return VERSION; }
size_t cudnnGetCudartVersion(void) { return CUDART_OF_CUDNN; }
const char *cudnnGetErrorString(int status) { return "an error of the stub"; }

void cudnnGetLastErrorString(char *text, size_t size) {
    if (size)
        text[0] = 0;
}

int cudnnGetProperty(int type, int *value) {
    const int version[] = {VERSION / 10000, VERSION / 100 % 100, VERSION % 100};
    *value = version[type];
    return 0;
}

int cudnnCreate(void **handle) { return make_handle(handle); }

int cudnnGetStream(void *handle, void **stream) {
    *stream = NULL;
    return 0;
}

int cudnnBackendCreateDescriptor(int type, void **descriptor) { return make_handle(descriptor); }

int cudnnBackendDestroyDescriptor(void *descriptor) {
    free(descriptor);
    return 0;
}

/* An attribute has one element: zero, or a descriptor that the caller has made for it. Notes have
   none, since each would be a reason to pass the engine over. */
int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t num_wanted,
                             int64_t *num_found, void *elements) {
    int is_note = type == TYPE_NUMERICAL_NOTE || type == TYPE_BEHAVIOR_NOTE;
    if (num_found)
        *num_found = !is_note;
    if (!elements || num_wanted < 1 || is_note || type == TYPE_BACKEND_DESCRIPTOR)
        return 0;
    memset(elements, 0, type == TYPE_INT64 ? sizeof(int64_t) : sizeof(int32_t));
    return 0;
}

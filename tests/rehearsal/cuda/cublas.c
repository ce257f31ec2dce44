/* libcublas and libcublasLt: every product succeeds and computes nothing. */
#include "../stub.h"

enum { VERSION = 130100 };

int cublasCreate_v2(void **handle) { return make_handle(handle); }

int cublasGetVersion_v2(void *handle, int *version) {
    *version = VERSION;
    return 0;
}

int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

int cublasGetPointerMode_v2(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

int cublasGetStream_v2(void *handle, void **stream) {
    *stream = NULL;
    return 0;
}

const char *cublasGetStatusString(int status) { return "an error of the stub"; }
const char *cublasGetStatusName(int status) { return "CUBLAS_STATUS_OF_THE_STUB"; }

size_t cublasLtGetVersion(void) { return VERSION; }
int cublasLtCreate(void **handle) { return make_handle(handle); }
int cublasLtMatmulDescCreate(void **descriptor) { return make_handle(descriptor); }
int cublasLtMatrixLayoutCreate(void **layout) { return make_handle(layout); }
int cublasLtMatmulPreferenceCreate(void **preference) { return make_handle(preference); }

/* One algorithm fits, and needs no workspace. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c,
                                   void *d, void *preference, int num_wanted, char *results,
                                   int *num_found) {
    const size_t size_of_result = 96;
    memset(results, 0, size_of_result);
    *num_found = 1;
    return 0;
}

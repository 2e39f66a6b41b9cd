/* The kernel basis attention on the CPU: one source, compiled for several instruction sets, chosen at run time.
 *
 * Python hands over addresses of contiguous float32 tensors (batch, channels, height, width) and their sizes; the
 * shapes are checked in compiled.py. Each call works on the rows first_row ... last_row - 1 of the batch's
 * batch * height rows, without the interpreter's lock, so that several threads share a picture.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* What a call works on. Gradients are NULL in the forward pass. */
typedef struct {
    const float *features, *attention, *weight, *bias; /* as in plain.py */
    float *answer;                                     /* forward: what comes out; backward: its gradient, read */
    float *d_features, *d_attention, *d_weight, *d_bias;
    float *d_above, *d_below; /* (channels, width): what belongs to the rows before and after this call's */
    ptrdiff_t channels, height, width, bases, group_size, first_row, last_row;
} job;

enum { PIXELS = 32, BASE_MULTIPLE = 16, TAPS = 9, CHUNK = 4, BASE_ROWS = 8, BAND_PIXELS = 1024 };

static ptrdiff_t round_up(ptrdiff_t value, ptrdiff_t multiple) { return (value + multiple - 1) / multiple * multiple; }
static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* A zeroed array whose address is a multiple of a cache line; freed as one with `base`. */
typedef struct {
    char *base;
    size_t used, size;
} arena;

static float *take(arena *memory, ptrdiff_t floats) {
    float *start = memory->base ? (float *)(memory->base + memory->used) : NULL;
    memory->used += (size_t)round_up(floats * (ptrdiff_t)sizeof(float), 64);
    return start;
}

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#else
#define ALWAYS_INLINE __inline
#define UNROLL
#endif

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define HAS_X86_FORMS 1

#define FORM(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define LANES 16
#define VECTORS 2 /* 9 taps x 2 vectors of sums fill 18 of the 32 registers */
#include "kba_body.h"

#define FORM(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define VECTORS 1 /* 9 sums, 1 loaded, 1 broadcast of 16 registers */
#include "kba_body.h"
#endif

#define FORM(name) name##_portable
#define TARGET
#if defined(__aarch64__)
#define LANES 4
#define VECTORS 2
#elif defined(__GNUC__)
#define LANES 4
#define VECTORS 1
#else
#define LANES 1 /* no vector types: plain floats */
#define VECTORS 8
#endif
#include "kba_body.h"

typedef struct {
    const char *name;
    int (*forward)(const job *);
    int (*backward)(const job *);
} form;

static const form FORMS[] = {
#if defined(HAS_X86_FORMS)
    {"avx512", forward_avx512, backward_avx512},
    {"avx2", forward_avx2, backward_avx2},
#endif
    {"portable", forward_portable, backward_portable},
};
enum { FORM_COUNT = sizeof FORMS / sizeof FORMS[0] };

static int runs_here(int index) {
#if defined(HAS_X86_FORMS)
    __builtin_cpu_init();
    if (index == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("fma");
    if (index == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return index >= 0 && index < FORM_COUNT;
}

/* forms() -> list of the names of the forms that this machine can run, the fastest first. */
static PyObject *forms(PyObject *self, PyObject *nothing) {
    (void)self, (void)nothing;
    PyObject *names = PyList_New(0);
    for (int index = 0; names && index < FORM_COUNT; index++) {
        if (!runs_here(index)) continue;
        PyObject *name = PyUnicode_FromString(FORMS[index].name);
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *run(PyObject *arguments, int backward) {
    unsigned long long address[11] = {0};
    const char *name;
    job work;
    const char *pattern = backward ? "s(KKKKKKKKKKK)(nnnnnnn)" : "s(KKKKK)(nnnnnnn)";
    int parsed =
        backward
            ? PyArg_ParseTuple(arguments, pattern, &name, &address[0], &address[1], &address[2], &address[3],
                               &address[4], &address[5], &address[6], &address[7], &address[8], &address[9],
                               &address[10], &work.channels, &work.height, &work.width, &work.bases,
                               &work.group_size, &work.first_row, &work.last_row)
            : PyArg_ParseTuple(arguments, pattern, &name, &address[0], &address[1], &address[2], &address[3],
                               &address[4], &work.channels, &work.height, &work.width, &work.bases,
                               &work.group_size, &work.first_row, &work.last_row);
    if (!parsed) return NULL;
    work.features = (const float *)(uintptr_t)address[0];
    work.attention = (const float *)(uintptr_t)address[1];
    work.weight = (const float *)(uintptr_t)address[2];
    work.bias = (const float *)(uintptr_t)address[3];
    work.answer = (float *)(uintptr_t)address[4];
    work.d_features = (float *)(uintptr_t)address[5];
    work.d_attention = (float *)(uintptr_t)address[6];
    work.d_weight = (float *)(uintptr_t)address[7];
    work.d_bias = (float *)(uintptr_t)address[8];
    work.d_above = (float *)(uintptr_t)address[9];
    work.d_below = (float *)(uintptr_t)address[10];
    for (int index = 0; index < FORM_COUNT; index++) {
        if (strcmp(FORMS[index].name, name) != 0 || !runs_here(index)) continue;
        int (*function)(const job *) = backward ? FORMS[index].backward : FORMS[index].forward;
        int done;
        Py_BEGIN_ALLOW_THREADS
        done = function(&work);
        Py_END_ALLOW_THREADS
        if (!done) return PyErr_NoMemory();
        Py_RETURN_NONE;
    }
    return PyErr_Format(PyExc_ValueError, "this machine has no form %s", name);
}

static PyObject *forward(PyObject *self, PyObject *arguments) { (void)self; return run(arguments, 0); }
static PyObject *backward(PyObject *self, PyObject *arguments) { (void)self; return run(arguments, 1); }

static PyMethodDef METHODS[] = {
    {"forms", forms, METH_NOARGS, "Return the names of the forms that this machine can run, the fastest first."},
    {"forward", forward, METH_VARARGS, "Filter rows of a batch."},
    {"backward", backward, METH_VARARGS, "Compute the gradients that rows of a batch give."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "kba_extension",
                                    "The kernel basis attention, compiled.", -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_kba_extension(void) { return PyModule_Create(&MODULE); }

/* The kernel basis attention on the CPU: one source, compiled for several instruction sets, chosen at run time.
 *
 * Python hands over addresses of contiguous float32 tensors (batch, channels, height, width) and their sizes; the
 * shapes are checked in compiled.py. Each call works on the rows first_row ... last_row - 1 of the batch's
 * batch * height rows, without the interpreter's lock, so that several threads share a picture.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#include <math.h>
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
    char *scratch;            /* NULL: only say how many bytes it takes */
    ptrdiff_t channels, height, width, bases, group_size, first_row, last_row;
} job;

enum { PIXELS = 32, BASE_MULTIPLE = 16, TAPS = 9, CHUNK = 4, BASE_ROWS = 8, BAND_PIXELS = 1024 };

static ptrdiff_t round_up(ptrdiff_t value, ptrdiff_t multiple) { return (value + multiple - 1) / multiple * multiple; }
static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Memory of which arrays are taken, each at the begin of a cache line. */
typedef struct {
    char *base;
    size_t used, size;
} arena;

static float *take(arena *memory, ptrdiff_t floats) {
    float *start = memory->base ? (float *)(memory->base + memory->used) : NULL;
    memory->used += (size_t)round_up(floats * (ptrdiff_t)sizeof(float), 64);
#if defined(__SANITIZE_ADDRESS__)
    /* A fence, so that the sanitizer sees who writes beyond one array into the next. */
    if (memory->base && memory->size) ASAN_POISON_MEMORY_REGION(memory->base + memory->used, 64);
    memory->used += 64;
#endif
    return start;
}

/* Take the fences down again, for whoever gets the memory next. */
static void put_back(const arena *memory) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(memory->base, memory->used);
#else
    (void)memory;
#endif
}

#if defined(__GNUC__) || defined(__clang__)
#define HAS_VECTORS 1
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define HAS_VECTORS 0
#define ALWAYS_INLINE __inline
#define UNROLL
#define PREFETCH(address) ((void)(address))
#endif

#include "fused.h"

#if HAS_VECTORS && (defined(__x86_64__) || defined(_M_X64))
#define HAS_X86_FORMS 1
#include <cpuid.h>

#define FORM(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define LANES 16
#define VECTORS 2 /* 9 taps x 2 vectors of sums fill 18 of the 32 registers */
#define MIX_VECTORS 3 /* 9 taps x 3 vectors of sums fill 27 */
#define MATRIX_ROWS 8
#define MATRIX_VECTORS 3
#include "form_body.h"

#define FORM(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define VECTORS 1 /* 9 sums, 1 loaded, 1 broadcast of 16 registers */
#define MIX_VECTORS 1
#define MATRIX_ROWS 4
#define MATRIX_VECTORS 3
#include "form_body.h"
#endif

#if HAS_X86_FORMS && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define HAS_BFLOAT16 1
#include <sys/syscall.h>
#include <unistd.h>

#define FORM_PAIRS 1
#define FORM(name) name##_avx512_bf16
#define TARGET __attribute__((target("avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define LANES 16
#define VECTORS 2
#define MIX_VECTORS 3
#define MATRIX_ROWS 8
#define MATRIX_VECTORS 3
#include "form_body.h"

#define FORM_AMX 1
#define FORM(name) name##_amx
#define TARGET __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define LANES 16
#define VECTORS 1
#include "form_body.h"

#endif

#define FORM(name) name##_portable
#define TARGET
#if HAS_VECTORS
#define LANES 4
#if defined(__aarch64__)
#define VECTORS 2
#define MIX_VECTORS 3
#define MATRIX_ROWS 8
#else
#define VECTORS 1
#define MIX_VECTORS 1
#define MATRIX_ROWS 4
#endif
#define MATRIX_VECTORS 3
#else
#define LANES 1 /* no vector types: plain floats */
#define VECTORS 8
#define MIX_VECTORS 8
#define MATRIX_ROWS 4
#define MATRIX_VECTORS 3
#endif
#include "form_body.h"

/* What can be asked for. Each takes its structure's fields and returns how many bytes it needs or needed, or -1 where
 * memory is short. */
typedef ptrdiff_t operation(const void *fields);

enum { FILTER, DIFFERENTIATE, PACK_FUSION, FUSE, POOL, PACK_POINTWISE, POINTWISE, PACK_ATTENTION, ATTEND, OPERATIONS };

static const struct {
    const char *name;
    size_t bytes;
} OPERATION[OPERATIONS] = {
    {"filter", sizeof(job)},
    {"differentiate", sizeof(job)},
    {"pack_fusion", sizeof(fusion_packing)},
    {"fuse", sizeof(fusion_job)},
    {"pool", sizeof(pool_job)},
    {"pack_pointwise", sizeof(matrix_packing)},
    {"pointwise", sizeof(pointwise_job)},
    {"pack_attention", sizeof(attention_packing)},
    {"attend", sizeof(attention_job)},
};

typedef struct {
    const char *name;
    operation *operations[OPERATIONS];
} form;

#define FUSED_OPERATIONS(suffix)                                                                              \
    pack_fusion##suffix, fuse##suffix, pool##suffix, pack_pointwise##suffix, pointwise##suffix,               \
        pack_attention##suffix, attend##suffix

static const form FORMS[] = {
#if defined(HAS_X86_FORMS)
#if defined(HAS_BFLOAT16)
    {"amx", {forward_amx, backward_amx, FUSED_OPERATIONS(_amx)}},
    {"avx512_bf16", {NULL, NULL, FUSED_OPERATIONS(_avx512_bf16)}},
#endif
    {"avx512", {forward_avx512, backward_avx512, FUSED_OPERATIONS(_avx512)}},
    {"avx2", {forward_avx2, backward_avx2, FUSED_OPERATIONS(_avx2)}},
#endif
    {"portable", {forward_portable, backward_portable, FUSED_OPERATIONS(_portable)}},
};
enum { FORM_COUNT = sizeof FORMS / sizeof FORMS[0] };

#if defined(HAS_X86_FORMS)
/* What the processor has and the system saves; asked of the processor itself, because the compiler's own function for
 * it needs a library that Windows has not. */
typedef struct {
    int avx2, avx512, bfloat16, tiles;
} abilities;

static abilities abilities_here(void) {
    enum { FMA = 1 << 12, SAVING = 1 << 27, AVX2 = 1 << 5, BFLOAT16 = 1 << 5, TILES = 1 << 24, TILE_BFLOAT16 = 1 << 22 };
    enum { AVX_STATE = 0x6, AVX512_STATE = 0xe6, TILE_STATE = 0x60000 };
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    abilities found = {0, 0, 0, 0};
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & SAVING) || !(c & FMA)) return found;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (saved & AVX_STATE) != AVX_STATE) return found;
    found.avx2 = (b & AVX2) != 0;
    found.avx512 = found.avx2 && (b & avx512) == avx512 && (saved & AVX512_STATE) == AVX512_STATE;
    const int tiles = (d & TILES) && (d & TILE_BFLOAT16) && (saved & TILE_STATE) == TILE_STATE;
    if (!found.avx512 || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return found;
    found.bfloat16 = (a & BFLOAT16) != 0;
#if defined(HAS_BFLOAT16)
    /* Linux lets a process use the tiles when it has asked. */
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    found.tiles = tiles && found.bfloat16 && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    (void)tiles;
#endif
    return found;
}
#endif

static int runs_here(int index) {
    const char *name = FORMS[index].name;
#if defined(HAS_X86_FORMS)
    static abilities here;
    static int asked;
    if (!asked) { /* under the interpreter's lock, at the latest when the forms are listed */
        here = abilities_here();
        asked = 1;
    }
    if (strcmp(name, "amx") == 0) return here.tiles;
    if (strcmp(name, "avx512_bf16") == 0) return here.bfloat16;
    if (strcmp(name, "avx512") == 0) return here.avx512;
    if (strcmp(name, "avx2") == 0) return here.avx2;
#endif
    return strcmp(name, "portable") == 0;
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

/* run(form, operation, fields): the structure's fields as a tuple of integers; without the interpreter's lock. */
static PyObject *run(PyObject *self, PyObject *arguments) {
    (void)self;
    enum { MOST_FIELDS = 40 };
    ptrdiff_t fields[MOST_FIELDS];
    const char *form_name, *operation_name;
    PyObject *tuple;
    int chosen = 0, which = 0;
    if (!PyArg_ParseTuple(arguments, "ssO!", &form_name, &operation_name, &PyTuple_Type, &tuple)) return NULL;
    while (chosen < FORM_COUNT && (strcmp(FORMS[chosen].name, form_name) != 0 || !runs_here(chosen))) chosen++;
    while (which < OPERATIONS && strcmp(OPERATION[which].name, operation_name) != 0) which++;
    if (chosen == FORM_COUNT) return PyErr_Format(PyExc_ValueError, "this machine has no form %s", form_name);
    if (which == OPERATIONS || !FORMS[chosen].operations[which])
        return PyErr_Format(PyExc_ValueError, "form %s has no operation %s", form_name, operation_name);
    const Py_ssize_t count = PyTuple_Size(tuple);
    if ((size_t)count * sizeof *fields != OPERATION[which].bytes)
        return PyErr_Format(PyExc_ValueError, "%s takes %d fields, not %d", operation_name,
                            (int)(OPERATION[which].bytes / sizeof *fields), (int)count);
    for (Py_ssize_t i = 0; i < count; i++) {
        fields[i] = (ptrdiff_t)PyLong_AsSsize_t(PyTuple_GetItem(tuple, i));
        if (PyErr_Occurred()) return NULL;
    }
    ptrdiff_t answer;
    Py_BEGIN_ALLOW_THREADS
    answer = FORMS[chosen].operations[which](fields);
    Py_END_ALLOW_THREADS
    if (answer < 0) return PyErr_NoMemory();
    return PyLong_FromSsize_t((Py_ssize_t)answer);
}

static PyMethodDef METHODS[] = {
    {"forms", forms, METH_NOARGS, "Return the names of the forms that this machine can run, the fastest first."},
    {"run", run, METH_VARARGS, "Do an operation in a form, given its structure's fields."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "kba_extension",
                                    "The kernel basis attention, compiled.", -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_kba_extension(void) { return PyModule_Create(&MODULE); }

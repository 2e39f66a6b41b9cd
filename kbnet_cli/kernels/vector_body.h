/* Vectors of floats of one instruction set: LANES of them, or plain floats where the compiler has no vector types. */

#define VECTOR FORM(vector)
#if LANES > 1
typedef float VECTOR __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
#define INTEGERS FORM(integers)
typedef int INTEGERS __attribute__((vector_size(LANES * sizeof(int)), aligned(4), may_alias));
#else
typedef float VECTOR;
#endif
#define WIDE (LANES * VECTORS) /* floats of a row that a filter makes at once */

TARGET static ALWAYS_INLINE float FORM(total)(VECTOR value) {
    float lanes[LANES], sum = 0;
    memcpy(lanes, &value, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    return sum;
}

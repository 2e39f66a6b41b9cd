/* Products of a matrix of weights with planes of pixels, for one instruction set: 1x1 convolutions.
 *
 * The weights are packed once into panels of MATRIX_ROWS rows, (panels, steps, MATRIX_ROWS); the pixels are packed a
 * few at a time into panels of up to MATRIX_VECTORS vectors, (steps, pixels), so that the inner loop reads two
 * contiguous streams and keeps MATRIX_ROWS x MATRIX_VECTORS sums in registers. A step is one of the depth, or two that
 * lie as bfloat16 in a float's place where the form multiplies pairs (FORM_PAIRS).
 */

#if defined(FORM_PAIRS)
#include <immintrin.h>

#define DEPTH_OF_STEP 2
#define MULTIPLY_ADD(sum, weight, right) \
    ((VECTOR)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_ps(weight), (__m512bh)(right)))
#define PACK_PIXELS(in, in_plane, two) FORM(pack_pair)(in, (two) ? (in) + (in_plane) : NULL)

/* Two vectors as pairs of bfloat16; zeros for the second where there is none. */
TARGET static ALWAYS_INLINE VECTOR FORM(pack_pair)(const float *first, const float *second) {
    const __m512i turn = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                          5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512 more = second ? _mm512_loadu_ps(second) : _mm512_setzero_ps();
    return (VECTOR)_mm512_permutexvar_epi16(turn, (__m512i)_mm512_cvtne2ps_pbh(more, _mm512_loadu_ps(first)));
}

static float FORM(pack_weights)(float first, float second) {
    const uint32_t bits = (uint32_t)brain_float(second) << 16 | brain_float(first);
    float pair;
    memcpy(&pair, &bits, sizeof pair);
    return pair;
}
#else
#define DEPTH_OF_STEP 1
#define MULTIPLY_ADD(sum, weight, right) ((sum) + (weight) * (right))
#define PACK_PIXELS(in, in_plane, two) (*(const VECTOR *)(in))

static float FORM(pack_weights)(float first, float second) {
    (void)second;
    return first;
}
#endif
#define STEPS(depth) (((depth) + DEPTH_OF_STEP - 1) / DEPTH_OF_STEP)

#define MATRIX FORM(matrix)
typedef struct {
    ptrdiff_t rows, depth, steps;
    float *bias, *panels;
} MATRIX;

/* Take a matrix's room from memory; call with memory.base NULL to measure it. */
static MATRIX FORM(take_matrix)(arena *memory, ptrdiff_t rows, ptrdiff_t depth) {
    MATRIX matrix = {rows, depth, STEPS(depth), NULL, NULL};
    const ptrdiff_t padded = round_up(rows, MATRIX_ROWS);
    matrix.bias = take(memory, padded);
    matrix.panels = take(memory, padded * matrix.steps);
    return matrix;
}

/* Pack weights (rows, depth), and a bias or NULL for zeros. */
static void FORM(pack_matrix)(const MATRIX *matrix, const float *weight, const float *bias) {
    const ptrdiff_t depth = matrix->depth, steps = matrix->steps;
    for (ptrdiff_t row = 0; row < round_up(matrix->rows, MATRIX_ROWS); row++) {
        const int real = row < matrix->rows;
        float *to = matrix->panels + row / MATRIX_ROWS * MATRIX_ROWS * steps + row % MATRIX_ROWS;
        for (ptrdiff_t k = 0; k < depth; k += DEPTH_OF_STEP)
            to[k / DEPTH_OF_STEP * MATRIX_ROWS] =
                real ? FORM(pack_weights)(weight[row * depth + k], k + 1 < depth ? weight[row * depth + k + 1] : 0) : 0;
        matrix->bias[row] = real && bias ? bias[row] : 0;
    }
}

/* One panel of weights times one of pixels: `vectors` vectors wide, added to the bias or to what is there. */
TARGET static ALWAYS_INLINE void FORM(panel)(const int vectors, const float *weight, const float *bias,
                                             const float *pixels, ptrdiff_t steps, float *out, ptrdiff_t out_plane,
                                             ptrdiff_t rows) {
    VECTOR sums[MATRIX_ROWS][MATRIX_VECTORS];
    UNROLL for (int row = 0; row < MATRIX_ROWS; row++)
        UNROLL for (int v = 0; v < vectors; v++) {
            if (bias)
                sums[row][v] = (VECTOR){0} + bias[row];
            else if (row < rows)
                sums[row][v] = *(VECTOR *)(out + row * out_plane + v * LANES);
            else
                sums[row][v] = (VECTOR){0};
        }
    for (ptrdiff_t k = 0; k < steps; k++, weight += MATRIX_ROWS, pixels += vectors * LANES) {
        VECTOR right[MATRIX_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) right[v] = *(const VECTOR *)(pixels + v * LANES);
        UNROLL for (int row = 0; row < MATRIX_ROWS; row++)
            UNROLL for (int v = 0; v < vectors; v++) sums[row][v] = MULTIPLY_ADD(sums[row][v], weight[row], right[v]);
    }
    UNROLL for (int row = 0; row < MATRIX_ROWS; row++) {
        if (row >= rows) break;
        UNROLL for (int v = 0; v < vectors; v++) *(VECTOR *)(out + row * out_plane + v * LANES) = sums[row][v];
    }
}

#define PANEL (MATRIX_VECTORS * LANES)

/* Pack a panel of pixels, and return how many vectors wide it is. */
TARGET static int FORM(pack_pixels)(float *to, const float *in, ptrdiff_t in_plane, ptrdiff_t depth, ptrdiff_t left) {
    const int vectors = (int)least(MATRIX_VECTORS, (left + LANES - 1) / LANES);
    for (ptrdiff_t k = 0; k < depth; k += DEPTH_OF_STEP, to += vectors * LANES, in += DEPTH_OF_STEP * in_plane)
        for (int v = 0; v < vectors; v++)
            *(VECTOR *)(to + v * LANES) = PACK_PIXELS(in + v * LANES, in_plane, k + 1 < depth);
    return vectors;
}

enum { FORM(depth_step) = 128 * DEPTH_OF_STEP, FORM(panels_at_once) = 32 };

/* Floats of scratch memory that `multiply_planes` needs. */
#define PIXEL_PANELS (FORM(depth_step) / DEPTH_OF_STEP * FORM(panels_at_once) * PANEL)

/* out (rows, pixels) = weights (rows, depth) . in (depth, pixels) + bias. Planes may be read and written for up to
 * LANES - 1 floats beyond their pixels. */
TARGET static void FORM(multiply_planes)(const MATRIX *matrix, float *out, ptrdiff_t out_plane, const float *in,
                                         ptrdiff_t in_plane, ptrdiff_t pixels, float *panels) {
    /* What is read again and again should be what fits the first cache: a panel of pixels where the weights fit the
     * second one, else a panel of weights. */
    const int few = matrix->rows * least(matrix->depth, FORM(depth_step)) <= FEW_WEIGHTS;
    const ptrdiff_t step = (few ? 1 : FORM(panels_at_once)) * PANEL;
    for (ptrdiff_t done = 0; done < pixels; done += step) {
        const ptrdiff_t now = least(pixels - done, step);
        for (ptrdiff_t k = 0; k < matrix->depth; k += FORM(depth_step)) {
            const ptrdiff_t depth = least(FORM(depth_step), matrix->depth - k), steps = STEPS(depth);
            int vectors[FORM(panels_at_once)];
            for (ptrdiff_t p = 0; p * PANEL < now; p++)
                vectors[p] = FORM(pack_pixels)(panels + p * steps * PANEL, in + k * in_plane + done + p * PANEL,
                                               in_plane, depth, now - p * PANEL);
            for (ptrdiff_t row = 0; row < matrix->rows; row += MATRIX_ROWS) {
                const float *weight = matrix->panels + row * matrix->steps + k / DEPTH_OF_STEP * MATRIX_ROWS;
                const float *bias = k ? NULL : matrix->bias + row;
                const ptrdiff_t rows = least(MATRIX_ROWS, matrix->rows - row);
                for (ptrdiff_t p = 0; p * PANEL < now; p++) {
                    const float *panel = panels + p * steps * PANEL;
                    float *to = out + row * out_plane + done + p * PANEL;
                    if (vectors[p] == 3)
                        FORM(panel)(3, weight, bias, panel, steps, to, out_plane, rows);
                    else if (vectors[p] == 2)
                        FORM(panel)(2, weight, bias, panel, steps, to, out_plane, rows);
                    else
                        FORM(panel)(1, weight, bias, panel, steps, to, out_plane, rows);
                }
            }
        }
    }
}

/* What has to be done before and after products on a thread: nothing here. */
static void FORM(begin)(void) {}
static void FORM(end)(void) {}

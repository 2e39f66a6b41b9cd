/* Products of a matrix of weights with planes of pixels, for one instruction set: 1x1 convolutions.
 *
 * The weights are packed once into panels of MATRIX_ROWS rows, (panels, depth, MATRIX_ROWS); the pixels are packed a
 * few at a time into panels of up to MATRIX_VECTORS vectors, (depth, pixels), so that the inner loop reads two
 * contiguous streams and keeps MATRIX_ROWS x MATRIX_VECTORS sums in registers.
 */

#define MATRIX FORM(matrix)
typedef struct {
    ptrdiff_t rows, depth;
    float *bias, *panels;
} MATRIX;

/* Take a matrix's room from memory; call with memory.base NULL to measure it. */
static MATRIX FORM(take_matrix)(arena *memory, ptrdiff_t rows, ptrdiff_t depth) {
    MATRIX matrix = {rows, depth, NULL, NULL};
    const ptrdiff_t padded = round_up(rows, MATRIX_ROWS);
    matrix.bias = take(memory, padded);
    matrix.panels = take(memory, padded * depth);
    return matrix;
}

/* Pack weights (rows, depth), and a bias or NULL for zeros. */
static void FORM(pack_matrix)(const MATRIX *matrix, const float *weight, const float *bias) {
    const ptrdiff_t depth = matrix->depth;
    for (ptrdiff_t row = 0; row < round_up(matrix->rows, MATRIX_ROWS); row++) {
        const int real = row < matrix->rows;
        float *to = matrix->panels + row / MATRIX_ROWS * MATRIX_ROWS * depth + row % MATRIX_ROWS;
        for (ptrdiff_t k = 0; k < depth; k++) to[k * MATRIX_ROWS] = real ? weight[row * depth + k] : 0;
        matrix->bias[row] = real && bias ? bias[row] : 0;
    }
}

/* One panel of weights times one of pixels: `vectors` vectors wide, added to the bias or to what is there. */
TARGET static ALWAYS_INLINE void FORM(panel)(const int vectors, const float *weight, const float *bias,
                                             const float *pixels, ptrdiff_t depth, float *out, ptrdiff_t out_plane,
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
    for (ptrdiff_t k = 0; k < depth; k++, weight += MATRIX_ROWS, pixels += vectors * LANES) {
        VECTOR right[MATRIX_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) right[v] = *(const VECTOR *)(pixels + v * LANES);
        UNROLL for (int row = 0; row < MATRIX_ROWS; row++)
            UNROLL for (int v = 0; v < vectors; v++) sums[row][v] += weight[row] * right[v];
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
    for (ptrdiff_t k = 0; k < depth; k++, to += vectors * LANES, in += in_plane)
        for (int v = 0; v < vectors; v++) *(VECTOR *)(to + v * LANES) = *(const VECTOR *)(in + v * LANES);
    return vectors;
}

enum { FORM(depth_step) = 128, FORM(panels_at_once) = 32 };

/* Floats of scratch memory that `multiply_planes` needs. */
#define PIXEL_PANELS (FORM(depth_step) * FORM(panels_at_once) * PANEL)

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
            const ptrdiff_t depth = least(FORM(depth_step), matrix->depth - k);
            int vectors[FORM(panels_at_once)];
            for (ptrdiff_t p = 0; p * PANEL < now; p++)
                vectors[p] = FORM(pack_pixels)(panels + p * depth * PANEL, in + k * in_plane + done + p * PANEL,
                                               in_plane, depth, now - p * PANEL);
            for (ptrdiff_t row = 0; row < matrix->rows; row += MATRIX_ROWS) {
                const float *weight = matrix->panels + row * matrix->depth + k * MATRIX_ROWS;
                const float *bias = k ? NULL : matrix->bias + row;
                const ptrdiff_t rows = least(MATRIX_ROWS, matrix->rows - row);
                for (ptrdiff_t p = 0; p * PANEL < now; p++) {
                    const float *panel = panels + p * depth * PANEL;
                    float *to = out + row * out_plane + done + p * PANEL;
                    if (vectors[p] == 3)
                        FORM(panel)(3, weight, bias, panel, depth, to, out_plane, rows);
                    else if (vectors[p] == 2)
                        FORM(panel)(2, weight, bias, panel, depth, to, out_plane, rows);
                    else
                        FORM(panel)(1, weight, bias, panel, depth, to, out_plane, rows);
                }
            }
        }
    }
}

/* What has to be done before and after products on a thread: nothing here. */
static void FORM(begin)(void) {}
static void FORM(end)(void) {}

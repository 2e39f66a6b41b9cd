/* Products of a matrix of weights with planes of pixels on AMX: bfloat16 in, sums in float32.
 *
 * A tile holds 16 x 32 weights, (rows, depth), or 32 x 16 pixels, (pairs of depth, pixels x 2), and 16 x 16 sums.
 */

#include <immintrin.h>

#define MATRIX FORM(matrix)
enum { TILE = 16, TILE_DEPTH = 32, TILE_BYTES = 1024, TILE_FLOATS = TILE_BYTES / 4, PACKED_TILES = 768, FIRST_CACHE_TILES = 24 };

typedef struct {
    ptrdiff_t rows, depth;
    float *bias;       /* tiles of 16 x 16: each row's bias in all its columns */
    uint16_t *weight;  /* (rows / 16, depth / 32) tiles */
} MATRIX;

/* Floats of scratch memory that `multiply_planes` needs: packed pixels, and a tile that lies over the edge. */
#define PIXEL_PANELS ((PACKED_TILES + 1) * TILE_FLOATS)

static MATRIX FORM(take_matrix)(arena *memory, ptrdiff_t rows, ptrdiff_t depth) {
    MATRIX matrix = {rows, depth, NULL, NULL};
    const ptrdiff_t down = (rows + TILE - 1) / TILE, across = (depth + TILE_DEPTH - 1) / TILE_DEPTH;
    matrix.bias = take(memory, down * TILE_FLOATS);
    matrix.weight = (uint16_t *)take(memory, down * across * TILE_FLOATS);
    return matrix;
}

static void FORM(pack_matrix)(const MATRIX *matrix, const float *weight, const float *bias) {
    const ptrdiff_t down = round_up(matrix->rows, TILE), across = round_up(matrix->depth, TILE_DEPTH);
    for (ptrdiff_t row = 0; row < down; row++) {
        const int real = row < matrix->rows;
        for (ptrdiff_t k = 0; k < across; k++)
            matrix->weight[((row / TILE * (across / TILE_DEPTH) + k / TILE_DEPTH) * TILE + row % TILE) * TILE_DEPTH +
                           k % TILE_DEPTH] =
                brain_float(real && k < matrix->depth ? weight[row * matrix->depth + k] : 0);
        for (ptrdiff_t column = 0; column < TILE; column++)
            matrix->bias[row * TILE + column] = real && bias ? bias[row] : 0;
    }
}

/* What has to be done before and after products on a thread: all eight tiles have their full size. */
TARGET static void FORM(begin)(void) {
    /* A constant in memory: GCC takes the instruction for one that reads 8 bytes, and would not store the rest. */
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } SIZES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&SIZES);
}

TARGET static void FORM(end)(void) { _tile_release(); }

/* Pack 16 pixels of 32 planes into a tile; planes from `depth` on are zeros. */
TARGET static void FORM(pack_tile)(float *to, const float *in, ptrdiff_t in_plane, ptrdiff_t depth) {
    const __m512i turn = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                          5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (ptrdiff_t k = 0; k < TILE_DEPTH; k += 2, to += TILE, in += 2 * in_plane) {
        const __m512 first = k < depth ? _mm512_loadu_ps(in) : _mm512_setzero_ps();
        const __m512 second = k + 1 < depth ? _mm512_loadu_ps(in + in_plane) : _mm512_setzero_ps();
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi16(turn, both));
    }
}

/* Store a tile's rows and columns that are there. */
#define STORE_TILE(tile, row, column)                                                                             \
    do {                                                                                                          \
        float *place = to + (row) * TILE * out_plane + (column) * TILE;                                           \
        if (rows >= ((row) + 1) * TILE) {                                                                         \
            _tile_stored(tile, place, out_plane * 4);                                                             \
        } else {                                                                                                  \
            _tile_stored(tile, edge, TILE * 4);                                                                   \
            for (ptrdiff_t r = 0; r < rows - (row) * TILE; r++)                                                   \
                memcpy(place + r * out_plane, edge + r * TILE, TILE * sizeof(float));                             \
        }                                                                                                         \
    } while (0)

/* Up to 32 rows x 32 pixels: `pixels` are tiles of two columns, (depth / 32, 2), or of one where `wide` is 0. */
TARGET static void FORM(quad)(const MATRIX *matrix, ptrdiff_t first, const float *pixels, int wide, float *to,
                              ptrdiff_t out_plane, float *edge) {
    const ptrdiff_t across = (matrix->depth + TILE_DEPTH - 1) / TILE_DEPTH, rows = matrix->rows - first * TILE;
    const char *weight = (const char *)matrix->weight + first * across * TILE_BYTES, *below = weight;
    const float *bias = matrix->bias + first * TILE_FLOATS;
    const int tall = rows > TILE;
    if (tall) below += across * TILE_BYTES;
    _tile_loadd(0, bias, 64);
    _tile_loadd(1, bias, 64);
    _tile_loadd(2, bias + tall * TILE_FLOATS, 64);
    _tile_loadd(3, bias + tall * TILE_FLOATS, 64);
    for (ptrdiff_t k = 0; k < across; k++, weight += TILE_BYTES, below += TILE_BYTES) {
        _tile_loadd(4, weight, 64);
        _tile_loadd(6, pixels, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) {
            _tile_loadd(7, pixels + TILE_FLOATS, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tall) {
            _tile_loadd(5, below, 64);
            _tile_dpbf16ps(2, 5, 6);
            if (wide) _tile_dpbf16ps(3, 5, 7);
        }
        pixels += (1 + wide) * TILE_FLOATS;
    }
    STORE_TILE(0, 0, 0);
    if (wide) STORE_TILE(1, 0, 1);
    if (tall) STORE_TILE(2, 1, 0);
    if (tall && wide) STORE_TILE(3, 1, 1);
}

/* out (rows, pixels) = weights (rows, depth) . in (depth, pixels) + bias. Planes may be read and written for up to
 * LANES - 1 floats beyond their pixels. */
TARGET static void FORM(multiply_planes)(const MATRIX *matrix, float *out, ptrdiff_t out_plane, const float *in,
                                         ptrdiff_t in_plane, ptrdiff_t pixels, float *panels) {
    const ptrdiff_t across = (matrix->depth + TILE_DEPTH - 1) / TILE_DEPTH;
    float *edge = panels + PACKED_TILES * TILE_FLOATS;
    /* Few weights stay in the second cache whatever the order, and pixels in the first; many weights are read once for
     * as many pixels as fit the second cache. */
    const ptrdiff_t at_once = matrix->rows * matrix->depth <= FEW_WEIGHTS ? most(1, FIRST_CACHE_TILES / across / 2)
                                                                          : PACKED_TILES / (2 * across);
    const ptrdiff_t step = at_once * 2 * TILE;
    for (ptrdiff_t done = 0; done < pixels; done += step) {
        const ptrdiff_t now = least(pixels - done, step);
        for (ptrdiff_t p = 0; p < now; p += 2 * TILE) {
            const int wide = now - p > TILE;
            float *to = panels + p / TILE * across * TILE_FLOATS;
            for (ptrdiff_t k = 0; k < across; k++)
                for (int column = 0; column <= wide; column++, to += TILE_FLOATS)
                    FORM(pack_tile)(to, in + k * TILE_DEPTH * in_plane + done + p + column * TILE, in_plane,
                                    matrix->depth - k * TILE_DEPTH);
        }
        for (ptrdiff_t row = 0; row * TILE < matrix->rows; row += 2)
            for (ptrdiff_t p = 0; p < now; p += 2 * TILE)
                FORM(quad)(matrix, row, panels + p / TILE * across * TILE_FLOATS, now - p > TILE,
                           out + row * TILE * out_plane + done + p, out_plane, edge);
    }
}
#undef STORE_TILE

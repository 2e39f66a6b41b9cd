/* The kernel basis attention alone, and its gradients, on AMX: its three products take bfloat16 and sum in float32, all
 * else is float32.
 *
 * Bands of rows lie as in kba_body.h, with one zero column after each row. As many groups of channels as fill tiles are
 * done together; the rows of their products are the taps (group, channel out, channel in, place), and after them the
 * offsets (group, channel out), which are taps that fall on ones:
 *   kernels      rows x pixels   = weight (rows x bases)   . attention (bases x pixels)
 *   d_attention  bases x pixels += weight (bases x rows)   . d_kernels (rows x pixels)
 *   d_weight     rows x bases   += d_kernels (rows x pixels) . attention (pixels x bases)
 * A product of bfloat16 takes its right side in pairs: two neighbours of the depth in one lane.
 */

enum { TOGETHER = 8 };

typedef struct {
    arena memory;
    ptrdiff_t stride, rows, blocks, lead, plane, base_plane, given_plane;
    ptrdiff_t groups, together, sets;       /* a set: groups that are done together */
    ptrdiff_t taps, lines, tiles, steps;    /* of a set: taps, rows of its products, these in tiles, and in depths */
    ptrdiff_t offset[TAPS];
    float *features;       /* together x group_size x plane */
    float *answer;         /* likewise: what comes out, or its gradient */
    float *attention;      /* TILE_DEPTH x base_plane */
    float *attention_runs; /* blocks x 2 tiles of (pairs of bases, pixels) */
    float *basis;          /* TILE_DEPTH x lines: a set's weight and bias, then their gradient */
    float *weight;         /* sets x tiles of (rows, bases) */
    float *kernels;        /* lines x PIXELS */
    float *turned_weight;  /* sets x steps x 2 tiles of (bases, rows) */
    float *turned_runs;    /* blocks x 2 tiles of (pairs of pixels, bases) */
    float *d_kernels;      /* blocks x tiles of (rows, pixels) */
    float *d_pairs;        /* steps x 2 tiles of (pairs of rows, pixels): d_kernels of a block */
    float *given;          /* together x group_size x TAPS x given_plane: what each tap gives back, not yet moved there */
    float *d_line;         /* blocks x PIXELS: one base's d_attention */
    float *d_attention;    /* blocks x 4 tiles: (bases, 2) of (bases, every other four pixels) */
    float *d_weight;       /* sets x tiles x 2 tiles of (rows, bases) */
} FORM(band);
#define BAND FORM(band)

/* Which of the next 16 floats are there. */
static inline uint16_t FORM(here)(ptrdiff_t floats) { return (uint16_t)(floats < LANES ? (1 << floats) - 1 : 0xffff); }

TARGET static ALWAYS_INLINE __m512i FORM(round)(VECTOR first, VECTOR second) {
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

/* Turn 16 x 16 numbers of 4 bytes; `to` may be `from`. */
TARGET static void FORM(turn)(float *to, ptrdiff_t to_row, const float *from) {
    __m512i a[TILE], b[TILE];
    UNROLL for (int i = 0; i < TILE; i++) a[i] = _mm512_loadu_si512(from + i * TILE);
    UNROLL for (int i = 0; i < TILE; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    /* Four lanes of four: a[4 i + j] gets column j of each lane, of the rows from 4 i on. */
    UNROLL for (int i = 0; i < TILE; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    UNROLL for (int j = 0; j < 4; j++) {
        const __m512i even = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88), odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
        const __m512i even_below = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        const __m512i odd_below = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
        _mm512_storeu_si512(to + j * to_row, _mm512_shuffle_i32x4(even, even_below, 0x88));
        _mm512_storeu_si512(to + (4 + j) * to_row, _mm512_shuffle_i32x4(odd, odd_below, 0x88));
        _mm512_storeu_si512(to + (8 + j) * to_row, _mm512_shuffle_i32x4(even, even_below, 0xdd));
        _mm512_storeu_si512(to + (12 + j) * to_row, _mm512_shuffle_i32x4(odd, odd_below, 0xdd));
    }
}

/* Pack 16 rows of 32 floats into a tile that stands on the left. */
TARGET static void FORM(pack_rows)(float *to, const float *from, ptrdiff_t from_row) {
    for (int row = 0; row < TILE; row++, from += from_row)
        _mm512_storeu_si512(to + row * TILE, FORM(round)(*(const VECTOR *)from, *(const VECTOR *)(from + LANES)));
}

/* Mix a set's kernels for a block of pixels. Two tiles are made while the two before them are stored. */
TARGET static void FORM(mix)(const BAND *band, ptrdiff_t set, ptrdiff_t block) {
    const float *weight = band->weight + set * band->tiles * TILE_FLOATS;
    const float *run = band->attention_runs + block * 2 * TILE_FLOATS;
    float *to = band->kernels;
    _tile_loadd(6, run, 64);
    _tile_loadd(7, run + TILE_FLOATS, 64);
    for (ptrdiff_t tile = 0; tile <= band->tiles; tile += 2) {
        if (tile < band->tiles) {
            _tile_loadd(4, weight + tile * TILE_FLOATS, 64);
            _tile_zero(0);
            _tile_dpbf16ps(0, 4, 6);
        }
        if (tile) _tile_stored(2, to - TILE * PIXELS, PIXELS * 4);
        if (tile < band->tiles) {
            _tile_zero(1);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tile) _tile_stored(3, to - TILE * PIXELS + TILE, PIXELS * 4);
        if (tile == band->tiles) break;
        _tile_loadd(5, weight + (tile + 1) * TILE_FLOATS, 64);
        _tile_zero(2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_stored(0, to, PIXELS * 4);
        _tile_zero(3);
        _tile_dpbf16ps(3, 5, 7);
        _tile_stored(1, to + TILE, PIXELS * 4);
        to += 2 * TILE * PIXELS;
    }
}

/* Apply a group's mixed kernels to a block of pixels, `outs` of its channels at once. */
TARGET static ALWAYS_INLINE void FORM(filter_group)(const BAND *band, const ptrdiff_t size, const int outs, ptrdiff_t g,
                                                    ptrdiff_t block) {
    const float *kernels = band->kernels + g * size * size * TAPS * PIXELS;
    const float *offsets = band->kernels + (band->taps + g * size) * PIXELS;
    const float *features = band->features + g * size * band->plane + band->lead + block * PIXELS;
    float *answer = band->answer + g * size * band->plane + band->lead + block * PIXELS;
    for (ptrdiff_t first = 0; first < size; first += outs) {
        VECTOR sums[4][2];
        UNROLL for (int out = 0; out < outs; out++)
            UNROLL for (int v = 0; v < 2; v++)
                sums[out][v] = *(const VECTOR *)(offsets + (first + out) * PIXELS + v * LANES);
        for (ptrdiff_t in = 0; in < size; in++)
            UNROLL for (int tap = 0; tap < TAPS; tap++)
                UNROLL for (int v = 0; v < 2; v++) {
                    const VECTOR value = *(const VECTOR *)(features + in * band->plane + band->offset[tap] + v * LANES);
                    UNROLL for (int out = 0; out < outs; out++)
                        sums[out][v] += value * *(const VECTOR *)(kernels + v * LANES +
                                                                  (((first + out) * size + in) * TAPS + tap) * PIXELS);
                }
        UNROLL for (int out = 0; out < outs; out++)
            UNROLL for (int v = 0; v < 2; v++)
                *(VECTOR *)(answer + (first + out) * band->plane + v * LANES) = sums[out][v];
    }
}

/* Lay the scratch memory out; called once to measure it (memory.base NULL) and once to hand it out. */
static void FORM(lay_out)(const job *work, BAND *band) {
    const ptrdiff_t channels = band->together * work->group_size;
    band->memory.used = 0;
    band->features = take(&band->memory, channels * band->plane);
    band->answer = take(&band->memory, channels * band->plane);
    band->attention = take(&band->memory, TILE_DEPTH * band->base_plane);
    band->attention_runs = take(&band->memory, band->blocks * 2 * TILE_FLOATS);
    band->basis = take(&band->memory, TILE_DEPTH * band->lines);
    band->weight = take(&band->memory, band->sets * band->tiles * TILE_FLOATS);
    band->kernels = take(&band->memory, band->lines * PIXELS);
    if (!work->d_features) return;
    band->turned_weight = take(&band->memory, band->sets * band->steps * 2 * TILE_FLOATS);
    band->turned_runs = take(&band->memory, band->blocks * 2 * TILE_FLOATS);
    band->d_kernels = take(&band->memory, TOGETHER * band->tiles * TILE_FLOATS);
    band->d_pairs = take(&band->memory, band->steps * 2 * TILE_FLOATS);
    band->given = take(&band->memory, channels * TAPS * band->given_plane);
    band->d_line = take(&band->memory, band->blocks * PIXELS);
    band->d_attention = take(&band->memory, band->blocks * 4 * TILE_FLOATS);
    band->d_weight = take(&band->memory, band->sets * band->tiles * 2 * TILE_FLOATS);
}

/* Pack the weight and the bias of all sets. */
TARGET static void FORM(pack_sets)(const job *work, BAND *band) {
    const ptrdiff_t size = work->group_size, taps = size * size * TAPS;
    for (ptrdiff_t set = 0; set < band->sets; set++) {
        const ptrdiff_t group = set * band->together, real = least(band->together, band->groups - group);
        for (ptrdiff_t base = 0; base < work->bases; base++) {
            float *line = band->basis + base * band->lines;
            if (real < band->together) memset(line, 0, (size_t)band->lines * sizeof(float));
            memcpy(line, work->weight + (base * band->groups + group) * taps, (size_t)(real * taps) * sizeof(float));
            memcpy(line + band->taps, work->bias + base * work->channels + group * size,
                   (size_t)(real * size) * sizeof(float));
        }
        for (ptrdiff_t tile = 0; tile < band->tiles; tile++) {
            float *to = band->weight + (set * band->tiles + tile) * TILE_FLOATS;
            FORM(pack_tile)(to, band->basis + tile * TILE, band->lines, TILE_DEPTH);
            FORM(turn)(to, TILE, to);
        }
        for (ptrdiff_t tile = 0; band->turned_weight && tile < 2 * band->steps; tile++)
            FORM(pack_rows)(band->turned_weight + (set * band->steps * 2 + tile) * TILE_FLOATS,
                            band->basis + tile % 2 * TILE * band->lines + tile / 2 * TILE_DEPTH, band->lines);
    }
}

/* Returns 0 where there is no memory yet; band->memory.size is what it takes. */
static int FORM(prepare)(const job *work, BAND *band) {
    const ptrdiff_t size = work->group_size;
    memset(band, 0, sizeof *band);
    band->stride = work->width + 1;
    band->rows = least(most(1, BAND_PIXELS / band->stride), work->height);
    band->blocks = round_up(band->rows * band->stride, PIXELS) / PIXELS;
    band->lead = round_up(band->stride + 1, LANES);
    band->plane = plane_floats(2 * band->lead + band->blocks * PIXELS);
    band->base_plane = plane_floats(band->blocks * PIXELS);
    band->given_plane = plane_floats(2 * LANES + band->blocks * PIXELS);
    band->groups = work->channels / size;
    band->together = FORM(groups_together)(size);
    band->sets = (band->groups + band->together - 1) / band->together;
    band->taps = band->together * size * size * TAPS;
    band->lines = round_up(band->taps + band->together * size, TILE_DEPTH);
    band->tiles = band->lines / TILE;
    band->steps = band->lines / TILE_DEPTH;
    for (int tap = 0; tap < TAPS; tap++) band->offset[tap] = (tap / 3 - 1) * band->stride + tap % 3 - 1;
    FORM(lay_out)(work, band);
    band->memory.size = band->memory.used;
    if (!work->scratch) return 0;
    memset(work->scratch, 0, band->memory.size);
    band->memory.base = work->scratch;
    FORM(lay_out)(work, band);
    FORM(pack_sets)(work, band);
    FORM(begin)();
    return 1;
}

static void FORM(finish)(const BAND *band) {
    FORM(end)();
    put_back(&band->memory);
}

TARGET static ALWAYS_INLINE void FORM(copy_line)(float *to, const float *from, ptrdiff_t floats) {
    for (ptrdiff_t x = 0; x < floats; x += LANES) {
        const uint16_t here = FORM(here)(floats - x);
        _mm512_mask_storeu_ps(to + x, here, _mm512_maskz_loadu_ps(here, from + x));
    }
}

/* Copy rows top ... top + count - 1 of a plane to a band's, or zeros where the picture ends. */
TARGET static void FORM(pad_rows)(const job *work, const BAND *band, float *to, const float *from, ptrdiff_t top,
                                  ptrdiff_t count) {
    for (ptrdiff_t row = 0; row < count; row++) {
        float *line = to + row * band->stride;
        if (top + row < 0 || top + row >= work->height)
            memset(line, 0, (size_t)work->width * sizeof(float));
        else
            FORM(copy_line)(line, from + (top + row) * work->width, work->width);
    }
}

/* Round a band of attention. */
TARGET static void FORM(load_attention)(const job *work, BAND *band, ptrdiff_t item, ptrdiff_t top, ptrdiff_t rows) {
    const ptrdiff_t area = work->height * work->width, used = rows * band->stride;
    for (ptrdiff_t base = 0; base < work->bases; base++) {
        float *plane = band->attention + base * band->base_plane;
        FORM(pad_rows)(work, band, plane, work->attention + (item * work->bases + base) * area, top, rows);
        /* A shorter band must not see the rows of the one before. */
        memset(plane + used, 0, (size_t)(round_up(used, PIXELS) - used) * sizeof(float));
    }
    for (ptrdiff_t block = 0; block * PIXELS < used; block++)
        for (int half = 0; half < 2; half++) {
            const ptrdiff_t tile = (block * 2 + half) * TILE_FLOATS;
            FORM(pack_tile)(band->attention_runs + tile, band->attention + block * PIXELS + half * TILE,
                            band->base_plane, work->bases);
            if (!band->turned_runs) continue;
            FORM(pack_rows)(band->turned_runs + tile,
                            band->attention + half * TILE * band->base_plane + block * PIXELS, band->base_plane);
            FORM(turn)(band->turned_runs + tile, TILE, band->turned_runs + tile);
        }
}

/* Copy a set's features to the band; returns how many channels it has. */
TARGET static ptrdiff_t FORM(load_features)(const job *work, const BAND *band, ptrdiff_t set, ptrdiff_t row,
                                            ptrdiff_t rows) {
    const ptrdiff_t area = work->height * work->width, first = set * band->together * work->group_size;
    const ptrdiff_t channels = least(band->together * work->group_size, work->channels - first);
    const float *from = work->features + (row / work->height * work->channels + first) * area;
    for (ptrdiff_t channel = 0; channel < channels; channel++)
        FORM(pad_rows)(work, band, band->features + channel * band->plane + band->lead - band->stride,
                       from + channel * area, row % work->height - 1, rows + 2);
    return channels;
}

TARGET static ptrdiff_t FORM(forward)(const void *fields) {
    const job *work = fields;
    const ptrdiff_t area = work->height * work->width, size = work->group_size;
    BAND band;
    if (!FORM(prepare)(work, &band)) return (ptrdiff_t)band.memory.size;
    for (ptrdiff_t row = work->first_row, rows; row < work->last_row; row += rows) {
        const ptrdiff_t item = row / work->height, top = row % work->height;
        rows = least(least(band.rows, work->height - top), work->last_row - row);
        FORM(load_attention)(work, &band, item, top, rows);
        for (ptrdiff_t set = 0; set < band.sets; set++) {
            const ptrdiff_t first = item * work->channels + set * band.together * size;
            const ptrdiff_t channels = FORM(load_features)(work, &band, set, row, rows);
            for (ptrdiff_t block = 0; block * PIXELS < rows * band.stride; block++) {
                FORM(mix)(&band, set, block);
                for (ptrdiff_t g = 0; g < channels / size; g++)
                    if (size == 4)
                        FORM(filter_group)(&band, 4, 4, g, block);
                    else if (size == 2)
                        FORM(filter_group)(&band, 2, 2, g, block);
                    else
                        FORM(filter_group)(&band, size, 1, g, block);
            }
            for (ptrdiff_t channel = 0; channel < channels; channel++)
                for (ptrdiff_t y = 0; y < rows; y++)
                    FORM(copy_line)(work->answer + (first + channel) * area + (top + y) * work->width,
                                    band.answer + channel * band.plane + band.lead + y * band.stride, work->width);
        }
    }
    FORM(finish)(&band);
    return 0;
}

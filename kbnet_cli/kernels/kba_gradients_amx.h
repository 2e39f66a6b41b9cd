/* The gradients of the kernel basis attention on AMX; how things lie, and the names: kba_amx.h. */

/* GCC does not know that loading a tile reads memory: nothing written may be left for later. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

/* Four sums, two by two tiles, are tiles 0 to 3; 4 and 5 stand on the left of the products, 6 and 7 on the right. */
TARGET static ALWAYS_INLINE void FORM(clear_sums)(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

TARGET static ALWAYS_INLINE void FORM(load_sums)(const float *from) {
    _tile_loadd(0, from, 64);
    _tile_loadd(1, from + TILE_FLOATS, 64);
    _tile_loadd(2, from + 2 * TILE_FLOATS, 64);
    _tile_loadd(3, from + 3 * TILE_FLOATS, 64);
}

TARGET static ALWAYS_INLINE void FORM(store_sums)(float *to) {
    _tile_stored(0, to, 64);
    _tile_stored(1, to + TILE_FLOATS, 64);
    _tile_stored(2, to + 2 * TILE_FLOATS, 64);
    _tile_stored(3, to + 3 * TILE_FLOATS, 64);
}

/* Both sides are two tiles, one after the other. */
TARGET static ALWAYS_INLINE void FORM(add_products)(const float *left, const float *right) {
    _tile_loadd(4, left, 64);
    _tile_loadd(5, left + TILE_FLOATS, 64);
    _tile_loadd(6, right, 64);
    _tile_loadd(7, right + TILE_FLOATS, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* Fill a group's d_kernels and what its taps give back, for a block of pixels. */
TARGET static ALWAYS_INLINE void FORM(differentiate_group)(const BAND *band, const ptrdiff_t size, const int outs,
                                                           ptrdiff_t g, ptrdiff_t block) {
    const float *kernels = band->kernels + g * size * size * TAPS * PIXELS;
    const float *features = band->features + g * size * band->plane + band->lead + block * PIXELS;
    const float *d_answer = band->answer + g * size * band->plane + band->lead + block * PIXELS;
    float *d_kernels = band->d_kernels + (block % TOGETHER * band->lines + g * size * size * TAPS) * TILE;
    float *d_offsets = band->d_kernels + (block % TOGETHER * band->lines + band->taps + g * size) * TILE;
    float *given = band->given + g * size * TAPS * band->given_plane + LANES + block * PIXELS;
    for (ptrdiff_t first = 0; first < size; first += outs) {
        VECTOR gradient[4][2];
        UNROLL for (int out = 0; out < outs; out++) {
            UNROLL for (int v = 0; v < 2; v++)
                gradient[out][v] = *(const VECTOR *)(d_answer + (first + out) * band->plane + v * LANES);
            _mm512_storeu_si512(d_offsets + (first + out) * TILE, FORM(round)(gradient[out][0], gradient[out][1]));
        }
        for (ptrdiff_t in = 0; in < size; in++)
            UNROLL for (int tap = 0; tap < TAPS; tap++) {
                const float *from = features + in * band->plane + band->offset[tap];
                const VECTOR left = *(const VECTOR *)from, right = *(const VECTOR *)(from + LANES);
                float *to = given + (in * TAPS + tap) * band->given_plane;
                VECTOR sums[2] = {{0}, {0}};
                if (first) {
                    sums[0] = *(const VECTOR *)to;
                    sums[1] = *(const VECTOR *)(to + LANES);
                }
                UNROLL for (int out = 0; out < outs; out++) {
                    const ptrdiff_t row = ((first + out) * size + in) * TAPS + tap;
                    _mm512_storeu_si512(d_kernels + row * TILE,
                                        FORM(round)(gradient[out][0] * left, gradient[out][1] * right));
                    UNROLL for (int v = 0; v < 2; v++)
                        sums[v] += gradient[out][v] * *(const VECTOR *)(kernels + row * PIXELS + v * LANES);
                }
                *(VECTOR *)to = sums[0];
                *(VECTOR *)(to + LANES) = sums[1];
            }
    }
}

/* Add to d_attention, for a block of pixels of a set. */
TARGET static void FORM(differentiate_attention)(const BAND *band, ptrdiff_t set, ptrdiff_t block) {
    const float *weight = band->turned_weight + set * band->steps * 2 * TILE_FLOATS;
    const float *rows = band->d_kernels + block % TOGETHER * band->lines * TILE;
    float *sums = band->d_attention + block * 4 * TILE_FLOATS;
    for (ptrdiff_t line = 0; line < band->lines; line += 2, rows += 2 * TILE) {
        float *to = band->d_pairs + line / TILE_DEPTH * 2 * TILE_FLOATS + line % TILE_DEPTH / 2 * TILE;
        const __m512i first = _mm512_loadu_si512(rows), second = _mm512_loadu_si512(rows + TILE);
        _mm512_storeu_si512(to, _mm512_unpacklo_epi16(first, second));
        _mm512_storeu_si512(to + TILE_FLOATS, _mm512_unpackhi_epi16(first, second));
    }
    WRITTEN();
    if (set)
        FORM(load_sums)(sums);
    else
        FORM(clear_sums)();
    for (ptrdiff_t step = 0; step < band->steps; step++)
        FORM(add_products)(weight + step * 2 * TILE_FLOATS, band->d_pairs + step * 2 * TILE_FLOATS);
    FORM(store_sums)(sums);
}

/* Add to d_weight, for a set of a band. */
TARGET static void FORM(differentiate_weight)(const BAND *band, ptrdiff_t set, ptrdiff_t first, ptrdiff_t blocks) {
    for (ptrdiff_t tile = 0; tile < band->tiles; tile += 2) {
        float *sums = band->d_weight + (set * band->tiles + tile) * 2 * TILE_FLOATS;
        FORM(load_sums)(sums);
        for (ptrdiff_t block = first; block < blocks; block++)
            FORM(add_products)(band->d_kernels + (block % TOGETHER * band->tiles + tile) * TILE_FLOATS,
                               band->turned_runs + block * 2 * TILE_FLOATS);
        FORM(store_sums)(sums);
    }
}

/* Add what a set's taps gave back in a band to the picture's d_features; what falls on another call's rows goes to
 * d_above and d_below. */
TARGET static void FORM(return_features)(const job *work, const BAND *band, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t set,
                                         ptrdiff_t channels) {
    const ptrdiff_t item = row / work->height, top = row % work->height, area = work->height * work->width;
    for (ptrdiff_t channel = 0; channel < channels; channel++) {
        const ptrdiff_t whole = set * band->together * work->group_size + channel;
        const float *given = band->given + channel * TAPS * band->given_plane + LANES;
        for (ptrdiff_t y = -1; y <= rows; y++) {
            if (top + y < 0 || top + y >= work->height) continue;
            float *to = work->d_features + (item * work->channels + whole) * area + (top + y) * work->width;
            if (row + y < work->first_row) to = work->d_above + whole * work->width;
            if (row + y >= work->last_row) to = work->d_below + whole * work->width;
            /* Row y gets from the row below by the taps that look up, and so on. */
            const int first = y + 1 < rows ? 0 : y < rows ? 3 : 6, last = y > 0 ? TAPS : y == 0 ? 6 : 3;
            for (ptrdiff_t x = 0; x < work->width; x += LANES) {
                const uint16_t here = FORM(here)(work->width - x);
                __m512 sum = _mm512_maskz_loadu_ps(here, to + x);
                for (int tap = first; tap < last; tap++)
                    sum += _mm512_maskz_loadu_ps(here, given + tap * band->given_plane + y * band->stride + x -
                                                           band->offset[tap]);
                _mm512_mask_storeu_ps(to + x, here, sum);
            }
        }
    }
}

TARGET static void FORM(return_attention)(const job *work, const BAND *band, ptrdiff_t item, ptrdiff_t top,
                                          ptrdiff_t rows) {
    /* One tile has the first four pixels of every eight, the next one the others. */
    const __m512i left = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), right = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for (ptrdiff_t base = 0; base < work->bases; base++) {
        const float *from = band->d_attention + base / TILE * 2 * TILE_FLOATS + base % TILE * TILE;
        float *to = work->d_attention + ((item * work->bases + base) * work->height + top) * work->width;
        for (ptrdiff_t block = 0; block * PIXELS < rows * band->stride; block++, from += 4 * TILE_FLOATS) {
            const __m512i first = _mm512_loadu_si512(from), second = _mm512_loadu_si512(from + TILE_FLOATS);
            _mm512_storeu_si512(band->d_line + block * PIXELS, _mm512_permutex2var_epi64(first, left, second));
            _mm512_storeu_si512(band->d_line + block * PIXELS + LANES, _mm512_permutex2var_epi64(first, right, second));
        }
        for (ptrdiff_t y = 0; y < rows; y++)
            FORM(copy_line)(to + y * work->width, band->d_line + y * band->stride, work->width);
    }
}

TARGET static void FORM(return_weight)(const job *work, const BAND *band) {
    const ptrdiff_t size = work->group_size, taps = size * size * TAPS;
    for (ptrdiff_t set = 0; set < band->sets; set++) {
        const ptrdiff_t group = set * band->together, real = least(band->together, band->groups - group);
        for (ptrdiff_t tile = 0; tile < 2 * band->tiles; tile++)
            FORM(turn)(band->basis + tile % 2 * TILE * band->lines + tile / 2 * TILE, band->lines,
                       band->d_weight + (set * band->tiles * 2 + tile) * TILE_FLOATS);
        for (ptrdiff_t base = 0; base < work->bases; base++) {
            const float *line = band->basis + base * band->lines;
            memcpy(work->d_weight + (base * band->groups + group) * taps, line, (size_t)(real * taps) * sizeof(float));
            memcpy(work->d_bias + base * work->channels + group * size, line + band->taps,
                   (size_t)(real * size) * sizeof(float));
        }
    }
}

TARGET static ptrdiff_t FORM(backward)(const void *fields) {
    const job *work = fields;
    const ptrdiff_t area = work->height * work->width, size = work->group_size;
    BAND band;
    if (!FORM(prepare)(work, &band)) return (ptrdiff_t)band.memory.size;
    for (ptrdiff_t row = work->first_row, rows; row < work->last_row; row += rows) {
        const ptrdiff_t item = row / work->height, top = row % work->height;
        rows = least(least(band.rows, work->height - top), work->last_row - row);
        const ptrdiff_t blocks = round_up(rows * band.stride, PIXELS) / PIXELS;
        FORM(load_attention)(work, &band, item, top, rows);
        /* A shorter band must not see the rows of the one before. */
        memset(band.answer, 0, (size_t)(band.together * size * band.plane) * sizeof(float));
        for (ptrdiff_t set = 0; set < band.sets; set++) {
            const float *d_answer = work->answer + (item * work->channels + set * band.together * size) * area;
            const ptrdiff_t channels = FORM(load_features)(work, &band, set, row, rows);
            for (ptrdiff_t channel = 0; channel < channels; channel++)
                FORM(pad_rows)(work, &band, band.answer + channel * band.plane + band.lead, d_answer + channel * area,
                               top, rows);
            for (ptrdiff_t first = 0; first < blocks; first += TOGETHER) {
                const ptrdiff_t last = least(first + TOGETHER, blocks);
                for (ptrdiff_t block = first; block < last; block++) {
                    FORM(mix)(&band, set, block);
                    for (ptrdiff_t g = 0; g < channels / size; g++)
                        if (size == 4)
                            FORM(differentiate_group)(&band, 4, 4, g, block);
                        else if (size == 2)
                            FORM(differentiate_group)(&band, 2, 2, g, block);
                        else
                            FORM(differentiate_group)(&band, size, 1, g, block);
                }
                for (ptrdiff_t block = first; block < last; block++) FORM(differentiate_attention)(&band, set, block);
                FORM(differentiate_weight)(&band, set, first, last);
            }
            FORM(return_features)(work, &band, row, rows, set, channels);
        }
        FORM(return_attention)(work, &band, item, top, rows);
    }
    FORM(return_weight)(work, &band);
    FORM(finish)(&band);
    return 0;
}

#undef WRITTEN

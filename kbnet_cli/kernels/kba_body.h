/* The kernel basis attention for one instruction set: included by kba.c once for each, with FORM, TARGET, LANES and
 * VECTORS defined.
 *
 * Rows are copied, a band at a time, into buffers with one zero column after each row, which is also the column
 * before the next one, and a row above and below. A band is then one run of pixels in which every neighbour lies at
 * a constant distance: no load branches and the lanes of a vector run over row ends. Pixels of the zero column have
 * zero attention and add nothing.
 *
 * The three large sums are small matrix products of the same shape, all made by `multiply`:
 *   kernels      taps x pixels   = weight (taps x bases)   . attention (bases x pixels)
 *   d_attention  bases x pixels += weight (bases x taps)   . d_kernels (taps x pixels)
 *   d_weight     taps x bases   += d_kernels (taps x pixels) . attention (pixels x bases)
 */

/* Where things of a band lie. Zeroed once; the zero columns are never written, but for those of d_features. */
typedef struct {
    arena memory;
    ptrdiff_t stride, rows, plane, lead, padded_bases, pairs, chunks, groups;
    ptrdiff_t offset[TAPS];
    float *features;    /* group_size x plane */
    float *line;        /* blocks x PIXELS: one basis's attention */
    float *attention;   /* blocks x bases x PIXELS */
    float *transposed;  /* blocks x PIXELS x padded_bases: attention again, for d_weight */
    float *answer;      /* group_size x plane: what comes out, or its gradient */
    float *weight;      /* pairs x padded_bases x TAPS, of one group; a pair is (channel out, channel in) */
    float *bias;        /* chunks x padded_bases x CHUNK, of one group */
    float *d_kernels;   /* pairs x TAPS x PIXELS */
    float *d_shifted;   /* group_size x TAPS x PIXELS: what each tap gives back, before it is moved there */
    float *d_out;       /* chunks x CHUNK x PIXELS */
    float *d_features;  /* group_size x plane */
    float *d_line;      /* as line; its zero columns are not zero */
    float *d_attention; /* blocks x padded_bases x PIXELS */
    float *d_weight;    /* groups x pairs x TAPS x padded_bases */
    float *d_bias;      /* groups x chunks x CHUNK x padded_bases */
} FORM(band);
#define BAND FORM(band)

/* sums[row] += a[row * a_row + k * a_step] * b[k * b_step ...], for `rows` rows of WIDE floats, over k < count. */
TARGET static ALWAYS_INLINE void FORM(multiply)(VECTOR sums[][VECTORS], const int rows, const ptrdiff_t a_row,
                                                const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step,
                                                ptrdiff_t count) {
    for (ptrdiff_t k = 0; k < count; k++, a += a_step, b += b_step) {
        VECTOR right[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) right[v] = *(const VECTOR *)(b + v * LANES);
        UNROLL for (int row = 0; row < rows; row++) {
            UNROLL for (int v = 0; v < VECTORS; v++) sums[row][v] += a[row * a_row] * right[v];
        }
    }
}

/* Like `multiply`, into memory: rows of `sums` lie c_row floats apart. */
TARGET static ALWAYS_INLINE void FORM(multiply_into)(float *c, ptrdiff_t c_row, const int rows, const ptrdiff_t a_row,
                                                     const float *a, ptrdiff_t a_step, const float *b,
                                                     ptrdiff_t b_step, ptrdiff_t count) {
    VECTOR sums[TAPS][VECTORS];
    UNROLL for (int row = 0; row < rows; row++)
        UNROLL for (int v = 0; v < VECTORS; v++) sums[row][v] = *(VECTOR *)(c + row * c_row + v * LANES);
    FORM(multiply)(sums, rows, a_row, a, a_step, b, b_step, count);
    UNROLL for (int row = 0; row < rows; row++)
        UNROLL for (int v = 0; v < VECTORS; v++) *(VECTOR *)(c + row * c_row + v * LANES) = sums[row][v];
}

/* Mix the 9 taps of a pair of channels for WIDE pixels. */
TARGET static ALWAYS_INLINE void FORM(mix)(VECTOR kernel[][VECTORS], const BAND *band, ptrdiff_t pair,
                                           const float *attention, ptrdiff_t bases) {
    UNROLL for (int tap = 0; tap < TAPS; tap++)
        UNROLL for (int v = 0; v < VECTORS; v++) kernel[tap][v] = (VECTOR){0};
    FORM(multiply)(kernel, TAPS, 1, band->weight + pair * band->padded_bases * TAPS, TAPS, attention, PIXELS, bases);
}

TARGET static void FORM(filter_block)(const job *work, BAND *band, ptrdiff_t block) {
    const ptrdiff_t size = work->group_size;
    for (ptrdiff_t column = 0; column < PIXELS; column += WIDE) {
        const float *attention = band->attention + block * work->bases * PIXELS + column;
        const ptrdiff_t place = band->lead + block * PIXELS + column;
        for (ptrdiff_t chunk = 0; chunk < band->chunks; chunk++) {
            VECTOR sums[CHUNK][VECTORS];
            UNROLL for (int row = 0; row < CHUNK; row++)
                UNROLL for (int v = 0; v < VECTORS; v++) sums[row][v] = (VECTOR){0};
            FORM(multiply)(sums, CHUNK, 1, band->bias + chunk * band->padded_bases * CHUNK, CHUNK, attention, PIXELS,
                           work->bases);
            UNROLL for (int row = 0; row < CHUNK; row++) {
                if (chunk * CHUNK + row >= size) break;
                float *out = band->answer + (chunk * CHUNK + row) * band->plane + place;
                UNROLL for (int v = 0; v < VECTORS; v++) *(VECTOR *)(out + v * LANES) = sums[row][v];
            }
        }
        for (ptrdiff_t pair = 0; pair < band->pairs; pair++) {
            VECTOR kernel[TAPS][VECTORS];
            FORM(mix)(kernel, band, pair, attention, work->bases);
            const float *in = band->features + pair % size * band->plane + place;
            float *out = band->answer + pair / size * band->plane + place;
            UNROLL for (int v = 0; v < VECTORS; v++) {
                VECTOR sum = *(VECTOR *)(out + v * LANES);
                UNROLL for (int tap = 0; tap < TAPS; tap++)
                    sum += kernel[tap][v] * *(const VECTOR *)(in + band->offset[tap] + v * LANES);
                *(VECTOR *)(out + v * LANES) = sum;
            }
        }
    }
}

/* Fill d_kernels and add to d_features, for a block of pixels. */
TARGET static void FORM(differentiate_filter)(const job *work, BAND *band, ptrdiff_t block) {
    const ptrdiff_t size = work->group_size;
    for (ptrdiff_t column = 0; column < PIXELS; column += WIDE) {
        const float *attention = band->attention + block * work->bases * PIXELS + column;
        const ptrdiff_t place = band->lead + block * PIXELS + column;
        for (ptrdiff_t pair = 0; pair < band->pairs; pair++) {
            const ptrdiff_t channel_in = pair % size, channel_out = pair / size;
            VECTOR kernel[TAPS][VECTORS];
            FORM(mix)(kernel, band, pair, attention, work->bases);
            const float *in = band->features + channel_in * band->plane + place;
            const float *d_out = band->d_out + channel_out * PIXELS + column;
            float *d_kernel = band->d_kernels + pair * TAPS * PIXELS + column;
            float *d_shifted = band->d_shifted + channel_in * TAPS * PIXELS + column;
            UNROLL for (int v = 0; v < VECTORS; v++) {
                const VECTOR gradient = *(const VECTOR *)(d_out + v * LANES);
                UNROLL for (int tap = 0; tap < TAPS; tap++) {
                    const VECTOR value = *(const VECTOR *)(in + band->offset[tap] + v * LANES);
                    VECTOR *shifted = (VECTOR *)(d_shifted + tap * PIXELS + v * LANES);
                    *(VECTOR *)(d_kernel + tap * PIXELS + v * LANES) = gradient * value;
                    VECTOR given = gradient * kernel[tap][v];
                    if (channel_out) given += *shifted; /* else the sum begins */
                    *shifted = given;
                }
            }
        }
    }
    for (ptrdiff_t channel = 0; channel < size; channel++)
        for (int tap = 0; tap < TAPS; tap++) {
            float *to = band->d_features + channel * band->plane + band->lead + block * PIXELS + band->offset[tap];
            const float *from = band->d_shifted + (channel * TAPS + tap) * PIXELS;
            for (int pixel = 0; pixel < PIXELS; pixel += LANES)
                *(VECTOR *)(to + pixel) += *(const VECTOR *)(from + pixel);
        }
}

/* Add to d_attention, d_weight and d_bias, for a block of pixels of a group. */
TARGET static void FORM(differentiate_mix)(const job *work, BAND *band, ptrdiff_t block, ptrdiff_t group) {
    const ptrdiff_t bases = band->padded_bases;
    for (ptrdiff_t column = 0; column < PIXELS; column += WIDE)
        for (ptrdiff_t base = 0; base < work->bases; base += BASE_ROWS) {
            VECTOR sums[BASE_ROWS][VECTORS];
            float *d_attention = band->d_attention + (block * bases + base) * PIXELS + column;
            UNROLL for (int row = 0; row < BASE_ROWS; row++)
                UNROLL for (int v = 0; v < VECTORS; v++)
                    sums[row][v] = *(VECTOR *)(d_attention + row * PIXELS + v * LANES);
            for (ptrdiff_t pair = 0; pair < band->pairs; pair++)
                FORM(multiply)(sums, BASE_ROWS, TAPS, band->weight + (pair * bases + base) * TAPS, 1,
                               band->d_kernels + pair * TAPS * PIXELS + column, PIXELS, TAPS);
            for (ptrdiff_t chunk = 0; chunk < band->chunks; chunk++)
                FORM(multiply)(sums, BASE_ROWS, CHUNK, band->bias + (chunk * bases + base) * CHUNK, 1,
                               band->d_out + chunk * CHUNK * PIXELS + column, PIXELS, CHUNK);
            UNROLL for (int row = 0; row < BASE_ROWS; row++)
                UNROLL for (int v = 0; v < VECTORS; v++)
                    *(VECTOR *)(d_attention + row * PIXELS + v * LANES) = sums[row][v];
        }
    const float *transposed = band->transposed + block * PIXELS * bases;
    for (ptrdiff_t column = 0; column < bases; column += least(WIDE, bases)) {
        for (ptrdiff_t pair = 0; pair < band->pairs; pair++)
            FORM(multiply_into)(band->d_weight + (group * band->pairs + pair) * TAPS * bases + column, bases, TAPS,
                                PIXELS, band->d_kernels + pair * TAPS * PIXELS, 1, transposed + column, bases, PIXELS);
        for (ptrdiff_t chunk = 0; chunk < band->chunks; chunk++)
            FORM(multiply_into)(band->d_bias + (group * band->chunks + chunk) * CHUNK * bases + column, bases, CHUNK,
                                PIXELS, band->d_out + chunk * CHUNK * PIXELS, 1, transposed + column, bases, PIXELS);
    }
}

/* Lay the scratch memory out; called once to measure it (memory.base NULL) and once to hand it out. */
static void FORM(lay_out)(const job *work, BAND *band) {
    const ptrdiff_t size = work->group_size, bases = band->padded_bases;
    const ptrdiff_t blocks = round_up(band->rows * band->stride, PIXELS) / PIXELS;
    band->memory.used = 0;
    band->features = take(&band->memory, size * band->plane);
    band->answer = take(&band->memory, size * band->plane);
    band->line = take(&band->memory, blocks * PIXELS);
    band->attention = take(&band->memory, blocks * work->bases * PIXELS);
    band->weight = take(&band->memory, band->pairs * bases * TAPS);
    band->bias = take(&band->memory, band->chunks * bases * CHUNK);
    if (!work->d_features) return;
    band->transposed = take(&band->memory, blocks * PIXELS * bases);
    band->d_kernels = take(&band->memory, band->pairs * TAPS * PIXELS);
    band->d_shifted = take(&band->memory, size * TAPS * PIXELS);
    band->d_out = take(&band->memory, band->chunks * CHUNK * PIXELS);
    band->d_features = take(&band->memory, size * band->plane);
    band->d_line = take(&band->memory, blocks * PIXELS);
    band->d_attention = take(&band->memory, blocks * bases * PIXELS);
    band->d_weight = take(&band->memory, band->groups * band->pairs * TAPS * bases);
    band->d_bias = take(&band->memory, band->groups * band->chunks * CHUNK * bases);
}

/* Returns 0 where there is no memory yet; band->memory.size is what it takes. */
static int FORM(prepare)(const job *work, BAND *band) {
    memset(band, 0, sizeof *band);
    band->stride = work->width + 1;
    band->rows = BAND_PIXELS / band->stride > 1 ? BAND_PIXELS / band->stride : 1;
    band->rows = least(band->rows, work->height);
    band->lead = round_up(band->stride + 1, LANES);
    band->plane = band->lead + round_up(band->rows * band->stride, PIXELS) + round_up(band->stride + 1, LANES);
    /* A multiple of WIDE, because d_weight has the bases in its vectors. */
    band->padded_bases = round_up(work->bases, WIDE > BASE_MULTIPLE ? WIDE : BASE_MULTIPLE);
    band->pairs = work->group_size * work->group_size;
    band->chunks = round_up(work->group_size, CHUNK) / CHUNK;
    band->groups = work->channels / work->group_size;
    for (int tap = 0; tap < TAPS; tap++) band->offset[tap] = (tap / 3 - 1) * band->stride + tap % 3 - 1;
    FORM(lay_out)(work, band);
    band->memory.size = band->memory.used;
    if (!work->scratch) return 0;
    memset(work->scratch, 0, band->memory.size);
    band->memory.base = work->scratch;
    FORM(lay_out)(work, band);
    return 1;
}

static void FORM(pack_group)(const job *work, BAND *band, ptrdiff_t group) {
    const ptrdiff_t size = work->group_size;
    for (ptrdiff_t base = 0; base < work->bases; base++) {
        const float *from = work->weight + (base * band->groups + group) * band->pairs * TAPS;
        for (ptrdiff_t pair = 0; pair < band->pairs; pair++)
            memcpy(band->weight + (pair * band->padded_bases + base) * TAPS, from + pair * TAPS, TAPS * sizeof(float));
        for (ptrdiff_t channel = 0; channel < size; channel++)
            band->bias[(channel / CHUNK * band->padded_bases + base) * CHUNK + channel % CHUNK] =
                work->bias[base * work->channels + group * size + channel];
    }
}

/* Copy rows top ... top + count - 1 of a plane to a band's, or zeros where the picture ends. */
static void FORM(pad_rows)(const job *work, const BAND *band, float *to, const float *from, ptrdiff_t top,
                           ptrdiff_t count) {
    for (ptrdiff_t row = 0; row < count; row++) {
        float *line = to + row * band->stride;
        if (top + row < 0 || top + row >= work->height)
            memset(line, 0, (size_t)work->width * sizeof(float));
        else
            memcpy(line, from + (top + row) * work->width, (size_t)work->width * sizeof(float));
    }
}

/* Copy a band of attention into blocks, and for the gradient of the weight also pixel by pixel. */
static void FORM(load_attention)(const job *work, BAND *band, ptrdiff_t item, ptrdiff_t top, ptrdiff_t rows) {
    const ptrdiff_t area = work->height * work->width, bases = work->bases;
    const ptrdiff_t places = round_up(band->rows * band->stride, PIXELS), used = rows * band->stride;
    /* A shorter band must not see the rows of the one before. */
    memset(band->line + used, 0, (size_t)(places - used) * sizeof(float));
    for (ptrdiff_t base = 0; base < bases; base++) {
        FORM(pad_rows)(work, band, band->line, work->attention + (item * bases + base) * area, top, rows);
        for (ptrdiff_t block = 0; block < places / PIXELS; block++)
            memcpy(band->attention + (block * bases + base) * PIXELS, band->line + block * PIXELS,
                   PIXELS * sizeof(float));
    }
    if (!band->transposed) return;
    for (ptrdiff_t place = 0; place < places; place++) {
        const float *from = band->attention + place / PIXELS * bases * PIXELS + place % PIXELS;
        float *to = band->transposed + place * band->padded_bases;
        for (ptrdiff_t base = 0; base < bases; base++) to[base] = from[base * PIXELS];
    }
}

TARGET static ptrdiff_t FORM(forward)(const void *fields) {
    const job *work = fields;
    const ptrdiff_t area = work->height * work->width, size = work->group_size;
    BAND band;
    if (!FORM(prepare)(work, &band)) return (ptrdiff_t)band.memory.size;
    for (ptrdiff_t row = work->first_row, rows; row < work->last_row; row += rows) {
        const ptrdiff_t item = row / work->height, top = row % work->height;
        rows = least(least(band.rows, work->height - top), work->last_row - row);
        const ptrdiff_t blocks = round_up(rows * band.stride, PIXELS) / PIXELS;
        FORM(load_attention)(work, &band, item, top, rows);
        for (ptrdiff_t group = 0; group < band.groups; group++) {
            const ptrdiff_t first = (item * work->channels + group * size) * area;
            FORM(pack_group)(work, &band, group);
            for (ptrdiff_t channel = 0; channel < size; channel++)
                FORM(pad_rows)(work, &band, band.features + channel * band.plane + band.lead - band.stride,
                               work->features + first + channel * area, top - 1, rows + 2);
            for (ptrdiff_t block = 0; block < blocks; block++) FORM(filter_block)(work, &band, block);
            for (ptrdiff_t channel = 0; channel < size; channel++)
                for (ptrdiff_t y = 0; y < rows; y++)
                    memcpy(work->answer + first + channel * area + (top + y) * work->width,
                           band.answer + channel * band.plane + band.lead + y * band.stride,
                           (size_t)work->width * sizeof(float));
        }
    }
    put_back(&band.memory);
    return 0;
}

/* Add a group's d_features of a band to the picture's; what falls on another call's rows goes to d_above, d_below. */
static void FORM(return_features)(const job *work, BAND *band, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t group) {
    const ptrdiff_t item = row / work->height, top = row % work->height, area = work->height * work->width;
    for (ptrdiff_t channel = 0; channel < work->group_size; channel++) {
        const ptrdiff_t whole = group * work->group_size + channel;
        for (ptrdiff_t y = -1; y <= rows; y++) {
            if (top + y < 0 || top + y >= work->height) continue;
            float *to = work->d_features + (item * work->channels + whole) * area + (top + y) * work->width;
            if (row + y < work->first_row) to = work->d_above + whole * work->width;
            if (row + y >= work->last_row) to = work->d_below + whole * work->width;
            const float *from = band->d_features + channel * band->plane + band->lead + y * band->stride;
            for (ptrdiff_t x = 0; x < work->width; x++) to[x] += from[x];
        }
    }
    memset(band->d_features, 0, (size_t)(work->group_size * band->plane) * sizeof(float));
}

static void FORM(return_attention)(const job *work, BAND *band, ptrdiff_t item, ptrdiff_t top, ptrdiff_t rows) {
    const ptrdiff_t area = work->height * work->width, places = round_up(band->rows * band->stride, PIXELS);
    for (ptrdiff_t base = 0; base < work->bases; base++) {
        float *to = work->d_attention + (item * work->bases + base) * area + top * work->width;
        for (ptrdiff_t block = 0; block < places / PIXELS; block++)
            memcpy(band->d_line + block * PIXELS, band->d_attention + (block * band->padded_bases + base) * PIXELS,
                   PIXELS * sizeof(float));
        for (ptrdiff_t y = 0; y < rows; y++)
            memcpy(to + y * work->width, band->d_line + y * band->stride, (size_t)work->width * sizeof(float));
    }
    memset(band->d_attention, 0, (size_t)(places * band->padded_bases) * sizeof(float));
}

static void FORM(return_weight)(const job *work, const BAND *band) {
    const ptrdiff_t size = work->group_size, bases = band->padded_bases, taps = band->pairs * TAPS;
    for (ptrdiff_t base = 0; base < work->bases; base++)
        for (ptrdiff_t group = 0; group < band->groups; group++) {
            for (ptrdiff_t tap = 0; tap < taps; tap++)
                work->d_weight[(base * band->groups + group) * taps + tap] =
                    band->d_weight[(group * taps + tap) * bases + base];
            for (ptrdiff_t channel = 0; channel < size; channel++)
                work->d_bias[base * work->channels + group * size + channel] =
                    band->d_bias[(group * band->chunks * CHUNK + channel) * bases + base];
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
        memset(band.answer, 0, (size_t)(size * band.plane) * sizeof(float));
        for (ptrdiff_t group = 0; group < band.groups; group++) {
            const ptrdiff_t first = (item * work->channels + group * size) * area;
            FORM(pack_group)(work, &band, group);
            for (ptrdiff_t channel = 0; channel < size; channel++) {
                FORM(pad_rows)(work, &band, band.features + channel * band.plane + band.lead - band.stride,
                               work->features + first + channel * area, top - 1, rows + 2);
                FORM(pad_rows)(work, &band, band.answer + channel * band.plane + band.lead,
                               work->answer + first + channel * area, top, rows);
            }
            for (ptrdiff_t block = 0; block < blocks; block++) {
                for (ptrdiff_t channel = 0; channel < size; channel++)
                    memcpy(band.d_out + channel * PIXELS,
                           band.answer + channel * band.plane + band.lead + block * PIXELS, PIXELS * sizeof(float));
                FORM(differentiate_filter)(work, &band, block);
                FORM(differentiate_mix)(work, &band, block, group);
            }
            FORM(return_features)(work, &band, row, rows, group);
        }
        FORM(return_attention)(work, &band, item, top, rows);
    }
    FORM(return_weight)(work, &band);
    put_back(&band.memory);
    return 0;
}

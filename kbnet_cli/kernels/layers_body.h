/* Layers on planes of pixels, for one instruction set: norm, gelu, copies between picture and unit, convolutions. */

/* The larger of two values, lane by lane. */
TARGET static ALWAYS_INLINE VECTOR FORM(larger)(VECTOR a, VECTOR b) {
#if LANES > 1
    const INTEGERS take = a > b;
    return (VECTOR)(((INTEGERS)a & take) | ((INTEGERS)b & ~take));
#else
    return a > b ? a : b;
#endif
}

/* 1 / sqrt of a positive value. */
TARGET static ALWAYS_INLINE VECTOR FORM(inverse_root)(VECTOR x) {
#if LANES > 1
    /* Newton's method from a first guess out of the exponent's bits; four steps reach float32's precision. */
    VECTOR root = (VECTOR)(0x5f375a86 - ((INTEGERS)x >> 1));
    for (int step = 0; step < 4; step++) root *= 1.5f - 0.5f * x * root * root;
    return root;
#else
    return 1.0f / sqrtf(x);
#endif
}

/* exp of a value that is not positive; below -87 it is as at -87. Relative error 2e-7. */
TARGET static ALWAYS_INLINE VECTOR FORM(exponential)(VECTOR x) {
#if LANES > 1
    const VECTOR magic = (VECTOR){0} + 12582912.0f; /* 1.5 x 2^23: adding it rounds to an integer in the low bits */
    x = FORM(larger)(x, (VECTOR){0} - 87.0f);
    const VECTOR whole = x * 1.44269504f + magic;
    const VECTOR count = whole - magic;
    const VECTOR rest = x - count * 0.693359375f + count * 2.12194440e-4f; /* ln 2 in two parts */
    VECTOR sum = (VECTOR){0} + 1.0f / 5040;
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    return (VECTOR)((INTEGERS)sum + ((INTEGERS)whole << 23));
#else
    return expf(x);
#endif
}

/* x times the normal distribution's cumulative function. Source of erf: Abramowitz and Stegun 7.1.26, error 1.5e-7. */
TARGET static ALWAYS_INLINE VECTOR FORM(gelu)(VECTOR x) {
    const VECTOR size = 0.70710678f * FORM(larger)(x, -x);
    const VECTOR t = 1.0f / (1.0f + 0.3275911f * size);
    VECTOR tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    tail *= 0.5f * FORM(exponential)(-size * size); /* half of 1 - erf(|x| / sqrt 2) */
    /* x (1 - tail) where x is positive, x tail where it is negative */
    return FORM(larger)(x, (VECTOR){0}) - FORM(larger)(x, -x) * tail;
}

/* Normalise each pixel over its channels, in place or not: biased variance, epsilon 1e-6, then an affine map. */
TARGET static void FORM(normalise)(float *out, const float *in, ptrdiff_t plane, ptrdiff_t channels, ptrdiff_t pixels,
                                   const float *weight, const float *bias) {
    const float share = 1.0f / (float)channels;
    for (ptrdiff_t p = 0; p < pixels; p += LANES) {
        VECTOR mean = {0}, spread = {0};
        for (ptrdiff_t c = 0; c < channels; c++) mean += *(const VECTOR *)(in + c * plane + p);
        mean *= share;
        for (ptrdiff_t c = 0; c < channels; c++) {
            const VECTOR centred = *(const VECTOR *)(in + c * plane + p) - mean;
            spread += centred * centred;
        }
        spread = FORM(inverse_root)(spread * share + 1e-6f);
        for (ptrdiff_t c = 0; c < channels; c++)
            *(VECTOR *)(out + c * plane + p) =
                (*(const VECTOR *)(in + c * plane + p) - mean) * spread * weight[c] + bias[c];
    }
}

/* Copy a row, or add it: short ones mostly, for which a call would take longer than the copy. */
TARGET static ALWAYS_INLINE void FORM(copy_row)(float *to, const float *from, ptrdiff_t floats) {
    if (floats < LANES) {
        for (ptrdiff_t x = 0; x < floats; x++) to[x] = from[x];
        return;
    }
    for (ptrdiff_t x = 0; x + LANES <= floats; x += LANES) *(VECTOR *)(to + x) = *(const VECTOR *)(from + x);
    *(VECTOR *)(to + floats - LANES) = *(const VECTOR *)(from + floats - LANES);
}

TARGET static ALWAYS_INLINE void FORM(add_row)(float *to, const float *from, ptrdiff_t floats) {
    ptrdiff_t x = 0;
    for (; x + LANES <= floats; x += LANES) *(VECTOR *)(to + x) += *(const VECTOR *)(from + x);
    for (; x < floats; x++) to[x] += from[x];
}

/* Copy a unit's surroundings from the picture's planes. */
TARGET static void FORM(load)(const unit *at, const unit_grid *grid, float *planes, const float *picture, ptrdiff_t channels) {
    const ptrdiff_t area = grid->height * grid->width;
    const float *from =
        picture + at->item * channels * area + (at->top - at->above) * grid->width + at->left - at->before;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t y = 0; y < at->rows; y++) {
            const float *row = from + c * area + y * grid->width;
            /* Rows are short and far from each other: no processor guesses the next one. */
            if (c + AHEAD < channels)
                for (ptrdiff_t x = 0; x < at->columns; x += LINE) PREFETCH(row + AHEAD * area + x);
            FORM(copy_row)(planes + c * at->plane + at->lead + y * at->stride, row, at->columns);
        }
}

/* Zero what lies outside the picture around planes of surroundings, `halo` pixels deep. */
static void FORM(clear_outside)(const unit *at, float *planes, ptrdiff_t channels, ptrdiff_t halo) {
    const size_t reach = (size_t)(halo * (at->stride + 1)) * sizeof(float);
    for (ptrdiff_t c = 0; c < channels; c++) {
        float *start = planes + c * at->plane + at->lead, *end = start + at->pixels;
        /* A row's zero column is also that before the next one, and the first row needs one too. */
        if (at->cut_top || at->cut_side) memset(start - reach / sizeof(float), 0, reach);
        if (at->cut_bottom || at->cut_side) memset(end, 0, reach);
        if (at->cut_side)
            for (float *gap = start + at->columns; gap < end; gap += at->stride)
                memset(gap, 0, (size_t)(at->stride - at->columns) * sizeof(float));
    }
}

/* Convolve grouped channels with kernels of `size` x `size`: `outputs` channels a group from `inputs` channels.
 *
 * in: the first pixel's place in planes of surroundings; out: rows of `width` floats, out_stride apart. Rows are
 * written in whole vectors, each over the end of the one before. */
TARGET static ALWAYS_INLINE void FORM(convolve)(const int size, const int outputs, float *out, ptrdiff_t out_plane,
                                                ptrdiff_t out_stride, const float *in, ptrdiff_t in_plane,
                                                ptrdiff_t in_stride, ptrdiff_t groups, ptrdiff_t inputs,
                                                ptrdiff_t height, ptrdiff_t width, const float *weight,
                                                const float *bias) {
    const int taps = size * size;
    for (ptrdiff_t group = 0; group < groups; group++)
        for (ptrdiff_t y = 0; y < height; y++)
            for (ptrdiff_t x = 0; x < width; x += LANES) {
                VECTOR sums[4];
                UNROLL for (int o = 0; o < outputs; o++) sums[o] = (VECTOR){0} + bias[group * outputs + o];
                for (ptrdiff_t i = 0; i < inputs; i++) {
                    const float *from = in + (group * inputs + i) * in_plane + (y - size / 2) * in_stride + x - size / 2;
                    const float *kernel = weight + (group * outputs * inputs + i) * taps;
                    UNROLL for (int tap = 0; tap < taps; tap++) {
                        const VECTOR value = *(const VECTOR *)(from + tap / size * in_stride + tap % size);
                        UNROLL for (int o = 0; o < outputs; o++) sums[o] += kernel[o * inputs * taps + tap] * value;
                    }
                }
                UNROLL for (int o = 0; o < outputs; o++)
                    *(VECTOR *)(out + (group * outputs + o) * out_plane + y * out_stride + x) = sums[o];
            }
}

/* A depthwise 3x3 convolution of surroundings, as surroundings. */
TARGET static void FORM(depthwise)(const unit *at, float *out, const float *in, ptrdiff_t channels,
                                   const float *weight, const float *bias) {
    FORM(convolve)(3, 1, out + at->lead, at->plane, at->pixels, in + at->lead, at->plane, at->stride, channels, 1, 1,
                   at->pixels, weight, bias);
}

static void FORM(copy)(float *to, const float *from, ptrdiff_t floats) {
    memcpy(to, from, (size_t)floats * sizeof(float));
}

/* Add the picture to planes of the unit's own pixels. */
TARGET static void FORM(add_picture)(const unit *at, const unit_grid *grid, float *planes, const float *picture,
                                     ptrdiff_t channels) {
    const ptrdiff_t area = grid->height * grid->width;
    const float *from = picture + at->item * channels * area + at->top * grid->width + at->left;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t y = 0; y < at->height; y++)
            FORM(add_row)(planes + c * at->own_plane + y * at->own_stride, from + c * area + y * grid->width, at->width);
}

TARGET static void FORM(store)(const unit *at, const unit_grid *grid, float *picture, const float *planes,
                        ptrdiff_t channels) {
    const ptrdiff_t area = grid->height * grid->width;
    float *to = picture + at->item * channels * area + at->top * grid->width + at->left;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t y = 0; y < at->height; y++)
            FORM(copy_row)(to + c * area + y * grid->width, planes + c * at->own_plane + y * at->own_stride, at->width);
}

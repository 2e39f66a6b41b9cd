/* The fused operations for one instruction set: included by kba.c once for each, after kba_body.h and matrix_body.h. */

/* The larger and the smaller of two values, lane by lane; 1 / sqrt of a positive value. */
TARGET static ALWAYS_INLINE VECTOR FORM(larger)(VECTOR a, VECTOR b) {
#if LANES > 1
    const INTEGERS take = a > b;
    return (VECTOR)(((INTEGERS)a & take) | ((INTEGERS)b & ~take));
#else
    return a > b ? a : b;
#endif
}

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

/* ---- The fusion of the three branches, and the feed-forward part after it ---- */

typedef struct {
    MATRIX expand, mix, offset, project, hidden, output;
    float *norm_weight, *norm_bias, *depthwise_weight, *depthwise_bias, *spatial_weight, *spatial_bias;
    float *gate_weight, *gate_bias, *basis, *norm2_weight, *norm2_bias;
} FORM(fusion_weights);

static FORM(fusion_weights) FORM(take_fusion)(arena *memory, const fusion_sizes *sizes) {
    const ptrdiff_t c = sizes->channels, f = sizes->features, hidden = sizes->hidden;
    FORM(fusion_weights) it;
    memset(&it, 0, sizeof it);
    it.norm_weight = take(memory, c);
    it.norm_bias = take(memory, c);
    it.expand = FORM(take_matrix)(memory, 2 * f + BASES, c);
    it.depthwise_weight = take(memory, f * TAPS);
    it.depthwise_bias = take(memory, f);
    it.spatial_weight = take(memory, f * sizes->spatial_group * sizes->spatial_size * sizes->spatial_size);
    it.spatial_bias = take(memory, f);
    it.gate_weight = take(memory, c * TAPS);
    it.gate_bias = take(memory, sizes->gate_width);
    it.mix = FORM(take_matrix)(memory, BASES, sizes->gate_width / 2);
    it.offset = FORM(take_matrix)(memory, f, BASES);
    it.basis = FORM(take_basis)(memory, f, sizes->group_size);
    it.project = FORM(take_matrix)(memory, c, f);
    if (!hidden) return it;
    it.norm2_weight = take(memory, c);
    it.norm2_bias = take(memory, c);
    it.hidden = FORM(take_matrix)(memory, hidden, c);
    it.output = FORM(take_matrix)(memory, c, hidden / 2);
    return it;
}

static void FORM(copy)(float *to, const float *from, ptrdiff_t floats) {
    memcpy(to, from, (size_t)floats * sizeof(float));
}

static ptrdiff_t FORM(pack_fusion)(const void *fields) {
    const fusion_packing *pack = fields;
    const fusion_sizes *sizes = &pack->sizes;
    const ptrdiff_t c = sizes->channels, f = sizes->features;
    arena memory = {pack->packed, 0, 0};
    const FORM(fusion_weights) to = FORM(take_fusion)(&memory, sizes);
    if (!pack->packed) return (ptrdiff_t)memory.used;
    FORM(copy)(to.norm_weight, pack->norm_weight, c);
    FORM(copy)(to.norm_bias, pack->norm_bias, c);
    FORM(pack_matrix)(&to.expand, pack->expand_weight, pack->expand_bias);
    FORM(copy)(to.depthwise_weight, pack->depthwise_weight, f * TAPS);
    FORM(copy)(to.depthwise_bias, pack->depthwise_bias, f);
    FORM(copy)(to.spatial_weight, pack->spatial_weight,
               f * sizes->spatial_group * sizes->spatial_size * sizes->spatial_size);
    FORM(copy)(to.spatial_bias, pack->spatial_bias, f);
    FORM(copy)(to.gate_weight, pack->gate_weight, c * TAPS);
    FORM(copy)(to.gate_bias, pack->gate_bias, sizes->gate_width);
    FORM(pack_matrix)(&to.mix, pack->mix_weight, NULL);
    FORM(pack_matrix)(&to.offset, pack->basis_bias, NULL);
    FORM(pack_basis)(to.basis, pack->basis_weight, f, sizes->group_size);
    FORM(pack_matrix)(&to.project, pack->project_weight, pack->project_bias);
    if (!sizes->hidden) return (ptrdiff_t)memory.used;
    FORM(copy)(to.norm2_weight, pack->norm2_weight, c);
    FORM(copy)(to.norm2_bias, pack->norm2_bias, c);
    FORM(pack_matrix)(&to.hidden, pack->hidden_weight, pack->hidden_bias);
    FORM(pack_matrix)(&to.output, pack->output_weight, pack->output_bias);
    return (ptrdiff_t)memory.used;
}

typedef struct {
    float *panels;                        /* pixels, packed for a product */
    float *normal, *expanded, *filtered;  /* surroundings: channels; dynamic, invariant, attention; features */
    float *spatial, *gated, *attention;   /* own pixels: features; gate_width; BASES */
    float *runs;                          /* the attention again, a run of pixels at a time */
    float *product;                       /* own pixels: features, or half of hidden */
    float *sum, *hidden;                  /* own pixels: channels; hidden, where expanded lay */
} FORM(fusion_planes);

static FORM(fusion_planes) FORM(take_fusion_planes)(arena *memory, const fusion_sizes *sizes, const unit_grid *grid) {
    const ptrdiff_t c = sizes->channels, f = sizes->features;
    ptrdiff_t plane, own;
    largest_planes(grid, HALO, &plane, &own);
    FORM(fusion_planes) it;
    it.panels = take(memory, PIXEL_PANELS);
    it.normal = take(memory, c * plane);
    it.expanded = take(memory, most((2 * f + BASES) * plane, sizes->hidden * own));
    it.filtered = take(memory, f * plane);
    it.spatial = take(memory, f * own);
    it.gated = take(memory, sizes->gate_width * own);
    it.attention = take(memory, BASES * own);
    it.runs = take(memory, BASES * own);
    it.product = take(memory, most(f, sizes->hidden / 2) * own);
    it.sum = take(memory, c * own);
    it.hidden = it.expanded;
    return it;
}

/* Multiply the first half of the planes by the second, in place. */
TARGET static void FORM(gate)(float *planes, ptrdiff_t plane, ptrdiff_t half, ptrdiff_t pixels) {
    for (ptrdiff_t c = 0; c < half; c++)
        for (ptrdiff_t p = 0; p < pixels; p += LANES)
            *(VECTOR *)(planes + c * plane + p) *= *(const VECTOR *)(planes + (c + half) * plane + p);
}

/* The invariant branch: a convolution, GELU in KBNet-L, and at once the global branch's factor. */
TARGET static void FORM(invariant_branch)(const unit *at, const fusion_sizes *sizes,
                                          const FORM(fusion_weights) *weights, float *out, const float *in,
                                          const float *scale) {
    const ptrdiff_t f = sizes->features, inputs = sizes->spatial_group;
    if (sizes->spatial_size == 5)
        FORM(convolve)(5, 4, out, at->own_plane, at->own_stride, in + at->origin, at->plane, at->stride, f / 4, inputs,
                       at->height, at->width, weights->spatial_weight, weights->spatial_bias);
    else
        FORM(convolve)(3, 1, out, at->own_plane, at->own_stride, in + at->origin, at->plane, at->stride, f, 1,
                       at->height, at->width, weights->spatial_weight, weights->spatial_bias);
    for (ptrdiff_t c = 0; c < f; c++)
        for (ptrdiff_t p = 0; p < at->own_pixels; p += LANES) {
            VECTOR *value = (VECTOR *)(out + c * at->own_plane + p);
            *value = (sizes->gelu ? FORM(gelu)(*value) : *value) * scale[c];
        }
}

/* The place of one of the unit's own runs of pixels among its surroundings. */
static ptrdiff_t FORM(place)(const unit *at, ptrdiff_t pixel) {
    return at->origin + pixel / at->own_stride * at->stride + pixel % at->own_stride;
}

/* How much of each basis every pixel takes: the gated branch added to the pointwise one, which lies in `base`. */
TARGET static void FORM(coefficients)(const unit *at, const fusion_sizes *sizes, const FORM(fusion_weights) *weights,
                                      const FORM(fusion_planes) *planes, const float *base) {
    const ptrdiff_t width = sizes->gate_width;
    FORM(convolve)(3, 1, planes->gated, at->own_plane, at->own_stride, planes->normal + at->origin, at->plane,
                   at->stride, width, sizes->channels / width, at->height, at->width, weights->gate_weight,
                   weights->gate_bias);
    FORM(gate)(planes->gated, at->own_plane, width / 2, at->own_pixels);
    FORM(multiply_planes)(&weights->mix, planes->attention, at->own_plane, planes->gated, at->own_plane,
                          at->own_pixels, planes->panels);
    for (ptrdiff_t n = 0; n < BASES; n++)
        for (ptrdiff_t p = 0; p < at->own_pixels; p += RUN) {
            const float *more = base + n * at->plane + FORM(place)(at, p);
            float *attention = planes->attention + n * at->own_plane + p;
            for (ptrdiff_t q = 0; q < RUN; q += LANES)
                *(VECTOR *)(attention + q) += *(const VECTOR *)(more + q);
        }
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

TARGET static void FORM(fuse_unit)(const fusion_job *job, const FORM(fusion_weights) *weights,
                                   const FORM(fusion_planes) *planes, ptrdiff_t index) {
    const fusion_sizes *sizes = &job->sizes;
    const ptrdiff_t c = sizes->channels, f = sizes->features;
    const unit at = unit_at(&job->grid, index, HALO);
    float *dynamic = planes->expanded, *invariant = planes->expanded + f * at.plane;
    FORM(load)(&at, &job->grid, planes->normal, job->features, c);
    FORM(normalise)(planes->normal + at.lead, planes->normal + at.lead, at.plane, c, at.pixels, weights->norm_weight,
                    weights->norm_bias);
    FORM(clear_outside)(&at, planes->normal, c, 1);
    FORM(multiply_planes)(&weights->expand, planes->expanded + at.lead, at.plane, planes->normal + at.lead, at.plane,
                          at.pixels, planes->panels);
    FORM(clear_outside)(&at, planes->expanded, 2 * f, HALO);
    FORM(depthwise)(&at, planes->filtered, dynamic, f, weights->depthwise_weight, weights->depthwise_bias);
    FORM(clear_outside)(&at, planes->filtered, f, 1);
    FORM(invariant_branch)(&at, sizes, weights, planes->spatial, invariant, job->scale + at.item * f);
    FORM(coefficients)(&at, sizes, weights, planes, invariant + f * at.plane);
    FORM(multiply_planes)(&weights->offset, planes->product, at.own_plane, planes->attention, at.own_plane,
                          at.own_pixels, planes->panels);
    FORM(filter)(&at, sizes, weights->basis, planes->attention, planes->runs, planes->filtered, planes->spatial,
                 planes->product);
    FORM(multiply_planes)(&weights->project, planes->sum, at.own_plane, planes->product, at.own_plane, at.own_pixels,
                          planes->panels);
    FORM(add_picture)(&at, &job->grid, planes->sum, job->features, c);
    if (sizes->hidden) {
        FORM(normalise)(planes->normal, planes->sum, at.own_plane, c, at.own_pixels, weights->norm2_weight,
                        weights->norm2_bias);
        FORM(multiply_planes)(&weights->hidden, planes->hidden, at.own_plane, planes->normal, at.own_plane,
                              at.own_pixels, planes->panels);
        FORM(gate)(planes->hidden, at.own_plane, sizes->hidden / 2, at.own_pixels);
        FORM(multiply_planes)(&weights->output, planes->product, at.own_plane, planes->hidden, at.own_plane,
                              at.own_pixels, planes->panels);
        for (ptrdiff_t p = 0; p < c * at.own_plane; p += LANES)
            *(VECTOR *)(planes->sum + p) += *(const VECTOR *)(planes->product + p);
    }
    FORM(store)(&at, &job->grid, job->answer, planes->sum, c);
}

static ptrdiff_t FORM(fuse)(const void *fields) {
    const fusion_job *job = fields;
    arena memory = {job->scratch, 0, 1}, packed = {(char *)(uintptr_t)job->packed, 0, 0};
    const FORM(fusion_planes) planes = FORM(take_fusion_planes)(&memory, &job->sizes, &job->grid);
    if (!job->scratch) return (ptrdiff_t)memory.used;
    const FORM(fusion_weights) weights = FORM(take_fusion)(&packed, &job->sizes);
    FORM(begin)();
    FORM(begin)();
    for (ptrdiff_t index = job->grid.first; index < job->grid.last; index++)
        FORM(fuse_unit)(job, &weights, &planes, index);
    FORM(end)();
    put_back(&memory);
    return 0;
}

/* ---- Sums over the pixels of the normalised channels, for the global branch ---- */

TARGET static ptrdiff_t FORM(pool)(const void *fields) {
    const pool_job *job = fields;
    ptrdiff_t plane, own;
    largest_planes(&job->grid, 0, &plane, &own);
    arena memory = {job->scratch, 0, 1};
    float *normal = take(&memory, job->channels * plane);
    if (!job->scratch) return (ptrdiff_t)memory.used;
    for (ptrdiff_t index = job->grid.first; index < job->grid.last; index++) {
        const unit at = unit_at(&job->grid, index, 0);
        FORM(load)(&at, &job->grid, normal, job->features, job->channels);
        FORM(normalise)(normal, normal, at.plane, job->channels, at.pixels, job->norm_weight, job->norm_bias);
        for (ptrdiff_t c = 0; c < job->channels; c++) {
            const float *values = normal + c * at.plane;
            VECTOR sums = {0};
            ptrdiff_t p = 0;
            for (; p + LANES <= at.pixels; p += LANES) sums += *(const VECTOR *)(values + p);
            float sum = FORM(total)(sums);
            for (; p < at.pixels; p++) sum += values[p];
            job->sums[index * job->channels + c] = sum;
        }
    }
    put_back(&memory);
    return 0;
}

/* ---- 1x1 convolutions of whole pictures ---- */

static ptrdiff_t FORM(pack_pointwise)(const void *fields) {
    const matrix_packing *pack = fields;
    arena memory = {pack->packed, 0, 0};
    const MATRIX matrix = FORM(take_matrix)(&memory, pack->rows, pack->depth);
    if (pack->packed) FORM(pack_matrix)(&matrix, pack->weight, pack->bias);
    return (ptrdiff_t)memory.used;
}

/* Copy a unit of a picture of twice the size: four planes for each of its planes, (plane, row, column) of a pixel's
 * square, as a 2x2 convolution with a stride of 2 reads them. */
TARGET static void FORM(load_squares)(const unit *at, const unit_grid *grid, float *planes, const float *picture,
                                      ptrdiff_t channels) {
    const ptrdiff_t width = 2 * grid->width, area = 2 * grid->height * width;
    const float *from = picture + at->item * channels * area + 2 * at->top * width + 2 * at->left;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t y = 0; y < 2 * at->height; y++) {
            const float *row = from + c * area + y * width;
            float *even = planes + (4 * c + y % 2 * 2) * at->plane + y / 2 * at->stride, *odd = even + at->plane;
            for (ptrdiff_t x = 0; x < at->width; x++) {
                even[x] = row[2 * x];
                odd[x] = row[2 * x + 1];
            }
        }
}

/* The other way round, as PixelShuffle writes them; plus what lies at the same place in the addend, if there is one. */
TARGET static void FORM(store_squares)(const unit *at, const unit_grid *grid, float *picture, const float *addend,
                                       const float *planes, ptrdiff_t channels) {
    const ptrdiff_t width = 2 * grid->width, area = 2 * grid->height * width;
    const ptrdiff_t first = at->item * channels * area + 2 * at->top * width + 2 * at->left;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t y = 0; y < 2 * at->height; y++) {
            const ptrdiff_t start = first + c * area + y * width;
            const float *even = planes + (4 * c + y % 2 * 2) * at->own_plane + y / 2 * at->own_stride;
            const float *odd = even + at->own_plane;
            float *row = picture + start;
            for (ptrdiff_t x = 0; x < at->width; x++) {
                row[2 * x] = even[x];
                row[2 * x + 1] = odd[x];
            }
            if (addend) FORM(add_row)(row, addend + start, 2 * at->width);
        }
}

TARGET static ptrdiff_t FORM(pointwise)(const void *fields) {
    const pointwise_job *job = fields;
    ptrdiff_t plane, own;
    largest_planes(&job->grid, 0, &plane, &own);
    arena memory = {job->scratch, 0, 1};
    float *panels = take(&memory, PIXEL_PANELS);
    float *in = take(&memory, job->depth * plane), *out = take(&memory, job->rows * own);
    if (!job->scratch) return (ptrdiff_t)memory.used;
    FORM(begin)();
    for (ptrdiff_t index = job->grid.first; index < job->grid.last; index++) {
        const unit at = unit_at(&job->grid, index, 0);
        arena packed = {(char *)(uintptr_t)job->packed + at.item * job->packed_step, 0, 0};
        const MATRIX matrix = FORM(take_matrix)(&packed, job->rows, job->depth);
        if (job->halves)
            FORM(load_squares)(&at, &job->grid, in, job->features, job->depth / 4);
        else
            FORM(load)(&at, &job->grid, in, job->features, job->depth);
        FORM(multiply_planes)(&matrix, out, at.own_plane, in, at.plane, at.pixels, panels);
        if (job->doubles) {
            FORM(store_squares)(&at, &job->grid, job->answer, job->addend, out, job->rows / 4);
            continue;
        }
        if (job->addend) FORM(add_picture)(&at, &job->grid, out, job->addend, job->rows);
        FORM(store)(&at, &job->grid, job->answer, out, job->rows);
    }
    FORM(end)();
    put_back(&memory);
    return 0;
}

/* ---- The attention between channels ---- */

typedef struct {
    MATRIX qkv;
    float *norm_weight, *norm_bias, *depthwise_weight, *depthwise_bias;
} FORM(attention_weights);

static FORM(attention_weights) FORM(take_attention)(arena *memory, ptrdiff_t channels) {
    FORM(attention_weights) it;
    it.norm_weight = take(memory, channels);
    it.norm_bias = take(memory, channels);
    it.qkv = FORM(take_matrix)(memory, 3 * channels, channels);
    it.depthwise_weight = take(memory, 3 * channels * TAPS);
    it.depthwise_bias = take(memory, 3 * channels);
    return it;
}

static ptrdiff_t FORM(pack_attention)(const void *fields) {
    const attention_packing *pack = fields;
    arena memory = {pack->packed, 0, 0};
    const FORM(attention_weights) to = FORM(take_attention)(&memory, pack->channels);
    if (!pack->packed) return (ptrdiff_t)memory.used;
    FORM(copy)(to.norm_weight, pack->norm_weight, pack->channels);
    FORM(copy)(to.norm_bias, pack->norm_bias, pack->channels);
    FORM(pack_matrix)(&to.qkv, pack->qkv_weight, pack->qkv_bias);
    FORM(copy)(to.depthwise_weight, pack->depthwise_weight, 3 * pack->channels * TAPS);
    FORM(copy)(to.depthwise_bias, pack->depthwise_bias, 3 * pack->channels);
    return (ptrdiff_t)memory.used;
}

enum { FORM(product_rows) = 4 };

/* Products of every query channel with every key channel, summed over the pixels; lanes are summed at the end. */
TARGET static void FORM(products)(float *out, const float *queries, const float *keys, ptrdiff_t plane,
                                  ptrdiff_t channels, ptrdiff_t pixels) {
    enum { ROWS = FORM(product_rows) };
    for (ptrdiff_t i = 0; i < channels; i += ROWS)
        for (ptrdiff_t j = 0; j < channels; j += ROWS) {
            VECTOR sums[ROWS][ROWS];
            const float *query[ROWS], *key[ROWS]; /* the last channels stand in for those beyond */
            UNROLL for (int r = 0; r < ROWS; r++) {
                query[r] = queries + least(i + r, channels - 1) * plane;
                key[r] = keys + least(j + r, channels - 1) * plane;
                UNROLL for (int s = 0; s < ROWS; s++) sums[r][s] = (VECTOR){0};
            }
            for (ptrdiff_t p = 0; p < pixels; p += LANES)
                UNROLL for (int r = 0; r < ROWS; r++) {
                    const VECTOR left = *(const VECTOR *)(query[r] + p);
                    UNROLL for (int s = 0; s < ROWS; s++) sums[r][s] += left * *(const VECTOR *)(key[s] + p);
                }
            for (int r = 0; r < ROWS && i + r < channels; r++)
                for (int s = 0; s < ROWS && j + s < channels; s++)
                    out[(i + r) * channels + j + s] = FORM(total)(sums[r][s]);
        }
}

TARGET static ptrdiff_t FORM(attend)(const void *fields) {
    const attention_job *job = fields;
    const ptrdiff_t c = job->channels, head = c / job->heads;
    ptrdiff_t plane, own;
    largest_planes(&job->grid, 1, &plane, &own);
    arena memory = {job->scratch, 0, 1}, packed = {(char *)(uintptr_t)job->packed, 0, 0};
    float *panels = take(&memory, PIXEL_PANELS), *normal = take(&memory, c * plane);
    float *expanded = take(&memory, 3 * c * plane), *qkv = take(&memory, 3 * c * own);
    if (!job->scratch) return (ptrdiff_t)memory.used;
    const FORM(attention_weights) weights = FORM(take_attention)(&packed, c);
    FORM(begin)();
    FORM(begin)();
    for (ptrdiff_t index = job->grid.first; index < job->grid.last; index++) {
        const unit at = unit_at(&job->grid, index, 1);
        FORM(load)(&at, &job->grid, normal, job->features, c);
        FORM(normalise)(normal + at.lead, normal + at.lead, at.plane, c, at.pixels, weights.norm_weight,
                        weights.norm_bias);
        FORM(multiply_planes)(&weights.qkv, expanded + at.lead, at.plane, normal + at.lead, at.plane, at.pixels,
                              panels);
        FORM(clear_outside)(&at, expanded, 3 * c, 1);
        FORM(convolve)(3, 1, qkv, at.own_plane, at.own_stride, expanded + at.origin, at.plane, at.stride, 3 * c, 1,
                       at.height, at.width, weights.depthwise_weight, weights.depthwise_bias);
        FORM(store)(&at, &job->grid, job->values, qkv + 2 * c * at.own_plane, c);
        /* What lies between the rows must not count. */
        for (ptrdiff_t i = 0; i < 2 * c; i++)
            for (ptrdiff_t y = 0; y < at.height; y++) {
                float *row = qkv + i * at.own_plane + y * at.own_stride;
                const ptrdiff_t end = y + 1 < at.height ? at.own_stride : at.own_pixels - y * at.own_stride;
                for (ptrdiff_t x = at.width; x < end; x++) row[x] = 0;
            }
        for (ptrdiff_t i = 0; i < 2 * c; i++) {
            VECTOR sums = {0};
            for (ptrdiff_t p = 0; p < at.own_pixels; p += LANES) {
                const VECTOR value = *(const VECTOR *)(qkv + i * at.own_plane + p);
                sums += value * value;
            }
            job->squares[index * 2 * c + i] = FORM(total)(sums);
        }
        for (ptrdiff_t i = 0; i < job->heads; i++)
            FORM(products)(job->products + (index * job->heads + i) * head * head, qkv + i * head * at.own_plane,
                           qkv + (c + i * head) * at.own_plane, at.own_plane, head, at.own_pixels);
    }
    FORM(end)();
    put_back(&memory);
    return 0;
}

/* The attention between channels, for one instruction set: all that is done for each pixel. */

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

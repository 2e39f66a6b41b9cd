/* The kernel basis attention of a unit, for one instruction set: each pixel's kernels are mixed in registers. */

/* Take room for the basis kernels, (groups, pairs of channels, steps, TAPS); a pair is (channel out, channel in), and a
 * step one basis, or two as in matrix_body.h. */
static float *FORM(take_basis)(arena *memory, ptrdiff_t features, ptrdiff_t group_size) {
    return take(memory, features * group_size * STEPS(BASES) * TAPS);
}

/* Pack basis kernels (BASES, groups, pairs, TAPS). */
static void FORM(pack_basis)(float *to, const float *weight, ptrdiff_t features, ptrdiff_t group_size) {
    const ptrdiff_t pairs = features * group_size; /* of all groups */
    for (ptrdiff_t pair = 0; pair < pairs; pair++)
        for (ptrdiff_t base = 0; base < BASES; base += DEPTH_OF_STEP)
            for (int tap = 0; tap < TAPS; tap++, to++) {
                const float *from = weight + (base * pairs + pair) * TAPS + tap;
                *to = FORM(pack_weights)(*from, from[(DEPTH_OF_STEP - 1) * pairs * TAPS]);
            }
}

/* A unit's features filtered: product = (product + features + kernels of the pixel * features) x factor.
 *
 * product holds the mixed offsets at the start. attention and factor are planes of the unit's own pixels; features
 * are planes of surroundings; runs is scratch memory for the attention, a run of pixels at a time. */
TARGET static void FORM(filter)(const unit *at, const fusion_sizes *sizes, const float *basis, const float *attention,
                                float *runs, const float *features, const float *factor, float *product) {
    const ptrdiff_t size = sizes->group_size, groups = sizes->features / size;
    ptrdiff_t offset[TAPS];
    for (int tap = 0; tap < TAPS; tap++) offset[tap] = (tap / 3 - 1) * at->stride + tap % 3 - 1;
    for (ptrdiff_t p = 0; p < at->own_pixels; p += RUN)
        for (ptrdiff_t base = 0; base < BASES; base += DEPTH_OF_STEP)
            for (ptrdiff_t q = 0; q < RUN; q += LANES)
                *(VECTOR *)(runs + p * STEPS(BASES) + base / DEPTH_OF_STEP * RUN + q) =
                    PACK_PIXELS(attention + base * at->own_plane + p + q, at->own_plane, 1);
    for (ptrdiff_t group = 0; group < groups; group++)
        for (ptrdiff_t p = 0; p < at->own_pixels; p += RUN)
            for (ptrdiff_t column = 0; column < RUN; column += (MIX_VECTORS * LANES)) {
                const ptrdiff_t place = at->origin + p / at->own_stride * at->stride + p % at->own_stride + column;
                for (ptrdiff_t out = 0; out < size; out++) {
                    const ptrdiff_t own = (group * size + out) * at->own_plane + p + column;
                    VECTOR sum[MIX_VECTORS];
                    UNROLL for (int v = 0; v < MIX_VECTORS; v++)
                        sum[v] = *(VECTOR *)(product + own + v * LANES) +
                                 *(const VECTOR *)(features + (group * size + out) * at->plane + place + v * LANES);
                    for (ptrdiff_t in = 0; in < size; in++) {
                        const float *weight = basis + ((group * size + out) * size + in) * STEPS(BASES) * TAPS;
                        const float *from = features + (group * size + in) * at->plane + place;
                        VECTOR kernel[TAPS][MIX_VECTORS];
                        UNROLL for (int tap = 0; tap < TAPS; tap++)
                            UNROLL for (int v = 0; v < MIX_VECTORS; v++) kernel[tap][v] = (VECTOR){0};
                        const float *share = runs + p * STEPS(BASES) + column;
                        for (int step = 0; step < STEPS(BASES); step++, weight += TAPS, share += RUN) {
                            VECTOR right[MIX_VECTORS];
                            UNROLL for (int v = 0; v < MIX_VECTORS; v++)
                                right[v] = *(const VECTOR *)(share + v * LANES);
                            UNROLL for (int tap = 0; tap < TAPS; tap++)
                                UNROLL for (int v = 0; v < MIX_VECTORS; v++) 
                                    kernel[tap][v] = MULTIPLY_ADD(kernel[tap][v], weight[tap], right[v]);
                        }
                        UNROLL for (int tap = 0; tap < TAPS; tap++)
                            UNROLL for (int v = 0; v < MIX_VECTORS; v++)
                                sum[v] += kernel[tap][v] * *(const VECTOR *)(from + offset[tap] + v * LANES);
                    }
                    UNROLL for (int v = 0; v < MIX_VECTORS; v++)
                        *(VECTOR *)(product + own + v * LANES) =
                            sum[v] * *(const VECTOR *)(factor + own + v * LANES);
                }
            }
}

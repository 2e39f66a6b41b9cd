/* The kernel basis attention of a unit on AMX: kernels are mixed in bfloat16 with sums in float32, for as many groups
 * of channels at once as fill tiles, and applied in float32. */

enum { MOST_PAIRS = 64, MOST_KERNEL_TILES = MOST_PAIRS * TAPS / TILE, RUN_TILES = RUN / TILE };

/* How many groups are mixed together: 16 pairs of channels have 144 taps, which are 9 tiles. */
static ptrdiff_t FORM(groups_together)(ptrdiff_t group_size) { return most(1, 16 / (group_size * group_size)); }

static ptrdiff_t FORM(kernel_tiles)(ptrdiff_t group_size) {
    return (FORM(groups_together)(group_size) * group_size * group_size * TAPS + TILE - 1) / TILE;
}

/* Take room for the basis kernels, (groups / together, tiles) of (taps of pairs of channels, BASES). */
static float *FORM(take_basis)(arena *memory, ptrdiff_t features, ptrdiff_t group_size) {
    const ptrdiff_t together = FORM(groups_together)(group_size), groups = features / group_size;
    return take(memory, (groups + together - 1) / together * FORM(kernel_tiles)(group_size) * TILE_FLOATS);
}

static void FORM(pack_basis)(float *to, const float *weight, ptrdiff_t features, ptrdiff_t group_size) {
    const ptrdiff_t taps = features * group_size * TAPS; /* of all groups */
    const ptrdiff_t together = FORM(groups_together)(group_size) * group_size * group_size * TAPS;
    const ptrdiff_t rows = FORM(kernel_tiles)(group_size) * TILE;
    uint16_t *packed = (uint16_t *)to;
    for (ptrdiff_t first = 0; first < taps; first += together)
        for (ptrdiff_t row = 0; row < rows; row++)
            for (ptrdiff_t base = 0; base < BASES; base++)
                *packed++ = brain_float(row < together && first + row < taps ? weight[base * taps + first + row] : 0);
}

/* Apply a group's mixed kernels (out, in, tap, RUN pixels) to a run of pixels, `outs` of its channels at once. */
TARGET static ALWAYS_INLINE void FORM(apply)(const ptrdiff_t size, const int outs, const float *kernels, const float *features,
                                             ptrdiff_t plane, const ptrdiff_t *offset, const float *factor,
                                             float *product, ptrdiff_t own_plane) {
    for (ptrdiff_t first = 0; first < size; first += outs) {
        VECTOR sum[4][RUN_TILES];
        UNROLL for (int out = 0; out < outs; out++)
            UNROLL for (int v = 0; v < RUN_TILES; v++)
                sum[out][v] = *(const VECTOR *)(product + (first + out) * own_plane + v * LANES) +
                              *(const VECTOR *)(features + (first + out) * plane + v * LANES);
        for (ptrdiff_t in = 0; in < size; in++)
            UNROLL for (int tap = 0; tap < TAPS; tap++) {
                VECTOR value[RUN_TILES];
                UNROLL for (int v = 0; v < RUN_TILES; v++)
                    value[v] = *(const VECTOR *)(features + in * plane + offset[tap] + v * LANES);
                UNROLL for (int out = 0; out < outs; out++)
                    UNROLL for (int v = 0; v < RUN_TILES; v++)
                        sum[out][v] += value[v] * *(const VECTOR *)(kernels + (((first + out) * size + in) * TAPS + tap) * RUN +
                                                                    v * LANES);
            }
        UNROLL for (int out = 0; out < outs; out++)
            UNROLL for (int v = 0; v < RUN_TILES; v++) {
                const ptrdiff_t own = (first + out) * own_plane + v * LANES;
                *(VECTOR *)(product + own) = sum[out][v] * *(const VECTOR *)(factor + own);
            }
    }
}

/* As in mix_body.h. */
TARGET static void FORM(filter)(const unit *at, const fusion_sizes *sizes, const float *basis, const float *attention,
                                float *runs, const float *features, const float *factor, float *product) {
    const ptrdiff_t size = sizes->group_size, groups = sizes->features / size;
    const ptrdiff_t together = FORM(groups_together)(size), tiles = FORM(kernel_tiles)(size);
    float kernels[MOST_KERNEL_TILES * TILE * RUN];
    ptrdiff_t offset[TAPS];
    for (int tap = 0; tap < TAPS; tap++) offset[tap] = (tap / 3 - 1) * at->stride + tap % 3 - 1;
    for (ptrdiff_t p = 0; p < at->own_pixels; p += TILE)
        FORM(pack_tile)(runs + p * TILE, attention + p, at->own_plane, BASES);
    for (ptrdiff_t group = 0; group < groups; group += together, basis += tiles * TILE_FLOATS)
        for (ptrdiff_t p = 0; p < at->own_pixels; p += RUN) {
            const ptrdiff_t place = at->origin + p / at->own_stride * at->stride + p % at->own_stride;
            _tile_loadd(5, runs + p * TILE, 64);
            _tile_loadd(6, runs + (p + TILE) * TILE, 64);
            _tile_loadd(7, runs + (p + 2 * TILE) * TILE, 64);
            for (ptrdiff_t tile = 0; tile < tiles; tile++) {
                float *to = kernels + tile * TILE * RUN;
                _tile_loadd(4, basis + tile * TILE_FLOATS, 64);
                _tile_zero(0);
                _tile_dpbf16ps(0, 4, 5);
                _tile_stored(0, to, RUN * 4);
                _tile_zero(1);
                _tile_dpbf16ps(1, 4, 6);
                _tile_stored(1, to + TILE, RUN * 4);
                _tile_zero(2);
                _tile_dpbf16ps(2, 4, 7);
                _tile_stored(2, to + 2 * TILE, RUN * 4);
            }
            for (ptrdiff_t g = 0; g < least(together, groups - group); g++) {
                const float *mixed = kernels + g * size * size * TAPS * RUN;
                const float *from = features + (group + g) * size * at->plane + place;
                const float *scale = factor + (group + g) * size * at->own_plane + p;
                float *to = product + (group + g) * size * at->own_plane + p;
                if (size == 4)
                    FORM(apply)(4, 4, mixed, from, at->plane, offset, scale, to, at->own_plane);
                else if (size == 2)
                    FORM(apply)(2, 2, mixed, from, at->plane, offset, scale, to, at->own_plane);
                else
                    FORM(apply)(size, 1, mixed, from, at->plane, offset, scale, to, at->own_plane);
            }
        }
}

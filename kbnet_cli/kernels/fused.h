/* What the fused operations around the kernel basis attention work on, whichever instruction set runs them.
 *
 * A block of a network is done in units: rectangles of the picture, small enough that everything between the block's
 * input and its output stays in a core's cache. A unit reads its surroundings too, so units are independent of each
 * other and what they write does not depend on how the picture is cut, nor on the number of threads.
 *
 * Every field is as wide as a pointer: Python hands over a tuple of integers that is copied into these structures, in
 * this order (fused.py). Weights are the folded ones of folded.py.
 */

/* A rectangle grid over a batch of pictures, and which of its units a call does. */
typedef struct {
    ptrdiff_t height, width, unit_height, unit_width, first, last;
} unit_grid;

/* Sizes of the fusion of three branches: dynamic, invariant and global. hidden is 0 where no feed-forward follows. */
typedef struct {
    ptrdiff_t channels, features, group_size, gate_width, spatial_size, spatial_group, gelu, hidden;
} fusion_sizes;

typedef struct {
    fusion_sizes sizes;
    char *packed; /* NULL: only say how many bytes it takes */
    const float *norm_weight, *norm_bias, *expand_weight, *expand_bias, *depthwise_weight, *depthwise_bias;
    const float *spatial_weight, *spatial_bias, *gate_weight, *gate_bias, *mix_weight;
    const float *basis_weight, *basis_bias; /* (BASES, features x group_size x 9); (features, BASES) */
    const float *project_weight, *project_bias;
    const float *norm2_weight, *norm2_bias, *hidden_weight, *hidden_bias, *output_weight, *output_bias;
} fusion_packing;

typedef struct {
    fusion_sizes sizes;
    unit_grid grid;
    char *scratch; /* NULL: only say how many bytes it takes */
    const char *packed;
    const float *features, *scale; /* (batch, channels, height, width); (batch, features): the global branch */
    float *answer;                 /* (batch, channels, height, width) */
} fusion_job;

/* The mean over the pixels of the normalised channels, as sums a unit. */
typedef struct {
    ptrdiff_t channels;
    unit_grid grid;
    char *scratch;
    const float *features, *norm_weight, *norm_bias;
    float *sums; /* (units, channels) */
} pool_job;

typedef struct {
    ptrdiff_t rows, depth;
    char *packed; /* NULL: only say how many bytes it takes */
    const float *weight, *bias;
} matrix_packing;

/* A 1x1 convolution, and what is added to it. The grid is that of the product: where it halves, the features have
 * twice the grid's height and width and a quarter of the depth; where it doubles, answer and addend have twice the
 * height and width and a quarter of the rows. */
typedef struct {
    ptrdiff_t rows, depth, halves, doubles;
    unit_grid grid;
    char *scratch;
    const char *packed;
    ptrdiff_t packed_step; /* bytes from one picture's weights to the next one's; 0: all have the same */
    const float *features, *addend; /* (batch, depth, height, width); (batch, rows, height, width) or NULL */
    float *answer;                  /* (batch, rows, height, width) */
} pointwise_job;

/* The first half of the attention between channels: queries, keys and values, and the products of the first two. */
typedef struct {
    ptrdiff_t channels, heads;
    char *packed;
    const float *norm_weight, *norm_bias, *qkv_weight, *qkv_bias, *depthwise_weight, *depthwise_bias;
} attention_packing;

typedef struct {
    ptrdiff_t channels, heads;
    unit_grid grid;
    char *scratch;
    const char *packed;
    const float *features;
    float *values;   /* (batch, channels, height, width) */
    float *products; /* (units, heads, channels / heads, channels / heads): sums over the pixels of query x key */
    float *squares;  /* (units, 2, channels): sums over the pixels of squared queries, squared keys */
} attention_job;

enum { FEW_WEIGHTS = 1 << 16, AHEAD = 3 /* planes */, LINE = 16 /* floats of a cache line */ };

enum { BASES = 32, HALO = 2, RUN = 48 /* pixels that are filtered together: three vectors of the widest form */ };

/* The nearest bfloat16, ties to even. */
static inline uint16_t brain_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }

/* A unit, and how its pixels and their surroundings lie in planes of floats.
 *
 * `stride` floats apart lie the rows of the surroundings. Where these end with the picture, one zero column follows
 * each row, which is also the column before the next one, and zero rows lie before and after: every neighbour is at a
 * constant distance, and operations run over row ends. The unit's own results lie `own_stride` floats apart: without
 * the surroundings' columns where whole runs fit a row, else as they are, with columns of no meaning. */
typedef struct {
    ptrdiff_t item, top, left, height, width;               /* of the unit, in the picture */
    ptrdiff_t rows, columns, above, before;                 /* of the surroundings; how far they reach up and left */
    int cut_top, cut_bottom, cut_side;                      /* whether the surroundings end with the picture */
    ptrdiff_t stride, lead, plane, pixels, origin;          /* in floats; origin: the unit's first pixel in a plane */
    ptrdiff_t own_stride, own_plane, own_pixels;
} unit;

static ptrdiff_t units_across(const unit_grid *grid) {
    return (grid->width + grid->unit_width - 1) / grid->unit_width;
}

static ptrdiff_t units_down(const unit_grid *grid) {
    return (grid->height + grid->unit_height - 1) / grid->unit_height;
}

/* An odd number of cache lines, so that planes don't compete for the same lines of the cache. */
static ptrdiff_t plane_floats(ptrdiff_t floats) { return (round_up(floats, 16) / 16 | 1) * 16; }

static unit unit_at(const unit_grid *grid, ptrdiff_t index, ptrdiff_t halo) {
    const ptrdiff_t across = units_across(grid), down = units_down(grid);
    unit place;
    place.item = index / (across * down);
    place.top = index / across % down * grid->unit_height;
    place.left = index % across * grid->unit_width;
    place.height = least(grid->unit_height, grid->height - place.top);
    place.width = least(grid->unit_width, grid->width - place.left);
    place.above = least(halo, place.top);
    place.before = least(halo, place.left);
    const ptrdiff_t below = least(halo, grid->height - place.top - place.height);
    const ptrdiff_t after = least(halo, grid->width - place.left - place.width);
    place.rows = place.above + place.height + below;
    place.columns = place.before + place.width + after;
    place.cut_top = place.above < halo;
    place.cut_bottom = below < halo;
    place.cut_side = halo && (place.before < halo || after < halo);
    place.stride = place.columns + (place.cut_side ? halo : 0);
    place.pixels = place.rows * place.stride;
    place.lead = round_up(halo * (place.stride + 1), 16);
    place.plane = plane_floats(place.lead + place.pixels + halo * (place.stride + 1) + 2 * RUN);
    place.origin = place.lead + place.above * place.stride + place.before;
    place.own_stride = place.width % RUN ? place.stride : place.width;
    place.own_pixels = round_up((place.height - 1) * place.own_stride + place.width, RUN);
    place.own_plane = plane_floats(place.own_pixels + RUN); /* rows are written in whole vectors */
    return place;
}

/* The largest planes that a grid's units need. */
static void largest_planes(const unit_grid *grid, ptrdiff_t halo, ptrdiff_t *plane, ptrdiff_t *own_plane) {
    const ptrdiff_t stride = least(grid->unit_width, grid->width) + 3 * halo;
    const ptrdiff_t height = least(grid->unit_height, grid->height);
    *plane = plane_floats((height + 4 * halo) * stride + 4 * halo + 2 * RUN + 32);
    *own_plane = plane_floats(height * stride + 2 * RUN);
}

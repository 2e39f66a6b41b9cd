/* The fusion of the three branches, and the feed-forward part after it, for one instruction set. */

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

/* 1x1 convolutions of whole pictures, and the changes of resolution that are such, for one instruction set. */

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

/* Sums over the pixels of the normalised channels, for the global branch. */

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

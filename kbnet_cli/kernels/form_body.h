/* Everything for one instruction set: included by kba.c once for each, with FORM, TARGET, LANES, VECTORS, MATRIX_ROWS
 * and MATRIX_VECTORS defined. */

#include "vector_body.h"
#if defined(FORM_AMX)
#include "matrix_amx.h"
#include "mix_amx.h"
#include "kba_amx.h"
#include "kba_gradients_amx.h"
#else
#if !defined(FORM_PAIRS)
#include "kba_body.h"
#endif
#include "matrix_body.h"
#include "mix_body.h"
#endif
#include "layers_body.h"
#include "fusion_body.h"
#include "pointwise_body.h"
#include "attention_body.h"

#undef FORM
#undef FORM_AMX
#undef FORM_PAIRS
#undef DEPTH_OF_STEP
#undef STEPS
#undef MULTIPLY_ADD
#undef PACK_PIXELS
#undef TARGET
#undef LANES
#undef VECTORS
#undef VECTOR
#undef INTEGERS
#undef MIX_VECTORS
#undef WIDE
#undef BAND
#undef MATRIX
#undef MATRIX_ROWS
#undef MATRIX_VECTORS
#undef PANEL
#undef PIXEL_PANELS

// The product of few tokens with a stored weight: matmul_few_tokens.cuh in one size. Bound by matmul/cuda.py.
//
// Macros: ELEMENT, and what the parameters of Sizes shall be: AT_ONCE (tokens), WARPGROUPS, PANELS_EACH,
// STAGES_AHEAD, SPLIT_OVER, WITH_GATE, WITH_NORM, PER_SM.

#include "matmul_few_tokens.cuh"
#include "record.cuh"

namespace {

using Chosen = Sizes<ELEMENT, AT_ONCE, WARPGROUPS, PANELS_EACH, STAGES_AHEAD, SPLIT_OVER, WITH_GATE, WITH_NORM, PER_SM>;

void run(const Call& call) {
  Arrays<ELEMENT> arrays = {};
  int given = 2;
  if (Chosen::NORMED) arrays.norm = call.argument<ELEMENT>(given++);
  if (given < call.arguments()) arrays.residual = call.argument<ELEMENT>(given);
  arrays.out = call.result<ELEMENT>(0);
  arrays.tokens = call.size(0, 0), arrays.outputs = call.size(1, 1), arrays.inputs = call.size(1, 2);
  arrays.eps = call.attribute<float>("eps");
  int64_t rows = call.size(1, 0) * call.size(1, 1);
  CUtensorMap weight = describe(call.argument<ELEMENT>(1), rows, arrays.inputs, Chosen::BOX);
  CUtensorMap x = describe(call.argument<ELEMENT>(0), arrays.tokens, arrays.inputs, Chosen::TOKENS);
  int blocks = (arrays.outputs + Chosen::OUTPUTS - 1) / Chosen::OUTPUTS * Chosen::SPLIT;
  launch_early(call, multiply<Chosen>, dim3(blocks), Chosen::THREADS, Chosen::shared_bytes(arrays.inputs), Chosen::SPLIT,
               weight, x, arrays);
}

}  // namespace

RECORDED_HANDLER(matmul_few_tokens, run)

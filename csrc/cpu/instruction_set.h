// Which instruction set the compiled CPU code uses: each kernel file is compiled once for every set, and chosen at run
// time.
//
// A file X_kernel.cpp that is compiled so puts everything into namespace FASTDC_INSTRUCTION_SET and uses no inline
// function or template with external linkage, of the standard library's either: the linker keeps one copy of such,
// perhaps the one whose instructions this processor lacks.
#pragma once

#include <string>
#include <vector>

namespace fastdc {

enum class InstructionSet : int { baseline = 0, avx2 = 1, avx512 = 2 };

// Names of those that this build has and this processor runs, the widest first. Baseline is x86-64-v2, or what the
// compiler takes for granted on another processor; avx2 includes FMA; avx512 is F, BW, DQ and VL.
std::vector<std::string> usable_instruction_sets();

// The set in use: the widest usable one, unless another was selected.
InstructionSet instruction_set();

// Whether this build rounds products of float to bfloat16 and this processor has what that takes, AVX-512 BF16.
bool has_bfloat16();

// Returns false, and changes nothing, where `name` is not usable.
bool select_instruction_set(const std::string& name);

}  // namespace fastdc

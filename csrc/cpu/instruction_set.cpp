#include "cpu/instruction_set.h"

#include <algorithm>
#include <atomic>

namespace fastdc {
namespace {

const char* const kNames[] = {"baseline", "avx2", "avx512"};

bool usable(InstructionSet set) {
#if defined(__x86_64__)
    switch (set) {
        case InstructionSet::avx512:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   usable(InstructionSet::avx2);
        case InstructionSet::avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        case InstructionSet::baseline:
            return true;
    }
    return false;
#else
    return set == InstructionSet::baseline;
#endif
}

std::vector<InstructionSet> usable_sets() {
    std::vector<InstructionSet> sets;
    for (const auto set : {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::baseline}) {
        if (usable(set)) sets.push_back(set);
    }
    return sets;
}

std::atomic<InstructionSet>& selected() {
    static std::atomic<InstructionSet> set{usable_sets().front()};
    return set;
}

}  // namespace

std::vector<std::string> usable_instruction_sets() {
    std::vector<std::string> names;
    for (const auto set : usable_sets()) names.emplace_back(kNames[static_cast<int>(set)]);
    return names;
}

InstructionSet instruction_set() {
    return selected().load(std::memory_order_relaxed);
}

bool has_bfloat16() {
#if defined(__x86_64__)
    return usable(InstructionSet::avx512) && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

bool select_instruction_set(const std::string& name) {
    for (const auto set : usable_sets()) {
        if (name == kNames[static_cast<int>(set)]) {
            selected().store(set);
            return true;
        }
    }
    return false;
}

}  // namespace fastdc

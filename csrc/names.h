// Values of an enum with the names by which Python knows them.
#pragma once

#include <cstddef>

namespace fastdc {

template <class Value>
struct Named {
    const char* name;
    Value value;
};

// What the table calls a value; null where it does not have it.
template <class Value, std::size_t count>
static constexpr const char* name_of(const Named<Value> (&table)[count], Value value) {
    for (const Named<Value>& each : table) {
        if (each.value == value) return each.name;
    }
    return nullptr;
}

}  // namespace fastdc

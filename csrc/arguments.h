// Refusing what does not fit, for the bindings: argument, got, expected.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>

#include "names.h"

namespace fastdc {

[[noreturn]] inline void refuse(const std::string& name, const std::string& got, const std::string& expected) {
    throw pybind11::value_error(name + " is " + got + "; expected " + expected + ".");
}

// The value that a table has for the name that an argument gives.
template <class Value, std::size_t count>
Value value_of(const Named<Value> (&table)[count], const std::string& argument, const std::string& name) {
    std::string known;
    for (const Named<Value>& each : table) {
        if (name == each.name) return each.value;
        known += (known.empty() ? "" : ", ") + std::string(each.name);
    }
    refuse(argument, "'" + name + "'", "one of " + known);
}

// The names in a table, as a tuple for Python.
template <class Value, std::size_t count>
pybind11::tuple names_in(const Named<Value> (&table)[count]) {
    pybind11::tuple names(count);
    for (std::size_t i = 0; i < count; ++i) names[i] = table[i].name;
    return names;
}

inline std::string describe(const pybind11::array& array) {
    return std::string(pybind11::str(array.dtype())) + " " + std::string(pybind11::str(array.attr("shape")));
}

}  // namespace fastdc

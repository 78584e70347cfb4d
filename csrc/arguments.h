// Refusing what does not fit, for the bindings: argument, got, expected.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

namespace fastdc {

[[noreturn]] inline void refuse(const std::string& name, const std::string& got, const std::string& expected) {
    throw pybind11::value_error(name + " is " + got + "; expected " + expected + ".");
}

inline std::string describe(const pybind11::array& array) {
    return std::string(pybind11::str(array.dtype())) + " " + std::string(pybind11::str(array.attr("shape")));
}

}  // namespace fastdc

// The ConvNet's part of fastdc._C.
#pragma once

#include <pybind11/pybind11.h>

namespace fastdc {

void bind_convnet(pybind11::module_& module);

}  // namespace fastdc

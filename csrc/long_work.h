// Long work for the bindings: without the GIL, and ended by what ends Python code.
#pragma once

#include <pybind11/pybind11.h>

#include "cpu/stopping.h"

namespace fastdc {

// Whether the interpreter is on its way out, which ends every thread that asks for the GIL, in the midst of its work.
inline bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

// Whether a signal handler or fastdc's own stop_point raises; the error is left for who takes the GIL next.
inline bool asked_to_stop() {
    if (is_finalizing()) return false;
    const pybind11::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) return true;
    try {
        pybind11::module_::import("fastdc.runtime.stopping").attr("stop_point")();
        return false;
    } catch (pybind11::error_already_set& error) {
        error.restore();
        return true;
    }
}

template <class Work>
void do_long_work(const Work& work) {
    try {
        const pybind11::gil_scoped_release release;
        const Watch watch(&asked_to_stop);
        work();
    } catch (const Stopped&) {
        throw pybind11::error_already_set();
    }
}

}  // namespace fastdc

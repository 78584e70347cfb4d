// The Python module fastdc._C. Every argument is checked here, so that nothing inside has to; the GIL is released while
// working, and signals end the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "bindings_convnet.h"
#include "cpu/instruction_set.h"
#include "cpu/layerwise_distance.h"
#include "long_work.h"

namespace py = pybind11;
using namespace fastdc;

namespace {

// numpy knows no bfloat16: arrays of uint16 are taken for it.
Dtype dtype_of(const std::string& name, const py::array& array) {
    if (array.dtype().equal(py::dtype::of<float>())) return Dtype::float32;
    if (array.dtype().equal(py::dtype::of<double>())) return Dtype::float64;
    if (array.dtype().equal(py::dtype("float16"))) return Dtype::float16;
    if (array.dtype().equal(py::dtype::of<uint16_t>())) return Dtype::bfloat16;
    refuse(name, describe(array), "float32, float64, float16 or (for bfloat16) uint16");
}

// A gradient [C, P] whose elements of a class lie side by side; returns the elements from class to class.
int64_t class_stride(const std::string& name, const py::array& array, const py::array& like) {
    if (array.ndim() != 2 || !array.dtype().equal(like.dtype()) || array.shape(0) != like.shape(0) ||
        array.shape(1) != like.shape(1)) {
        refuse(name, describe(array), "shape and dtype of synthetic, " + describe(like));
    }
    if (array.size() == 0) return 0;  // numpy gives such an array strides at will
    const auto item = array.itemsize();
    if ((array.shape(1) > 1 && array.strides(1) != item) || array.strides(0) % item) {
        refuse(name, "strided within a class", "elements of a class side by side");
    }
    return array.strides(0) / item;
}

using Arrays = std::vector<py::array>;

void check_count(const std::string& name, const Arrays& arrays, size_t parts) {
    if (arrays.size() == parts) return;
    refuse(name, "a list of " + std::to_string(arrays.size()), "as many as synthetic has, " + std::to_string(parts));
}

std::vector<GradientPart> parts_in(const Arrays& synthetic, const Arrays& real, Arrays& cotangent) {
    check_count("real", real, synthetic.size());
    check_count("cotangent", cotangent, synthetic.size());
    std::vector<GradientPart> parts;
    int64_t end = 0;
    for (size_t i = 0; i < synthetic.size(); ++i) {
        const py::array& like = synthetic[i];
        if (like.ndim() != 2) refuse("synthetic", describe(like), "shape [C, P]");
        if (!like.dtype().equal(synthetic[0].dtype()) || like.shape(0) != synthetic[0].shape(0)) {
            refuse("synthetic", describe(like), "dtype and classes of its first part, " + describe(synthetic[0]));
        }
        const int64_t synthetic_stride = class_stride("synthetic", like, like);
        const int64_t real_stride = class_stride("real", real[i], like);
        class_stride("cotangent", cotangent[i], like);
        if (!(cotangent[i].flags() & py::array::c_style)) refuse("cotangent", "strided", "a contiguous array");
        if (!cotangent[i].writeable()) refuse("cotangent", "read-only", "an array to write to");
        parts.push_back({end, like.shape(1), like.data(), synthetic_stride, real[i].data(), real_stride,
                         cotangent[i].mutable_data()});
        end += like.shape(1);
    }
    return parts;
}

// A cut of the parts, one after another, with each tile in one of them.
const Tile* tiles_in(const py::array& tiles, const std::vector<GradientPart>& parts) {
    if (tiles.ndim() != 2 || tiles.shape(1) != 3 || !tiles.dtype().equal(py::dtype::of<int64_t>()) ||
        !(tiles.flags() & py::array::c_style)) {
        refuse("tiles", describe(tiles), "contiguous int64 [T, 3]");
    }
    const auto* first = static_cast<const Tile*>(tiles.data());
    const int64_t size = parts.back().first + parts.back().size;
    auto part = parts.begin();
    int64_t end = 0;
    for (const Tile* tile = first; tile != first + tiles.shape(0); ++tile) {
        while (part + 1 != parts.end() && end >= part->first + part->size) ++part;
        const int64_t left = part->first + part->size - end;
        const bool sound = tile->offset == end && tile->rows >= 0 && tile->row_length >= 0 &&
                           tile->row_length <= left / (tile->rows ? tile->rows : 1);
        if (!sound) {
            refuse("tiles", "not a cut of the gradient",
                   "tiles one after another, each in one part, that make up its " + std::to_string(size) + " elements");
        }
        end += (tile->rows ? tile->rows : 1) * tile->row_length;
    }
    if (end != size) refuse("tiles", "of " + std::to_string(end) + " elements", std::to_string(size));
    return first;
}

void layerwise_distance_of(const Arrays& synthetic, const Arrays& real, const py::array& tiles,
                           const std::string& metric, py::array& distance, Arrays& cotangent, int threads) {
    if (synthetic.empty()) refuse("synthetic", "an empty list", "the parts of a gradient");
    DistanceArguments arguments{};
    arguments.dtype = dtype_of("synthetic", synthetic[0]);
    arguments.parts = parts_in(synthetic, real, cotangent);
    arguments.metric = value_of(kMetrics, "metric", metric);
    arguments.classes = synthetic[0].shape(0);
    if (!distance.writeable()) refuse("distance", "read-only", "an array to write to");
    const auto wide = arguments.dtype == Dtype::float64 ? py::dtype::of<double>() : py::dtype::of<float>();
    if (distance.ndim() != 1 || distance.shape(0) != arguments.classes || !distance.dtype().equal(wide) ||
        !(distance.flags() & py::array::c_style)) {
        refuse("distance", describe(distance),
               std::string(py::str(wide)) + " [" + std::to_string(arguments.classes) + "], contiguous");
    }
    if (threads < 1) refuse("threads", std::to_string(threads), "1 or more");
    arguments.tiles = tiles_in(tiles, arguments.parts);
    arguments.tile_count = tiles.shape(0);
    arguments.distance = distance.mutable_data();
    do_long_work([&] { layerwise_distance(arguments, threads); });
}

// Of one class, whose tensors lie at these addresses.
double layerwise_distance_at(const std::string& dtype, const std::vector<int64_t>& sizes,
                             const std::vector<uintptr_t>& synthetic, const std::vector<uintptr_t>& real,
                             const py::array& tiles, const std::string& metric, const std::vector<uintptr_t>& cotangent,
                             int threads) {
    const size_t count = sizes.size();
    if (count == 0) refuse("sizes", "an empty list", "the elements of each part of a gradient");
    if (synthetic.size() != count || real.size() != count || cotangent.size() != count) {
        refuse("synthetic, real or cotangent", "of another length", "as many addresses as sizes");
    }
    DistanceArguments arguments{};
    arguments.dtype = value_of(kDtypes, "dtype", dtype);
    int64_t end = 0;
    for (size_t i = 0; i < count; ++i) {
        if (sizes[i] < 0) refuse("sizes", std::to_string(sizes[i]), "0 or more");
        arguments.parts.push_back({end, sizes[i], reinterpret_cast<const void*>(synthetic[i]), 0,
                                   reinterpret_cast<const void*>(real[i]), 0, reinterpret_cast<void*>(cotangent[i])});
        end += sizes[i];
    }
    arguments.metric = value_of(kMetrics, "metric", metric);
    arguments.classes = 1;
    if (threads < 1) refuse("threads", std::to_string(threads), "1 or more");
    arguments.tiles = tiles_in(tiles, arguments.parts);
    arguments.tile_count = tiles.shape(0);
    double wide = 0;
    float narrow = 0;
    const bool is_wide = arguments.dtype == Dtype::float64;
    arguments.distance = is_wide ? static_cast<void*>(&wide) : &narrow;
    do_long_work([&] { layerwise_distance(arguments, threads); });
    return is_wide ? wide : narrow;
}

void use_instruction_set(const std::string& name) {
    if (!select_instruction_set(name)) {
        std::string usable;
        for (const auto& each : usable_instruction_sets()) usable += (usable.empty() ? "" : ", ") + each;
        refuse("instruction set", "'" + name + "'", "one that this processor runs: " + usable);
    }
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "Compiled CPU code of fastdc.";
    module.attr("METRICS") = names_in(kMetrics);
    module.def(
        "layerwise_distance", &layerwise_distance_of, py::arg("synthetic").noconvert(), py::arg("real").noconvert(),
        py::arg("tiles").noconvert(), py::arg("metric"), py::arg("distance").noconvert(),
        py::arg("cotangent").noconvert(), py::kw_only(), py::arg("threads"),
        "Writes distance [C] and cotangent of the gradients synthetic and real [C, P], each in a list of parts.");
    module.def(
        "layerwise_distance_at", &layerwise_distance_at, py::arg("dtype"), py::arg("sizes"), py::arg("synthetic"),
        py::arg("real"), py::arg("tiles").noconvert(), py::arg("metric"), py::arg("cotangent"), py::kw_only(),
        py::arg("threads"),
        "The distance of two gradients of one class, whose parts are contiguous and lie at these addresses; writes "
        "the cotangent to its own.");
    module.def("usable_instruction_sets", &usable_instruction_sets,
               "Instruction sets that this processor runs, the widest first.");
    module.def("select_instruction_set", &use_instruction_set, py::arg("name"),
               "Use this instruction set from now on, for tests and comparisons.");
    bind_convnet(module);
}

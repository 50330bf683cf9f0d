// pyaccel._native: pointers, element types and sizes in; tensors stay in Python, and so do the checks that need them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "adaln_calls.h"
#include "caching_calls.h"
#include "cpu/ceiling.h"
#include "ema_calls.h"
#include "epilogue_calls.h"
#include "inner_products_calls.h"
#include "tensor_calls.h"

namespace py = pybind11;
using namespace pyaccel;

namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const CpuKernel* const* k = available_kernels(); *k != nullptr; ++k) names.emplace_back((*k)->name);
  return names;
}

void use_instruction_set(const std::string& name) {
  for (const CpuKernel* const* k = available_kernels(); *k != nullptr; ++k) {
    if (name == (*k)->name) {
      chosen = *k;
      return;
    }
  }
  throw std::invalid_argument("this machine or build has no instruction set '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of pyaccel; use them through pyaccel.ops.";
  py::class_<PreparedCombination>(m, "PreparedCombination")
      .def(py::init<py::handle, py::handle, py::handle, py::handle>())
      .def("run", &PreparedCombination::run);
  m.def(
      "configure",
      [](py::object tensor_type, py::object parameter_type, py::tuple dtypes, py::object current_stream, bool dlpack) {
        reader().configure(std::move(tensor_type), std::move(parameter_type), std::move(dtypes),
                           std::move(current_stream), dlpack);
        return reader().uses_dlpack();
      },
      "Tells which types tensors and parameters have, their dtypes in the order of the codes, and what gives the "
      "stream that torch works in on a GPU; True if DLPack's C functions are used.",
      py::arg("tensor_type"), py::arg("parameter_type"), py::arg("dtypes"), py::arg("current_stream") = py::none(),
      py::arg("dlpack") = true);
  m.def("combine", &combine_tensors);
  m.def("threshold", &threshold_tensor);
  m.def("blend", &blend_tensors);
  m.def("gated_combination", &gated_combination_tensors);
  m.def("relative_l1", &relative_l1_tensors);
  m.def("inner_products", &inner_products_tensors);
  m.def("quantize", &quantize_tensor);
  m.def("ema_update", &ema_update_tensors);
  m.def("adaln", &adaln_tensors);
  m.def("norm_rope", &norm_rope_tensor);
#if defined(PYACCEL_CUDA)
  m.def("cuda_problem", &cuda_problem, "Empty where the CUDA kernels run on the GPU of this number; else why not.");
  m.def("relative_l1_blocks", &relative_l1_blocks);
  m.def("relative_l1_partial", &relative_l1_partial);
  m.def("relative_l1_quotient", &relative_l1_quotient);
  m.attr("most_columns") = kMostColumns;
#endif
  m.def(
      "linear_combination",
      [](py::handle c, int64_t matrices, py::handle in, py::handle in_dtypes, py::handle out, py::handle out_dtypes,
         int64_t inner, bool check, py::handle seeds, py::handle streams, int device, uintptr_t table) {
        LinearCombination(c, matrices, in_dtypes, out_dtypes, streams, check, table != 0)
            .run(in, out, inner, seeds, device, reinterpret_cast<const void*>(table));
      },
      "device: the number of the GPU that has the memory, or -1; table: there, the address of the coefficients.",
      py::arg("coefficients"), py::arg("matrices"), py::arg("inputs"), py::arg("in_dtypes"), py::arg("outputs"),
      py::arg("out_dtypes"), py::arg("inner"), py::arg("check"), py::arg("seeds") = py::tuple(),
      py::arg("streams") = py::tuple(), py::arg("device") = kCpu, py::arg("table") = 0);
  m.def(
      "read_write_ceiling",
      [](const std::vector<uintptr_t>& in, uintptr_t out, int64_t bytes, bool stream) {
        if (in.empty() || bytes < 0 || bytes % 64 != 0 || out % 64 != 0 || out == 0)
          throw std::invalid_argument("expected pointers, and an output and a size that 64 divides");
        const int threads = max_threads();
        py::gil_scoped_release release;
        read_write_ceiling(reinterpret_cast<const char* const*>(in.data()), int(in.size()),
                           reinterpret_cast<char*>(out), bytes, stream, threads);
      },
      "For benchmarks: reads every input and writes one output with as little arithmetic as there can be.");
  m.def("instruction_sets", &instruction_sets, "What this machine can run, best first.");
  m.def("instruction_set", [] { return std::string(chosen->name); }, "What is in use.");
  m.def("use_instruction_set", &use_instruction_set);
  m.def("threads", &max_threads);
  m.attr("most_outputs_in_place") = kMostOutputs;
}

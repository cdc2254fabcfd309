// The Python module igan_fast._C. Importing it registers the operators: the static initialisers of every schema.cpp,
// operators.cpp and .cu do so. Its only function, build_info, tells how it was built.

#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#include "cpu/isa.h"

#define IGAN_FAST_STRING_OF(x) #x
#define IGAN_FAST_STRING(x) IGAN_FAST_STRING_OF(x)

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

pybind11::dict build_info() {
  pybind11::dict info;
  info["compiler"] = compiler();
  info["flags"] = IGAN_FAST_FLAGS;
  info["torch"] = IGAN_FAST_STRING(TORCH_VERSION_MAJOR) "." IGAN_FAST_STRING(TORCH_VERSION_MINOR);
  info["cpu_instruction_sets"] = igan_fast::cpu::isas_compiled();
  info["cpu_instruction_set_used"] = igan_fast::cpu::name_of(igan_fast::cpu::isa_in_use());
  info["cuda"] = IGAN_FAST_CUDA_VERSION;
  info["cuda_targets"] = IGAN_FAST_CUDA_TARGETS;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The native kernels of igan_fast; see igan_fast.ops for what they compute.";
  m.def("build_info", &build_info, "How this extension was built: str to str.");
}

// norm_act's schemas. igan_fast/ops/norm_act.py says what the operators compute and what each argument means.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) {
  m.def(
      "norm_act(Tensor x, Tensor? weight, Tensor? bias, float eps, float negative_slope, SymInt groups, "
      "Tensor? film=None) -> (Tensor y, Tensor mean, Tensor var)");
  m.def("norm_act_statistics(Tensor x, SymInt groups) -> (Tensor mean, Tensor var)");
  m.def(
      "norm_act_inference(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
      "float negative_slope, Tensor? film=None) -> Tensor");
  m.def(
      "norm_act_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
      "float negative_slope, bool batch_statistics, Tensor? film=None) -> "
      "(Tensor dx, Tensor dweight, Tensor dbias, Tensor dfilm)");
  m.def(
      "norm_act_sums(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
      "float negative_slope, Tensor? film=None) -> (Tensor sums, Tensor dfilm)");
  m.def(
      "norm_act_gradient(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
      "Tensor mean_sums, float eps, float negative_slope, Tensor? film=None) -> Tensor");
  m.def(
      "norm_act_update(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, SymInt? count, "
      "float momentum) -> ()");
}

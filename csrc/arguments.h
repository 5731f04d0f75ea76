// What comes from Python, checked and made ready for the decoder.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "decoder/decoder.h"
#include "layers/arithmetic.h"

namespace liif {

// Errors (c10::Error) that name the tensor.
void check_matrix(const at::Tensor& t, const char* name, int64_t rows, int64_t columns);
void check_float(const at::Tensor& t, const char* name);

// The tensors behind the pointers of a Decoder: float32, contiguous; cell may be undefined.
struct Arguments {
    at::Tensor projected, coord, cell, rest;
    std::vector<at::Tensor> weights, biases;
};

Arguments checked(const at::Tensor& projected, const at::Tensor& coord, const std::optional<at::Tensor>& cell,
                  const at::Tensor& rest, at::TensorList weights, at::TensorList biases, at::IntArrayRef window);

// An arithmetic that runs here, of its name.
Arithmetic checked_arithmetic(const std::string& name);

// Packs the weights for an arithmetic.
Decoder make_decoder(const Arguments& a, bool local_ensemble, at::IntArrayRef window, Arithmetic arithmetic);

// Weight k of the layers between the first and the last, as it goes into make_layer.
Linear hidden_layer(const Arguments& a, size_t k);

}  // namespace liif

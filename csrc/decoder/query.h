// What the interface offers of the decoder: everything is checked and of the shapes that interface.h states.
#pragma once

#include <cstdint>

#include "interface.h"
#include "layers/arithmetic.h"
#include "layers/layer.h"

namespace liif {

// Throws std::out_of_range if a query needs a pixel outside of the window.
void answer(const liif_query& query, Arithmetic arithmetic, float* out, char* kept);

// Where the gradients go, zero before; each of the shape of what it is of.
struct Gradients {
    float *projected, *rest;
    float* const* weights;
    float* const* biases;
};
void differentiate(const liif_query& query, Arithmetic arithmetic, const float* grad, const char* kept,
                   const Gradients& gradients);

// One hidden layer on rows [count, in], for tests and for measuring the rate of the bare product.
void run_layer(const Layer& layer, const float* rows, int64_t count, int64_t in, int64_t out, int64_t threads,
               float* result);

}  // namespace liif

// Activations that the forward leaves for the backward: rows without their zeros, about half of what leaves a ReLU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace liif {

// Bytes that pack may write for `rows` rows of padded(width) values.
size_t packed_bytes(int64_t rows, int64_t width);

// values [rows, padded(width)] -> `to`.
void pack(const float* values, int64_t rows, int64_t width, char* to);

// The values again, bit for bit.
void unpack(const char* from, int64_t rows, int64_t width, float* values);

}  // namespace liif

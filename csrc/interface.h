/* The C interface of the library: plain pointers and numbers, so that it depends on no version of PyTorch or Python.
 *
 * Arrays are float32, contiguous, row-major, and are neither kept nor freed. Functions that can fail return null, or
 * else what went wrong: a text that is valid until the thread's next call. `threads`: how many may work, the calling
 * one included. liif_fast/native/library.py declares all this to ctypes. */
#ifndef LIIF_FAST_INTERFACE_H
#define LIIF_FAST_INTERFACE_H

#include <stdint.h>

#if defined(_WIN32)
#define LIIF_EXPORT __declspec(dllexport)
#else
#define LIIF_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes whenever a function or a structure below does. */
#define LIIF_INTERFACE 1
LIIF_EXPORT int liif_interface(void);

/* The compiler, and the machine that the library is for. */
LIIF_EXPORT const char* liif_compiler(void);
LIIF_EXPORT const char* liif_machine(void);

/* Names of the arithmetics (layers/arithmetic.h) that this processor can run for "fp32", "bf16" or "any", best first,
 * with commas between them; empty where it can run none. */
LIIF_EXPORT const char* liif_arithmetics(const char* precision);

/* Whether this processor multiplies bfloat16, and whether liif_winograd runs here. */
LIIF_EXPORT int liif_has_bf16(void);
LIIF_EXPORT int liif_has_winograd(void);

/* A decoder and what it is asked. */
struct liif_query {
    const float* projected; /* [batch, height, width, n0]: the part of the full map that starts at (top, left) */
    const float* coord;     /* [batch, queries, 2] */
    const float* cell;      /* as coord, or null */
    const float* rest;      /* [n0, 4], or [n0, 2] without cell: the first layer's columns dy, dx, cell_h, cell_w */
    const float* const* weights; /* of the layers after the first, [widths[k + 1], widths[k]] each */
    const float* const* biases;  /* of all layers, [widths[k]] each */
    const int64_t* widths;       /* of all layers: n0, ..., out_dim */
    int64_t layers;              /* at least 1 */
    int64_t batch, queries;
    int64_t height, width;
    int64_t full_height, full_width, top, left;
    int32_t local_ensemble;
    int32_t threads;
    const char* arithmetic;
};

/* out [batch, queries, out_dim]. kept: null, or [batch, liif_kept_tiles, liif_kept_bytes] bytes for the backward. */
LIIF_EXPORT const char* liif_answer(const struct liif_query* query, float* out, char* kept);

/* What the forward keeps of a map: so many tiles, each of so many bytes. */
LIIF_EXPORT int64_t liif_tile_queries(int32_t local_ensemble);
LIIF_EXPORT int64_t liif_kept_bytes(const int64_t* widths, int64_t layers);

/* grad [batch, queries, out_dim] of the answers -> the gradients, each of the shape of what it is of; all are to be
 * zero before. */
LIIF_EXPORT const char* liif_backward(const struct liif_query* query, const float* grad, const char* kept,
                                      float* d_projected, float* d_rest, float* const* d_weights,
                                      float* const* d_biases);

/* One hidden layer, relu(rows * weight^T + bias): rows [count, in], weight [out, in] -> result [count, out]; widths are
 * multiples of 16. */
LIIF_EXPORT const char* liif_layer(const float* rows, const float* weight, const float* bias, int64_t count, int64_t in,
                                   int64_t out, const char* arithmetic, int32_t threads, float* result);

/* 3 x 3 convolutions with zero padding: x [batch, height, width, in], points [36, in, out] of the kernel, bias [out] or
 * null -> result [batch, height, width, out]; in and out are multiples of 16. finish: 0 nothing, 1 ReLU, 2 plus other,
 * 3 zero where other is not above zero; other as result. */
LIIF_EXPORT const char* liif_winograd(const float* x, const float* points, const float* bias, const float* other,
                                      int64_t batch, int64_t height, int64_t width, int64_t in, int64_t out,
                                      int32_t finish, int32_t threads, float* result);

/* Adds the gradients of `points` and of the bias, for x and the gradient [batch, height, width, out] of the result. */
LIIF_EXPORT const char* liif_winograd_weight(const float* x, const float* grad, int64_t batch, int64_t height,
                                             int64_t width, int64_t in, int64_t out, int32_t threads, float* d_points,
                                             float* d_bias);

#ifdef __cplusplus
}
#endif
#endif

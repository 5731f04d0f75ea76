#include "interface.h"

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "cpu.h"
#include "decoder/decoder.h"
#include "decoder/query.h"
#include "layers/arithmetic.h"
#include "winograd/winograd.h"

namespace liif {
namespace {

thread_local std::string text;

template <typename Work>
const char* guarded(const Work& work) {
    try {
        work();
        return nullptr;
    } catch (const std::bad_alloc&) {
        text = "expected enough memory for the C++ decoder, got none; use a smaller tile or batch";
    } catch (const std::exception& error) {
        text = error.what();
    }
    return text.c_str();
}

Arithmetic checked_arithmetic(const char* name) {
    const auto arithmetic = find_arithmetic(name);
    if (!arithmetic) {
        throw std::invalid_argument("arithmetic: expected one of " + arithmetics("any") + ", got " + name);
    }
    return *arithmetic;
}

}  // namespace
}  // namespace liif

using namespace liif;

extern "C" {

int liif_interface(void) { return LIIF_INTERFACE; }

const char* liif_compiler(void) {
#if defined(__clang__)
    return __VERSION__;
#else
    return "GCC " __VERSION__;
#endif
}

const char* liif_machine(void) {
#if defined(__x86_64__)
    return "x86_64";
#elif defined(__aarch64__)
    return "aarch64";
#else
    return "an unknown machine";
#endif
}

const char* liif_arithmetics(const char* precision) {
    text = arithmetics(precision);
    return text.c_str();
}

int liif_has_bf16(void) { return has_bf16(); }

int liif_has_winograd(void) { return winograd_transforms() != nullptr; }

const char* liif_answer(const liif_query* query, float* out, char* kept) {
    return guarded([&] { answer(*query, checked_arithmetic(query->arithmetic), out, kept); });
}

int64_t liif_tile_queries(int32_t local_ensemble) { return tile_queries(local_ensemble != 0); }

int64_t liif_kept_bytes(const int64_t* widths, int64_t layers) {
    return static_cast<int64_t>(kept_places({widths, widths + layers - (layers > 1)}).back());
}

const char* liif_backward(const liif_query* query, const float* grad, const char* kept, float* d_projected,
                          float* d_rest, float* const* d_weights, float* const* d_biases) {
    return guarded([&] {
        differentiate(*query, checked_arithmetic(query->arithmetic), grad, kept,
                      {d_projected, d_rest, d_weights, d_biases});
    });
}

const char* liif_layer(const float* rows, const float* weight, const float* bias, int64_t count, int64_t in,
                       int64_t out, const char* arithmetic, int32_t threads, float* result) {
    return guarded([&] {
        const auto layer = make_layer(checked_arithmetic(arithmetic), {weight, bias, in, out});
        run_layer(*layer, rows, count, in, out, threads, result);
    });
}

const char* liif_winograd(const float* x, const float* points, const float* bias, const float* other, int64_t batch,
                          int64_t height, int64_t width, int64_t in, int64_t out, int32_t finish, int32_t threads,
                          float* result) {
    return guarded([&] {
        convolve(Map(batch, height, width, in, const_cast<float*>(x)), points, bias, static_cast<Finish>(finish), other,
                 threads, Map(batch, height, width, out, result));
    });
}

const char* liif_winograd_weight(const float* x, const float* grad, int64_t batch, int64_t height, int64_t width,
                                 int64_t in, int64_t out, int32_t threads, float* d_points, float* d_bias) {
    return guarded([&] {
        convolve_weight(Map(batch, height, width, in, const_cast<float*>(x)),
                        Map(batch, height, width, out, const_cast<float*>(grad)), threads, d_points, d_bias);
    });
}

}  // extern "C"

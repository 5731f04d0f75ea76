// How a kernel written for fixed numbers of rows and vectors is chosen and addressed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace liif {

template <int N>
using Constant = std::integral_constant<int, N>;

// {get(1), get(2), ..., get(Count)}, each with its number as a constant: a table of a template's instances.
template <int Count, typename Get>
constexpr auto table(const Get& get) {
    return [&]<int... N>(std::integer_sequence<int, N...>) {
        return std::array<decltype(get(Constant<1>())), Count>{get(Constant<N + 1>())...};
    }(std::make_integer_sequence<int, Count>());
}

// Of `rows` and `vectors`: table[vectors - 1][rows - 1].
template <int Rows, int Vectors, typename Get>
constexpr auto table_of_rows(const Get& get) {
    return table<Vectors>([&](auto vectors) { return table<Rows>([&](auto rows) { return get(rows, vectors); }); });
}

// Bytes from the first of `Rows` rows to each, for a stride in bytes. Every row is one addressing mode away from the
// same pointer: the stride times 0, 1, 2 or 4, or times an odd multiple of its own. The empty asm keeps the compiler
// from rewriting that as a chain of additions, for which no issue slots are left.
template <int Rows>
inline std::array<int64_t, 8> row_offsets(int64_t one) {
    static_assert(Rows <= 8);
    int64_t three = 3 * one, five = 5 * one, seven = 7 * one;
    if constexpr (Rows <= 4) {
        asm("" : "+r"(one), "+r"(three));
    } else if constexpr (Rows <= 6) {
        asm("" : "+r"(one), "+r"(three), "+r"(five));
    } else {
        asm("" : "+r"(one), "+r"(three), "+r"(five), "+r"(seven));
    }
    return {0, one, 2 * one, three, 4 * one, five, 2 * three, seven};
}

}  // namespace liif

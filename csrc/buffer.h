// Memory aligned to cache lines, not initialised.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace liif {

constexpr size_t kAlign = 64;

inline size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

template <typename T>
class Buffer {
  public:
    explicit Buffer(size_t count)
        : data_(static_cast<T*>(::operator new(aligned(count * sizeof(T)), std::align_val_t(kAlign)))) {}
    T* get() const { return data_.get(); }
    T& operator[](size_t i) const { return data_.get()[i]; }

  private:
    struct Free {
        void operator()(T* p) const { ::operator delete(p, std::align_val_t(kAlign)); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace liif

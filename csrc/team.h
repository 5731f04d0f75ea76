// The threads that share the work of a call.
#pragma once

#include <atomic>
#include <cstdint>

namespace liif {

// Runs work(context) in the calling thread and at the same time in up to `threads` - 1 others, and returns when all
// that have begun are done. It is not promised that another one begins, since they may be busy with another call: the
// work is to be taken piece by piece from a counter in common. What one of them throws is thrown here.
//
// The threads are made when they are first wanted and stay until the process ends; a forked process makes its own.
void run_together(int64_t threads, void (*work)(void*), void* context);

// work() likewise.
template <typename Work>
void run_together(int64_t threads, const Work& work) {
    run_together(threads, [](void* context) { (*static_cast<const Work*>(context))(); }, const_cast<Work*>(&work));
}

// The numbers 0 to count - 1, each given out once, to the thread that is ready for it: a slow or busy core then does
// not hold up the others.
class Counter {
  public:
    explicit Counter(int64_t count) : count_(count) {}
    // The next number, or one that is not below the count where there is none left.
    int64_t next() { return next_.fetch_add(1, std::memory_order_relaxed); }
    bool has(int64_t number) const { return number < count_; }
    // Nobody gets a number any more.
    void stop() { next_.store(count_, std::memory_order_relaxed); }

  private:
    const int64_t count_;
    std::atomic<int64_t> next_{0};
};

}  // namespace liif

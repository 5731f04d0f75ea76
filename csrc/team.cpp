#include "team.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace liif {
namespace {

struct Call {
    void (*work)(void*);
    void* context;
    int64_t wanted;       // threads that may still join
    int64_t working = 0;  // that have joined and are not done
    std::exception_ptr error = nullptr;
};

// What waits spins for a moment before it sleeps: the next call often comes at once, and to wake a thread takes longer.
inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
  public:
    void run(int64_t threads, void (*work)(void*), void* context) {
        Call call{work, context, threads - 1};
        {
            const std::lock_guard<std::mutex> guard(lock_);
            grow(threads - 1);
            calls_.push_back(&call);
            open_.fetch_add(1, std::memory_order_release);
        }
        for (int64_t i = std::min(threads - 1, workers_.load()); i > 0; --i) {
            wake_.notify_one();
        }
        perform(call);
        std::unique_lock<std::mutex> guard(lock_);
        if (call.wanted > 0) {
            calls_.erase(std::find(calls_.begin(), calls_.end(), &call));
            open_.fetch_sub(1, std::memory_order_release);
        }
        done_.wait(guard, [&] { return call.working == 0; });
        if (call.error) {
            std::rethrow_exception(call.error);
        }
    }

    std::mutex& lock() { return lock_; }

  private:
    static constexpr int kSpins = 2000;

    // Fewer threads than wanted will do.
    void grow(int64_t count) {
        try {
            while (workers_.load() < count) {
                std::thread([this] { serve(); }).detach();
                ++workers_;
            }
        } catch (const std::system_error&) {
        }
    }

    void serve() {
        std::unique_lock<std::mutex> guard(lock_);
        while (true) {
            if (calls_.empty()) {
                guard.unlock();
                for (int i = 0; i < kSpins && open_.load(std::memory_order_acquire) == 0; ++i) {
                    pause();
                }
                guard.lock();
                wake_.wait(guard, [&] { return !calls_.empty(); });
            }
            Call& call = *calls_.front();
            if (--call.wanted == 0) {
                calls_.pop_front();
                open_.fetch_sub(1, std::memory_order_release);
            }
            ++call.working;
            guard.unlock();
            perform(call);
            guard.lock();
            if (--call.working == 0) {
                done_.notify_all();
            }
        }
    }

    void perform(Call& call) {
        try {
            call.work(call.context);
        } catch (...) {
            const std::lock_guard<std::mutex> guard(lock_);
            call.error = std::current_exception();
        }
    }

    std::mutex lock_;
    std::condition_variable wake_, done_;
    std::deque<Call*> calls_;          // that threads may join
    std::atomic<int64_t> open_{0};     // how many they are
    std::atomic<int64_t> workers_{0};  // threads that were made
};

// Never destroyed: its threads run until the process ends.
alignas(Team) unsigned char place[sizeof(Team)];

Team& team() {
    static Team* const only = [] {
        Team* made = new (place) Team;
#if !defined(_WIN32)
        // A forked process has only the thread that forked, and no calls: it starts anew.
        pthread_atfork([] { team().lock().lock(); }, [] { team().lock().unlock(); }, [] { new (place) Team; });
#endif
        return made;
    }();
    return *only;
}

}  // namespace

void run_together(int64_t threads, void (*work)(void*), void* context) {
    if (threads <= 1) {
        work(context);
    } else {
        team().run(threads, work, context);
    }
}

}  // namespace liif

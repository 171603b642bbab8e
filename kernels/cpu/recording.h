// Calls of kernels that are recorded once and repeated together: a decoder step without Python in
// between. What a CUDA graph is to launches; the addresses stay the same.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace cdgen {

class Recording {
   public:
    void begin() { current_ = this; }  // of this thread's calls
    void end() { current_ = nullptr; }
    void repeat(int threads) const {
        for (const auto& call : calls_) call(threads);
    }
    // Repeats both at the same time, on one thread each.
    void repeat_beside(const Recording& other) const {
#pragma omp parallel for num_threads(2) schedule(static, 1)
        for (int i = 0; i < 2; ++i) (i == 0 ? *this : other).repeat(1);
    }

    // Runs a kernel, and notes the call if a recording has begun.
    template <class Args, class Kernel>
    static void call(const Args& args, Kernel kernel) {
        if (current_)
            current_->calls_.push_back([args, kernel](int threads) {
                Args again = args;
                again.threads = threads;
                kernel(again);
            });
        kernel(args);
    }

   private:
    static inline thread_local Recording* current_ = nullptr;
    std::vector<std::function<void(int)>> calls_;
};

}  // namespace cdgen

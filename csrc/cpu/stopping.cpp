#include "cpu/stopping.h"

#include <stdexcept>

namespace fastdc {
namespace {

thread_local Watch* watch_of_thread = nullptr;

}  // namespace

Watch::Watch(bool (*asked)())
    : asked_(asked), thread_(std::this_thread::get_id()), next_(std::chrono::steady_clock::now() + kEvery) {
    // Whoever is asked must not begin other work in the midst of this, in whose memory it would write.
    if (watch_of_thread) throw std::runtime_error("compiled code was called by a signal handler that interrupted it");
    watch_of_thread = this;
}

Watch::~Watch() {
    watch_of_thread = nullptr;
}

bool Watch::over() {
    if (!over_ && std::this_thread::get_id() == thread_) {
        const auto now = std::chrono::steady_clock::now();
        if (now >= next_) {
            if (asked_()) over_ = true;
            next_ = std::chrono::steady_clock::now() + kEvery;
        }
    }
    return over_;
}

Watch* Watch::current() {
    return watch_of_thread;
}

void Watch::work_under(Watch* watch) {
    watch_of_thread = watch;
}

void stop_point() {
    if (watch_of_thread && watch_of_thread->over()) throw Stopped();
}

}  // namespace fastdc

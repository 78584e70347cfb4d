// Ending long work before its end: it asks between stretches of milliseconds whether to go on.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace fastdc {

// What work that is not to go on throws.
struct Stopped {};

// While one lives, the work of the thread that made it, and of those that parallel_for gives it, is ended at its next
// stop_point after `asked` has said so: a function that only this thread calls, every 50 ms.
class Watch {
public:
    static constexpr std::chrono::milliseconds kEvery{50};

    explicit Watch(bool (*asked)());
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    // Whether the work is over; asks where it is time.
    bool over();

    // That of the calling thread, or null.
    static Watch* current();

    // Lets the calling thread work under a watch, or under none; for helpers.
    static void work_under(Watch* watch);

private:
    bool (*const asked_)();
    const std::thread::id thread_;
    std::chrono::steady_clock::time_point next_;
    std::atomic<bool> over_{false};
};

// Throws Stopped where the work of this thread is not to go on.
void stop_point();

}  // namespace fastdc

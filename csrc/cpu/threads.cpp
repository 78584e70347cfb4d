#include "cpu/threads.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "cpu/stopping.h"

namespace fastdc {
namespace {

struct Job {
    Job(const std::function<void(int64_t)>& calls, int64_t number, int helpers)
        : body(calls), count(number), helpers_wanted(helpers) {
        std::fegetenv(&arithmetic);
    }

    const std::function<void(int64_t)>& body;
    const int64_t count;
    const int helpers_wanted;
    std::fenv_t arithmetic;                 // of the caller
    Watch* const watch = Watch::current();  // likewise
    std::atomic<int64_t> next{0};

    std::atomic<bool> failed{false};
    std::exception_ptr failure;

    void work() {
        try {
            for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
                stop_point();
                body(i);
            }
        } catch (...) {
            next = count;
            if (!failed.exchange(true)) failure = std::current_exception();
        }
    }
};

class Pool {
public:
    Pool() : process_(getpid()) {}

    bool belongs_here() const { return process_ == getpid(); }

    void run(Job& job) {
        std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (turn.owns_lock()) {
            grow(job.helpers_wanted);
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                job_ = &job;
            }
            wake_.notify_all();
        }
        job.work();
        if (turn.owns_lock()) {
            std::unique_lock<std::mutex> lock(mutex_);
            job_ = nullptr;
            const auto idle = [this] { return working_ == 0; };
            while (job.watch && !idle_.wait_for(lock, Watch::kEvery, idle)) {
                lock.unlock();
                job.watch->over();  // which lets the helpers know
                lock.lock();
            }
            idle_.wait(lock, idle);
        }
    }

private:
    void grow(int wanted) {
        try {
            for (; size_ < wanted; ++size_) std::thread(&Pool::serve, this).detach();
        } catch (const std::system_error&) {
            // The system gives no more threads: those there are do the work.
        }
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            wake_.wait(lock, [this] {
                return job_ != nullptr && working_ < job_->helpers_wanted && job_->next < job_->count;
            });
            Job& job = *job_;
            ++working_;
            lock.unlock();
            std::fesetenv(&job.arithmetic);
            Watch::work_under(job.watch);
            job.work();
            Watch::work_under(nullptr);
            lock.lock();
            if (--working_ == 0) idle_.notify_all();
        }
    }

    const pid_t process_;
    std::mutex turn_;  // held by the caller that the helpers work for
    std::mutex mutex_;
    std::condition_variable wake_, idle_;
    Job* job_ = nullptr;
    int working_ = 0;
    int size_ = 0;
};

// Never destroyed: helpers may still wait in it while the process ends. A forked child has no helpers and makes a pool
// anew.
Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    Pool* found = current.load();
    if (found != nullptr && found->belongs_here()) return *found;
    auto* fresh = new Pool();
    if (current.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
    return *current.load();
}

}  // namespace

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body) {
    const auto helpers = static_cast<int>(std::min<int64_t>(count, threads) - 1);
    Job job(body, count, helpers);
    if (helpers < 1) {
        job.work();
    } else {
        pool().run(job);
    }
    if (job.failure) std::rethrow_exception(job.failure);
    stop_point();  // while this thread waited for helpers, the work may have become over
}

}  // namespace fastdc

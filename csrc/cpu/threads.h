// Threads of the compiled CPU code: one small pool, apart from OpenMP, so that torch's own pool stays the only one of
// its kind.
#pragma once

#include <cstdint>
#include <functional>

namespace fastdc {

// Calls body(i) once for each i in [0, count), on the calling thread and up to threads - 1 helpers, and returns when
// all calls have returned. Which thread makes which call is open: a body must write to places that depend on i alone,
// and sums across i are taken by the caller afterwards, in the order of i, so that results have the same bits for any
// number of threads.
//
// The caller works too and waits for those helpers only that took part, so a helper that is slow to wake costs nothing.
// Callers from several threads at once are served: one gets the helpers, the others do their own work alone. Works in a
// forked child. Helpers round, flush denormals and so on as the caller does. What a body throws is thrown by
// parallel_for, and calls that have not begun by then are not made. Helpers work under the caller's watch (stopping.h);
// before each call, and at the end, there is a stop_point.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body);

}  // namespace fastdc

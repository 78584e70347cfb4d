#include "cpu/buffer.h"

#include <cstdlib>
#include <new>

#include "cpu/pages.h"

namespace fastdc {

Buffer::~Buffer() {
    std::free(memory_);
}

void* Buffer::bytes(std::size_t wanted) {
    if (wanted > size_) {
        std::free(memory_);
        memory_ = nullptr;
        size_ = 0;
        if (posix_memalign(&memory_, 64, wanted) != 0) {
            memory_ = nullptr;
            throw std::bad_alloc();
        }
        size_ = wanted;
        prefer_large_pages(memory_, wanted);
    }
    return memory_;
}

}  // namespace fastdc

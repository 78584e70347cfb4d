// Memory that passes work in: aligned, kept from call to call, so that it is mapped once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdc {

class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer();

    // At least `count` elements, starting at 64 bytes, of any content; the same memory as last time where that was
    // enough.
    template <class T>
    T* at_least(int64_t count) {
        return static_cast<T*>(bytes(static_cast<std::size_t>(count) * sizeof(T)));
    }

private:
    void* bytes(std::size_t wanted);

    void* memory_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace fastdc

// Memory that a kernel is about to fill for the first time.
#pragma once

#include <cstddef>

namespace fastdc {

// Asks for large pages where a fresh allocation is not backed by memory yet: in small ones, the kernel's first write to
// each page costs more than all its arithmetic. Advice alone: contents and addresses stay as they are, and nothing
// happens where the system knows no such advice or the range is short.
void prefer_large_pages(void* begin, std::size_t bytes);

}  // namespace fastdc

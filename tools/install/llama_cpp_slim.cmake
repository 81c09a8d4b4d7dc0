# Read by CMake right after llama-cpp-python's project() call (CMAKE_PROJECT_llama_cpp_INCLUDE).
# Its CMakeLists forces llama.cpp's `common` library on through the cache. A plain variable shadows the cache
# (policy CMP0126), and nothing this program uses needs `common`: about half of the compile time.
set(LLAMA_BUILD_COMMON OFF)
set(LLAMA_BUILD_TOOLS OFF)
set(LLAMA_BUILD_TESTS OFF)
set(LLAMA_BUILD_EXAMPLES OFF)
set(LLAMA_BUILD_SERVER OFF)
set(LLAMA_BUILD_APP OFF)
set(LLAVA_BUILD OFF)

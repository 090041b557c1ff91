// The library as one translation unit: the standard headers are parsed once, which is most of the compile time.
#include "arena.cpp"
#include "device.cpp"
#include "error.cpp"
#include "fault.cpp"
#include "graph.cpp"
#include "memory.cpp"
#include "module.cpp"
#include "stream.cpp"

// The library as one translation unit: the standard headers are parsed once, which is most of the compile time.
#include "clique.cpp"
#include "nccl.cpp"

// The shared object of all test kernels, for the driver.
#include "planted.h"

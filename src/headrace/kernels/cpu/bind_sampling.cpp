#include "bindings.hpp"

namespace headrace {

void bind_sampling(nanobind::module_&) {}

}  // namespace headrace

#include "bindings.hpp"

namespace headrace {

void bind_products(nanobind::module_&) {}

}  // namespace headrace

#include "bindings.hpp"

namespace headrace {

void bind_attention(nanobind::module_&) {}

}  // namespace headrace

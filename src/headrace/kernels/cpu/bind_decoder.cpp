#include "bindings.hpp"

namespace headrace {

void bind_decoder(nanobind::module_&) {}

}  // namespace headrace

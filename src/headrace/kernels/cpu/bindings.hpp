// Each part binds itself to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace headrace {

void bind_products(nanobind::module_& m);
void bind_attention(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
void bind_decoder(nanobind::module_& m);

}  // namespace headrace

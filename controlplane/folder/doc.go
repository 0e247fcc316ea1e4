// Package folder is the source that reads policy from folders of YAML files and
// follows their changes: edits in place, rename-on-save, symlink swaps as
// Kubernetes does for ConfigMaps, and half-written files.
//
// A broken document leaves its object as it last was; the rest of its file and
// of the folder moves on. What was last good is kept on disk, so that this also
// holds over a restart.
package folder

// Package state owns the one folder that a local Weir keeps everything in: where
// things lie, who holds it (a lock), what is running (the run record) and which
// ports were used before. It starts nothing and knows no component.
package state

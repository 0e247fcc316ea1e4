// Package admin serves weir.admin.v1: it tells what the control plane runs and
// why, and takes policy that is applied to it, which it keeps in a folder of its
// own. It decides nothing about policy itself; package policy does.
package admin

//go:build slow

package e2e

import "testing"

func TestSlowCustomResources(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t))
}

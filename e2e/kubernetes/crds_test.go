//go:build slow

package kubernetes_test

import "testing"

func TestSlowCustomResources(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t))
}

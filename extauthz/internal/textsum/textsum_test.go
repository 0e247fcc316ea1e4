package textsum_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/internal/textsum"
)

func TestSum(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 1025)
	for _, length := range []int{0, 1, 55, 56, 63, 64, 65, 127, 128, 129, 255, 256, 1000, 4096, 4097, len(text)} {
		require.Equal(t, sha256.Sum256([]byte(text[:length])), textsum.Sum(text[:length]), "%d bytes", length)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { textsum.Sum(text) }))
}

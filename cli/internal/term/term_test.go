package term

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	var b bytes.Buffer
	Table(&b, [][]string{{"NAME", "STATE"}, {"größe", "x"}, {"a", ""}})
	require.Equal(t, "NAME   STATE\ngröße  x\na\n", b.String())
}

func TestProgressIsPlainWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b)
	p.Set("waiting for a")
	p.Println("note")
	for done := range int64(101) {
		p.Bar("fetching", done<<20, 100<<20)
	}
	p.Stop()
	require.NotContains(t, b.String(), "\x1b")
	require.Equal(t, 5, strings.Count(b.String(), "fetching:"), b.String())
	require.NotContains(t, b.String(), "waiting", "short waits are not spoken of")
}

func TestProgressSpeaksOfLongWaitsOnce(t *testing.T) {
	var b bytes.Buffer
	p := &Progress{w: &b, text: "waiting for a", since: time.Now().Add(-time.Hour)}
	p.drawOnce()
	p.drawOnce()
	require.Equal(t, "waiting for a ...\n", b.String())
}

func TestSpinnerIsWiped(t *testing.T) {
	var b bytes.Buffer
	p := &Progress{w: &b, live: true, text: "waiting for a"}
	p.drawOnce()
	p.Bar("fetching", 1, 0)
	p.Println("note")
	require.True(t, strings.HasSuffix(b.String(), clear+"note\n"), "%q", b.String())
}

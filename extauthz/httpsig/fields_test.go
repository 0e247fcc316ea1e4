package httpsig

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func written(t testing.TB, text string) (string, error) {
	t.Helper()
	members, err := parseDictionary(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i := range members {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(members[i].name)
		b.WriteByte('=')
		if members[i].list {
			writeList(&b, &members[i])
		} else {
			writeItem(&b, &members[i].items[0])
		}
	}
	return b.String(), nil
}

func TestStructuredFields(t *testing.T) {
	for text, want := range map[string]string{
		``:                         ``,
		`a`:                        `a=?1`,
		`a;b`:                      `a=?1;b`,
		`  a=1`:                    `a=1`,
		`a=(  "x"   "y" );c=1`:     `a=("x" "y");c=1`,
		`a=();b="\"\\";c=?0`:       `a=();b="\"\\";c=?0`,
		"a=1 \t,\t b=:AAAA:":       `a=1, b=:AAAA:`,
		`*a.b-c_d=tok/en:1;x=-15`:  `*a.b-c_d=tok/en:1;x=-15`,
		`a=("x";key="y";bs z);  d`: `a=("x";key="y";bs z);d`,
	} {
		got, err := written(t, text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{
		`a,`, `,a`, `a,,b`, `a b`, `A=1`, `1=1`, `a=`, `a=(`, `a=("x"`, `a=("x""y")`, `a=("x",)`, `a=1.5`, `a=@1`, `a=%"x"`,
		`a=1, a=2`, `a;b=1;b=2`, `a=("x";b;b)`, `a="x`, `a="\x"`, "a=\"\x7f\"", "a=\"é\"", `a=?2`, `a=:AAAA`, `a=:AAB=:`, "a=:AA\nAA:", `a=:A:`, `a=:====:`,
		`a=1234567890123456`, `a=-`, `a=(1 2`, `a=((1))`, `a=1;`, `a=1;B`, "a=1\x00", `a=:AA-_:`,
		"a=" + strings.Repeat("1", 17<<10), "a=(" + strings.Repeat("1 ", 65) + ")", "a" + strings.Repeat(";a", 17),
	} {
		_, err := written(t, text)
		require.Error(t, err, "%.60s", text)
	}
}

// FuzzFields holds that what is read and written is read as the same again.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{
		`sig1=("@method" "@authority" "content-digest";req);created=1618884473;keyid="a";nonce="b";tag="c"`, `sig1=:AAAA:, sig2=:BBBB:`,
		`a=?1;b, c=*tok`, `sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:`, "a=1 \t, b=(  )",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := written(t, text)
		if err != nil {
			return
		}
		twice, err := written(t, once)
		require.NoError(t, err, once)
		require.Equal(t, once, twice)
		require.NotContains(t, once, "\n")
	})
}

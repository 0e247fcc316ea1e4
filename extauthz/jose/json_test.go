package jose_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/jose"
)

func TestParseObject(t *testing.T) {
	for text, want := range map[string]map[string]any{
		`{}`:        {},
		" {\t}\r\n": {},
		`{"":""}`:   {"": ""},
		`{"a":[]}`:  {"a": []any{}},
		`{"a" : [ 1 , -0.5e+1, 0, true,false , null , {"b":"c"} ] }`: {"a": []any{1.0, -5.0, 0.0, true, false, nil, map[string]any{"b": "c"}}},
		`{"a":"\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00ä😀"}`:               {"a": "\"\\/\b\f\n\r\tä😀ä😀"},
		`{"a":9007199254740993}`:                                     {"a": 9007199254740992.0},
		`{"a":1e-999}`:                                               {"a": 0.0},
	} {
		got, err := jose.ParseObject([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	_, err := jose.ParseObject([]byte(deep(jose.MaxDepth - 1)))
	require.NoError(t, err)
	for _, text := range []string{
		``, ` `, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1 "b":2}`, `{a:1}`, `{'a':1}`, `{"a":1}}`, `{"a":1}{}`, `{"a":1}x`,
		`[]`, `"a"`, `1`, `null`, `{"a":[1,]}`, `{"a":[1}`, `{"a":[`, `{"a":"`, `{"a":"\`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`,
		`{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\ud800\u0041"}`, `{"a":"\ud800x"}`, "{\"a\":\"\n\"}", "{\"a\":\"\x00\"}", "{\"a\":\"\\n\n\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\xed\xa0\x80\"}",
		"\ufeff{}", `{"a":01}`, `{"a":+1}`, `{"a":.5}`, `{"a":1.}`, `{"a":1e}`, `{"a":1e+}`, `{"a":-}`, `{"a":0x1}`, `{"a":1e999}`, `{"a":NaN}`, `{"a":Infinity}`,
		`{"a":tru}`, `{"a":True}`, `{"a":nul}`, `{"a":1}/**/`, `{/**/}`, "{\"a\":1}\x00", "{\x00}", "{\"a\":1,\v\"b\":2}",
		`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"a":{"b":1,"b":2}}`, `{"a":[{"b":1,"b":2}]}`, deep(jose.MaxDepth),
	} {
		got, err := jose.ParseObject([]byte(text))
		require.Error(t, err, "%q", text)
		require.Nil(t, got)
	}
}

// FuzzParseObject holds against the standard library: what is accepted means the
// same to it, and what it refuses is refused.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,2.5e3,"x\u00e4\ud83d\ude00",true,null,{"b":{}}]}`, `{"a":"\ud800"}`, `{"a":1,"a":2}`, "{\"\x7f\":-0}", `{"e":1e400}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := jose.ParseObject(raw)
		var want map[string]any
		theirs := json.Unmarshal(raw, &want)
		if err != nil {
			require.Nil(t, got)
			return
		}
		require.NoError(t, theirs, "accepted %q", raw)
		require.Equal(t, plain(want), plain(got))
	})
}

// plain gives both zeros one sign.
func plain(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, element := range value {
			value[name] = plain(element)
		}
	case []any:
		for i, element := range value {
			value[i] = plain(element)
		}
	case float64:
		if value == 0 {
			return math.Abs(value)
		}
	}
	return value
}

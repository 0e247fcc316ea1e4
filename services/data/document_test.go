package data_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/services/data"
)

func TestNewDocument(t *testing.T) {
	for _, test := range []struct {
		object data.Object
		want   string
	}{
		{data.Object{}, `{}`},
		{data.Object{"b": 1.0, "a": nil, "c": []any{true, "x", data.Object{"z": -0.5}}}, `{"a":null,"b":1,"c":[true,"x",{"z":-0.5}]}`},
		{data.Object{"n": 1e21}, `{"n":1000000000000000000000}`},
		{data.Object{"n": 1e-7}, `{"n":0.0000001}`},
		{data.Object{"q\"": "\\ \n é"}, `{"q\"":"\\ \n é"}`},
	} {
		got, err := data.NewDocument(test.object, 1000)
		require.NoError(t, err)
		require.Equal(t, test.want, string(got))
		back, err := got.Object()
		require.NoError(t, err)
		require.Equal(t, test.object, back)
	}
	deep := data.Object{}
	for range 40 {
		deep = data.Object{"a": deep}
	}
	for name, bad := range map[string]data.Object{
		"large": {"a": strings.Repeat("x", 1000)}, "nan": {"a": math.NaN()}, "infinite": {"a": math.Inf(-1)}, "deep": deep,
		"nul": {"a": "\x00"}, "nul key": {"\x00": 1.0}, "utf-8": {"a": "\xff"}, "type": {"a": 1}, "digits": {"a": []any{1e308, 1e308, 1e308, 1e308}},
	} {
		_, err := data.NewDocument(bad, 1000)
		require.Error(t, err, name)
	}
}

// FuzzDocument checks that encoding keeps what JSON holds, and is canonical.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{`{}`, `{"b":[1,2.5,-1e300,null,{"a":"\u2028\ud83d\ude00"}],"a":true}`, `{"":0.1}`, `{"a":"\u0000"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var o data.Object
		if json.Unmarshal([]byte(text), &o) != nil || o == nil {
			return
		}
		first, err := data.NewDocument(o, 1<<16)
		if err != nil {
			return
		}
		back, err := first.Object()
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		second, err := data.NewDocument(back, 1<<16)
		if err != nil || string(first) != string(second) {
			t.Fatalf("%s became %s: %v", first, second, err)
		}
	})
}

func TestCompileSchemaBoundsCost(t *testing.T) {
	parse := func(text string) data.Object {
		var o data.Object
		require.NoError(t, json.Unmarshal([]byte(text), &o))
		return o
	}
	// Each definition applies the one before it twice.
	doubling := func(reference string) string {
		text := `{"$ref":"#/$defs/d29","$defs":{"d0":{"type":"object"}`
		for i := 1; i < 30; i++ {
			before := fmt.Sprintf(reference, i-1)
			text += fmt.Sprintf(`,"d%d":{"allOf":[%s,%s]}`, i, before, before)
		}
		return text + `}}`
	}
	const costly, loop = "applies more than", "leads back to itself"
	for name, test := range map[string]struct{ schema, want string }{
		"doubling in place":     {doubling(`{"$ref":"#/$defs/d%d"}`), costly},
		"doubling by level":     {doubling(`{"properties":{"a":{"$ref":"#/$defs/d%d"}}}`), costly},
		"recursive by level":    {`{"allOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}`, costly},
		"recursive by wildcard": {`{"additionalProperties":{"$ref":"#"},"patternProperties":{"a":{"$ref":"#"}}}`, costly},
		"in place loop":         {`{"anyOf":[{"$ref":"#"}]}`, loop},
		"dynamic":               {`{"$dynamicAnchor":"x","properties":{"a":{"$dynamicRef":"#x"}}}`, "not supported"},
	} {
		_, err := data.CompileSchema(parse(test.schema))
		require.ErrorContains(t, err, test.want, name)
	}
	for name, good := range map[string]string{
		"tree":        `{"properties":{"left":{"$ref":"#"},"right":{"$ref":"#"},"list":{"type":"array","items":{"$ref":"#"}}}}`,
		"one of many": `{"oneOf":[` + strings.TrimSuffix(strings.Repeat(`{"properties":{"kind":{"const":"x"}}},`, 100), ",") + `]}`,
		"named":       `{"$schema":"https://json-schema.org/draft/2020-12/schema","$id":"https://example.com/note","$defs":{"s":{"type":"string"}},"properties":{"a":{"$ref":"#/$defs/s"}}}`,
	} {
		_, err := data.CompileSchema(parse(good))
		require.NoError(t, err, name)
	}
}

func TestViolationsAreBounded(t *testing.T) {
	schema, err := data.CompileSchema(data.Object{"additionalProperties": data.Object{"type": "string", "pattern": "^a$"}})
	require.NoError(t, err)
	o := data.Object{}
	for i := range 500 {
		o[fmt.Sprintf("p%d", i)] = strings.Repeat("x", 10_000)
	}
	violations := schema.Violations(o, "record.data")
	require.Len(t, violations, 100)
	for _, violation := range violations {
		require.Less(t, len(violation.Description), 400)
	}
}
